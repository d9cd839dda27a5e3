//! `replicas.NAME`, `restarts.NAME`, `pods_deleted`, `faults_left`: counted from the API, exactly.

use super::super::judge::case::Case;
use super::super::report::{CountedReport, Report, State};
use super::{Bound, Expectation, Judged};

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Count {
    /// Ready replicas of a workload at the end.
    Replicas(String),
    /// Restarts of the containers of a workload since the baseline began.
    Restarts(String),
    /// Pods that were deleted during the run.
    PodsDeleted,
    /// Faults that still act at the end.
    FaultsLeft,
}

/// One row.
#[derive(Debug)]
pub(super) struct CountExpectation {
    pub(super) name: String,
    pub(super) count: Count,
    pub(super) bound: Bound,
}

impl CountExpectation {
    /// The count; `None` if the API could not be asked.
    fn counted(&self, evidence: &Report) -> Option<u32> {
        if let Some(counted) = &evidence.counted {
            return self.of(counted);
        }
        // A report that holds no counts of its own may still tell them.
        match self.count {
            Count::FaultsLeft => {
                let left = evidence
                    .faults
                    .iter()
                    .filter(|fault| fault.onset_ms.is_some() && fault.healed_ms.is_none());
                u32::try_from(left.count()).ok()
            }
            Count::PodsDeleted if !evidence.events.is_empty() => {
                let deleted = evidence
                    .events
                    .iter()
                    .filter(|event| event.kind == "pod.deleted");
                u32::try_from(deleted.count()).ok()
            }
            _ => {
                let row = evidence
                    .expectations
                    .iter()
                    .find(|row| row.name == self.name)?;
                row.measured.trim().parse().ok()
            }
        }
    }

    fn of(&self, counted: &CountedReport) -> Option<u32> {
        match &self.count {
            // One that does not exist has none.
            Count::Replicas(name) => Some(counted.replicas.get(name).copied().unwrap_or(0)),
            Count::Restarts(name) => counted.restarts.get(name).copied(),
            Count::PodsDeleted => Some(counted.pods_deleted),
            Count::FaultsLeft => Some(counted.faults_left),
        }
    }
}

impl Expectation for CountExpectation {
    fn judge(&self, case: &Case<'_>) -> Judged {
        let Some(count) = self.counted(case.evidence) else {
            let why = match &self.count {
                Count::Restarts(name) if case.evidence.counted.is_some() => {
                    format!("no pod of a workload `{name}` was seen")
                }
                _ => "the API could not be asked at the end".to_owned(),
            };
            return Judged::nothing(State::Undecided, why);
        };
        let value = f64::from(count);
        Judged {
            measured: count.to_string(),
            error: "±0".to_owned(),
            interval: Some((value, value)),
            state: self.bound.decide(value, value),
            note: None,
            decider: None,
            span: None,
            unit: Some(super::Unit::Count),
        }
    }
}
