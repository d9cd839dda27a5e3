//! What a scenario runs against: our own cluster through its daemon, or any Kubernetes through a kubeconfig.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use hickory_resolver::TokioResolver;
use k8s_openapi::api::core::v1::Service;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::machine_logs::machine_logs;
use super::net::in_words;
use crate::cluster::client::DaemonClient;
use crate::cluster::daemon::{DialTarget, LinkChange, LinkEffect, LinkHeal};
use crate::cluster::guest::{Guest, GuestError};
use crate::kubernetes::client::Client;
use crate::kubernetes::load_balancer::{Entrance, Host};
use crate::machines::fabric::Links;
use crate::machines::journal::Sighting;
use crate::machines::provider::{DiskFault, Power, PowerAction};
use crate::model::cluster::{ClusterSpec, MachineSpec, ProviderKind};
use crate::model::names::NodeName;
use crate::scenario::fault::{DialService, Effect, FaultError, Faults, MachineLog};
use crate::scenario::injection::{FaultKind, Injection, Place, Settings};
use crate::scenario::spec::Capability;
use crate::transport::{BoxStream, Dial, HostNetwork};

fn failed<E: std::error::Error + Send + Sync + 'static>(
    what: String,
) -> impl FnOnce(E) -> FaultError {
    move |source| FaultError {
        what,
        source: Some(Box::new(source)),
    }
}

/// How much longer than asked for a rule of links may act if nobody is left to heal it.
const HEAL_SLACK: Duration = Duration::from_secs(5);

/// The faults and the prober's path of a cluster of ours.
#[derive(Clone)]
pub(super) struct OwnCluster {
    daemon: DaemonClient,
    spec: ClusterSpec,
}

fn effect(verified: bool, measured: impl Into<String>) -> Effect {
    Effect {
        at: Instant::now(),
        verified,
        measured: measured.into(),
    }
}

/// What an injection does to a machine's power, and what undoes it.
fn power_actions(kind: FaultKind) -> Option<(PowerAction, PowerAction)> {
    match kind {
        FaultKind::PowerOff => Some((PowerAction::PowerOff, PowerAction::PowerOn)),
        FaultKind::Freeze => Some((PowerAction::Freeze, PowerAction::Thaw)),
        FaultKind::Reset => Some((PowerAction::Reset, PowerAction::PowerOn)),
        _ => None,
    }
}

impl Faults for OwnCluster {
    fn capabilities(&self) -> BTreeSet<Capability> {
        capabilities(&self.spec)
    }

    fn begin(&self, injection: &Injection) -> BoxFuture<'_, Result<Effect, FaultError>> {
        let injection = injection.clone();
        Box::pin(async move {
            self.begin_one(&injection)
                .await
                .map_err(failed(format!("begin {injection}")))
        })
    }

    fn heal(&self, injection: &Injection) -> BoxFuture<'_, Result<Effect, FaultError>> {
        let injection = injection.clone();
        Box::pin(async move {
            self.heal_one(&injection)
                .await
                .map_err(failed(format!("heal {injection}")))
        })
    }

    fn heal_all(&self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(async move {
            let heal = LinkHeal {
                links: Links::all(),
                tag: None,
            };
            self.daemon
                .heal_links(&heal)
                .await
                .map_err(failed("heal the links".into()))?;
            let status = self
                .daemon
                .status()
                .await
                .map_err(failed("list the machines".into()))?;
            for machine in status.machines {
                let action = match machine.power {
                    Power::On if self.spec.provider != ProviderKind::Qemu => continue,
                    Power::On => {
                        self.daemon
                            .disk(&machine.name, None)
                            .await
                            .map_err(failed(format!("heal the disk of node `{}`", machine.name)))?;
                        continue;
                    }
                    Power::Off => PowerAction::PowerOn,
                    Power::Frozen => PowerAction::Thaw,
                };
                self.daemon
                    .power(&machine.name, action)
                    .await
                    .map_err(failed(format!("bring node `{}` back", machine.name)))?;
            }
            Ok(())
        })
    }

    fn troubles(&self, since: SystemTime) -> BoxFuture<'_, Vec<Sighting>> {
        Box::pin(async move {
            let since_ms = since
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis());
            let seen = self.daemon.sightings(0).await.unwrap_or_default();
            seen.into_iter()
                .filter(|sighting| u128::from(sighting.at_ms) >= since_ms)
                .collect()
        })
    }

    fn machine_logs(&self, begun: SystemTime) -> BoxFuture<'_, Vec<MachineLog>> {
        let machines = self.daemon.paths().root().join("machines");
        let nodes = self.spec.machines.iter();
        let nodes: Vec<NodeName> = nodes.map(|machine| machine.name.clone()).collect();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || machine_logs(&machines, &nodes, begun));
            read.await.unwrap_or_default()
        })
    }
}

