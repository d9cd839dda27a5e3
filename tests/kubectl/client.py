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


def until_nobody_else_writes(change):
    """The controller writes the status at the same time."""
    for _ in range(20):
        try:
            return change()
        except client.ApiException as error:
            if error.status != 409:
                raise
    sys.exit("python: a conflict that does not end")


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
check("read its scale", apps.read_namespaced_deployment_scale("web", "python").spec.replicas == 1)


def scaled():
    scale = apps.read_namespaced_deployment_scale("web", "python")
    scale.spec.replicas = 3
    return apps.replace_namespaced_deployment_scale("web", "python", scale)


def replaced():
    read = apps.read_namespaced_deployment("web", "python")
    read.spec.template.spec.containers[0].image = "i:2"
    return apps.replace_namespaced_deployment("web", "python", read)


check("write its scale", until_nobody_else_writes(scaled).spec.replicas == 3)
check("replace it", until_nobody_else_writes(replaced).spec.template.spec.containers[0].image == "i:2")
check("list", len(apps.list_namespaced_deployment("python", label_selector="app=web").items) == 1)
core.create_namespaced_config_map("python", {"metadata": {"name": "m"}, "data": {"a": "b"}})
check("data", core.read_namespaced_config_map("m", "python").data == {"a": "b"})
deleted = core.delete_namespaced_config_map("m", "python")
# Clients before 37 make a V1Status of it.
status = deleted["status"] if isinstance(deleted, dict) else deleted.status
check("delete a map", status == "Success")
try:
    core.read_namespaced_config_map("m", "python")
    check("what is deleted is gone", False)
except client.ApiException as error:
    check("what is deleted is gone", error.status == 404)
core.create_namespaced_service(
    "python", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}
)
check("delete a service", core.delete_namespaced_service("s", "python").spec.selector == {"app": "web"})
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
