//! Machines by hand: `ssh`, `console`, `node`.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::cluster::{connect, open_home};
use super::failure::Failure;
use super::terminal;
use crate::machines::provider::PowerAction;
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
        if status.spec.index_of(&self.node).is_none() {
            return Err(unknown_node(&self.node, status.spec.machines.iter().map(|machine| &machine.name)));
        }
        let target = cluster.daemon.login(&self.node).await?;
        let known_hosts = cluster.paths.ssh().join("known_hosts");
        let arguments = ssh::interactive_argv(&target, &known_hosts, &self.command)?;
        let (program, arguments) = arguments.split_first().expect("an argument vector begins with its program");
        let error = std::process::Command::new(program).args(arguments).exec();
        Err(Failure::new(format!("run `{program}`")).because(error).hint("`flightcage doctor --fix` installs the SSH client"))
    }
}

fn unknown_node<'a>(node: &NodeName, known: impl Iterator<Item = &'a NodeName>) -> Failure {
    let known: Vec<&str> = known.map(NodeName::as_str).collect();
    Failure::new(format!("node `{node}` does not run")).hint(format!("the cluster's nodes: {}", known.join(", "))).invalid()
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
        let console = paths.root().join("machines").join(self.node.as_str()).join("console.log");
        let bytes = std::fs::read(&console).map_err(|error| {
            Failure::new(format!("read the console of node `{}` at `{}`", self.node, console.display())).because(error)
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
        connect(name).await?.daemon.power(&node, action).await?;
        Ok(ExitCode::SUCCESS)
    }
}
