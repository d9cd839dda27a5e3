//! This machine's Node object and Lease.
//!
//! The Node is made once; after that this agent writes its labels and its status, never its taints: those are the control
//! plane's. The status is written again whenever the API says something else of it (a node that was given up says that it is
//! back), as soon as the own Node changes; nothing here waits for the pods.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    AttachedVolume, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::status::time;
use super::work::chain;
use crate::kubernetes::client::{Client, ClientError, ListParams, Patch};
use crate::kubernetes::version::KUBERNETES_VERSION;
use crate::orchestrator::config::AgentConfig;

/// Kubernetes' pace of Leases.
const LEASE_INTERVAL: Duration = Duration::from_secs(10);
/// Kubernetes' duration of a Lease, in seconds.
const LEASE_SECONDS: i32 = 40;
/// Where Leases of nodes are.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Pods that a node takes.
const MAX_PODS: u32 = 110;
/// Kept for the system and the agent itself.
const RESERVED_MEMORY_BYTES: u64 = 96 << 20;
/// Between attempts to reach the API.
const RETRY: Duration = Duration::from_secs(1);
/// Between attempts to write the Lease when the API refuses it.
const LEASE_RETRY: Duration = Duration::from_secs(2);

/// What is found out about the machine once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    /// `nodeInfo`.
    info: NodeSystemInfo,
    pub(crate) memory_bytes: u64,
    cpus: usize,
    /// Identifier of this boot.
    pub(crate) boot_id: String,
}

