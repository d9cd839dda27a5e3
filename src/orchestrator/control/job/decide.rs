//! What a Job needs next: a plain function of what is asked for and of what has become of its pods.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::JobSpec;

/// A pod that failed is replaced after this pause, which doubles with each failure up to the last.
const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(10);
const BACKOFF_LAST: SignedDuration = SignedDuration::from_mins(10);
/// The pause has its last length after so many doublings.
const BACKOFF_DOUBLINGS: i32 = 6;

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Succeeded,
    Failed,
}

/// What is known of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) now: Timestamp,
    pub(super) active: i32,
    pub(super) terminating: i32,
    /// Pods that have ended, and are not in the sums of its status yet.
    pub(super) uncounted: i32,
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// Of the containers of active pods.
    pub(super) restarts: i32,
    pub(super) started: Option<Timestamp>,
    pub(super) last_failure: Option<Timestamp>,
    /// It has succeeded or failed.
    pub(super) over: bool,
    /// It is to fail when its pods are gone, and why.
    pub(super) failing: Option<(String, String)>,
}

impl Known {
    /// Nothing of it runs, and all is counted.
    fn is_through(&self) -> bool {
        self.active + self.terminating + self.uncounted == 0
    }
}

/// Where a Job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Its pods run.
    Running,
    /// It has none for as long as it is suspended.
    Suspended,
    /// Enough have succeeded; the others are on their way out.
    Succeeding,
    /// It has succeeded.
    Complete,
    /// It is to fail: why. Its pods are on their way out.
    Failing(String, String),
    /// It has failed: why.
    Failed(String, String),
    /// It was over before.
    Over,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) state: State,
    pub(super) create: i32,
    pub(super) delete: i32,
    pub(super) recheck: Option<Timestamp>,
}

/// `seconds` after a time.
pub(super) fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

pub(super) fn decide(spec: &JobSpec, known: &Known) -> Verdict {
    let mut verdict = Verdict {
        state: State::Running,
        create: 0,
        delete: 0,
        recheck: None,
    };
    if known.over {
        verdict.state = State::Over;
        verdict.delete = known.active;
        return verdict;
    }
    if let Some((reason, message)) = failure(spec, known, &mut verdict) {
        verdict.delete = known.active;
        verdict.state = if known.is_through() {
            State::Failed(reason, message)
        } else {
            State::Failing(reason, message)
        };
    } else if is_complete(spec, known) {
        verdict.delete = known.active;
        verdict.state = if known.is_through() {
            State::Complete
        } else {
            State::Succeeding
        };
    } else if spec.suspend == Some(true) {
        verdict.delete = known.active;
        verdict.state = State::Suspended;
    } else {
        fill(spec, known, &mut verdict);
    }
    verdict
}

