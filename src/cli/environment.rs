//! What a scenario runs against: our own cluster through its daemon, or any Kubernetes through a kubeconfig.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use hickory_resolver::TokioResolver;
use k8s_openapi::api::core::v1::Service;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::machine_logs::machine_logs;
use super::net::in_words;
use crate::cluster::client::DaemonClient;
use crate::cluster::daemon::{DialTarget, LinkChange, LinkEffect, LinkHeal, LinkState};
use crate::cluster::guest::Guest;
use crate::cluster::machine::{Order, Seen};
use crate::kubernetes::client::Client;
use crate::kubernetes::load_balancer::{Entrance, Host};
use crate::machines::fabric::Links;
use crate::machines::journal::Sighting;
use crate::machines::provider::{DiskFault, Power, PowerAction};
use crate::model::cluster::{ClusterSpec, MachineSpec, ProviderKind};
use crate::model::names::NodeName;
use crate::scenario::fault::{DialService, Effect, FaultError, Faults, MachineLog};
use crate::scenario::faults::{Capability, ControlError, Controls, Doing, LinkOrder, Means};
use crate::scenario::injection::Injection;
use crate::transport::{BoxStream, Dial, HostNetwork};

fn failed<E: std::error::Error + Send + Sync + 'static>(
    what: String,
) -> impl FnOnce(E) -> FaultError {
    move |source| FaultError {
        what,
        source: Some(Box::new(source)),
    }
}

/// Says what was to be done with which fault.
fn failed_to(verb: &str, injection: &Injection) -> impl FnOnce(ControlError) -> FaultError {
    let what = format!("{verb} {injection}");
    move |source| FaultError {
        what,
        source: Some(source),
    }
}

/// The faults and the prober's path of a cluster of ours.
#[derive(Clone)]
pub(super) struct OwnCluster {
    daemon: DaemonClient,
    spec: ClusterSpec,
}

impl Faults for OwnCluster {
    fn capabilities(&self) -> BTreeSet<Capability> {
        capabilities(&self.spec)
    }

    fn begin(&self, injection: &Injection) -> BoxFuture<'_, Result<Effect, FaultError>> {
        let injection = injection.clone();
        Box::pin(async move {
            let begun = injection.fault.action.begin(&injection, self).await;
            begun.map_err(failed_to("begin", &injection))
        })
    }

    fn heal(&self, injection: &Injection) -> BoxFuture<'_, Result<Effect, FaultError>> {
        let injection = injection.clone();
        Box::pin(async move {
            let healed = injection.fault.action.heal(&injection, self).await;
            let healed = healed.map_err(failed_to("heal", &injection))?;
            if healed.verified {
                Ok(healed)
            } else {
                let what = format!("its end was not seen: {}", healed.measured);
                Err(FaultError { what, source: None })
            }
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
}

impl Controls for OwnCluster {
    fn power<'a>(&'a self, node: &'a NodeName, action: PowerAction) -> Doing<'a, ()> {
        Box::pin(async move {
            self.daemon.power(node, action).await?;
            Ok(())
        })
    }

    fn set_links<'a>(&'a self, order: &'a LinkOrder) -> Doing<'a, Effect> {
        Box::pin(async move {
            let change = LinkChange {
                links: order.links.clone(),
                rule: order.rule,
                lasts: Some(order.lasts),
                tag: order.tag.clone(),
                seed: 1,
            };
            let effects = self.daemon.change_links(&change).await?;
            // The rule acts when it is set; the probes that show it come after, and on machines that exist others came before.
            let acted_for = effects.iter().map(|effect| effect.acted_for).max();
            let at = Instant::now() - acted_for.unwrap_or_default();
            let verified = !effects.is_empty() && effects.iter().all(|effect| effect.verified);
            let words = |effect: &LinkEffect| {
                format!(
                    "{} -> {}: {}",
                    effect.from,
                    effect.to,
                    in_words(&order.rule, &effect.measured)
                )
            };
            let measured = effects.iter().map(words).collect::<Vec<_>>().join("; ");
            Ok(Effect {
                at,
                verified,
                measured,
            })
        })
    }

    fn heal_links<'a>(&'a self, links: &'a Links, tag: &'a str) -> Doing<'a, usize> {
        Box::pin(async move {
            let heal = LinkHeal {
                links: links.clone(),
                tag: Some(tag.to_owned()),
            };
            self.daemon.heal_links(&heal).await?;
            let all = self.daemon.links().await?;
            let ours = |link: &&LinkState| link.rules.iter().any(|(of, _)| of == tag);
            Ok(all.iter().filter(ours).count())
        })
    }

    fn disk<'a>(&'a self, node: &'a NodeName, fault: Option<DiskFault>) -> Doing<'a, Effect> {
        Box::pin(async move {
            let done = self.daemon.disk(node, fault).await?;
            Ok(Effect::now(done.verified, done.measured))
        })
    }

    fn guest<'a>(&'a self, node: &'a NodeName) -> Doing<'a, Guest> {
        Box::pin(async move { Ok(Guest::connect(&self.daemon, node).await?) })
    }

    fn order<'a>(&'a self, node: &'a NodeName, order: &'a Order) -> Doing<'a, Seen> {
        Box::pin(async move {
            let guest = Guest::connect(&self.daemon, node).await?;
            Ok(guest.order(order).await?)
        })
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
    let can = |capability: &Capability| match capability.means() {
        Means::Power => spec.machines.iter().all(switched),
        Means::Links | Means::Guest => true,
        Means::OwnMachine => spec.provider == ProviderKind::Qemu,
    };
    Capability::all().into_iter().filter(can).collect()
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
