//! All machines stand still together, and go on together.
//!
//! ```text
//! running ──pause──► paused ──resume──► unsettled ──clocks right──► running
//!    ▲                 ▲ all of them run again      │ resume: the clocks once more
//!    └── one did not stop: all go on                └──────────────────────────────► running
//! ```
//! The machines are stopped by QEMU (`stop`, `cont`), not by SIGSTOP: their own time stands still, so that no lease, probe or time-out in
//! them has run out when they go on. Their wall clocks are then behind, and are put right as after a restore.
//! That they stand still is remembered by the process that owns them, and ends with it, as they do.

use std::sync::{Mutex, PoisonError};

use futures::future::{BoxFuture, join_all};
use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use super::qmp::Qmp;
use super::snapshot::{Running, correct_all, first_error, resuming, with_cause};
use super::{QemuProvider, Vm, directory, failed};
use crate::machines::provider::{Power, ProviderError, Standstill, StandstillChange};
use crate::model::names::NodeName;

/// Whether the machines stand still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// They run.
    #[default]
    Running,
    /// They were told to stand still.
    Paused,
    /// They run, and not every clock is known to be right.
    Unsettled,
}

/// What the machines are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Pause,
    Resume,
}

/// What an order makes necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It is so already.
    Nothing,
    /// Stop all.
    Stop,
    /// Let all run, and put their clocks right.
    Continue,
}

impl State {
    fn need(self, order: Order) -> Need {
        match (order, self) {
            (Order::Pause, Self::Paused) | (Order::Resume, Self::Running) => Need::Nothing,
            (Order::Pause, Self::Running | Self::Unsettled) => Need::Stop,
            (Order::Resume, Self::Paused | Self::Unsettled) => Need::Continue,
        }
    }
}

/// The state of a cluster's machines. It changes only while the slots of all of them are held.
#[derive(Debug, Default)]
pub(super) struct Still(Mutex<State>);

impl Still {
    fn get(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Refuses to do `what` to machines that stand still.
    pub(super) fn forbid(&self, what: impl FnOnce() -> String) -> Result<(), ProviderError> {
        if self.get() != State::Paused {
            return Ok(());
        }
        Err(failed(
            what(),
            std::io::Error::other("the cluster is paused; `flightcage resume` lets it go on"),
        ))
    }
}

impl Standstill for QemuProvider {
    fn is_paused(&self) -> bool {
        self.still.get() == State::Paused
    }

    fn pause(&self) -> BoxFuture<'_, Result<StandstillChange, ProviderError>> {
        Box::pin(async move { self.pause_all().await })
    }

    fn resume(&self) -> BoxFuture<'_, Result<StandstillChange, ProviderError>> {
        Box::pin(async move { self.resume_all().await })
    }
}

/// A machine's slot, held.
type Slot = OwnedMutexGuard<Option<Vm>>;

impl QemuProvider {
    async fn pause_all(&self) -> Result<StandstillChange, ProviderError> {
        let slots = self.all_slots().await?;
        if self.still.get().need(Order::Pause) == Need::Nothing {
            return Ok(StandstillChange::default());
        }
        let mut machines = self.all_running(&slots, "pause").await?;
        let stopped = join_all(machines.iter_mut().map(async |machine| {
            let stopped = machine.qmp.execute("stop", json!({})).await;
            stopped
                .map(drop)
                .map_err(|error| failed(format!("stop node `{}`", machine.node), error))
        }));
        let stopped = first_error(stopped.await);
        if let Err(error) = stopped {
            self.take_back(&mut machines).await;
            return Err(error);
        }
        self.still.set(State::Paused);
        tracing::info!(machines = machines.len(), "the machines stand still");
        Ok(StandstillChange {
            changed: true,
            ..StandstillChange::default()
        })
    }

    /// Lets all machines go on of which one did not stop. One that was not stopped takes no harm.
    async fn take_back(&self, machines: &mut [Running]) {
        for gone_on in let_run(machines).await {
            if let Err(error) = gone_on {
                tracing::error!(error = %with_cause(&error), "a machine may still stand still");
            }
        }
        for corrected in correct_all(machines).await {
            if let Err(error) = corrected {
                self.still.set(State::Unsettled);
                tracing::warn!(error = %with_cause(&error), "a clock is not known to be right");
            }
        }
    }

    async fn resume_all(&self) -> Result<StandstillChange, ProviderError> {
        let slots = self.all_slots().await?;
        if self.still.get().need(Order::Resume) == Need::Nothing {
            return Ok(StandstillChange::default());
        }
        let mut machines = self.all_running(&slots, "let go on").await?;
        first_error(let_run(&mut machines).await)?;
        self.still.set(State::Unsettled);
        let mut change = StandstillChange {
            changed: true,
            ..StandstillChange::default()
        };
        for corrected in correct_all(&machines).await {
            match corrected {
                Ok(clock) => change.clocks.push(clock),
                Err(error) => change.problems.push(with_cause(&error)),
            }
        }
        if change.problems.is_empty() {
            self.still.set(State::Running);
        }
        tracing::info!(machines = machines.len(), "the machines go on");
        Ok(change)
    }

    /// Nobody else changes a machine while these are held. Always taken in the order of the names.
    async fn all_slots(&self) -> Result<Vec<(NodeName, Slot)>, ProviderError> {
        let nodes = directory::nodes(&self.config.state_dir)
            .map_err(|error| failed("list machines", error))?;
        let mut slots = Vec::new();
        for node in nodes {
            let slot = self.slot(&node).lock_owned().await;
            slots.push((node, slot));
        }
        Ok(slots)
    }

