//! The objects every cluster has from its first moment.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::kinds::{self, Kind};
use super::registry::Registry;
use super::status::Status;
use crate::model::addresses;

/// Creates whatever of them is missing. `address`: where the API server is reached.
pub async fn ensure(registry: &Registry, address: Ipv4Addr) -> Result<(), Status> {
    for name in ["default", "kube-system", "kube-node-lease"] {
        missing(
            registry,
            &kinds::NAMESPACE,
            None,
            json!({"metadata": {"name": name}}),
        )
        .await?;
    }
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "clusterIP": addresses::KUBERNETES_SERVICE.to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": addresses::API_PORT}],
        },
    });
    missing(registry, &kinds::SERVICE, Some("default"), service).await?;
    let endpoints = json!({
        "metadata": {"name": "kubernetes"},
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": addresses::API_PORT, "protocol": "TCP"}],
        }],
    });
    missing(registry, &kinds::ENDPOINTS, Some("default"), endpoints).await
}

async fn missing(
    registry: &Registry,
    kind: &'static Kind,
    namespace: Option<&str>,
    object: Value,
) -> Result<(), Status> {
    match registry.create(kind, namespace, object).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::registry::tests::registry;

    #[tokio::test]
    async fn a_restarted_server_finds_its_first_objects_and_leaves_them() {
        let registry = registry().await;
        let before = registry.revision();
        ensure(&registry, addresses::node_address(0))
            .await
            .expect("a second start is no error");
        assert_eq!(registry.revision(), before);
    }
}
