//! Machines that somebody else made: anything with Linux, systemd, SSH and `sudo`, such as cloud VMs or a rack.
//!
//! Nothing here makes or removes a machine; the cluster installs itself on them and uninstalls again. Their power is switched by the
//! commands that the cluster file gives, and the change is believed when the machine's SSH server is seen to come or go.

mod preflight;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;

use super::provider::{Machine, MachineRequest, Power, PowerAction, Problem, Provider, ProviderError};
use crate::model::cluster::{HostLogin, HostSpec, MachineSpec};
use crate::model::names::NodeName;
use crate::shell::local::Command;
use crate::shell::ssh::{Ssh, SshTarget};

/// Longest that a host which should be there may take to let us in.
const REACH_LIMIT: Duration = Duration::from_secs(30);
/// Longest from a power-on to an SSH session.
const BOOT_LIMIT: Duration = Duration::from_mins(5);
/// Longest from a power-off to silence.
const OFF_LIMIT: Duration = Duration::from_secs(60);
/// How long a host that is asked whether it is there may take to answer.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// Time limit of a power command.
const POWER_COMMAND_LIMIT: Duration = Duration::from_mins(2);
/// Pause between two looks at a host.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// The provider of machines that exist already.
#[derive(Debug)]
pub struct HostsProvider {
    hosts: BTreeMap<NodeName, HostSpec>,
}

impl HostsProvider {
    /// Of the machines of one cluster.
    #[must_use]
    pub fn new(machines: &[MachineSpec]) -> Self {
        let host = |machine: &MachineSpec| Some((machine.name.clone(), machine.host.clone()?));
        Self { hosts: machines.iter().filter_map(host).collect() }
    }

    fn host(&self, node: &NodeName) -> Result<&HostSpec, ProviderError> {
        self.hosts.get(node).ok_or_else(|| ProviderError::UnknownNode(node.clone()))
    }

    async fn switch(&self, node: &NodeName, action: PowerAction) -> Result<(), ProviderError> {
        let host = self.host(node)?;
        match action {
            PowerAction::PowerOff => self.power_off(node, host).await,
            PowerAction::PowerOn => self.power_on(node, host).await,
            PowerAction::Reset => {
                self.power_off(node, host).await?;
                self.power_on(node, host).await
            }
            PowerAction::Freeze | PowerAction::Thaw => {
                Err(failed(format!("freeze or thaw node `{node}`"), std::io::Error::other("its kernel is not ours to stop")))
            }
        }
    }

    async fn power_off(&self, node: &NodeName, host: &HostSpec) -> Result<(), ProviderError> {
        run(node, &host.power_off, "power_off").await?;
        let deadline = Instant::now() + OFF_LIMIT;
        while answers(host).await {
            if Instant::now() > deadline {
                let what = format!("its SSH server still answers {} s after `power_off`", OFF_LIMIT.as_secs());
                return Err(failed(format!("power off node `{node}`"), std::io::Error::other(what)));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }

    async fn power_on(&self, node: &NodeName, host: &HostSpec) -> Result<(), ProviderError> {
        if answers(host).await {
            return Ok(());
        }
        run(node, &host.power_on, "power_on").await?;
        let reached = Ssh::connect(&target(host), BOOT_LIMIT).await;
        reached.map(drop).map_err(|error| failed(format!("power on node `{node}`"), error))
    }
}

/// Runs a power command on this host.
async fn run(node: &NodeName, command: &[String], key: &str) -> Result<(), ProviderError> {
    let what = format!("switch the power of node `{node}`");
    let Some((program, arguments)) = command.split_first() else {
        let cause = std::io::Error::other(format!("the cluster file gives it no `{key}` command"));
        return Err(failed(what, cause));
    };
    let ran = Command::new(program).args(arguments).limit(POWER_COMMAND_LIMIT).run().await;
    ran.map(drop).map_err(|error| failed(what, error))
}

/// Whether somebody who has the host's key lets us in.
async fn answers(host: &HostSpec) -> bool {
    Ssh::connect(&target(host), LOOK_LIMIT).await.is_ok()
}

/// How a host is logged in to.
#[must_use]
pub fn target(host: &HostSpec) -> SshTarget {
    let login = |login: &HostLogin, jump| SshTarget {
        address: login.ssh,
        user: login.user.clone(),
        private_key: login.key.clone(),
        host_key: login.host_key.clone(),
        jump,
    };
    login(&host.login, host.jump.as_ref().map(|jump| Box::new(login(jump, None))))
}

fn failed(what: String, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ProviderError {
    ProviderError::Failed { what, source: source.into() }
}

impl Provider for HostsProvider {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn preflight(&self, machines: &[MachineSpec]) -> BoxFuture<'_, Vec<Problem>> {
        let machines = machines.to_vec();
        Box::pin(async move { preflight::problems(&machines).await })
    }

    fn create(&self, request: MachineRequest) -> BoxFuture<'_, Result<Machine, ProviderError>> {
        Box::pin(async move {
            let ssh = self.host(&request.spec.name)?.login.ssh;
            Ok(Machine { name: request.spec.name, power: Power::On, ssh: Some(ssh), pid: None })
        })
    }

    fn wait_for_boot(&self, node: &NodeName) -> BoxFuture<'_, Result<SocketAddr, ProviderError>> {
        let node = node.clone();
        Box::pin(async move {
            let host = self.host(&node)?;
            let reached = Ssh::connect(&target(host), REACH_LIMIT).await;
            reached.map_err(|error| failed(format!("reach node `{node}`"), error))?;
            Ok(host.login.ssh)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Machine>, ProviderError>> {
        Box::pin(async move {
            let look = async |(node, host): (&NodeName, &HostSpec)| Machine {
                name: node.clone(),
                power: if answers(host).await { Power::On } else { Power::Off },
                ssh: Some(host.login.ssh),
                pid: None,
            };
            Ok(join_all(self.hosts.iter().map(look)).await)
        })
    }

    fn power(&self, node: &NodeName, action: PowerAction) -> BoxFuture<'_, Result<(), ProviderError>> {
        let node = node.clone();
        Box::pin(async move { self.switch(&node, action).await })
    }

    fn destroy(&self, _: &NodeName) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(async { Ok(()) })
    }

    fn login(&self, node: &NodeName) -> BoxFuture<'_, Result<Option<SshTarget>, ProviderError>> {
        let node = node.clone();
        Box::pin(async move { Ok(Some(target(self.host(&node)?))) })
    }

    fn machines_outlive_daemon(&self) -> bool {
        true
    }

    fn console(&self, _: &NodeName) -> PathBuf {
        PathBuf::new()
    }
}