    /// The machines that are on, each with its monitor. Nothing is done to any of them when one cannot be had.
    async fn all_running(
        &self,
        slots: &[(NodeName, Slot)],
        verb: &str,
    ) -> Result<Vec<Running>, ProviderError> {
        let mut frozen = Vec::new();
        let mut on = Vec::new();
        for (node, slot) in slots {
            self.yielding.end(node).await;
            match (self.find(node).map(|machine| machine.power), slot.as_ref()) {
                (Some(Power::Frozen), _) => frozen.push(node),
                (Some(Power::On), Some(vm)) => on.push((node, vm)),
                (Some(Power::On | Power::Off) | None, _) => {}
            }
        }
        refuse_frozen(&frozen, verb)?;
        let mut running = Vec::new();
        for (node, vm) in on {
            let qmp = Qmp::connect(&self.qmp_socket(node))
                .await
                .map_err(|error| failed(format!("{verb} node `{node}`"), error))?;
            running.push(Running {
                node: node.clone(),
                qmp,
                clock: std::sync::Arc::clone(&vm.clock),
            });
        }
        Ok(running)
    }
}

async fn let_run(machines: &mut [Running]) -> Vec<Result<(), ProviderError>> {
    join_all(machines.iter_mut().map(async |machine| {
        let gone_on = machine.qmp.execute("cont", json!({})).await;
        gone_on.map(drop).map_err(resuming(&machine.node))
    }))
    .await
}

/// The monitor of a process that is stopped does not answer. All of them are told at once.
fn refuse_frozen(frozen: &[&NodeName], verb: &str) -> Result<(), ProviderError> {
    if frozen.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = frozen.iter().map(|node| node.as_str()).collect();
    let thaw: Vec<String> = names
        .iter()
        .map(|name| format!("`flightcage node thaw {name}`"))
        .collect();
    Err(failed(
        format!("{verb} the cluster"),
        std::io::Error::other(format!(
            "frozen: {}; {} first",
            names.join(", "),
            thaw.join(" and ")
        )),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::provider::{Acceleration, PowerAction, Provider};
    use crate::machines::qemu::QemuConfig;

    #[test]
    fn an_order_that_was_carried_out_needs_nothing_and_all_others_something() {
        let table = [
            (Order::Pause, State::Running, Need::Stop),
            (Order::Pause, State::Unsettled, Need::Stop),
            (Order::Pause, State::Paused, Need::Nothing),
            (Order::Resume, State::Paused, Need::Continue),
            // Some clock was not right after the last one.
            (Order::Resume, State::Unsettled, Need::Continue),
            (Order::Resume, State::Running, Need::Nothing),
        ];
        for (order, state, expected) in table {
            assert_eq!(state.need(order), expected, "{order:?} {state:?}");
        }
    }

    #[test]
    fn only_a_paused_cluster_forbids_and_says_what_to_do() {
        let still = Still::default();
        let check = |state, allowed: bool| {
            still.set(state);
            let said = still.forbid(|| "reset node `w1`".to_owned());
            assert_eq!(said.is_ok(), allowed, "{state:?}");
            said.err().map(|error| with_cause(&error))
        };
        assert_eq!(check(State::Running, true), None);
        assert_eq!(check(State::Unsettled, true), None);
        assert_eq!(
            check(State::Paused, false).as_deref(),
            Some("reset node `w1`: the cluster is paused; `flightcage resume` lets it go on")
        );
    }

    #[test]
    fn every_frozen_machine_is_named() {
        let (w1, w2): (NodeName, NodeName) = ("w1".parse().unwrap(), "w2".parse().unwrap());
        assert!(refuse_frozen(&[], "pause").is_ok());
        let refused = refuse_frozen(&[&w1, &w2], "pause").unwrap_err();
        let said = with_cause(&refused);
        for part in ["pause the cluster", "w1, w2", "node thaw w2"] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[tokio::test]
    async fn both_orders_are_idempotent_and_a_paused_cluster_makes_no_machine() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let provider = QemuProvider::new(QemuConfig {
            cluster: "test".parse().unwrap(),
            state_dir: directory.path().to_owned(),
            runtime_dir: directory.path().to_owned(),
            acceleration: Acceleration::Tcg,
            wrapper: "/bin/false".into(),
        })
        .expect("a thread can be started");
        std::fs::create_dir(directory.path().join("machines")).expect("it is ours");
        let still = provider.standstill().expect("it has one");
        assert!(!still.is_paused());
        assert!(!still.resume().await.expect("nothing stands still").changed);
        assert!(
            still
                .pause()
                .await
                .expect("there is nothing to stop")
                .changed
        );
        assert!(still.is_paused());
        assert!(!still.pause().await.expect("it is so already").changed);
        let node = "w1".parse().unwrap();
        let refused = provider.power(&node, PowerAction::PowerOn).await;
        assert!(
            refused.is_err_and(|error| with_cause(&error).contains("flightcage resume")),
            "it must not run among those that stand still"
        );
        let off = provider.power(&node, PowerAction::PowerOff).await;
        assert!(
            matches!(off, Err(ProviderError::UnknownNode(_))),
            "power off is not forbidden, there is only no such machine"
        );
        assert!(still.resume().await.expect("they go on").changed);
        assert!(!still.is_paused());
    }
}
