//! A step's fault: written to the journal, begun, shown, and healed whatever becomes of the run.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Problem, Steps};
use crate::scenario::fault::{Effect, Journal};
use crate::scenario::injection::{Fault, Injection};
use crate::scenario::live::Seen;
use crate::scenario::path::struck;
use crate::scenario::report::FaultReport;
use crate::scenario::spec::Target;
use crate::scenario::target::choose;

/// How long a fault may take to bite or to be healed, and how often healing is tried.
const FAULT_WITHIN: Duration = Duration::from_mins(1);
const HEAL_TRIES: u32 = 3;

impl Steps<'_> {
    pub(super) async fn fault(
        &self,
        index: usize,
        fault: &Fault,
        target: &Target,
        duration: Duration,
    ) -> Result<(), Problem> {
        let id = &self.run.scenario.steps[index].id;
        let chosen = choose(target, self.run.environment, self.view);
        let chosen = async { chosen.await.map_err(Problem::Doubt) };
        let place = self.stoppable_value(chosen).await?;
        let journal = Journal::new(&self.run.environment.journal_dir);
        let injection = Injection {
            step: id.clone(),
            fault: fault.clone(),
            place,
            duration,
        };
        let file = journal.write(&injection).map_err(|error| {
            Problem::Doubt(format!("the journal of faults cannot be written: {error}"))
        })?;
        self.note(|outcome| {
            let pods = outcome.on_path.look(self.paths, self.view);
            let struck = struck(&pods, &injection.place);
            outcome.struck.insert(id.clone(), struck);
        });
        let requested = Instant::now();
        self.run.tell(format!("{fault} of `{}`", injection.place));
        self.states[index].send_modify(|state| state.node = injection.place.node().cloned());
        let faults = self.run.environment.faults.as_ref();
        let effect = tokio::select! {
            effect = timeout(FAULT_WITHIN, faults.begin(&injection)) => Some(effect),
            () = self.stop.cancelled() => None,
        };
        let (effect, doubt) = match effect {
            Some(Ok(Ok(effect))) => (Some(effect), None),
            Some(Ok(Err(error))) => (
                None,
                Some(Problem::Doubt(format!(
                    "{injection} did not take effect: {}",
                    in_full(&error)
                ))),
            ),
            Some(Err(_)) => (
                None,
                Some(Problem::Doubt(format!(
                    "{injection} took longer than {} s",
                    FAULT_WITHIN.as_secs()
                ))),
            ),
            None => (None, Some(Problem::Stopped)),
        };
        if let Some(effect) = &effect {
            self.run
                .tell(format!("{injection} acts: {}", effect.measured));
            self.states[index].send_modify(|state| state.begun = Some(effect.at));
            let report = self.fault_report(&injection, requested, Some(effect), None);
            self.show_fault(&report, duration);
            tokio::select! {
                () = tokio::time::sleep_until(effect.at + duration) => {}
                () = self.stop.cancelled() => {}
            }
        }
        let healed = self.heal(&injection).await;
        if healed.is_ok() {
            // An entry that stays is healed once more at the next start, which is harmless.
            drop(journal.strike(&file));
        }
        let healed_at = healed.as_ref().ok().copied();
        let report = self.fault_report(&injection, requested, effect.as_ref(), healed_at);
        self.show_fault(&report, duration);
        self.note(|outcome| outcome.faults.push(report));
        match (doubt, healed) {
            (Some(doubt), _) => Err(doubt),
            (None, Err(error)) => Err(Problem::Doubt(error)),
            (None, Ok(_)) => Ok(()),
        }
    }

    fn fault_report(
        &self,
        injection: &Injection,
        requested: Instant,
        effect: Option<&Effect>,
        healed: Option<Instant>,
    ) -> FaultReport {
        FaultReport {
            id: injection.step.clone(),
            kind: injection.fault.kind.name.to_owned(),
            target: injection.place.to_string(),
            requested_ms: self.run.millis(requested),
            onset_ms: effect.map(|effect| self.run.millis(effect.at)),
            healed_ms: healed.map(|at| self.run.millis(at)),
            verified: effect.is_some_and(|effect| effect.verified),
            measured: effect.map(|effect| effect.measured.clone()),
        }
    }

    fn show_fault(&self, report: &FaultReport, lasts: Duration) {
        let live = &self.run.environment.live;
        live.tell(|| Seen::Fault(Box::new(report.clone()), lasts));
    }

    /// Heals, also while the run is being stopped.
    async fn heal(&self, injection: &Injection) -> Result<Instant, String> {
        let mut last = String::new();
        for _ in 0..HEAL_TRIES {
            match timeout(FAULT_WITHIN, self.run.environment.faults.heal(injection)).await {
                Ok(Ok(effect)) => {
                    self.run
                        .tell(format!("{injection} healed: {}", effect.measured));
                    return Ok(effect.at);
                }
                Ok(Err(error)) => last = in_full(&error),
                Err(_) => last = format!("no answer for {} s", FAULT_WITHIN.as_secs()),
            }
        }
        Err(format!("{injection} could not be healed: {last}"))
    }
}

/// An error and its causes in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
