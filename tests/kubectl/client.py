"""What programs written with Python's official client do: KUBECONFIG is the only argument."""
import sys

from kubernetes import client, config, watch

config.load_kube_config(sys.argv[1])
core, apps = client.CoreV1Api(), client.AppsV1Api()
done = 0


def check(what, right):
    global done
    if not right:
        sys.exit(f"python: {what}")
    done += 1


check("version", client.VersionApi().get_code().major == "1")
check("groups", any(group.name == "apps" for group in client.ApisApi().get_api_versions().groups))
check("create a namespace", core.create_namespace({"metadata": {"name": "python"}}).metadata.name == "python")
meta = client.V1ObjectMeta(name="web", labels={"app": "web"})
pods = client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels={"app": "web"}),
    spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="i:1")]),
)
spec = client.V1DeploymentSpec(
    replicas=2, selector=client.V1LabelSelector(match_labels={"app": "web"}), template=pods
)
made = apps.create_namespaced_deployment("python", client.V1Deployment(metadata=meta, spec=spec))
check("create a deployment", made.spec.replicas == 2 and made.spec.strategy.type == "RollingUpdate")
for event in watch.Watch().stream(core.list_namespaced_pod, "python", timeout_seconds=20):
    if event["type"] == "ADDED":
        break
check("watch its pods", event["object"].metadata.labels["app"] == "web")
patched = apps.patch_namespaced_deployment("web", "python", {"spec": {"replicas": 1}})
check("patch it", patched.spec.replicas == 1)
scale = apps.read_namespaced_deployment_scale("web", "python")
check("read its scale", scale.spec.replicas == 1)
scale.spec.replicas = 3
check("write its scale", apps.replace_namespaced_deployment_scale("web", "python", scale).spec.replicas == 3)
read = apps.read_namespaced_deployment("web", "python")
read.spec.template.spec.containers[0].image = "i:2"
check("replace it", apps.replace_namespaced_deployment("web", "python", read).metadata.generation >= 3)
check("list", len(apps.list_namespaced_deployment("python", label_selector="app=web").items) == 1)
core.create_namespaced_config_map("python", {"metadata": {"name": "m"}, "data": {"a": "b"}})
check("data", core.read_namespaced_config_map("m", "python").data == {"a": "b"})
check("delete a map", core.delete_namespaced_config_map("m", "python").status == "Success")
try:
    core.read_namespaced_config_map("m", "python")
    check("what is deleted is gone", False)
except client.ApiException as error:
    check("what is deleted is gone", error.status == 404)
core.create_namespaced_service(
    "python", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}
)
check("delete a service", core.delete_namespaced_service("s", "python") is not None)
check("delete in the foreground", apps.delete_namespaced_deployment(
    "web", "python", propagation_policy="Foreground") is not None)
check("delete many", core.delete_collection_namespaced_config_map("python") is not None)
check("delete a namespace", core.delete_namespace("python") is not None)
review = client.AuthorizationV1Api().create_self_subject_access_review(
    {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
)
check("may I", review.status.allowed)
check("who am I", client.AuthenticationV1Api().create_self_subject_review({}).status.user_info.username == "admin")
print(f"python: {done} of {done}")
