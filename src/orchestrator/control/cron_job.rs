//! CronJobs: a Job at every time of a schedule.
//!
//! As Kubernetes' `pkg/controller/cronjob/cronjob_controllerv2.go`. A Job is named by the time that it is for, so that no time has
//! two; of several times that were missed only the last is made up for. Times are in UTC.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

use super::workload::written;
use super::world::{Action, Decision, Target, World, controller_of, event, within};
use crate::orchestrator::schedule::Schedule;

const COMPONENT: &str = "cronjob-controller";
/// For which time a Job is.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    for cron_job in world.cron_jobs.values() {
        if cron_job.metadata.deletion_timestamp.is_none() {
            reconcile_one(world, cron_job, &mut decision);
        }
    }
    decision
}

fn reconcile_one(world: &World, cron_job: &CronJob, decision: &mut Decision) {
    let target = Target::of("CronJob", &cron_job.metadata);
    let jobs: Vec<&Job> = within(&world.jobs, &target.namespace)
        .filter(|job| {
            controller_of(&job.metadata).is_some_and(|owner| owner.uid == target.uid)
                && job.metadata.deletion_timestamp.is_none()
        })
        .collect();
    let active: Vec<&Job> = jobs
        .iter()
        .copied()
        .filter(|job| end(job).is_none())
        .collect();
    forget(cron_job, &jobs, decision);
    let due = if cron_job.spec.suspend == Some(true) {
        None
    } else {
        due(world, cron_job, &target, &active, decision)
    };
    if let Some(at) = due {
        if cron_job.spec.concurrency_policy.as_deref() == Some("Replace") {
            for job in &active {
                decision.actions.push(Action::Delete {
                    target: Target::of("Job", &job.metadata),
                    force: false,
                });
            }
        }
        create(world, cron_job, &target, at, decision);
    }
    status(cron_job, &target, &jobs, &active, due, decision);
}

/// Whether a Job has succeeded, if it has ended.
fn end(job: &Job) -> Option<bool> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .filter(|condition| condition.status == "True")
        .find_map(|condition| match condition.type_.as_str() {
            "Complete" => Some(true),
            "Failed" => Some(false),
            _ => None,
        })
}

/// The time for which a Job is to be made now, if there is one.
fn due(
    world: &World,
    cron_job: &CronJob,
    target: &Target,
    active: &[&Job],
    decision: &mut Decision,
) -> Option<Timestamp> {
    // One that does not parse was refused when it was written.
    let schedule = Schedule::parse(&cron_job.spec.schedule).ok()?;
    if let Some(next) = schedule.next_after(world.now) {
        decision.recheck_at(next);
    }
    let status = cron_job.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let created = cron_job.metadata.creation_timestamp.as_ref();
    let mut after = last.or(created).map_or(world.now, |time| time.0);
    if let Some(seconds) = cron_job.spec.starting_deadline_seconds {
        let earliest = world.now.checked_sub(SignedDuration::from_secs(seconds));
        after = after.max(earliest.unwrap_or(Timestamp::MIN));
    }
    let at = schedule.last_between(after, world.now)?;
    let key = (target.namespace.clone(), job_name(target, at));
    if world.jobs.contains_key(&key) {
        return None;
    }
    let forbidden = cron_job.spec.concurrency_policy.as_deref() == Some("Forbid");
    // It is made when the other has ended, unless that is too late.
    (!forbidden || active.is_empty()).then_some(at)
}

/// A CronJob's name, and the minutes since the epoch.
fn job_name(target: &Target, at: Timestamp) -> String {
    format!("{}-{}", target.name, at.as_second() / 60)
}

fn create(
    world: &World,
    cron_job: &CronJob,
    target: &Target,
    at: Timestamp,
    decision: &mut Decision,
) {
    let template = &cron_job.spec.job_template;
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut annotations = json!(metadata.annotations.unwrap_or_default());
    annotations[SCHEDULED] = json!(written(at));
    let name = job_name(target, at);
    let message = format!("Created job {name}");
    decision.actions.push(event(
        world.now,
        target,
        COMPONENT,
        "SuccessfulCreate",
        &message,
    ));
    decision.actions.push(Action::Create {
        kind: "Job",
        namespace: target.namespace.clone(),
        object: json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": name,
                "namespace": target.namespace,
                "labels": metadata.labels.unwrap_or_default(),
                "annotations": annotations,
                "ownerReferences": [target.owner_reference()],
            },
            "spec": template.spec,
        }),
    });
}

/// Deletes Jobs that have ended, the oldest first, beyond the history that is kept.
fn forget(cron_job: &CronJob, jobs: &[&Job], decision: &mut Decision) {
    let spec = &cron_job.spec;
    for (succeeded, kept) in [
        (true, spec.successful_jobs_history_limit.unwrap_or(3)),
        (false, spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut ended: Vec<&&Job> = jobs
            .iter()
            .filter(|job| end(job) == Some(succeeded))
            .collect();
        ended.sort_by_key(|job| {
            let started = job
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref());
            (started.map(|time| time.0), job.metadata.name.clone())
        });
        let kept = usize::try_from(kept).unwrap_or(0);
        for job in ended.iter().take(ended.len().saturating_sub(kept)) {
            decision.actions.push(Action::Delete {
                target: Target::of("Job", &job.metadata),
                force: false,
            });
        }
    }
}

fn status(
    cron_job: &CronJob,
    target: &Target,
    jobs: &[&Job],
    active: &[&Job],
    due: Option<Timestamp>,
    decision: &mut Decision,
) {
    let known = cron_job.status.clone().unwrap_or_default();
    let succeeded = jobs
        .iter()
        .filter(|job| end(job) == Some(true))
        .filter_map(|job| Some(job.status.as_ref()?.completion_time.as_ref()?.0))
        .chain(known.last_successful_time.as_ref().map(|time| time.0))
        .max();
    let listed: Vec<&str> = known
        .active
        .iter()
        .flatten()
        .filter_map(|job| job.uid.as_deref())
        .collect();
    let running: Vec<&str> = active
        .iter()
        .filter_map(|job| job.metadata.uid.as_deref())
        .collect();
    let scheduled = due.or(known.last_schedule_time.as_ref().map(|time| time.0));
    let same = listed == running
        && scheduled == known.last_schedule_time.as_ref().map(|time| time.0)
        && succeeded == known.last_successful_time.as_ref().map(|time| time.0);
    if same {
        return;
    }
    let references: Vec<Value> = active
        .iter()
        .map(|job| {
            json!({
                "apiVersion": "batch/v1", "kind": "Job", "namespace": target.namespace,
                "name": job.metadata.name, "uid": job.metadata.uid,
                "resourceVersion": job.metadata.resource_version,
            })
        })
        .collect();
    decision.actions.push(Action::Patch {
        target: target.clone(),
        status: true,
        patch: json!({"status": {
            "active": references,
            "lastScheduleTime": scheduled.map(written),
            "lastSuccessfulTime": succeeded.map(written),
        }}),
    });
}
