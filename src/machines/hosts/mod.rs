//! Machines that somebody else made: anything with Linux, systemd, SSH and `sudo`, such as cloud VMs or a rack.
//!
//! Nothing here makes or removes a machine; the cluster installs itself on them and uninstalls again. Their power is switched by the
//! commands that the cluster file gives, and the change is believed when the machine's SSH server is seen to come or go. A freeze stops
//! our units and the pods, not the kernel: connections are still accepted, and nobody answers.

mod preflight;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::provider::{
    Machine, MachineRequest, Power, PowerAction, Problem, Provider, ProviderError,
};
use crate::model::cluster::{HostLogin, HostSpec, MachineSpec};
use crate::model::names::NodeName;
use crate::shell::local::Command;
use crate::shell::ssh::{Ssh, SshTarget};

/// Longest that a host which should be there may take to let us in.
const REACH_LIMIT: Duration = Duration::from_secs(30);
/// Longest from a power-on to an SSH session.
const BOOT_LIMIT: Duration = Duration::from_mins(5);
/// Longest from a power-off to silence.
const OFF_LIMIT: Duration = Duration::from_mins(1);
/// How long a host that is asked whether it is there may take to answer: an emulated one under load, behind a gate, takes seconds. One that
/// is off is known earlier.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// How long a session of before may take to answer, until a new one is tried.
const KEPT_LIMIT: Duration = Duration::from_secs(5);
/// Time limit of a power command.
const POWER_COMMAND_LIMIT: Duration = Duration::from_mins(2);
/// A freeze that nobody ends ends itself on the machine after this.
const FREEZE_SECONDS_MAX: u64 = 600;
/// Our binary on a machine.
const NEWEST_BINARY: &str = "sudo -n $(ls -t /var/lib/flightcage/bin/flightcage-* | head -n 1)";
/// Pause between two looks at a host.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// The provider of machines that exist already.
#[derive(Debug)]
pub struct HostsProvider {
    hosts: BTreeMap<NodeName, HostSpec>,
    identity: Option<String>,
    /// Logging in takes an emulated machine two seconds, and whoever asks for the status asks every machine.
    sessions: Mutex<BTreeMap<NodeName, Ssh>>,
}

impl HostsProvider {
    /// Of the machines of one cluster. `identity`: what a machine that it is installed on says of itself.
    #[must_use]
    pub fn new(machines: &[MachineSpec], identity: Option<String>) -> Self {
        let host = |machine: &MachineSpec| Some((machine.name.clone(), machine.host.clone()?));
        Self {
            hosts: machines.iter().filter_map(host).collect(),
            identity,
            sessions: Mutex::default(),
        }
    }

    fn host(&self, node: &NodeName) -> Result<&HostSpec, ProviderError> {
        self.hosts
            .get(node)
            .ok_or_else(|| ProviderError::UnknownNode(node.clone()))
    }

    /// Whether it is there, and whether our units and pods on it are frozen.
    async fn look(&self, node: &NodeName, host: &HostSpec) -> Power {
        let kept = self.sessions.lock().await.get(node).cloned();
        if let Some(ssh) = kept
            && let Some(power) = frozen_or_on(&ssh, KEPT_LIMIT).await
        {
            return power;
        }
        self.sessions.lock().await.remove(node);
        let Some(ssh) = reach_now(host).await else {
            return Power::Off;
        };
        let power = frozen_or_on(&ssh, LOOK_LIMIT).await;
        self.sessions.lock().await.insert(node.clone(), ssh);
        power.unwrap_or(Power::On)
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
            PowerAction::Freeze => {
                on_machine(node, host, &format!("freeze {FREEZE_SECONDS_MAX}")).await
            }
            PowerAction::Thaw => on_machine(node, host, "thaw").await,
        }
    }

    async fn power_off(&self, node: &NodeName, host: &HostSpec) -> Result<(), ProviderError> {
        run(node, &host.power_off, "power_off").await?;
        let deadline = Instant::now() + OFF_LIMIT;
        while answers(host).await {
            if Instant::now() > deadline {
                let what = format!(
                    "its SSH server still answers {} s after `power_off`",
                    OFF_LIMIT.as_secs()
                );
                return Err(failed(
                    format!("power off node `{node}`"),
                    std::io::Error::other(what),
                ));
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
        reached
            .map(drop)
            .map_err(|error| failed(format!("power on node `{node}`"), error))
    }
}

/// Runs a power command on this host.
async fn run(node: &NodeName, command: &[String], key: &str) -> Result<(), ProviderError> {
    let what = format!("switch the power of node `{node}`");
    let Some((program, arguments)) = command.split_first() else {
        let cause = std::io::Error::other(format!("the cluster file gives it no `{key}` command"));
        return Err(failed(what, cause));
    };
    let ran = Command::new(program)
        .args(arguments)
        .limit(POWER_COMMAND_LIMIT)
        .run()
        .await;
    ran.map(drop).map_err(|error| failed(what, error))
}

/// Has our binary on the machine do something.
async fn on_machine(node: &NodeName, host: &HostSpec, verb: &str) -> Result<(), ProviderError> {
    let what = || format!("{} node `{node}`", verb.split(' ').next().unwrap_or(verb));
    let ssh = Ssh::connect(&target(host), REACH_LIMIT)
        .await
        .map_err(|error| failed(what(), error))?;
    let command = format!("{NEWEST_BINARY} machine {verb}");
    let output = ssh
        .run(&command, None)
        .await
        .map_err(|error| failed(what(), error))?;
    output
        .check(&command)
        .map(drop)
        .map_err(|error| failed(what(), error))
}

/// Whether a machine that has the host's key lets us in.
async fn answers(host: &HostSpec) -> bool {
    reach_now(host).await.is_some()
}

/// A session, if there can be one now.
async fn reach_now(host: &HostSpec) -> Option<Ssh> {
    timeout(LOOK_LIMIT, Ssh::connect_once(&target(host)))
        .await
        .ok()?
        .ok()
}

/// What a machine that answers says of our units and pods; nothing if the session is of no use.
async fn frozen_or_on(ssh: &Ssh, limit: Duration) -> Option<Power> {
    let asked = "cat /sys/fs/cgroup/flightcage/cgroup.freeze 2>/dev/null";
    let frozen = ssh.run_within(asked, None, limit).await.ok()?.text() == "1";
    Some(if frozen { Power::Frozen } else { Power::On })
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
    login(
        &host.login,
        host.jump.as_ref().map(|jump| Box::new(login(jump, None))),
    )
}

fn failed(
    what: String,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ProviderError {
    ProviderError::Failed {
        what,
        source: source.into(),
    }
}

impl Provider for HostsProvider {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn preflight(&self, machines: &[MachineSpec]) -> BoxFuture<'_, Vec<Problem>> {
        let machines = machines.to_vec();
        Box::pin(async move { preflight::problems(&machines, self.identity.as_deref()).await })
    }

    fn create(&self, request: MachineRequest) -> BoxFuture<'_, Result<Machine, ProviderError>> {
        Box::pin(async move {
            let ssh = self.host(&request.spec.name)?.login.ssh;
            Ok(Machine {
                name: request.spec.name,
                power: Power::On,
                ssh: Some(ssh),
                pid: None,
            })
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
                power: self.look(node, host).await,
                ssh: Some(host.login.ssh),
                pid: None,
            };
            Ok(join_all(self.hosts.iter().map(look)).await)
        })
    }

    fn power(
        &self,
        node: &NodeName,
        action: PowerAction,
    ) -> BoxFuture<'_, Result<(), ProviderError>> {
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
