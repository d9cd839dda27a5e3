//! `pause` and `resume`.

use std::process::ExitCode;

use super::cluster::open_home;
use super::failure::Failure;
use super::terminal::{Live, say};
use crate::cluster::client::DaemonClientError;
use crate::cluster::life::{self, LifeError};
use crate::model::names::ClusterName;

/// What `pause --help` teaches.
pub(super) const PAUSE_HELP: &str = "\
All machines stop together, in memory: no processor time is used until `flightcage resume`, and no lease and no probe runs out, since no
time passes inside. What is counted by the wall clock (a CronJob's schedule, a Job's deadline, certificates) sees it jump at `resume`.
Connections into the cluster are refused meanwhile; those that are open stand still, for as long as the other side has patience. `down`
works all the same.

A machine that is frozen (`node freeze`) has to be thawed first. Faults on links stay; finish a `run` before you pause its cluster.

  flightcage pause          before the laptop's battery is needed for something else
  flightcage status         says: paused
  flightcage resume         all go on; their clocks are put right; returns when the nodes are Ready";

/// What `resume --help` teaches.
pub(super) const RESUME_HELP: &str = "\
All machines go on together. Their clocks are put right, as after `snapshot restore`; the command returns when every node that was Ready
before has given a sign of life. A cluster that runs is left as it is. If a clock could not be set, `resume` again tries again.";

pub(super) async fn pause(name: ClusterName) -> Result<ExitCode, Failure> {
    let changed = life::pause(&open_home()?.cluster(&name))
        .await
        .map_err(|error| explain(error, &name))?;
    say(&paused(&name, changed));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(name: ClusterName) -> Result<ExitCode, Failure> {
    let live = Live::new();
    let resumed = life::resume(&open_home()?.cluster(&name), &live.reporter()).await;
    live.finish();
    let changed = resumed.map_err(|error| explain(error, &name))?;
    say(&resumed_text(&name, changed));
    Ok(ExitCode::SUCCESS)
}

fn paused(name: &ClusterName, changed: bool) -> String {
    let already = if changed { "" } else { " already" };
    format!("cluster {name} is paused{already}; `flightcage resume --name {name}` lets it go on")
}

fn resumed_text(name: &ClusterName, changed: bool) -> String {
    if changed {
        format!("cluster {name} goes on")
    } else {
        format!("cluster {name} was not paused")
    }
}

fn explain(error: LifeError, name: &ClusterName) -> Failure {
    let is_down = matches!(error, LifeError::Daemon(DaemonClientError::NotUp { .. }));
    let failure = Failure::from(error);
    if is_down {
        return failure.hint(format!("`flightcage up --name {name}` brings it up"));
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_so_already_is_told_as_such() {
        let name = "test".parse().unwrap();
        assert!(!paused(&name, true).contains("already"));
        assert!(paused(&name, false).contains("already"));
        assert!(paused(&name, false).contains("flightcage resume --name test"));
        assert_ne!(resumed_text(&name, true), resumed_text(&name, false));
    }
}
