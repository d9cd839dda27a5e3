//! A cluster that stands still for as long as its user likes, and goes on where it was.
//!
//! The machines stop in memory; ports and keys stay, the host's listeners refuse meanwhile. What counts a machine's own time does not run
//! out, see [`Standstill`](crate::machines::provider::Standstill); what stands outside (a client of the cluster, a certificate's end) lives on.

use k8s_openapi::api::core::v1::Node;

use super::snapshots::{await_answer, await_beat};
use super::{LifeError, Progress, Reporter, admin_client, is_ready, lock_life, wait_until_ready};
use crate::cluster::client::DaemonClient;
use crate::cluster::daemon::Status;
use crate::cluster::home::ClusterPaths;
use crate::kubernetes::client::ListParams;
use crate::machines::provider::Power;
use crate::model::cluster::Role;
use crate::model::names::NodeName;

/// Lets a cluster stand still. Returns whether it ran before.
///
/// # Errors
/// When it is not up, belongs to a command that goes on, has a frozen machine, or its machines are not ours to stop. It runs then.
pub async fn pause(paths: &ClusterPaths) -> Result<bool, LifeError> {
    let _life = lock_life(paths)?;
    let daemon = DaemonClient::new(paths.clone())?;
    if daemon.status().await?.owned {
        return Err(LifeError::Owned(paths.name().to_string()));
    }
    Ok(daemon.pause().await?.changed)
}

/// Lets a cluster go on, and returns when its clocks are right and the nodes that were Ready have given a sign of life. Returns whether
/// it stood still before.
///
/// # Errors
/// When it is not up or a machine does not go on. A clock that is not right and a node that stays silent are errors, too: the machines
/// run then.
pub async fn resume(paths: &ClusterPaths, report: &Reporter) -> Result<bool, LifeError> {
    let _life = lock_life(paths)?;
    let daemon = DaemonClient::new(paths.clone())?;
    let resumed = daemon.resume().await?;
    if !resumed.changed {
        return Ok(false);
    }
    for clock in &resumed.clocks {
        report(Progress::Detail(format!(
            "{}: its clock was {} ms behind",
            clock.node, clock.behind_ms
        )));
    }
    if !resumed.problems.is_empty() {
        return Err(LifeError::Unsettled {
            name: paths.name().to_string(),
            problems: resumed.problems,
        });
    }
    let status = daemon.status().await?;
    if !has_controller(&status) {
        report(Progress::Step(
            "its controller is off: nobody tells whether the nodes are ready".into(),
        ));
        return Ok(true);
    }
    let client = admin_client(paths, &status)?;
    await_answer(&client, "/readyz", "the API server to answer").await?;
    // Silence is counted in the controller's own time, which stood still: this is what it knew before.
    let listed = client.list::<Node>("", &ListParams::default()).await?;
    let (ready, others) = sort_nodes(&status, &listed.items);
    for node in others {
        report(Progress::Node(node, "was not Ready before".into()));
    }
    let beats = ready.iter().map(|node| await_beat(&client, node));
    futures::future::try_join_all(beats).await?;
    wait_until_ready(&client, &ready, report).await?;
    Ok(true)
}

fn powers(status: &Status) -> impl Iterator<Item = (&NodeName, Role, Power)> {
    status.spec.machines.iter().map(|machine| {
        let found = status
            .machines
            .iter()
            .find(|found| found.name == machine.name);
        let power = found.map_or(Power::Off, |found| found.power);
        (&machine.name, machine.role, power)
    })
}

/// Whether there is an API to ask.
fn has_controller(status: &Status) -> bool {
    powers(status).any(|(_, role, power)| role == Role::Controller && power == Power::On)
}

/// The machines that run and were Ready, and the others that run.
fn sort_nodes(status: &Status, nodes: &[Node]) -> (Vec<NodeName>, Vec<NodeName>) {
    let was_ready = |name: &NodeName| {
        nodes
            .iter()
            .any(|node| node.metadata.name.as_deref() == Some(name.as_str()) && is_ready(node))
    };
    powers(status)
        .filter(|(_, _, power)| *power == Power::On)
        .map(|(name, _, _)| name.clone())
        .partition(was_ready)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::machines::provider::Machine;
    use crate::model::cluster::ClusterSpec;

    fn status(powers: &[(&str, Power)]) -> Status {
        let machine = |(node, power): &(&str, Power)| Machine {
            name: name(node),
            power: *power,
            ssh: None,
            pid: None,
        };
        Status {
            spec: ClusterSpec::with_workers("test".parse().unwrap(), 2),
            acceleration: None,
            machines: powers.iter().map(machine).collect(),
            api_port: 0,
            services: Vec::new(),
            ingress_synced: true,
            owned: false,
            restored_from: None,
            paused: false,
        }
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn node(name: &str, ready: &str) -> Node {
        let node = json!({
            "metadata": { "name": name },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn only_nodes_that_run_and_were_ready_are_waited_for() {
        let status = status(&[("c1", Power::On), ("w1", Power::On), ("w2", Power::Off)]);
        let nodes = [
            node("c1", "True"),
            node("w1", "Unknown"),
            node("w2", "True"),
        ];
        let (ready, others) = sort_nodes(&status, &nodes);
        assert_eq!(ready, [name("c1")]);
        assert_eq!(others, [name("w1")]);
    }

    #[test]
    fn without_its_controller_a_cluster_has_nobody_to_ask() {
        assert!(has_controller(&status(&[("c1", Power::On)])));
        assert!(!has_controller(&status(&[
            ("c1", Power::Off),
            ("w1", Power::On)
        ])));
        assert!(!has_controller(&status(&[])));
    }
}
