//! Puts a scenario's objects into the cluster, from a clean state, and takes them away again.

mod definitions;

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ReplicationController, Secret};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::load::certificates_in;
use super::spec::{Action, Scenario, TlsSecret};
use crate::kubernetes::client::{
    Client, ClientError, DeleteParams, ListParams, Propagation, RESOURCES, ResourceKind,
};
use crate::kubernetes::manifest::{self, Manifest, ManifestError};

/// The namespace that scenarios run in.
pub const NAMESPACE: &str = "default";
/// Workloads with a number of replicas, which are waited for.
pub(super) const REPLICATED: [&str; 5] = [
    "ReplicationController",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
];
/// Workloads whose deletion takes their pods along.
const OTHER_WORKLOADS: [&str; 6] = [
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "CronJob",
    "Job",
];
/// How long objects may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(90);
/// Pause before a server that did not answer is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked whether they are gone.
const GONE_POLL: Duration = Duration::from_millis(250);

/// Why a deployment did not happen.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The manifests are wrong, or were refused by the server: INVALID.
    #[error("{0}")]
    Refused(String),
    /// The certificate could not be made.
    #[error("make the certificate of Secret `{name}`")]
    Certificate {
        /// The Secret.
        name: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// The API server is away.
    #[error("{doing}")]
    Client {
        /// What was being done.
        doing: String,
        /// The cause.
        #[source]
        source: Box<ClientError>,
    },
    /// What an earlier scenario left did not go.
    #[error("objects of an earlier run are still there after {} s: {left}", GONE_WITHIN.as_secs())]
    NotGone {
        /// What is left.
        left: String,
    },
}

fn client_error(doing: impl Into<String>) -> impl FnOnce(ClientError) -> DeployError {
    let doing = doing.into();
    move |source| DeployError::Client {
        doing,
        source: Box::new(source),
    }
}

/// What was deployed.
#[derive(Debug)]
pub struct Deployed {
    /// Workloads and how many replicas each wants; a DaemonSet at least one.
    pub controllers: Vec<(String, u32)>,
    /// Leaf certificates found in the Secrets: the prober trusts these.
    pub trusted: Vec<CertificateDer<'static>>,
}

/// [`deploy`], again while the API server does not answer, for as long as the scenario gives its objects to be ready: on a starved host a
/// connection is given up that was only slow.
pub async fn deploy_patiently(
    client: &Client,
    scenario: &Scenario,
) -> Result<Deployed, DeployError> {
    let until = Instant::now() + scenario.deploy.wait;
    loop {
        match deploy(client, scenario).await {
            Err(DeployError::Client { source, .. })
                if source.is_temporary() && Instant::now() < until =>
            {
                sleep(AGAIN_AFTER).await;
            }
            done => return done,
        }
    }
}

/// Removes what an earlier run of the same objects left, and applies the scenario's manifests. Doing it again changes nothing.
pub async fn deploy(client: &Client, scenario: &Scenario) -> Result<Deployed, DeployError> {
    let manifests = load(&scenario.deploy.files)?;
    let later: Vec<PathBuf> = scenario
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::RollingUpdate { to, .. } => Some(to.clone()),
            _ => None,
        })
        .collect();
    let later = load(&later)?;
    let mut old: Vec<String> = manifests
        .iter()
        .chain(&later)
        .filter(|m| m.kind.kind == "ReplicationController")
        .map(|m| m.name().to_owned())
        .collect();
    old.dedup();
    remove_controllers(client, &old).await?;
    remove_workloads(client, manifests.iter().chain(&later)).await?;
    let mut trusted = Vec::new();
    if let Some(secret) = &scenario.deploy.tls_secret {
        let value = tls_secret(secret)?;
        trusted.extend(secret_certificates(&value));
        let kind = ResourceKind::of::<Secret>();
        delete_if_there(client, &kind, NAMESPACE, &secret.name).await?;
        client
            .create_value(&kind, NAMESPACE, &value)
            .await
            .map_err(client_error(format!("create Secret `{}`", secret.name)))?;
    }
    trusted.extend(
        manifests
            .iter()
            .filter(|m| m.kind.kind == "Secret")
            .flat_map(|m| secret_certificates(&m.value)),
    );
    manifest::apply(client, NAMESPACE, &manifests)
        .await
        .map_err(manifest_error)?;
    let controllers = manifests
        .iter()
        .filter(|m| REPLICATED.contains(&m.kind.kind))
        .map(|manifest| {
            let replicas = manifest.value["spec"]["replicas"].as_u64().unwrap_or(1);
            (
                manifest.name().to_owned(),
                u32::try_from(replicas).unwrap_or(u32::MAX),
            )
        });
    Ok(Deployed {
        controllers: controllers.collect(),
        trusted,
    })
}

