//! From a manifest's container to what the runtime starts.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Capabilities, Container, Pod, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::environment::{self, ConfigError, Sources as EnvironmentSources};
use super::objects::PodObjects;
use super::quantity;
use super::runtime::{ContainerSpec, Image, Mount, PullPolicy};
use super::volumes::{self, Sources, VolumeError};
use crate::orchestrator::quality::Quality;

/// Why a container cannot be configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// Its environment cannot be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A mount cannot be made.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// It must not run as root, and would.
    #[error("{0}")]
    Root(String),
    /// A setting of the kernel that is not the pod's own.
    #[error(
        "SysctlForbidden: forbidden sysctl: \"{0}\" not allowlisted: it is not one of those that Kubernetes calls safe"
    )]
    Sysctl(String),
}

/// All that a container's specification is made from.
pub(crate) struct Launch<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// One of its containers.
    pub(crate) container: &'a Container,
    /// Restart count of the instance.
    pub(crate) instance: u32,
    /// Its image.
    pub(crate) image: Image,
    /// The user that the image names.
    pub(crate) image_user: &'a str,
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
    /// The node's address.
    pub(crate) host_address: Ipv4Addr,
    /// The node's memory.
    pub(crate) node_memory_bytes: u64,
    /// Secrets and ConfigMaps.
    pub(crate) objects: &'a PodObjects,
    /// Services of the pod's namespace, and `default/kubernetes`.
    pub(crate) services: &'a [Service],
    /// Where the volumes are.
    pub(crate) volumes: &'a Sources,
    /// The pod's own `/etc/hosts` and `/etc/hostname`.
    pub(crate) files: &'a [Mount],
}

/// What the runtime starts.
pub(crate) fn container_spec(launch: &Launch<'_>) -> Result<ContainerSpec, LaunchError> {
    let container = launch.container;
    let run_as = run_as(launch.pod.spec.as_ref(), container);
    check_non_root(launch, run_as)?;
    let env = environment::environment(
        container,
        &EnvironmentSources {
            pod: launch.pod,
            pod_address: launch.address,
            host_address: launch.host_address,
            secrets: &launch.objects.secrets,
            config_maps: &launch.objects.config_maps,
            services: launch.services,
            node_memory_bytes: launch.node_memory_bytes,
        },
    )?;
    let mut mounts = volumes::mounts(container, launch.volumes, &env)?;
    let own: Vec<Mount> = launch
        .files
        .iter()
        .filter(|file| !mounts.iter().any(|mount| mount.target == file.target))
        .cloned()
        .collect();
    mounts.extend(own);
    let limit = |name: &str| resource(container, name, false);
    let request = |name: &str| resource(container, name, true);
    let security = container.security_context.as_ref();
    Ok(ContainerSpec {
        pod_uid: launch.pod.metadata.uid.clone().unwrap_or_default(),
        name: container.name.clone(),
        restart_count: launch.instance,
        image: launch.image.clone(),
        command: environment::expand_all(container.command.as_ref(), &env),
        args: environment::expand_all(container.args.as_ref(), &env),
        working_dir: container
            .working_dir
            .clone()
            .filter(|directory| !directory.is_empty()),
        mounts,
        cpu_limit_millis: limit("cpu")
            .and_then(quantity::cpu_millis)
            .filter(|&millis| millis > 0),
        cpu_request_millis: request("cpu")
            .and_then(quantity::cpu_millis)
            .filter(|&millis| millis > 0),
        memory_limit_bytes: limit("memory")
            .and_then(quantity::bytes)
            .filter(|&bytes| bytes > 0),
        oom_score_adjust: launch.pod.spec.as_ref().map_or(0, |spec| {
            Quality::of(spec).oom_score_adjust(
                request("memory").and_then(quantity::bytes).unwrap_or(0),
                launch.node_memory_bytes,
            )
        }),
        run_as,
        groups: groups(launch.pod),
        capabilities_added: capabilities(container, |capabilities| capabilities.add.as_ref()),
        capabilities_dropped: capabilities(container, |capabilities| capabilities.drop.as_ref()),
        no_new_privileges: security
            .and_then(|security| security.allow_privilege_escalation)
            .is_some_and(|allowed| !allowed),
        read_only_root: security
            .and_then(|security| security.read_only_root_filesystem)
            .unwrap_or(false),
        privileged: security
            .and_then(|security| security.privileged)
            .unwrap_or(false),
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.clone()),
        sysctls: sysctls(launch.pod)?,
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        env,
    })
}

/// A container's limit or request; limits imply requests.
fn resource<'a>(container: &'a Container, name: &str, request: bool) -> Option<&'a Quantity> {
    let resources = container.resources.as_ref()?;
    let limit = resources
        .limits
        .as_ref()
        .and_then(|limits| limits.get(name));
    if !request {
        return limit;
    }
    resources
        .requests
        .as_ref()
        .and_then(|requests| requests.get(name))
        .or(limit)
}

