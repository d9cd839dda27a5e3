//! Who may do what. Identity comes from the client certificate, CN is the user, O the groups; or from a ServiceAccount's token.
//!
//! Administrators may do everything; nodes, proxies and load balancers what is written here; everybody else what roles grant (`rbac`).

mod restriction;

use serde_json::Value;

use super::kinds::{self, Kind, Subresource};
use super::rbac;
use super::registry::Registry;
use super::status::Status;

pub(super) use restriction::is_of_node;

/// The group of the nodes' service proxies; their users are `system:kube-proxy:<node>`.
const PROXIES: &str = "system:kube-proxies";
/// The group of load balancers outside the cluster.
const LOAD_BALANCERS: &str = "system:flightcage:load-balancers";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate's CN, or a ServiceAccount.
    pub user: String,
    /// The certificate's Os.
    pub groups: Vec<String>,
}

impl Identity {
    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|present| present == group)
    }

    /// The node's name, if a node asks.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        if self.is_in("system:nodes") {
            self.user.strip_prefix("system:node:")
        } else {
            None
        }
    }

    /// Whether a service proxy or the host's load balancer asks: they balance connections, and report what is open.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.is_in(PROXIES) || self.is_in(LOAD_BALANCERS)
    }

    /// Whether everything is allowed.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.is_in("system:masters")
    }

    /// Whether roles say what is allowed: to everybody who is no administrator and no part of the cluster.
    #[must_use]
    pub fn is_person(&self) -> bool {
        !self.is_master() && self.node().is_none() && !self.balances()
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'a str,
    /// Of which kind.
    pub kind: &'a Kind,
    /// In which namespace.
    pub namespace: Option<&'a str>,
    /// Which object, when one is named.
    pub name: Option<&'a str>,
    /// Which part of it.
    pub subresource: Option<Subresource>,
    /// `spec.nodeName` or `metadata.name` as the field selector requires it.
    pub required_node: Option<&'a str>,
    /// `metadata.name` as the field selector requires it.
    pub required_name: Option<&'a str>,
}

impl<'a> Attempt<'a> {
    /// As rules see it.
    pub(super) fn attributes(&self) -> rbac::Attributes<'a> {
        let of_many = ["list", "watch", "deletecollection"].contains(&self.verb);
        let selected = self.required_name.filter(|_| of_many);
        rbac::Attributes {
            verb: self.verb,
            group: self.kind.group,
            resource: self.kind.plural,
            subresource: self.subresource.map_or("", Subresource::name),
            namespace: self.place(),
            name: self.name.or(selected).unwrap_or_default(),
            path: None,
        }
    }

    /// Its namespace; a namespace is in itself.
    fn place(&self) -> Option<&'a str> {
        if self.kind.is(&kinds::NAMESPACE) {
            self.name
        } else {
            self.namespace
        }
    }

    /// An object of this kind is to be created.
    #[must_use]
    pub fn to_create(kind: &'a Kind, namespace: Option<&'a str>) -> Self {
        Self {
            verb: "create",
            kind,
            namespace,
            name: None,
            subresource: None,
            required_node: None,
            required_name: None,
        }
    }
}

/// Allows the attempt, or says 403.
pub fn authorize(registry: &Registry, who: &Identity, attempt: &Attempt<'_>) -> Result<(), Status> {
    let allowed = if who.is_master() {
        true
    } else if let Some(node) = who.node() {
        node_may(registry, node, attempt)
    } else if who.balances() {
        balancer_may(attempt) || (who.is_in(LOAD_BALANCERS) && announces(attempt))
    } else {
        rbac::may(registry, who, &attempt.attributes())
    };
    if allowed {
        Ok(())
    } else {
        Err(refusal(who, attempt))
    }
}