/// Removes every object of users from namespace `default`, whatever its kind, and waits until the pods and what would make them
/// again are gone. For clusters that are ours alone.
pub async fn reset(client: &Client) -> Result<(), DeployError> {
    // ReplicationControllers first, and not alone: by themselves they would leave their pods.
    let list = client
        .list::<ReplicationController>(NAMESPACE, &ListParams::all())
        .await;
    let names = list
        .map_err(client_error("list ReplicationControllers"))?
        .items
        .into_iter()
        .filter_map(|rc| rc.metadata.name)
        .collect::<Vec<_>>();
    remove_controllers(client, &names).await?;
    definitions::remove(client).await?;
    for kind in RESOURCES {
        for name in of_users(client, kind).await? {
            delete_if_there(client, kind, NAMESPACE, &name).await?;
        }
    }
    wait_gone(client, |_| true).await
}

/// The names of a kind's objects in namespace `default` that users made. What has an owner goes with it.
async fn of_users(client: &Client, kind: &ResourceKind) -> Result<Vec<String>, DeployError> {
    if !kind.namespaced || kind.kept_by_cluster {
        return Ok(Vec::new());
    }
    let listed = client
        .list_values(kind, NAMESPACE, &ListParams::all())
        .await
        .map_err(client_error(format!("list {}", kind.plural)))?;
    let names = listed
        .items
        .iter()
        .filter(|item| item.pointer("/metadata/ownerReferences/0").is_none())
        .filter_map(|item| item["metadata"]["name"].as_str())
        .filter(|name| {
            !matches!(
                (kind.kind, *name),
                ("Service", "kubernetes")
                    | ("ConfigMap", "kube-root-ca.crt")
                    | ("ServiceAccount", "default")
            )
        })
        .map(str::to_owned);
    Ok(names.collect())
}

/// Reads manifests; what is wrong in them was told by the file's own check, unless they changed since.
fn load(files: &[PathBuf]) -> Result<Vec<Manifest>, DeployError> {
    manifest::load(files).map_err(manifest_error)
}

/// A refusal is the file's fault, silence is not.
fn manifest_error(error: ManifestError) -> DeployError {
    match error {
        ManifestError::Apply { object, source, .. } if !source.is_wrong_input() => {
            DeployError::Client {
                doing: format!("apply {object}"),
                source,
            }
        }
        ManifestError::Apply {
            object,
            path,
            line,
            source,
        } => DeployError::Refused(format!(
            "{}:{line}: {object} was refused: {source}",
            path.display()
        )),
        other => DeployError::Refused(other.to_string()),
    }
}

/// Deletes ReplicationControllers and their pods, and waits until both are gone.
async fn remove_controllers(client: &Client, names: &[String]) -> Result<(), DeployError> {
    let mut selectors = Vec::new();
    for name in names {
        let found: Option<ReplicationController> = client
            .get_optional(NAMESPACE, name)
            .await
            .map_err(client_error(format!(
                "look for ReplicationController `{name}`"
            )))?;
        let Some(controller) = found else { continue };
        selectors.extend(controller.spec.and_then(|spec| spec.selector));
        delete_if_there(
            client,
            &ResourceKind::of::<ReplicationController>(),
            NAMESPACE,
            name,
        )
        .await?;
    }
    if selectors.is_empty() {
        return Ok(());
    }
    wait_gone(client, |pod| {
        selectors
            .iter()
            .any(|selector| super::events::matches_labels(pod, selector))
    })
    .await
}