/// The container's own user over the pod's. A group without a user is user 0, a user without a group is group 0.
fn run_as(spec: Option<&PodSpec>, container: &Container) -> Option<(u32, u32)> {
    let own = container.security_context.as_ref();
    let pod = spec.and_then(|spec| spec.security_context.as_ref());
    let user = own
        .and_then(|own| own.run_as_user)
        .or_else(|| pod.and_then(|pod| pod.run_as_user));
    let group = own
        .and_then(|own| own.run_as_group)
        .or_else(|| pod.and_then(|pod| pod.run_as_group));
    if user.is_none() && group.is_none() {
        return None;
    }
    let number = |value: Option<i64>| u32::try_from(value.unwrap_or(0)).unwrap_or(0);
    Some((number(user), number(group)))
}

/// The volumes' group and the pod's further ones.
fn groups(pod: &Pod) -> Vec<u32> {
    let security = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let more = security.and_then(|security| security.supplemental_groups.as_ref());
    let more = more.into_iter().flatten();
    let mut groups: Vec<u32> = volumes::fs_group(pod)
        .into_iter()
        .chain(more.filter_map(|group| u32::try_from(*group).ok()))
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Settings of the kernel that belong to a pod's own namespaces. Source: `pkg/kubelet/sysctl/safe_sysctls.go`.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The pod's settings of the kernel. Those of the network belong to the node where the pod has the node's network.
fn sysctls(pod: &Pod) -> Result<Vec<(String, String)>, LaunchError> {
    let spec = pod.spec.as_ref();
    let of_node = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let security = spec.and_then(|spec| spec.security_context.as_ref());
    let all = security.and_then(|security| security.sysctls.as_ref());
    let mut found = Vec::new();
    for sysctl in all.into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let is_safe = SAFE_SYSCTLS.contains(&name.as_str());
        if !is_safe || of_node && name.starts_with("net.") {
            return Err(LaunchError::Sysctl(name));
        }
        found.push((name, sysctl.value.clone()));
    }
    Ok(found)
}

fn capabilities(
    container: &Container,
    which: fn(&Capabilities) -> Option<&Vec<String>>,
) -> Vec<String> {
    let security = container.security_context.as_ref();
    let names = security.and_then(|security| which(security.capabilities.as_ref()?));
    names.cloned().unwrap_or_default()
}

/// Source: `pkg/kubelet/kuberuntime/security_context.go`, `verifyRunAsNonRoot`.
fn check_non_root(launch: &Launch<'_>, run_as: Option<(u32, u32)>) -> Result<(), LaunchError> {
    let own = launch.container.security_context.as_ref();
    let pod = (launch.pod.spec.as_ref()).and_then(|spec| spec.security_context.as_ref());
    let is_wanted = own
        .and_then(|own| own.run_as_non_root)
        .or_else(|| pod.and_then(|pod| pod.run_as_non_root))
        .unwrap_or(false);
    if !is_wanted {
        return Ok(());
    }
    let user = launch.image_user.split(':').next().unwrap_or_default();
    let why = match (run_as, user.parse::<u32>()) {
        (Some((0, _)), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (Some(_), _) => return Ok(()),
        (None, Ok(0)) => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, Ok(_)) => return Ok(()),
        (None, Err(_)) if user.is_empty() => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        (None, Err(_)) => format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
        ),
    };
    Err(LaunchError::Root(why))
}