/// The 403 of an attempt.
fn refusal(who: &Identity, attempt: &Attempt<'_>) -> Status {
    let mut resource = attempt.kind.plural.to_owned();
    if let Some(subresource) = attempt.subresource {
        resource = format!("{resource}/{}", subresource.name());
    }
    let name = attempt
        .name
        .map(|name| format!(" \"{name}\""))
        .unwrap_or_default();
    let place = match attempt.place() {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    Status::forbidden(format!(
        "{}{name} is forbidden: User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        attempt.kind.resource(),
        who.user,
        attempt.verb,
        attempt.kind.group
    ))
}

fn reads(verb: &str) -> bool {
    ["get", "list", "watch"].contains(&verb)
}

fn is_any(kind: &Kind, of: &[&Kind]) -> bool {
    of.iter().any(|other| kind.is(other))
}

fn balancer_may(attempt: &Attempt<'_>) -> bool {
    let read = [&kinds::SERVICE, &kinds::ENDPOINTS, &kinds::ENDPOINT_SLICE];
    reads(attempt.verb) && is_any(attempt.kind, &read)
}

/// A load balancer says in a Service's status where it is reached.
fn announces(attempt: &Attempt<'_>) -> bool {
    attempt.kind.is(&kinds::SERVICE)
        && attempt.subresource == Some(Subresource::Status)
        && attempt.verb == "patch"
}

fn records_events(attempt: &Attempt<'_>) -> bool {
    attempt.kind.is(&kinds::EVENT) && ["create", "patch", "update"].contains(&attempt.verb)
}

fn node_may(registry: &Registry, node: &str, attempt: &Attempt<'_>) -> bool {
    let kind = attempt.kind;
    let writes = ["update", "patch"].contains(&attempt.verb);
    if is_any(
        kind,
        &[&kinds::SERVICE, &kinds::ENDPOINTS, &kinds::NAMESPACE],
    ) {
        return reads(attempt.verb);
    }
    if kind.is(&kinds::NODE) {
        let own = attempt.name == Some(node) || attempt.required_name == Some(node);
        // The name of a new object is in its body: `admit_created` looks at it.
        return (own && (reads(attempt.verb) || writes)) || attempt.verb == "create";
    }
    if kind.is(&kinds::LEASE) {
        let here = attempt.namespace == Some("kube-node-lease");
        let own = attempt.name == Some(node) || attempt.required_name == Some(node);
        return here && ((own && (reads(attempt.verb) || writes)) || attempt.verb == "create");
    }
    if kind.is(&kinds::POD) {
        return node_may_pod(registry, node, attempt);
    }
    if kind.is(&kinds::SECRET) || kind.is(&kinds::CONFIG_MAP) {
        let name = attempt.name.or(attempt.required_name);
        return match (attempt.namespace, name) {
            (Some(namespace), Some(name)) => {
                reads(attempt.verb) && mounted(registry, node, kind, namespace, name)
            }
            _ => false,
        };
    }
    if kind.is(&kinds::SERVICE_ACCOUNT) {
        // For which pod, and for whom, is in the body: the request is looked at where it is answered.
        return attempt.verb == "create"
            && attempt.subresource == Some(Subresource::Token)
            && runs_as(registry, node, attempt);
    }
    records_events(attempt)
}

/// Whether a pod of this node runs as the ServiceAccount.
fn runs_as(registry: &Registry, node: &str, attempt: &Attempt<'_>) -> bool {
    let (pods, _) = registry.list(&kinds::POD, attempt.namespace);
    pods.iter().any(|pod| {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
        let account = text("/spec/serviceAccountName").filter(|name| !name.is_empty());
        text("/spec/nodeName") == Some(node) && Some(account.unwrap_or("default")) == attempt.name
    })
}

fn node_may_pod(registry: &Registry, node: &str, attempt: &Attempt<'_>) -> bool {
    let Some(name) = attempt.name else {
        return reads(attempt.verb) && attempt.required_node == Some(node);
    };
    let bound = registry
        .get(&kinds::POD, attempt.namespace, name)
        .is_ok_and(|pod| pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node));
    let verb = match attempt.subresource {
        None => ["get", "delete"].contains(&attempt.verb),
        Some(Subresource::Status) => ["get", "update", "patch"].contains(&attempt.verb),
        Some(_) => false,
    };
    bound && verb
}

/// What a node may create: its own Node and Lease, Events of its own, the Node without what only administrators give (NodeRestriction).
pub fn admit_created(
    registry: &Registry,
    who: &Identity,
    kind: &'static Kind,
    body: &Value,
) -> Result<(), Status> {
    let Some(node) = who.node() else {
        return Ok(());
    };
    let own = body.pointer("/metadata/name").and_then(Value::as_str) == Some(node);
    if (kind.is(&kinds::NODE) || kind.is(&kinds::LEASE)) && !own {
        return Err(Status::forbidden(format!(
            "{} is forbidden: node \"{node}\" is not allowed to create that of another",
            kind.resource()
        )));
    }
    if kind.is(&kinds::NODE) {
        restriction::created(registry, node, body)?;
    }
    if kind.is(&kinds::EVENT) {
        restriction::recorded(registry, node, None, body)?;
    }
    Ok(())
}