/// Deletes all other workloads of these manifests, and waits until their pods are gone: a Job, for instance, never runs again.
async fn remove_workloads(
    client: &Client,
    manifests: impl Iterator<Item = &Manifest>,
) -> Result<(), DeployError> {
    let mut names = Vec::new();
    for manifest in manifests.filter(|manifest| OTHER_WORKLOADS.contains(&manifest.kind.kind)) {
        let namespace = manifest.namespace(NAMESPACE);
        delete_if_there(client, &manifest.kind, namespace, manifest.name()).await?;
        if namespace == NAMESPACE {
            names.push(format!("{}/{}", manifest.kind.singular(), manifest.name()));
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    wait_gone(client, |pod| {
        names.iter().any(|name| super::events::is_of(pod, name))
    })
    .await
}

async fn wait_gone(client: &Client, concerns: impl Fn(&Pod) -> bool) -> Result<(), DeployError> {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let pods = client
            .list::<Pod>(NAMESPACE, &ListParams::all())
            .await
            .map_err(client_error("list pods"))?;
        let left: Vec<String> = pods
            .items
            .iter()
            .filter(|pod| concerns(pod))
            .filter_map(|pod| pod.metadata.name.clone())
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(DeployError::NotGone {
                left: left.join(", "),
            });
        }
        sleep(GONE_POLL).await;
    }
}

async fn delete_if_there(
    client: &Client,
    kind: &ResourceKind,
    namespace: &str,
    name: &str,
) -> Result<(), DeployError> {
    let params = DeleteParams {
        propagation: Some(Propagation::Background),
        ..DeleteParams::default()
    };
    match client.delete_value(kind, namespace, name, &params).await {
        Err(error) if !error.is_not_found() => Err(client_error(format!(
            "delete {} `{name}`",
            kind.kind
        ))(error)),
        _ => Ok(()),
    }
}

/// A Secret with a fresh self-signed P-256 certificate for its host.
fn tls_secret(secret: &TlsSecret) -> Result<Value, DeployError> {
    let failed = |source| DeployError::Certificate {
        name: secret.name.clone(),
        source,
    };
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = rcgen::CertificateParams::new(vec![secret.host.clone()]).map_err(failed)?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, secret.host.clone());
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": { "name": secret.name, "namespace": NAMESPACE },
        "stringData": { (secret.crt.as_str()): certificate.pem(), (secret.key.as_str()): key.serialize_pem() },
    }))
}

/// The leaf certificates in a Secret's values.
fn secret_certificates(secret: &Value) -> Vec<CertificateDer<'static>> {
    use base64::Engine as _;
    let encoded = secret["data"]
        .as_object()
        .into_iter()
        .flat_map(|data| data.values());
    let decoded = encoded.filter_map(|value| {
        let text: String = value.as_str()?.split_whitespace().collect();
        base64::engine::general_purpose::STANDARD.decode(text).ok()
    });
    let plain = secret["stringData"]
        .as_object()
        .into_iter()
        .flat_map(|data| data.values());
    let plain = plain.filter_map(|value| Some(value.as_str()?.as_bytes().to_vec()));
    decoded
        .chain(plain)
        .filter_map(|pem| certificates_in(&pem).into_iter().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_secret_holds_a_certificate_that_the_prober_finds() {
        let secret = TlsSecret {
            name: "ssl".into(),
            crt: "a.crt".into(),
            key: "a.key".into(),
            host: "web".into(),
        };
        let value = tls_secret(&secret).unwrap();
        assert_eq!(secret_certificates(&value).len(), 1);
        assert!(
            value["stringData"]["a.key"]
                .as_str()
                .unwrap()
                .contains("PRIVATE KEY")
        );
    }
}
