//! Jobs: pods that run until so many have succeeded, or too many have failed.
//!
//! As Kubernetes' `pkg/controller/job/job_controller.go`. A pod carries [`TRACKING`] until it has been counted, so that one that is
//! deleted meanwhile counts all the same: its UID is written into `status.uncountedTerminatedPods`, then its finalizer goes, then it
//! is added to the sum. [`decide`] is a plain function of what is known of the pods.

mod decide;
mod indexed;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use self::decide::{End, Known, Verdict};
use super::workload::{claim, create_pod, pod_of};
use super::world::{
    Action, Decision, Target, World, controller_of, event, is_active, label_selector_selects,
    phase, ready_since,
};

const COMPONENT: &str = "job-controller";
/// Held by pods that have not been counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// So many pods at most are created or deleted at a time for one Job.
const BURST: usize = 500;

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    for job in world.jobs.values() {
        let Some(spec) = &job.spec else { continue };
        if job.metadata.deletion_timestamp.is_none() {
            reconcile_one(world, job, spec, &mut decision);
        }
    }
    release_orphans(world, &mut decision);
    decision
}

/// Pods whose Job is gone, or goes, are counted by nobody.
fn release_orphans(world: &World, decision: &mut Decision) {
    for pod in world.pods.values().filter(|pod| is_tracked(pod)) {
        let counted = controller_of(&pod.metadata).is_some_and(|owner| {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            world
                .jobs
                .get(&(namespace, owner.name.clone()))
                .is_some_and(|job| {
                    job.metadata.uid.as_ref() == Some(&owner.uid)
                        && job.metadata.deletion_timestamp.is_none()
                })
        });
        if !counted {
            decision.actions.push(released(pod));
        }
    }
}

fn is_tracked(pod: &Pod) -> bool {
    let finalizers = pod.metadata.finalizers.as_ref();
    finalizers.is_some_and(|finalizers| finalizers.iter().any(|held| held == TRACKING))
}

fn released(pod: &Pod) -> Action {
    let left: Vec<&String> = pod
        .metadata
        .finalizers
        .iter()
        .flatten()
        .filter(|held| *held != TRACKING)
        .collect();
    Action::Patch {
        target: Target::of("Pod", &pod.metadata),
        status: false,
        patch: json!({"metadata": {"finalizers": left}}),
    }
}

/// A Job with its pods.
struct Run<'a> {
    world: &'a World,
    target: Target,
    job: &'a Job,
    spec: &'a JobSpec,
    status: JobStatus,
    /// Pods that are neither ended nor on their way out.
    active: Vec<&'a Pod>,
    /// Active pods of an indexed Job that nobody needs: of no number, or of one that another has or has had.
    surplus: Vec<&'a Pod>,
    /// Numbers that have succeeded, of an indexed Job.
    completed: BTreeSet<i32>,
    /// Pods by which numbers have succeeded that the status does not have yet.
    completing: usize,
    terminating: i32,
    /// Ends of pods that are not in the sum yet, by UID.
    uncounted: BTreeMap<&'a str, End>,
    /// Those of them that may go.
    released: Vec<&'a Pod>,
    /// UIDs that the status has as uncounted, and whose pods are held no longer.
    settled: BTreeSet<String>,
    last_failure: Option<Timestamp>,
}

fn reconcile_one(world: &World, job: &Job, spec: &JobSpec, decision: &mut Decision) {
    let target = Target::of("Job", &job.metadata);
    let run = Run::of(world, target, job, spec, decision);
    let verdict = run.verdict();
    if let Some(again) = verdict.recheck {
        decision.recheck_at(again);
    }
    run.act(&verdict, decision);
    run.status(&verdict, decision);
    for pod in &run.released {
        decision.actions.push(released(pod));
    }
    run.expire(decision);
}