/// What a node may change of its own objects, which [`authorize`] has found to be its own (NodeRestriction).
pub fn admit_changed(
    registry: &Registry,
    who: &Identity,
    (kind, subresource): (&Kind, Option<Subresource>),
    current: &Value,
    changed: &Value,
) -> Result<(), Status> {
    match who.node() {
        Some(node) if kind.is(&kinds::NODE) && subresource.is_none() => {
            restriction::changed(registry, node, current, changed)
        }
        Some(node) if kind.is(&kinds::POD) => {
            restriction::reported(registry, node, current, changed)
        }
        Some(node) if kind.is(&kinds::EVENT) => {
            restriction::recorded(registry, node, Some(current), changed)
        }
        Some(_) => Ok(()),
        None => {
            let namespace = current.pointer("/metadata/namespace");
            rbac::admit(
                registry,
                who,
                kind,
                namespace.and_then(Value::as_str),
                changed,
            )
        }
    }
}

/// Whether a pod of this node refers to the Secret or ConfigMap.
fn mounted(registry: &Registry, node: &str, kind: &Kind, namespace: &str, name: &str) -> bool {
    let (pods, _) = registry.list(&kinds::POD, Some(namespace));
    pods.iter()
        .filter(|pod| pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node))
        .any(|pod| refers(pod, kind, name))
}

