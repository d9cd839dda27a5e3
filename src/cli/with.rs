//! `with`: any command against a cluster of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::cluster::{bring_up, open_home, wanted};
use super::failure::{self, Failure};
use super::snapshots::Automatic;
use super::terminal::Live;
use crate::cluster::life::{self, Cluster, Lifetime};
use crate::model::cluster::{ClusterSpec, Role};
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
        let spec = wanted(self.file.as_deref(), &name).await?;
        let home = open_home()?;
        let live = Live::new();
        let cluster = bring_up(
            &home,
            spec.clone(),
            self.automatic.boot(Lifetime::Owned),
            &live,
        )
        .await?;
        live.finish();
        if !cluster.is_owned() {
            return Err(Failure::new(format!(
                "cluster `{name}` is up already and need not be pristine"
            ))
            .hint(format!(
                "`flightcage down --name {name}` first, or choose another --name"
            )));
        }
        let ended = run_to_end(self.command(&cluster, &spec)).await;
        let down = life::down(&cluster.paths).await;
        let program = self.command[0].to_string_lossy();
        let status =
            ended.map_err(|error| Failure::new(format!("run `{program}`")).because(error))?;
        down?;
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| SIGNAL_BASE + signal))
            .unwrap_or(1);
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }

    fn command(&self, cluster: &Cluster, spec: &ClusterSpec) -> Command {
        let names = |wanted: fn(Role) -> bool| {
            let machines = spec.machines.iter().filter(|machine| wanted(machine.role));
            machines
                .map(|machine| machine.name.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let mut command = Command::new(&self.command[0]);
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

/// Runs a command to its end. Ctrl-C and SIGTERM are for the command: the cluster goes down after it, not under it. A second one kills.
async fn run_to_end(mut command: Command) -> io::Result<ExitStatus> {
    let (mut interrupts, mut terminations) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let mut child = command.spawn()?;
    let mut forwarded = 0;
    loop {
        let received = tokio::select! {
            ended = child.wait() => return ended,
            Some(()) = interrupts.recv() => Signal::INT,
            Some(()) = terminations.recv() => Signal::TERM,
        };
        let Some(passed_on) = passed_on(received, Terminal::of_this_process(), forwarded) else {
            continue;
        };
        forwarded += 1;
        if let Some(pid) = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
        {
            // One that is gone already has ended, which is what the signal was for.
            let _ = kill_process(pid, passed_on);
        }
    }
}

/// Whether a terminal sends Ctrl-C to us and to our children alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminal {
    SendsToAll,
    Absent,
}

impl Terminal {
    fn of_this_process() -> Self {
        let foreground = rustix::termios::tcgetpgrp(io::stdin()).ok();
        if foreground == Some(rustix::process::getpgrp()) {
            Self::SendsToAll
        } else {
            Self::Absent
        }
    }
}

/// The signal that the command gets for one that we got, after so many before.
fn passed_on(received: Signal, terminal: Terminal, before: usize) -> Option<Signal> {
    match (received, terminal, before) {
        // Twice is once too often for those who take a second Ctrl-C for impatience.
        (Signal::INT, Terminal::SendsToAll, _) => None,
        (signal, _, 0) => Some(signal),
        _ => Some(Signal::KILL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_gets_each_signal_once_and_is_killed_by_the_second() {
        let table = [
            (Signal::TERM, Terminal::Absent, 0, Some(Signal::TERM)),
            (Signal::TERM, Terminal::SendsToAll, 0, Some(Signal::TERM)),
            (Signal::INT, Terminal::Absent, 0, Some(Signal::INT)),
            (Signal::INT, Terminal::SendsToAll, 0, None),
            (Signal::INT, Terminal::SendsToAll, 1, None),
            (Signal::TERM, Terminal::SendsToAll, 1, Some(Signal::KILL)),
            (Signal::INT, Terminal::Absent, 1, Some(Signal::KILL)),
        ];
        for (received, terminal, before, expected) in table {
            assert_eq!(
                passed_on(received, terminal, before),
                expected,
                "{received:?} {terminal:?} {before}"
            );
        }
    }
}