impl<'a> Run<'a> {
    fn of(
        world: &'a World,
        target: Target,
        job: &'a Job,
        spec: &'a JobSpec,
        decision: &mut Decision,
    ) -> Self {
        let selects = |metadata: &ObjectMeta| {
            let selector = spec.selector.as_ref();
            selector.is_some_and(|selector| label_selector_selects(selector, metadata))
        };
        let pods = claim(world, &target, selects, &mut BTreeSet::new(), decision);
        let status = job.status.clone().unwrap_or_default();
        let listed: BTreeSet<String> = status
            .uncounted_terminated_pods
            .iter()
            .flat_map(|listed| listed.succeeded.iter().chain(&listed.failed).flatten())
            .cloned()
            .collect();
        let mut run = Self {
            world,
            target,
            job,
            spec,
            status,
            active: Vec::new(),
            surplus: Vec::new(),
            completed: BTreeSet::new(),
            completing: 0,
            terminating: 0,
            uncounted: BTreeMap::new(),
            released: Vec::new(),
            settled: listed.clone(),
            last_failure: None,
        };
        let known = run.status.completed_indexes.as_deref();
        run.completed = indexed::read(known.unwrap_or_default(), run.completions());
        let known = run.completed.clone();
        for pod in pods {
            run.look_at(pod, &listed, &known);
        }
        if indexed::is_indexed(spec) {
            run.set_apart();
        }
        run
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    /// Of the active pods, keeps one for each number that is still to succeed.
    fn set_apart(&mut self) {
        let mut taken = self.completed.clone();
        let completions = self.completions();
        let needed = |pod: &&Pod| {
            indexed::index_of(pod, completions).is_some_and(|index| taken.insert(index))
        };
        let active = std::mem::take(&mut self.active);
        (self.active, self.surplus) = active.into_iter().partition(needed);
    }

    /// `known` are the numbers that the status has as completed.
    fn look_at(&mut self, pod: &'a Pod, listed: &BTreeSet<String>, known: &BTreeSet<i32>) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let end = match phase(pod) {
            "Succeeded" => Some(End::Succeeded),
            "Failed" => Some(End::Failed),
            _ => None,
        };
        if end == Some(End::Failed) {
            self.last_failure = self.last_failure.max(Some(ended_at(pod)));
        }
        match end {
            None if is_active(pod) => self.active.push(pod),
            None => self.terminating += 1,
            Some(_) => {}
        }
        if !is_tracked(pod) {
            return;
        }
        // A pod that was deleted while it ran has failed when its agent is through with it.
        let gone = leaving && pod.metadata.deletion_grace_period_seconds == Some(0);
        let end = end.or(gone.then_some(End::Failed));
        let Some(end) = end else { return };
        let suspended = gone && self.spec.suspend == Some(true);
        if end == End::Succeeded && indexed::is_indexed(self.spec) {
            // A pod of no number, or of one that has succeeded before, adds nothing.
            match indexed::index_of(pod, self.completions()) {
                Some(index) if !known.contains(&index) => {
                    self.completed.insert(index);
                    self.completing += 1;
                }
                _ => self.released.push(pod),
            }
        } else if listed.contains(uid) {
            self.settled.remove(uid);
            self.released.push(pod);
        } else if suspended {
            // What was taken away by suspending has not failed.
            self.released.push(pod);
        } else {
            self.uncounted.insert(uid, end);
        }
    }

    fn verdict(&self) -> Verdict {
        let listed = self.status.uncounted_terminated_pods.clone();
        let listed = listed.unwrap_or_default();
        let waiting = |listed: Option<Vec<String>>, end: End| {
            let listed = listed.map_or(0, |listed| listed.len());
            let new = self.uncounted.values().filter(|held| **held == end).count();
            i32::try_from(listed + new).unwrap_or(i32::MAX)
        };
        let restarts = self.active.iter().map(|pod| restarts(pod)).sum();
        let ended = |kind: &str| self.condition(kind).is_some();
        decide::decide(
            self.spec,
            &Known {
                now: self.world.now,
                active: i32::try_from(self.active.len()).unwrap_or(i32::MAX),
                terminating: self.terminating,
                uncounted: i32::try_from(
                    self.uncounted.len()
                        + self.released.len()
                        + self.completing
                        + self.surplus.len(),
                )
                .unwrap_or(i32::MAX),
                succeeded: if indexed::is_indexed(self.spec) {
                    i32::try_from(self.completed.len()).unwrap_or(i32::MAX)
                } else {
                    self.status.succeeded.unwrap_or(0) + waiting(listed.succeeded, End::Succeeded)
                },
                failed: self.status.failed.unwrap_or(0) + waiting(listed.failed, End::Failed),
                restarts,
                started: self.status.start_time.as_ref().map(|time| time.0),
                last_failure: self.last_failure,
                over: ended("Complete") || ended("Failed"),
                failing: self
                    .condition("FailureTarget")
                    .map(|(reason, message)| (reason.to_owned(), message.to_owned())),
            },
        )
    }