/// Why the Job fails, if it does.
fn failure(spec: &JobSpec, known: &Known, verdict: &mut Verdict) -> Option<(String, String)> {
    if known.failing.is_some() {
        return known.failing.clone();
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts_too_often = is_restarted(spec) && known.restarts > 0 && known.restarts >= limit;
    if known.failed > limit || restarts_too_often {
        return Some((
            "BackoffLimitExceeded".to_owned(),
            "Job has reached the specified backoff limit".to_owned(),
        ));
    }
    let (seconds, started) = (spec.active_deadline_seconds?, known.started?);
    let until = after(started, seconds);
    if spec.suspend == Some(true) || until > known.now {
        if spec.suspend != Some(true) {
            verdict.recheck = Some(until);
        }
        return None;
    }
    Some((
        "DeadlineExceeded".to_owned(),
        "Job was active longer than specified deadline".to_owned(),
    ))
}

/// Whether containers are started again within their pod.
fn is_restarted(spec: &JobSpec) -> bool {
    let pod = spec.template.spec.as_ref();
    pod.and_then(|pod| pod.restart_policy.as_deref()) == Some("OnFailure")
}

/// Without a number, one success and the end of all others is enough.
fn is_complete(spec: &JobSpec, known: &Known) -> bool {
    match spec.completions {
        Some(completions) => known.succeeded >= completions,
        None => known.succeeded > 0 && known.active == 0,
    }
}

/// So many pods are to run at a time.
fn fill(spec: &JobSpec, known: &Known, verdict: &mut Verdict) {
    let parallelism = spec.parallelism.unwrap_or(1);
    let wanted = match spec.completions {
        Some(completions) => parallelism.min((completions - known.succeeded).max(0)),
        None if known.succeeded > 0 => known.active.min(parallelism),
        None => parallelism,
    };
    let waits_for_terminating = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let there = known.active
        + if waits_for_terminating {
            known.terminating
        } else {
            0
        };
    verdict.delete = (known.active - wanted).max(0);
    let missing = (wanted - there).max(0);
    if missing == 0 {
        return;
    }
    if let Some(failure) = known.last_failure.filter(|_| known.failed > 0) {
        let pause = BACKOFF_FIRST * (1 << (known.failed - 1).clamp(0, BACKOFF_DOUBLINGS));
        let until = failure
            .checked_add(pause.min(BACKOFF_LAST))
            .unwrap_or(Timestamp::MAX);
        if until > known.now {
            verdict.recheck = Some(verdict.recheck.map_or(until, |known| known.min(until)));
            return;
        }
    }
    verdict.create = missing;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(fields: &Value) -> JobSpec {
        let mut spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": []}}, "parallelism": 2, "completions": 3, "backoffLimit": 2});
        for (field, value) in fields.as_object().expect("fields") {
            spec[field] = value.clone();
        }
        serde_json::from_value(spec).expect("a spec")
    }

    fn known(active: i32, succeeded: i32, failed: i32) -> Known {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().expect("a time");
        Known {
            now,
            active,
            terminating: 0,
            uncounted: 0,
            succeeded,
            failed,
            restarts: 0,
            started: Some(after(now, -60)),
            last_failure: None,
            over: false,
            failing: None,
        }
    }

    fn to_do(spec: &JobSpec, known: &Known) -> (State, i32, i32) {
        let verdict = decide(spec, known);
        (verdict.state, verdict.create, verdict.delete)
    }

    #[test]
    fn so_many_run_at_a_time_and_no_more_than_are_left() {
        let job = spec(&json!({}));
        for (active, succeeded, create, delete) in [
            (0, 0, 2, 0),
            (1, 0, 1, 0),
            (2, 0, 0, 0),
            (0, 2, 1, 0),
            (1, 2, 0, 0),
            (2, 2, 0, 1),
        ] {
            let expected = (State::Running, create, delete);
            assert_eq!(to_do(&job, &known(active, succeeded, 0)), expected);
        }
        assert_eq!(to_do(&job, &known(0, 3, 0)), (State::Complete, 0, 0));
        assert_eq!(to_do(&job, &known(1, 3, 0)), (State::Succeeding, 0, 1));
    }

    #[test]
    fn a_queue_of_work_ends_with_its_pods() {
        let queue = spec(&json!({"completions": null}));
        assert_eq!(to_do(&queue, &known(0, 0, 0)), (State::Running, 2, 0));
        assert_eq!(to_do(&queue, &known(1, 1, 0)), (State::Running, 0, 0));
        assert_eq!(to_do(&queue, &known(0, 1, 0)), (State::Complete, 0, 0));
    }

    #[test]
    fn too_many_failures_end_it_when_its_pods_are_gone() {
        let job = spec(&json!({}));
        assert_eq!(to_do(&job, &known(0, 0, 2)).0, State::Running);
        let (state, create, delete) = to_do(&job, &known(1, 0, 3));
        assert!(matches!(state, State::Failing(reason, _) if reason == "BackoffLimitExceeded"));
        assert_eq!((create, delete), (0, 1));
        assert!(matches!(to_do(&job, &known(0, 0, 3)).0, State::Failed(..)));
        let again =
            spec(&json!({"template": {"spec": {"restartPolicy": "OnFailure", "containers": []}}}));
        let restarted = Known {
            restarts: 2,
            ..known(1, 0, 0)
        };
        assert!(matches!(to_do(&again, &restarted).0, State::Failing(..)));
        assert_eq!(to_do(&job, &restarted).0, State::Running);
    }

    #[test]
    fn a_failed_pod_is_replaced_after_a_pause_that_doubles() {
        let job = spec(&json!({"backoffLimit": 9}));
        for (failed, pause) in [(1, 10), (2, 20), (4, 80), (8, 600)] {
            let mut known = known(1, 0, failed);
            known.last_failure = Some(known.now);
            let verdict = decide(&job, &known);
            assert_eq!(verdict.create, 0);
            assert_eq!(verdict.recheck, Some(after(known.now, pause)), "{failed}");
            known.now = after(known.now, pause);
            assert_eq!(decide(&job, &known).create, 1);
        }
    }

    #[test]
    fn deadlines_and_suspension() {
        let late = spec(&json!({"activeDeadlineSeconds": 60}));
        assert!(
            matches!(to_do(&late, &known(1, 0, 0)).0, State::Failing(reason, _) if reason == "DeadlineExceeded")
        );
        let early = spec(&json!({"activeDeadlineSeconds": 61}));
        let verdict = decide(&early, &known(2, 0, 0));
        assert_eq!(verdict.recheck, Some(after(known(0, 0, 0).now, 1)));
        let suspended = spec(&json!({"suspend": true, "activeDeadlineSeconds": 1}));
        assert_eq!(to_do(&suspended, &known(2, 0, 0)), (State::Suspended, 0, 2));
    }

    #[test]
    fn pods_on_their_way_out_are_replaced_when_it_is_asked_for() {
        let patient = spec(&json!({"podReplacementPolicy": "Failed"}));
        let leaving = Known {
            terminating: 1,
            ..known(1, 0, 0)
        };
        assert_eq!(to_do(&patient, &leaving), (State::Running, 0, 0));
        assert_eq!(to_do(&spec(&json!({})), &leaving), (State::Running, 1, 0));
    }
}