impl OwnCluster {
    pub(super) fn new(daemon: DaemonClient, spec: &ClusterSpec) -> Self {
        Self {
            daemon,
            spec: spec.clone(),
        }
    }

    async fn begin_one(&self, injection: &Injection) -> Result<Effect, GuestError> {
        let Injection {
            step,
            fault,
            place,
            duration,
        } = injection;
        match (fault.settings, place) {
            (Settings::Link(rule), _) => {
                let lasts = Some(*duration + HEAL_SLACK);
                let change = LinkChange {
                    links: place.links(),
                    rule,
                    lasts,
                    tag: step.clone(),
                    seed: 1,
                };
                let effects = self.daemon.change_links(&change).await?;
                // The rule acts when it is set; the probes that show it come after, and on machines that exist others came before.
                let at = Instant::now()
                    - effects
                        .iter()
                        .map(|effect| effect.acted_for)
                        .max()
                        .unwrap_or_default();
                let verified = !effects.is_empty() && effects.iter().all(|effect| effect.verified);
                let words = |effect: &LinkEffect| {
                    format!(
                        "{} -> {}: {}",
                        effect.from,
                        effect.to,
                        in_words(&rule, &effect.measured)
                    )
                };
                let measured = effects.iter().map(words).collect::<Vec<_>>().join("; ");
                Ok(Effect {
                    at,
                    verified,
                    measured,
                })
            }
            (_, Place::Links(_)) => Ok(effect(false, "only rules act on links")),
            (Settings::Disk(fault), Place::Node(node)) => {
                let done = self.daemon.disk(node, Some(fault)).await?;
                Ok(effect(done.verified, done.measured))
            }
            (Settings::ClockBy(by_ms), Place::Node(node)) => {
                let (clock, verified) = Guest::connect(&self.daemon, node)
                    .await?
                    .set_clock(by_ms)
                    .await?;
                Ok(effect(
                    verified,
                    format!(
                        "the clock is off by {:+.0} ms, ±{:.0} ms",
                        clock.offset_ms, clock.error_ms
                    ),
                ))
            }
            (Settings::Plain, Place::Node(node)) => {
                if let Some((action, _)) = power_actions(fault.kind) {
                    // The provider answers when the process is gone, stopped or running: that is the verification.
                    self.daemon.power(node, action).await?;
                    return Ok(effect(true, power_words(action)));
                }
                let (left, verified) = Guest::connect(&self.daemon, node)
                    .await?
                    .fill_disk()
                    .await?;
                let refused = if verified { "refused" } else { "not refused" };
                Ok(effect(
                    verified,
                    format!("{} KiB left, a write is {refused}", left / 1024),
                ))
            }
        }
    }

    async fn heal_one(&self, injection: &Injection) -> Result<Effect, GuestError> {
        let Injection {
            step, fault, place, ..
        } = injection;
        match (fault.settings, place) {
            (Settings::Link(_), _) => {
                self.daemon
                    .heal_links(&LinkHeal {
                        links: place.links(),
                        tag: Some(step.clone()),
                    })
                    .await?;
                let left = self
                    .daemon
                    .links()
                    .await?
                    .iter()
                    .filter(|link| link.rules.iter().any(|(tag, _)| tag == step))
                    .count();
                Ok(effect(left == 0, format!("{left} rules left")))
            }
            (_, Place::Links(_)) => Ok(effect(true, "nothing acted")),
            (Settings::Disk(disk), Place::Node(node)) => {
                let done = self.daemon.disk(node, None).await?;
                let errors = matches!(disk, DiskFault::Error { .. });
                if errors
                    && !Guest::connect(&self.daemon, node)
                        .await?
                        .is_writable()
                        .await?
                {
                    // A kernel whose journal could not be written mounts the file system anew only after a boot.
                    self.daemon.power(node, PowerAction::Reset).await?;
                    return Ok(effect(
                        done.verified,
                        "its file system had become read-only: the machine was reset",
                    ));
                }
                Ok(effect(done.verified, done.measured))
            }
            (Settings::ClockBy(_), Place::Node(node)) => {
                let (clock, verified) = Guest::connect(&self.daemon, node)
                    .await?
                    .set_clock(0)
                    .await?;
                Ok(effect(
                    verified,
                    format!(
                        "the clock is off by {:+.0} ms, ±{:.0} ms",
                        clock.offset_ms, clock.error_ms
                    ),
                ))
            }
            (Settings::Plain, Place::Node(node)) => {
                if let Some((_, action)) = power_actions(fault.kind) {
                    self.daemon.power(node, action).await?;
                    return Ok(effect(true, power_words(action)));
                }
                let (free, verified) = Guest::connect(&self.daemon, node)
                    .await?
                    .empty_disk()
                    .await?;
                Ok(effect(verified, format!("{} MiB free", free >> 20)))
            }
        }
    }
}