    /// Reason and message of a condition that is true.
    fn condition(&self, kind: &str) -> Option<(&str, &str)> {
        let conditions = self.status.conditions.iter().flatten();
        let found = conditions
            .filter(|condition| condition.status == "True")
            .find(|condition| condition.type_ == kind)?;
        Some((
            found.reason.as_deref().unwrap_or_default(),
            found.message.as_deref().unwrap_or_default(),
        ))
    }

    fn act(&self, verdict: &Verdict, decision: &mut Decision) {
        let mut tell = |reason: &str, message: &str| {
            decision.actions.push(event(
                self.world.now,
                &self.target,
                COMPONENT,
                reason,
                message,
            ));
        };
        let missing = usize::try_from(verdict.create).unwrap_or(0).min(BURST);
        for _ in 0..missing {
            tell("SuccessfulCreate", "Created pod");
        }
        let mut going = self.active.clone();
        // Those that are not ready have done least.
        going.sort_by_key(|pod| (ready_since(pod).is_some(), pod.metadata.name.clone()));
        going.truncate(usize::try_from(verdict.delete).unwrap_or(0).min(BURST));
        going.extend(&self.surplus);
        for pod in &going {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            tell("SuccessfulDelete", &format!("Deleted pod: {name}"));
        }
        for pod in going {
            decision.actions.push(Action::Delete {
                target: Target::of("Pod", &pod.metadata),
                force: false,
            });
        }
        let numbers = self.numbers_to_begin();
        for place in 0..missing {
            let mut pod = pod_of(&self.target, Some(&self.spec.template));
            if indexed::is_indexed(self.spec) {
                let Some(index) = numbers.get(place) else {
                    break;
                };
                indexed::number(&mut pod, &self.target.name, *index);
            }
            let finalizers = pod["metadata"]["finalizers"].as_array_mut();
            if let Some(finalizers) = finalizers {
                finalizers.push(json!(TRACKING));
            }
            decision.actions.push(create_pod(&self.target, pod));
        }
    }

    /// Numbers that have neither succeeded nor an active pod, the lowest first; no more than a burst of them.
    fn numbers_to_begin(&self) -> Vec<i32> {
        let completions = self.completions();
        let active = self.active.iter();
        let running: BTreeSet<i32> = active
            .filter_map(|pod| indexed::index_of(pod, completions))
            .collect();
        (0..completions)
            .filter(|index| !self.completed.contains(index) && !running.contains(index))
            .take(BURST)
            .collect()
    }

    /// A Job that has ended goes after a while, if that is asked for.
    fn expire(&self, decision: &mut Decision) {
        let Some(seconds) = self.spec.ttl_seconds_after_finished else {
            return;
        };
        let conditions = self.status.conditions.iter().flatten();
        let ended = conditions
            .filter(|condition| {
                condition.status == "True" && ["Complete", "Failed"].contains(&&*condition.type_)
            })
            .find_map(|condition| condition.last_transition_time.as_ref());
        let Some(ended) = ended else { return };
        let until = decide::after(ended.0, i64::from(seconds));
        if until > self.world.now {
            return decision.recheck_at(until);
        }
        decision.actions.push(Action::Delete {
            target: Target::of("Job", &self.job.metadata),
            force: false,
        });
    }
}

/// How often the containers of a pod were started again.
fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let all = containers.into_iter().chain(init).flatten();
    all.map(|container| container.restart_count).sum()
}

/// When the last container of a pod ended.
fn ended_at(pod: &Pod) -> Timestamp {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    containers
        .into_iter()
        .flatten()
        .filter_map(|container| {
            let ended = container.state.as_ref()?.terminated.as_ref()?;
            Some(ended.finished_at.as_ref()?.0)
        })
        .max()
        .unwrap_or(Timestamp::UNIX_EPOCH)
}