/// When a container's image is pulled. The API server has set the policy; without one, Kubernetes' default.
pub(crate) fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some(_) => PullPolicy::IfNotPresent,
        None => {
            let image = container.image.as_deref().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            if !image.contains('@') && (!last.contains(':') || last.ends_with(":latest")) {
                PullPolicy::Always
            } else {
                PullPolicy::IfNotPresent
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_manifest_becomes_a_specification() {
        let pod: Pod = serde_json::from_value(json!({"metadata":{"name":"p","namespace":"default","uid":"u"},"spec":{
            "securityContext":{"runAsUser":1000,"runAsGroup":7,"fsGroup":2000,"supplementalGroups":[3000,2000],
                "sysctls":[{"name":"net.ipv4.tcp_syncookies","value":"1"}]},
            "containers":[{"name":"c","image":"i","lifecycle":{"stopSignal":"SIGUSR1"},"command":["run","$(A)"],"env":[{"name":"A","value":"b"}],
                "resources":{"limits":{"cpu":"500m","memory":"64Mi"}},
                "securityContext":{"runAsUser":33,"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":false,
                    "capabilities":{"drop":["ALL"],"add":["NET_BIND_SERVICE"]}},
                "volumeMounts":[{"name":"v","mountPath":"/etc/hostname"}]}]}}))
        .unwrap();
        let file = |target: &str| Mount {
            source: PathBuf::from("/x"),
            target: PathBuf::from(target),
            read_only: false,
        };
        let spec = container_spec(&Launch {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            instance: 3,
            image: Image {
                digest: "sha256:0".into(),
                reference: "i:latest".into(),
            },
            image_user: "",
            address: Ipv4Addr::LOCALHOST,
            host_address: Ipv4Addr::LOCALHOST,
            node_memory_bytes: 512 << 20,
            objects: &PodObjects::default(),
            services: &[],
            volumes: &Sources::from([("v".to_owned(), PathBuf::from("/v"))]),
            files: &[file("/etc/hosts"), file("/etc/hostname")],
        })
        .unwrap();
        assert_eq!(spec.command, ["run", "b"]);
        assert_eq!(
            (
                spec.cpu_limit_millis,
                spec.cpu_request_millis,
                spec.memory_limit_bytes
            ),
            (Some(500), Some(500), Some(64 << 20))
        );
        assert_eq!(spec.oom_score_adjust, -997, "its limits are its requests");
        assert_eq!(
            (spec.run_as, spec.read_only_root, spec.privileged),
            (Some((33, 7)), true, false)
        );
        assert_eq!(spec.groups, [2000, 3000]);
        assert!(spec.no_new_privileges);
        assert_eq!(spec.stop_signal.as_deref(), Some("SIGUSR1"));
        let sysctl = ("net.ipv4.tcp_syncookies".to_owned(), "1".to_owned());
        assert_eq!(spec.sysctls, [sysctl]);
        assert_eq!(
            (spec.capabilities_added, spec.capabilities_dropped),
            (vec!["NET_BIND_SERVICE".to_owned()], vec!["ALL".to_owned()])
        );
        // The manifest's own mount wins over the pod's file.
        let targets: Vec<_> = spec
            .mounts
            .iter()
            .map(|mount| {
                (
                    mount.source.to_str().unwrap(),
                    mount.target.to_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(targets, [("/v", "/etc/hostname"), ("/x", "/etc/hosts")]);
    }

    #[test]
    fn who_must_not_be_root_is_not() {
        for (pod_level, own, image_user, expected) in [
            (json!({}), json!({}), "", None),
            (
                json!({"runAsNonRoot":true}),
                json!({}),
                "",
                Some("image will run as root"),
            ),
            (
                json!({"runAsNonRoot":true}),
                json!({}),
                "0:0",
                Some("image will run as root"),
            ),
            (
                json!({"runAsNonRoot":true}),
                json!({}),
                "web",
                Some("non-numeric user (web)"),
            ),
            (json!({"runAsNonRoot":true}), json!({}), "33:web", None),
            (
                json!({"runAsNonRoot":true,"runAsUser":5}),
                json!({}),
                "",
                None,
            ),
            (
                json!({"runAsNonRoot":true,"runAsUser":5}),
                json!({"runAsUser":0}),
                "",
                Some("breaks non-root policy"),
            ),
            (
                json!({"runAsNonRoot":true}),
                json!({"runAsNonRoot":false}),
                "",
                None,
            ),
            (
                json!({}),
                json!({"runAsNonRoot":true}),
                "root",
                Some("non-numeric user"),
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata":{"name":"p","uid":"u"},"spec":{
                "securityContext":pod_level,"containers":[{"name":"c","image":"i","securityContext":own}]}}))
            .unwrap();
            let made = container_spec(&Launch {
                pod: &pod,
                container: &pod.spec.as_ref().unwrap().containers[0],
                instance: 0,
                image: Image {
                    digest: "sha256:0".into(),
                    reference: "i:latest".into(),
                },
                image_user,
                address: Ipv4Addr::LOCALHOST,
                host_address: Ipv4Addr::LOCALHOST,
                node_memory_bytes: 512 << 20,
                objects: &PodObjects::default(),
                services: &[],
                volumes: &Sources::new(),
                files: &[],
            });
            match expected {
                None => assert!(made.is_ok(), "{pod:?}"),
                Some(expected) => {
                    let error = made.unwrap_err().to_string();
                    assert!(error.contains(expected), "{error}");
                }
            }
        }
    }

    #[test]
    fn only_the_pods_own_kernel_settings_are_set() {
        for (spec, is_right) in [
            (
                json!({"sysctls":[{"name":"net/ipv4/tcp_syncookies","value":"1"}]}),
                true,
            ),
            (
                json!({"sysctls":[{"name":"kernel.panic","value":"1"}]}),
                false,
            ),
            (
                json!({"sysctls":[{"name":"vm.swappiness","value":"1"}]}),
                false,
            ),
        ] {
            let mut pod: Pod =
                serde_json::from_value(json!({"spec":{"securityContext":spec,"containers":[]}}))
                    .unwrap();
            assert_eq!(sysctls(&pod).is_ok(), is_right, "{pod:?}");
            if let Some(spec) = &mut pod.spec {
                spec.host_network = Some(true);
            }
            assert!(sysctls(&pod).is_err(), "they would be the node's");
        }
    }

    #[test]
    fn policies() {
        for (image, policy, expected) in [
            ("a", None, PullPolicy::Always),
            ("r:5000/a", None, PullPolicy::Always),
            ("a:v1", None, PullPolicy::IfNotPresent),
            ("a:v1", Some("Always"), PullPolicy::Always),
            ("a", Some("Never"), PullPolicy::Never),
        ] {
            let container = Container {
                image: Some(image.into()),
                image_pull_policy: policy.map(str::to_owned),
                ..Container::default()
            };
            assert_eq!(pull_policy(&container), expected, "{image}");
        }
    }
}