impl Machine {
    /// Looks at `/proc` and `/etc`.
    pub(crate) fn inspect() -> Self {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let boot_id = read("/proc/sys/kernel/random/boot_id");
        Self {
            memory_bytes: memory_total(&read("/proc/meminfo")).unwrap_or(0),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            info: NodeSystemInfo {
                architecture: if cfg!(target_arch = "aarch64") {
                    "arm64"
                } else {
                    "amd64"
                }
                .to_owned(),
                boot_id: boot_id.clone(),
                container_runtime_version: format!("flightcage://{}", env!("CARGO_PKG_VERSION")),
                kernel_version: read("/proc/sys/kernel/osrelease"),
                kubelet_version: format!(
                    "v{KUBERNETES_VERSION}-flightcage.{}",
                    env!("CARGO_PKG_VERSION")
                ),
                machine_id: read("/etc/machine-id"),
                operating_system: "linux".to_owned(),
                os_image: os_name(&read("/etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
                system_uuid: read("/etc/machine-id"),
                ..NodeSystemInfo::default()
            },
            boot_id,
        }
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

fn os_name(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// Reads a taint, `key=value:Effect` or `key:Effect`.
pub(crate) fn parse_taint(text: &str) -> Option<Taint> {
    let (key, effect) = text.rsplit_once(':')?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return None;
    }
    let (key, value) = key
        .split_once('=')
        .map_or((key, None), |(key, value)| (key, Some(value)));
    let value = value.filter(|value| !value.is_empty()).map(str::to_owned);
    (!key.is_empty()).then(|| Taint {
        key: key.to_owned(),
        value,
        effect: effect.to_owned(),
        time_added: None,
    })
}

fn labels(config: &AgentConfig, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(
            format!("{prefix}/os"),
            machine.info.operating_system.clone(),
        );
        labels.insert(format!("{prefix}/arch"), machine.info.architecture.clone());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), config.node.clone());
    labels
}

fn node(config: &AgentConfig, machine: &Machine) -> Node {
    let taints: Vec<Taint> = config
        .taints
        .iter()
        .filter_map(|taint| parse_taint(taint))
        .collect();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node.clone()),
            labels: Some(labels(config, machine)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(config.pod_network.clone()),
            pod_cidrs: Some(vec![config.pod_network.clone()]),
            taints: Some(taints).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// The Node's status; conditions keep the transition times that `known` has.
pub(crate) fn node_status(
    name: &str,
    address: Ipv4Addr,
    machine: &Machine,
    known: &NodeStatus,
    now: jiff::Timestamp,
) -> NodeStatus {
    let quantities = |memory: u64| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
            (
                "memory".to_owned(),
                Quantity(format!("{}Ki", memory / 1024)),
            ),
            ("pods".to_owned(), Quantity(MAX_PODS.to_string())),
        ])
    };
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let before = known
            .conditions
            .iter()
            .flatten()
            .find(|before| before.type_ == kind && before.status == status);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(time(now)),
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or_else(|| Some(time(now))),
        }
    };
    NodeStatus {
        addresses: Some(vec![
            NodeAddress {
                type_: "InternalIP".to_owned(),
                address: address.to_string(),
            },
            NodeAddress {
                type_: "Hostname".to_owned(),
                address: name.to_owned(),
            },
        ]),
        capacity: Some(quantities(machine.memory_bytes)),
        allocatable: Some(quantities(
            machine.memory_bytes.saturating_sub(RESERVED_MEMORY_BYTES),
        )),
        node_info: Some(machine.info.clone()),
        conditions: Some(vec![
            condition(
                "MemoryPressure",
                "False",
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
            condition(
                "DiskPressure",
                "False",
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure",
            ),
            condition(
                "PIDPressure",
                "False",
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
            condition(
                "Ready",
                "True",
                "KubeletReady",
                "kubelet is posting ready status",
            ),
        ]),
        daemon_endpoints: None::<NodeDaemonEndpoints>,
        volumes_attached: None::<Vec<AttachedVolume>>,
        ..NodeStatus::default()
    }
}

/// Whether the API says of this node what the node says.
pub(crate) fn says_the_same(there: &NodeStatus, ours: &NodeStatus) -> bool {
    there.addresses == ours.addresses
        && there.capacity == ours.capacity
        && there.allocatable == ours.allocatable
        && there.node_info == ours.node_info
        && ours.conditions.iter().flatten().all(|ours| {
            there
                .conditions
                .iter()
                .flatten()
                .any(|known| known.type_ == ours.type_ && known.status == ours.status)
        })
}

/// Registers the node and keeps its object true, for ever. `look` asks for a look at once.
pub(crate) async fn keep_node(
    client: Client,
    config: AgentConfig,
    machine: Machine,
    look: Arc<Notify>,
) {
    loop {
        match register(&client, &config, &machine).await {
            Ok(()) => break,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the node cannot be registered, trying again")
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    tracing::info!(node = config.node, "the node is registered");
    let own = client.reflect::<Node>(
        "",
        ListParams::fields(format!("metadata.name={}", config.node)),
    );
    own.wait_synced().await;
    let mut changes = own.subscribe();
    loop {
        let node = changes.borrow_and_update().values().next().cloned();
        if let Err(error) = refresh(&client, &config, &machine, node.as_deref()).await {
            tracing::warn!(error = %chain(&error), "the node's status cannot be written, trying again");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = look.notified() => {}
        }
    }
}

async fn register(
    client: &Client,
    config: &AgentConfig,
    machine: &Machine,
) -> Result<(), ClientError> {
    let known = match client.create("", &node(config, machine)).await {
        Ok(node) => node,
        Err(error) if error.is_already_exists() => {
            let patch = Patch::Merge(json!({"metadata": {"labels": labels(config, machine)}}));
            client.patch("", &config.node, &patch, None).await?
        }
        Err(error) => return Err(error),
    };
    write_status(client, config, machine, known.status.as_ref()).await
}

/// Writes what is not true. A Node that somebody deleted is registered anew.
async fn refresh(
    client: &Client,
    config: &AgentConfig,
    machine: &Machine,
    known: Option<&Node>,
) -> Result<(), ClientError> {
    let Some(known) = known else {
        return register(client, config, machine).await;
    };
    let there = known.status.clone().unwrap_or_default();
    let ours = node_status(
        &config.node,
        config.address,
        machine,
        &there,
        jiff::Timestamp::now(),
    );
    if says_the_same(&there, &ours) {
        return Ok(());
    }
    write_status(client, config, machine, Some(&there)).await
}

async fn write_status(
    client: &Client,
    config: &AgentConfig,
    machine: &Machine,
    known: Option<&NodeStatus>,
) -> Result<(), ClientError> {
    let known = known.cloned().unwrap_or_default();
    let status = node_status(
        &config.node,
        config.address,
        machine,
        &known,
        jiff::Timestamp::now(),
    );
    let patch = Patch::Merge(json!({ "status": status }));
    client
        .patch::<Node>("", &config.node, &patch, Some("status"))
        .await
        .map(drop)
}

/// Renews the node's Lease, for ever.
pub(crate) async fn keep_lease(client: Client, node: String) {
    let mut ticks = interval(LEASE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while let Err(error) = renew(&client, &node).await {
            tracing::warn!(error = %chain(&error), "the node's Lease cannot be renewed, trying again");
            ticks.reset_at(Instant::now() + LEASE_INTERVAL);
            tokio::time::sleep(LEASE_RETRY).await;
        }
    }
}

async fn renew(client: &Client, node: &str) -> Result<(), ClientError> {
    let now = jiff::Timestamp::now();
    let now = MicroTime(jiff::Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now));
    let patch = Patch::Merge(json!({"spec": {
        "holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now.clone(),
    }}));
    match client
        .patch::<Lease>(LEASE_NAMESPACE, node, &patch, None)
        .await
    {
        Err(error) if error.is_not_found() => {}
        other => return other.map(drop),
    }
    let owner = client
        .get::<Node>("", node)
        .await?
        .metadata
        .uid
        .map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid,
            ..OwnerReference::default()
        });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    client.create(LEASE_NAMESPACE, &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints() {
        let taint = parse_taint("node-role.kubernetes.io/control-plane=:NoSchedule").unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value, taint.effect.as_str()),
            ("node-role.kubernetes.io/control-plane", None, "NoSchedule")
        );
        assert_eq!(
            parse_taint("a=b:NoExecute").unwrap().value.as_deref(),
            Some("b")
        );
        for bad in ["", "a", "a:Never", ":NoSchedule"] {
            assert!(parse_taint(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_machine_is_read() {
        assert_eq!(
            memory_total("MemFree: 1 kB\nMemTotal:         500 kB\n"),
            Some(512_000)
        );
        assert_eq!(
            os_name("ID=x\nPRETTY_NAME=\"Flightcage OS\"\n").as_deref(),
            Some("Flightcage OS")
        );
    }

    #[test]
    fn a_node_that_was_given_up_says_it_is_back() {
        let machine = Machine {
            memory_bytes: 512 << 20,
            cpus: 1,
            ..Machine::default()
        };
        let at = |seconds| jiff::Timestamp::from_second(seconds).unwrap();
        let address = Ipv4Addr::new(10, 77, 0, 12);
        let first = node_status("w1", address, &machine, &NodeStatus::default(), at(1));
        let second = node_status("w1", address, &machine, &first, at(2));
        assert!(says_the_same(&first, &second));
        assert_eq!(
            second.conditions.as_ref().unwrap()[3].last_transition_time,
            Some(time(at(1)))
        );
        let mut given_up = second.clone();
        given_up.conditions.as_mut().unwrap()[3].status = "Unknown".into();
        let back = node_status("w1", address, &machine, &given_up, at(3));
        assert!(!says_the_same(&given_up, &back));
        assert_eq!(
            back.conditions.as_ref().unwrap()[3].last_transition_time,
            Some(time(at(3)))
        );
        assert_eq!(
            back.allocatable.unwrap()["memory"],
            Quantity(format!("{}Ki", 416 << 10))
        );
    }
}
