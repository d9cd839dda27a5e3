//! Kubernetes' defaults, on the objects as JSON. Each kind has its own (`kinds/`).

use serde_json::Value;

use super::kinds::Kind;

/// Fills in what the client left out. Idempotent.
pub fn apply(kind: &Kind, object: &mut Value) {
    if let Some(definition) = kind.definition() {
        definition.default(object);
    } else if let Some(map) = object.as_object_mut() {
        (kind.strategy.default)(map);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::kinds;

    #[test]
    fn services_and_secrets() {
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
        apply(&kinds::SERVICE, &mut service);
        assert_eq!(
            service["spec"]["ports"][0],
            json!({"port": 80, "protocol": "TCP", "targetPort": 80})
        );
        assert_eq!(service["spec"]["type"], json!("ClusterIP"));
        let mut secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}});
        apply(&kinds::SECRET, &mut secret);
        assert_eq!(
            secret,
            json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"k": "dg=="}})
        );
        let mut folded = json!({"metadata": {"name": "s"}, "data": {"k": "dg\r\n==\n", "l": "d g==", "m": null}});
        apply(&kinds::SECRET, &mut folded);
        assert_eq!(
            folded["data"],
            json!({"k": "dg==", "l": "d g==", "m": null})
        );
    }
}