fn refers(pod: &Value, kind: &Kind, name: &str) -> bool {
    let list = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let Some(spec) = pod.get("spec") else {
        return false;
    };
    let secret = kind.is(&kinds::SECRET);
    let is =
        |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str) == Some(name);
    let (volume, projected, environment, from) = if secret {
        (
            "/secret/secretName",
            "/secret/name",
            "/valueFrom/secretKeyRef/name",
            "/secretRef/name",
        )
    } else {
        (
            "/configMap/name",
            "/configMap/name",
            "/valueFrom/configMapKeyRef/name",
            "/configMapRef/name",
        )
    };
    let volumes = list(spec, "volumes").iter().any(|found| {
        is(found, volume)
            || found
                .pointer("/projected/sources")
                .and_then(Value::as_array)
                .is_some_and(|sources| sources.iter().any(|source| is(source, projected)))
    });
    let containers = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .flat_map(|field| list(spec, field))
        .any(|container| {
            list(&container, "env")
                .iter()
                .any(|entry| is(entry, environment))
                || list(&container, "envFrom")
                    .iter()
                    .any(|entry| is(entry, from))
        });
    volumes
        || containers
        || (secret
            && list(spec, "imagePullSecrets")
                .iter()
                .any(|entry| is(entry, "/name")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::registry::tests::registry;

    fn attempt<'a>(
        verb: &'a str,
        kind: &'a Kind,
        namespace: Option<&'a str>,
        name: Option<&'a str>,
    ) -> Attempt<'a> {
        Attempt {
            verb,
            kind,
            namespace,
            name,
            subresource: None,
            required_node: None,
            required_name: None,
        }
    }

    fn node(name: &str) -> Identity {
        Identity {
            user: format!("system:node:{name}"),
            groups: vec!["system:nodes".to_owned()],
        }
    }

    async fn with_pod() -> Arc<Registry> {
        let registry = registry().await;
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "w1",
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "mine"}}]}});
        registry
            .create(&kinds::POD, Some("default"), pod)
            .await
            .expect("created");
        registry
    }

    #[tokio::test]
    async fn a_node_reads_only_what_its_pods_mount() {
        let registry = with_pod().await;
        let may = |who: &Identity, kind: &Kind, name: &str| {
            authorize(
                &registry,
                who,
                &attempt("get", kind, Some("default"), Some(name)),
            )
            .is_ok()
        };
        assert!(may(&node("w1"), &kinds::SECRET, "mine"));
        assert!(!may(&node("w1"), &kinds::SECRET, "other"));
        assert!(!may(&node("w2"), &kinds::SECRET, "mine"));
        assert!(may(&node("w1"), &kinds::CONFIG_MAP, "cm"));
        assert!(!may(&node("w1"), &kinds::CONFIG_MAP, "mine"));
        let all = attempt("list", &kinds::SECRET, Some("default"), None);
        assert_eq!(
            authorize(&registry, &node("w1"), &all)
                .expect_err("refused")
                .code,
            403
        );
    }

    #[tokio::test]
    async fn a_node_gets_tokens_of_accounts_that_its_pods_run_as() {
        let registry = with_pod().await;
        let may = |who: &str, name: &str, subresource: Option<Subresource>| {
            let attempt = Attempt {
                subresource,
                ..attempt(
                    "create",
                    &kinds::SERVICE_ACCOUNT,
                    Some("default"),
                    Some(name),
                )
            };
            authorize(&registry, &node(who), &attempt).is_ok()
        };
        let token = Some(Subresource::Token);
        assert!(may("w1", "default", token) && !may("w2", "default", token));
        assert!(!may("w1", "other", token) && !may("w1", "default", None));
    }

    #[tokio::test]
    async fn a_node_writes_only_its_own_node_and_pods() {
        let registry = with_pod().await;
        let status = |who: &Identity, verb: &str, kind: &'static Kind, name: &str| {
            let namespace = kind.namespaced.then_some("default");
            let attempt = Attempt {
                subresource: Some(Subresource::Status),
                ..attempt(verb, kind, namespace, Some(name))
            };
            authorize(&registry, who, &attempt).is_ok()
        };
        assert!(status(&node("w1"), "patch", &kinds::NODE, "w1"));
        assert!(!status(&node("w1"), "patch", &kinds::NODE, "w2"));
        assert!(status(&node("w1"), "patch", &kinds::POD, "p"));
        assert!(!status(&node("w2"), "patch", &kinds::POD, "p"));
        let spec = attempt("patch", &kinds::POD, Some("default"), Some("p"));
        assert!(authorize(&registry, &node("w1"), &spec).is_err());
        let watch = attempt("watch", &kinds::POD, None, None);
        assert!(authorize(&registry, &node("w1"), &watch).is_err());
        let own = Attempt {
            required_node: Some("w1"),
            ..watch
        };
        assert!(authorize(&registry, &node("w1"), &own).is_ok());
        assert!(authorize(&registry, &node("w2"), &own).is_err());
        let creates = |name: &str| {
            let body = json!({"metadata": {"name": name}});
            admit_created(&registry, &node("w1"), &kinds::NODE, &body).is_ok()
        };
        assert!(creates("w1"));
        assert!(!creates("w2"));
    }

    #[tokio::test]
    async fn proxies_read_services_and_strangers_nothing() {
        let registry = registry().await;
        let proxy = Identity {
            user: "system:kube-proxy:w1".to_owned(),
            groups: vec!["system:kube-proxies".to_owned()],
        };
        let stranger = Identity {
            user: "system:node:w1".to_owned(),
            groups: vec![],
        };
        let services = attempt("watch", &kinds::SERVICE, None, None);
        assert!(authorize(&registry, &proxy, &services).is_ok());
        assert!(authorize(&registry, &stranger, &services).is_err());
        assert!(
            authorize(
                &registry,
                &proxy,
                &attempt("get", &kinds::SECRET, Some("default"), Some("s"))
            )
            .is_err()
        );
        assert!(
            authorize(
                &registry,
                &proxy,
                &attempt("delete", &kinds::SERVICE, Some("default"), Some("s"))
            )
            .is_err()
        );
        let balancer = Identity {
            user: "system:flightcage:load-balancer".to_owned(),
            groups: vec![LOAD_BALANCERS.to_owned()],
        };
        let announce = attempt("patch", &kinds::SERVICE, Some("default"), Some("s"));
        let announce_status = Attempt {
            subresource: Some(Subresource::Status),
            ..announce
        };
        assert!(authorize(&registry, &balancer, &services).is_ok());
        assert!(authorize(&registry, &balancer, &announce_status).is_ok());
        assert!(authorize(&registry, &balancer, &announce).is_err());
        assert!(authorize(&registry, &proxy, &announce_status).is_err());
        assert!(
            authorize(
                &registry,
                &balancer,
                &attempt("get", &kinds::SECRET, Some("default"), Some("s"))
            )
            .is_err()
        );
        assert!(
            authorize(
                &registry,
                &balancer,
                &attempt("list", &kinds::POD, None, None)
            )
            .is_err()
        );
        assert!(balancer.balances() && proxy.balances() && !stranger.balances());
    }
}
