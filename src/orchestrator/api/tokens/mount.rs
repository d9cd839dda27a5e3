//! The admission plug-in ServiceAccount: every pod has an account, and a volume with its token, the cluster's certificate and its
//! namespace (`plugin/pkg/admission/serviceaccount/admission.go`).

use serde_json::{Map, Value, json};

use crate::orchestrator::api::kinds;
use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::api::status::Status;

/// Where programs look for it.
const PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How its volume's name begins.
const VOLUME: &str = "kube-api-access-";
/// A token that lasts an hour, and a bit by which it can be told from others.
const SECONDS: i64 = 3607;

/// Gives a new pod its account, and the account's token unless pod or account do without.
pub(in crate::orchestrator::api) fn mount_token(
    registry: &Registry,
    namespace: &str,
    pod: &mut Value,
) -> Result<(), Status> {
    let called = pod.pointer("/metadata/name").and_then(Value::as_str);
    let called = called.unwrap_or_default().to_owned();
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let given = ["serviceAccountName", "serviceAccount"]
        .iter()
        .filter_map(|field| spec.get(*field)?.as_str())
        .find(|name| !name.is_empty());
    let name = given.unwrap_or("default").to_owned();
    let account = registry.get(&kinds::SERVICE_ACCOUNT, Some(namespace), &name);
    // Every namespace gets `default` in a moment; the agent waits for it.
    if account.is_err() && name != "default" {
        return Err(Status::forbidden(format!(
            "pods {called:?} is forbidden: error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        )));
    }
    spec.insert("serviceAccountName".to_owned(), json!(name));
    let field = "automountServiceAccountToken";
    let of_account = account
        .ok()
        .and_then(|account| account.get(field)?.as_bool());
    let of_pod = spec.get(field).and_then(Value::as_bool);
    if of_pod.or(of_account).unwrap_or(true) {
        add(spec);
    }
    Ok(())
}

/// The list in this field, which is made if there is none; `None` if something else is there.
fn list<'a>(object: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Vec<Value>> {
    let slot = object.entry(field.to_owned()).or_insert(Value::Null);
    if slot.is_null() {
        *slot = json!([]);
    }
    slot.as_array_mut()
}

fn add(spec: &mut Map<String, Value>) {
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let known = volumes.into_iter().flatten().find_map(|volume| {
        let name = volume.get("name")?.as_str()?;
        name.starts_with(VOLUME).then(|| name.to_owned())
    });
    let name = known.clone().unwrap_or_else(|| {
        let random = uuid::Uuid::new_v4().simple().to_string();
        format!("{VOLUME}{}", &random[..5])
    });
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounts = container
                .as_object_mut()
                .and_then(|container| list(container, "volumeMounts"));
            let Some(mounts) = mounts else { continue };
            // Who has something of its own there keeps it.
            if mounts.iter().any(|mount| mount["mountPath"] == PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": PATH}));
            mounted = true;
        }
    }
    if !mounted || known.is_some() {
        return;
    }
    let own = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [own]}},
    ]}});
    if let Some(volumes) = list(spec, "volumes") {
        volumes.push(volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::registry::tests::registry;

    #[tokio::test]
    async fn pods_get_a_token_unless_somebody_says_no() {
        let registry = registry().await;
        let without = json!({"metadata": {"name": "bird"}, "automountServiceAccountToken": false});
        registry
            .create(&kinds::SERVICE_ACCOUNT, Some("default"), without)
            .await
            .expect("created");
        let with = |spec: Value| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
            mount_token(&registry, "default", &mut pod).map(|()| pod)
        };
        let pod = with(json!({"containers": [{"name": "c"},
            {"name": "d", "volumeMounts": [{"name": "own", "mountPath": PATH}]}]}))
        .expect("allowed");
        assert_eq!(pod["spec"]["serviceAccountName"], json!("default"));
        let volume = &pod["spec"]["volumes"][0];
        let mounts = |container: usize| &pod["spec"]["containers"][container]["volumeMounts"];
        assert_eq!(mounts(0)[0]["name"], volume["name"]);
        assert_eq!(mounts(1).as_array().map(Vec::len), Some(1));
        let created = registry.create(&kinds::POD, Some("default"), json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}}));
        assert!(created.await.is_ok(), "it is a volume as they have to be");
        for (spec, volumes) in [
            (
                json!({"automountServiceAccountToken": false, "containers": [{"name": "c"}]}),
                0,
            ),
            (
                json!({"serviceAccountName": "bird", "containers": [{"name": "c"}]}),
                0,
            ),
            (
                json!({"serviceAccountName": "bird", "automountServiceAccountToken": true, "containers": [{"name": "c"}]}),
                1,
            ),
            (json!({"containers": []}), 0),
        ] {
            let pod = with(spec.clone()).expect("allowed");
            let found = pod["spec"]["volumes"].as_array().map_or(0, Vec::len);
            assert_eq!(found, volumes, "{spec}");
        }
        let refused =
            with(json!({"serviceAccountName": "fish", "containers": []})).expect_err("none");
        assert!(
            refused
                .message
                .ends_with("serviceaccount \"fish\" not found")
        );
        for odd in [
            json!(1),
            json!({"containers": 1, "volumes": 2}),
            json!({"containers": [1, {"volumeMounts": 3}]}),
        ] {
            assert!(with(odd).is_ok());
        }
    }
}
