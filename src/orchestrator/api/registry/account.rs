//! What a new pod gets of its ServiceAccount: image pull secrets, if it names none itself
//! (k8s.io/kubernetes/plugin/pkg/admission/serviceaccount).

use serde_json::Value;

use super::Registry;
use crate::orchestrator::api::kinds;

/// Gives a new pod the image pull secrets of its account. An account that is not there gives none.
pub(super) fn pull_secrets(registry: &Registry, namespace: Option<&str>, pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let is_some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    if spec.get("imagePullSecrets").is_some_and(is_some) {
        return;
    }
    let name = spec
        .get("serviceAccountName")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    let Ok(account) = registry.get(&kinds::SERVICE_ACCOUNT, namespace, name) else {
        return;
    };
    if let Some(secrets) = account.get("imagePullSecrets").filter(|list| is_some(list)) {
        spec.insert("imagePullSecrets".to_owned(), secrets.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::registry::tests::registry;

    #[tokio::test]
    async fn a_pod_without_pull_secrets_has_those_of_its_account() {
        let registry = registry().await;
        let account =
            json!({"metadata": {"name": "puller"}, "imagePullSecrets": [{"name": "quay"}]});
        registry
            .create(&kinds::SERVICE_ACCOUNT, Some("default"), account)
            .await
            .expect("created");
        for (name, own, expected) in [
            (
                "a",
                json!({"serviceAccountName": "puller"}),
                json!([{"name": "quay"}]),
            ),
            (
                "b",
                json!({"serviceAccountName": "puller", "imagePullSecrets": [{"name": "own"}]}),
                json!([{"name": "own"}]),
            ),
            ("c", json!({}), Value::Null),
            ("d", json!({"serviceAccountName": "nobody"}), Value::Null),
        ] {
            let mut spec = own;
            spec["containers"] = json!([{"name": "c", "image": "i"}]);
            let pod = json!({"metadata": {"name": name}, "spec": spec});
            let made = registry
                .create(&kinds::POD, Some("default"), pod)
                .await
                .expect("created");
            assert_eq!(made["spec"]["imagePullSecrets"], expected, "{name}");
        }
    }
}
