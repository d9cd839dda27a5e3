//! Machines by hand: `ssh`, `console`, `node`.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::cluster::{connect, open_home};
use super::failure::Failure;
use super::terminal;
use crate::cluster::client::DaemonClient;
use crate::cluster::daemon::{ClusterRecord, read_json};
use crate::cluster::home::ClusterPaths;
use crate::machines::provider::PowerAction;
use crate::model::cluster::ClusterSpec;
use crate::model::link::{Links, Port};
use crate::model::names::{ClusterName, NodeName};
use crate::shell::ssh;

/// Arguments of `ssh`.
#[derive(Debug, Args)]
pub(super) struct SshCommand {
    /// Which machine.
    node: NodeName,
    /// A command to run instead of a login shell.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl SshCommand {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let cluster = connect(name).await?;
        let status = cluster.daemon.status().await?;
        require_node(&status.spec, &self.node)?;
        let target = cluster.daemon.login(&self.node).await?;
        let known_hosts = cluster.paths.ssh().join("known_hosts");
        let arguments = ssh::interactive_argv(&target, &known_hosts, &self.command)?;
        let (program, arguments) = arguments
            .split_first()
            .expect("an argument vector begins with its program");
        let error = std::process::Command::new(program).args(arguments).exec();
        Err(Failure::new(format!("run `{program}`"))
            .because(error)
            .hint("`flightcage doctor --fix` installs the SSH client"))
    }
}

/// The name of a machine that is not of the cluster is wrong input.
pub(super) fn require_node(spec: &ClusterSpec, node: &NodeName) -> Result<(), Failure> {
    if spec.index_of(node).is_some() {
        return Ok(());
    }
    let known: Vec<&str> = spec
        .machines
        .iter()
        .map(|machine| machine.name.as_str())
        .collect();
    let hint = format!("its nodes: {}", known.join(", "));
    Err(Failure::new(format!(
        "there is no node `{node}` in cluster `{}`",
        spec.name
    ))
    .hint(hint)
    .invalid())
}

/// The same of a cluster that need not be up. Nothing is known of one that was never made.
pub(super) fn require_recorded_node(paths: &ClusterPaths, node: &NodeName) -> Result<(), Failure> {
    let recorded: Option<ClusterRecord> = read_json(&paths.spec()).ok();
    recorded.map_or(Ok(()), |record| require_node(&record.spec, node))
}

/// The same of every machine whose links are meant.
pub(super) async fn require_nodes_of(daemon: &DaemonClient, links: &Links) -> Result<(), Failure> {
    let spec = daemon.status().await?.spec;
    links.named().try_for_each(|port| match port {
        Port::Host => Ok(()),
        Port::Node(node) => require_node(&spec, node),
    })
}

/// Arguments of `console`.
#[derive(Debug, Args)]
pub(super) struct Console {
    /// Which machine.
    node: NodeName,
}

impl Console {
    pub(super) fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let paths = open_home()?.cluster(&name);
        require_recorded_node(&paths, &self.node)?;
        let console = paths
            .root()
            .join("machines")
            .join(self.node.as_str())
            .join("console.log");
        let bytes = std::fs::read(&console).map_err(|error| {
            Failure::new(format!(
                "read the console of node `{}` at `{}`",
                self.node,
                console.display()
            ))
            .because(error)
        })?;
        terminal::write(&bytes);
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `node`.
#[derive(Debug, Args)]
pub(super) struct NodeCommand {
    #[command(subcommand)]
    verb: NodeVerb,
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    /// Pull the plug: nothing is flushed.
    PowerOff { node: NodeName },
    /// Start it again with the disk it has.
    PowerOn { node: NodeName },
    /// Press the reset button.
    Reset { node: NodeName },
    /// Stop its process: its clock will jump when it is thawed.
    Freeze { node: NodeName },
    /// Let a frozen machine go on.
    Thaw { node: NodeName },
}

impl NodeCommand {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let (node, action) = match self.verb {
            NodeVerb::PowerOff { node } => (node, PowerAction::PowerOff),
            NodeVerb::PowerOn { node } => (node, PowerAction::PowerOn),
            NodeVerb::Reset { node } => (node, PowerAction::Reset),
            NodeVerb::Freeze { node } => (node, PowerAction::Freeze),
            NodeVerb::Thaw { node } => (node, PowerAction::Thaw),
        };
        power(&connect(name).await?.daemon, &node, action).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Changes a machine's power by hand.
pub(super) async fn power(
    daemon: &DaemonClient,
    node: &NodeName,
    action: PowerAction,
) -> Result<(), Failure> {
    require_node(&daemon.status().await?.spec, node)?;
    daemon.power(node, action).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_of_the_cluster_is_wrong_input() {
        let spec = ClusterSpec::with_workers("test".parse().unwrap(), 2);
        assert!(require_node(&spec, &"w2".parse().unwrap()).is_ok());
        assert!(
            require_node(&spec, &"w9".parse().unwrap()).is_err_and(|failure| failure.is_invalid())
        );
    }
}
