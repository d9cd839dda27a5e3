//! A Job's status.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::decide::{End, State, Verdict};
use super::{COMPONENT, Run, indexed};
use crate::orchestrator::control::workload::{reachable_since, written};
use crate::orchestrator::control::world::{Action, Decision, event};

impl Run<'_> {
    /// Writes what has changed.
    pub(super) fn status(&self, verdict: &Verdict, decision: &mut Decision) {
        let wanted = self.wanted(verdict);
        let conditions = self.conditions(verdict);
        for condition in &conditions {
            self.tell(condition, decision);
        }
        if wanted == self.status && conditions.is_empty() {
            return;
        }
        let mut status = json!(wanted);
        if !conditions.is_empty() {
            status["conditions"] = json!(conditions);
        }
        // A list without a merge key is replaced; what is not there any more is named as such.
        for field in ["startTime", "completionTime", "active"] {
            if status.get(field).is_none() {
                status[field] = Value::Null;
            }
        }
        if self.status.uncounted_terminated_pods.is_some() {
            for field in ["succeeded", "failed"] {
                if status["uncountedTerminatedPods"].get(field).is_none() {
                    status["uncountedTerminatedPods"][field] = Value::Null;
                }
            }
        }
        decision.actions.push(Action::Patch {
            target: self.target.clone(),
            status: true,
            patch: json!({"status": status}),
        });
    }

    fn wanted(&self, verdict: &Verdict) -> JobStatus {
        let mut wanted = self.status.clone();
        self.count(&mut wanted);
        let now = Time(self.second());
        match verdict.state {
            State::Suspended => wanted.start_time = None,
            State::Complete => wanted.completion_time = Some(now.clone()),
            _ => {}
        }
        if wanted.start_time.is_none() && !matches!(verdict.state, State::Suspended | State::Over) {
            wanted.start_time = Some(now);
        }
        wanted
    }

    /// The current time, in whole seconds as it is written.
    fn second(&self) -> Timestamp {
        written(self.world.now).parse().unwrap_or(self.world.now)
    }

    /// Sums, and what is to be added to them.
    fn count(&self, wanted: &mut JobStatus) {
        let listed = wanted.uncounted_terminated_pods.take().unwrap_or_default();
        let mut sum = |listed: Option<Vec<String>>, end: End| {
            let (settled, mut left): (Vec<String>, Vec<String>) = listed
                .unwrap_or_default()
                .into_iter()
                .partition(|uid| self.settled.contains(uid));
            let new = self.uncounted.iter().filter(|(_, held)| **held == end);
            left.extend(new.map(|(uid, _)| (*uid).to_owned()));
            let more = i32::try_from(settled.len()).unwrap_or(i32::MAX);
            let sum = match end {
                End::Succeeded => &mut wanted.succeeded,
                End::Failed => &mut wanted.failed,
            };
            if more > 0 {
                *sum = Some(sum.unwrap_or(0) + more);
            }
            (!left.is_empty()).then_some(left)
        };
        let listed = UncountedTerminatedPods {
            succeeded: sum(listed.succeeded, End::Succeeded),
            failed: sum(listed.failed, End::Failed),
        };
        wanted.uncounted_terminated_pods = Some(listed);
        if indexed::is_indexed(self.spec) {
            wanted.completed_indexes = Some(indexed::write(&self.completed));
            wanted.succeeded = Some(i32::try_from(self.completed.len()).unwrap_or(i32::MAX));
        }
        let ready = self.active.iter();
        let ready = ready.filter(|pod| reachable_since(self.world, pod).is_some());
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        wanted.active = Some(number(self.active.len())).filter(|count| *count > 0);
        wanted.ready = Some(number(ready.count()));
        wanted.terminating = Some(self.terminating);
    }

    /// Conditions that are new.
    fn conditions(&self, verdict: &Verdict) -> Vec<JobCondition> {
        let suspended = self.condition("Suspended").is_some();
        let new = |kind: &str, status: &str, reason: &str, message: &str| JobCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.second())),
            last_transition_time: Some(Time(self.second())),
        };
        let enough = || {
            (
                "CompletionsReached",
                "Reached expected number of succeeded pods",
            )
        };
        let mut conditions = match &verdict.state {
            State::Over => Vec::new(),
            State::Running if suspended => {
                vec![new("Suspended", "False", "JobResumed", "Job resumed")]
            }
            State::Running => Vec::new(),
            State::Suspended => vec![new("Suspended", "True", "JobSuspended", "Job suspended")],
            State::Succeeding => {
                let (reason, message) = enough();
                vec![new("SuccessCriteriaMet", "True", reason, message)]
            }
            State::Complete => {
                let (reason, message) = enough();
                vec![
                    new("SuccessCriteriaMet", "True", reason, message),
                    new("Complete", "True", reason, message),
                ]
            }
            State::Failing(reason, message) => {
                vec![new("FailureTarget", "True", reason, message)]
            }
            State::Failed(reason, message) => vec![
                new("FailureTarget", "True", reason, message),
                new("Failed", "True", reason, message),
            ],
        };
        conditions.retain(|condition| {
            condition.status == "False" || self.condition(&condition.type_).is_none()
        });
        conditions
    }

    fn tell(&self, condition: &JobCondition, decision: &mut Decision) {
        let reason = match (condition.type_.as_str(), condition.status.as_str()) {
            ("Complete", _) => "Completed",
            ("Suspended", "True") => "Suspended",
            ("Suspended", _) => "Resumed",
            ("Failed", _) => condition.reason.as_deref().unwrap_or("Failed"),
            _ => return,
        };
        let message = match reason {
            "Completed" => "Job completed",
            _ => condition.message.as_deref().unwrap_or_default(),
        };
        decision.actions.push(event(
            self.world.now,
            &self.target,
            COMPONENT,
            reason,
            message,
        ));
    }
}
