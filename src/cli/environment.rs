//! What a scenario runs against: our own cluster through its daemon, or any Kubernetes through a kubeconfig.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::cluster::client::{DaemonClient, DaemonClientError};
use crate::cluster::daemon::{DialTarget, LinkChange};
use crate::machines::provider::{Power, PowerAction};
use crate::model::names::NodeName;
use crate::scenario::fault::{DialService, Effect, FaultError, Faults};
use crate::scenario::spec::Capability;
use crate::transport::BoxStream;

/// A cut is verified when the fabric has dropped a frame because of it: machines speak several times a second.
const CUT_EVIDENCE: Duration = Duration::from_secs(2);
/// How often the fabric's counters are read while waiting for that evidence.
const EVIDENCE_INTERVAL: Duration = Duration::from_millis(20);

fn failed(what: String) -> impl FnOnce(DaemonClientError) -> FaultError {
    move |source| FaultError { what, source: Some(Box::new(source)) }
}

/// The faults and the prober's path of a cluster of ours.
#[derive(Clone)]
pub(super) struct OwnCluster {
    pub(super) daemon: DaemonClient,
}

impl Faults for OwnCluster {
    fn capabilities(&self) -> BTreeSet<Capability> {
        Capability::ALL.into_iter().map(|(_, capability)| capability).collect()
    }

    fn node_power(&self, node: &NodeName, action: PowerAction) -> BoxFuture<'_, Result<Effect, FaultError>> {
        let node = node.clone();
        Box::pin(async move {
            // The provider answers when the process is gone, stopped or running: that is the verification.
            self.daemon.power(&node, action).await.map_err(failed(format!("change the power of node `{node}`")))?;
            Ok(Effect { at: Instant::now(), verified: true })
        })
    }

    fn link_cut(&self, node: &NodeName) -> BoxFuture<'_, Result<Effect, FaultError>> {
        let node = node.clone();
        Box::pin(async move {
            let fail = || failed(format!("cut the links of node `{node}`"));
            let before = self.daemon.link_counters().await.map_err(fail())?.dropped;
            self.set_links(&node, true).await.map_err(fail())?;
            let at = Instant::now();
            while at.elapsed() < CUT_EVIDENCE {
                if self.daemon.link_counters().await.map_err(fail())?.dropped > before {
                    return Ok(Effect { at, verified: true });
                }
                tokio::time::sleep(EVIDENCE_INTERVAL).await;
            }
            Ok(Effect { at, verified: false })
        })
    }

    fn link_heal(&self, node: &NodeName) -> BoxFuture<'_, Result<Effect, FaultError>> {
        let node = node.clone();
        Box::pin(async move {
            self.set_links(&node, false).await.map_err(failed(format!("heal the links of node `{node}`")))?;
            Ok(Effect { at: Instant::now(), verified: true })
        })
    }

    fn heal_all(&self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(async move {
            self.daemon.heal_links().await.map_err(failed("heal the links".into()))?;
            let status = self.daemon.status().await.map_err(failed("list the machines".into()))?;
            for machine in status.machines {
                let action = match machine.power {
                    Power::On => continue,
                    Power::Off => PowerAction::PowerOn,
                    Power::Frozen => PowerAction::Thaw,
                };
                self.daemon.power(&machine.name, action).await.map_err(failed(format!("bring node `{}` back", machine.name)))?;
            }
            Ok(())
        })
    }
}

impl OwnCluster {
    async fn set_links(&self, node: &NodeName, cut: bool) -> Result<(), DaemonClientError> {
        self.daemon.change_links(&LinkChange { from: Some(node.clone()), to: None, cut, both_directions: true }).await
    }
}

impl DialService for OwnCluster {
    fn dial(&self, service: &str, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        let target = service.split_once('/').map(|(namespace, name)| DialTarget::Service {
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

/// A Kubernetes that is not ours: no faults; Services are dialled at their load balancer's address.
pub(super) struct ForeignCluster {
    pub(super) client: crate::kubernetes::client::Client,
}

impl Faults for ForeignCluster {
    fn capabilities(&self) -> BTreeSet<Capability> {
        BTreeSet::new()
    }

    fn node_power(&self, node: &NodeName, _: PowerAction) -> BoxFuture<'_, Result<Effect, FaultError>> {
        unable(node)
    }

    fn link_cut(&self, node: &NodeName) -> BoxFuture<'_, Result<Effect, FaultError>> {
        unable(node)
    }

    fn link_heal(&self, node: &NodeName) -> BoxFuture<'_, Result<Effect, FaultError>> {
        unable(node)
    }

    fn heal_all(&self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(async { Ok(()) })
    }
}

fn unable(node: &NodeName) -> BoxFuture<'static, Result<Effect, FaultError>> {
    let what = format!("node `{node}` of a foreign cluster cannot be broken from here");
    Box::pin(async { Err(FaultError { what, source: None }) })
}

impl DialService for ForeignCluster {
    fn dial(&self, service: &str, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        use crate::transport::{Dial, HostNetwork};
        let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Box::pin(async move {
            let service: k8s_openapi::api::core::v1::Service =
                self.client.get(&namespace, &name).await.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
            let ingress = service.status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
            let address = ingress.unwrap_or_default().into_iter().find_map(|ingress| ingress.ip?.parse().ok());
            let address: std::net::IpAddr = address.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            HostNetwork.dial((address, port).into()).await
        })
    }
}
