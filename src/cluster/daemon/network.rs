//! The machines' network as the host reaches it: the fabric, or, where the machines have a network of their own, relays.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::machine_links::MachineLinks;
use super::{DaemonError, starting};
use crate::cluster::home::ClusterPaths;
use crate::cluster::install;
use crate::cluster::relay::{RelayConfig, RelayNetwork};
use crate::machines::fabric::{Fabric, FabricConfig};
use crate::machines::provider::Provider;
use crate::model::addresses;
use crate::model::cluster::ClusterSpec;
use crate::transport::{Dial, Listen};

/// What carries connections between the host and the machines.
pub(super) enum Network {
    /// Our own switch: every link is ours to change.
    Fabric(Fabric),
    /// The machines' own network.
    Relays(RelayNetwork, Arc<MachineLinks>),
}

/// An open network: how the host dials, and where the registry mirror hears the agents.
pub(super) struct Opened {
    pub(super) network: Network,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) registry: Box<dyn Listen>,
}

/// Opens the network of `spec`.
///
/// # Errors
/// When the fabric cannot be made.
pub(super) async fn open(
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    provider: Arc<dyn Provider>,
    tasks: &mut JoinSet<()>,
) -> Result<Opened, DaemonError> {
    if !spec.provider.has_fabric() {
        let binary = install::binary_path().map_err(starting("read the running binary"))?;
        let links = Arc::new(MachineLinks::new(spec, provider.clone()));
        tasks.spawn(links.clone().renew());
        let config = RelayConfig {
            provider,
            directory: paths.ssh(),
            binary,
            is_installed: paths.complete().exists(),
        };
        let (relays, registry) = RelayNetwork::start(spec, config, tasks);
        let dial = Arc::new(relays.clone());
        return Ok(Opened {
            network: Network::Relays(relays, links),
            dial,
            registry: Box::new(registry),
        });
    }
    let nodes = spec
        .machines
        .iter()
        .map(|machine| machine.name.clone())
        .collect();
    let addresses = (0..spec.machines.len())
        .map(|index| spec.address(index))
        .collect();
    let config = FabricConfig {
        socket_dir: paths.runtime().to_owned(),
        nodes,
        addresses,
    };
    let fabric = Fabric::start(config)
        .await
        .map_err(starting("start the fabric"))?;
    let gateway = fabric.gateway();
    let route = |index| {
        let (network, prefix) = addresses::pod_network(index);
        (format!("{network}/{prefix}"), spec.address(index))
    };
    let routes: Vec<_> = (0..spec.machines.len()).map(route).collect();
    gateway
        .set_routes(&routes)
        .map_err(starting("route to the pods"))?;
    let registry = gateway
        .listen(addresses::REGISTRY_PORT)
        .map_err(starting("listen for the registry mirror"))?;
    Ok(Opened {
        network: Network::Fabric(fabric),
        dial: Arc::new(gateway),
        registry: Box::new(registry),
    })
}
