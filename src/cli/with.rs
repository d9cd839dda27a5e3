//! `with`: any command against a cluster of its own.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use clap::Args;

use super::cluster::{bring_up, open_home};
use super::doctor;
use super::failure::{self, Failure};
use super::snapshots::Automatic;
use super::terminal::Live;
use crate::cluster::life::{self, Cluster, Lifetime};
use crate::model::cluster::{ClusterSpec, ProviderKind, Role};
use crate::model::names::ClusterName;

/// What we exit with when the command was not run, or the cluster could not be taken down: as `env` and `timeout` do.
const OWN_ERROR: u8 = 125;
/// A command that was ended by a signal counts as this and the signal, as in a shell.
const SIGNAL_BASE: i32 = 128;

/// Arguments of `with`.
#[derive(Debug, Args)]
pub(super) struct With {
    /// Cluster file; without it: a controller and two workers of 512 MiB.
    #[arg(short, long, value_name = "FILE")]
    file: Option<super::File>,
    #[command(flatten)]
    automatic: Automatic,
    /// The command and its arguments. KUBECONFIG and FLIGHTCAGE_{NAME,HOME,API,NODES,WORKERS} are set for it.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl With {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        // Every error of ours has one code, which no test command is expected to use.
        self.run_command(name).await.or_else(|failure| {
            failure::print(&failure);
            Ok(ExitCode::from(OWN_ERROR))
        })
    }

    async fn run_command(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let spec = match &self.file {
            Some(file) => super::scenarios::read_cluster_file(file, &name)?,
            None => ClusterSpec::with_workers(name.clone(), 2),
        };
        if spec.provider == ProviderKind::Qemu {
            doctor::require_able_host().await?;
        }
        let home = open_home()?;
        let live = Live::new();
        let cluster = bring_up(&home, spec.clone(), self.automatic.boot(Lifetime::Owned), &live).await?;
        live.finish();
        if !cluster.is_owned() {
            return Err(Failure::new(format!("cluster `{name}` is up already and need not be pristine"))
                .hint(format!("`flightcage down --name {name}` first, or choose another --name")));
        }
        let ended = self.command(&cluster, &spec).status().await;
        let down = life::down(&cluster.paths).await;
        let program = self.command[0].to_string_lossy();
        let status = ended.map_err(|error| Failure::new(format!("run `{program}`")).because(error))?;
        down?;
        let code = status.code().or_else(|| status.signal().map(|signal| SIGNAL_BASE + signal)).unwrap_or(1);
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }

    fn command(&self, cluster: &Cluster, spec: &ClusterSpec) -> tokio::process::Command {
        let names = |wanted: fn(Role) -> bool| {
            let machines = spec.machines.iter().filter(|machine| wanted(machine.role));
            machines.map(|machine| machine.name.as_str()).collect::<Vec<_>>().join(" ")
        };
        let mut command = tokio::process::Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .env("KUBECONFIG", cluster.paths.kubeconfig())
            .env("FLIGHTCAGE_NAME", spec.name.as_str())
            .env("FLIGHTCAGE_HOME", cluster.paths.home())
            .env("FLIGHTCAGE_API", cluster.client.server())
            .env("FLIGHTCAGE_NODES", names(|_| true))
            .env("FLIGHTCAGE_WORKERS", names(|role| role == Role::Worker));
        command
    }
}