/// What can be broken in a cluster. Machines that we did not make share no disk with us, and may share this host's kernel: what would
/// reach beyond them (clock, a full disk) is never offered there. Their power is switched by the commands of the cluster file only.
fn capabilities(spec: &ClusterSpec) -> BTreeSet<Capability> {
    let switched = |machine: &MachineSpec| {
        machine
            .host
            .as_ref()
            .is_none_or(|host| !host.power_off.is_empty())
    };
    let can = |capability: &Capability| match capability {
        Capability::NodePower => spec.machines.iter().all(switched),
        Capability::NetCut | Capability::NetShape => true,
        Capability::DiskFault | Capability::DiskFull | Capability::ClockStep => {
            spec.provider == ProviderKind::Qemu
        }
    };
    Capability::ALL
        .into_iter()
        .map(|(_, capability)| capability)
        .filter(can)
        .collect()
}

fn power_words(action: PowerAction) -> &'static str {
    match action {
        PowerAction::PowerOff => "no process",
        PowerAction::PowerOn => "its process runs",
        PowerAction::Reset => "QEMU has reset it",
        PowerAction::Freeze => "every thread of its process is stopped",
        PowerAction::Thaw => "its process runs on",
    }
}

impl DialService for OwnCluster {
    fn dial(&self, service: &str, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        let target = service
            .split_once('/')
            .map(|(namespace, name)| DialTarget::Service {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                port,
            });
        Box::pin(async move {
            let target = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            self.daemon.dial(target).await
        })
    }
}

/// A Kubernetes that is not ours: no faults; Services are dialled at their load balancer.
pub(super) struct ForeignCluster {
    client: Client,
    /// Where each Service is reached, as it was found first: a look-up a connection would measure the API server, not the Service.
    entrances: Mutex<BTreeMap<String, Entrance>>,
    resolver: OnceCell<TokioResolver>,
}

impl ForeignCluster {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            entrances: Mutex::default(),
            resolver: OnceCell::new(),
        }
    }

    async fn entrance(&self, service: &str) -> io::Result<Entrance> {
        let known = self
            .entrances
            .lock()
            .expect("nobody panics while holding the lock")
            .get(service)
            .cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
        let missing = |error| io::Error::new(io::ErrorKind::NotFound, error);
        let found: Service = self.client.get(namespace, name).await.map_err(missing)?;
        let entrance =
            Entrance::of(&found).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.entrances
            .lock()
            .expect("nobody panics while holding the lock")
            .insert(service.to_owned(), entrance.clone());
        Ok(entrance)
    }

    /// The address of a load balancer; a name's answers are kept for as long as its server says.
    async fn address(&self, host: &Host) -> io::Result<IpAddr> {
        let name = match host {
            Host::Address(address) => return Ok(*address),
            Host::Name(name) => name,
        };
        let unknown = |error| io::Error::new(io::ErrorKind::NotFound, error);
        let resolver = self
            .resolver
            .get_or_try_init(async || TokioResolver::builder_tokio()?.build())
            .await
            .map_err(unknown)?;
        let answer = resolver.lookup_ip(name.as_str()).await.map_err(unknown)?;
        answer
            .iter()
            .next()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Faults for ForeignCluster {
    fn capabilities(&self) -> BTreeSet<Capability> {
        BTreeSet::new()
    }

    fn begin(&self, injection: &Injection) -> BoxFuture<'_, Result<Effect, FaultError>> {
        unable(injection)
    }

    fn heal(&self, injection: &Injection) -> BoxFuture<'_, Result<Effect, FaultError>> {
        unable(injection)
    }

    fn heal_all(&self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(async { Ok(()) })
    }
}

fn unable(injection: &Injection) -> BoxFuture<'static, Result<Effect, FaultError>> {
    let what = format!("{injection}: a foreign cluster cannot be broken from here");
    Box::pin(async { Err(FaultError { what, source: None }) })
}

impl DialService for ForeignCluster {
    fn dial(&self, service: &str, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        let service = service.to_owned();
        Box::pin(async move {
            let entrance = self.entrance(&service).await?;
            let address = self.address(&entrance.host).await?;
            HostNetwork
                .dial((address, entrance.port(port)).into())
                .await
        })
    }
}
