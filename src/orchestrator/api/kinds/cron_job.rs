//! batch/v1 CronJob.

use k8s_openapi::api::batch::v1::CronJob;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, age_of, column, list, text, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::no_warnings;
use super::parts::{job_spec, names, numbers, pod_defaults, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::schedule::Schedule;
use crate::orchestrator::store::Durability;

/// The longest name to which the minutes of a Job can be added (`validateCronJobName`).
const NAME_BYTES: usize = 52;
/// A server has no other time zones: the machines that it runs on hold no table of them.
const TIME_ZONES: [&str; 2] = ["Etc/UTC", "UTC"];

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<CronJob>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Schedule", |job| json!(text(job, "/spec/schedule"))),
    column("Timezone", |job| match text(job, "/spec/timeZone") {
        "" => json!("<none>"),
        zone => json!(zone),
    }),
    column("Suspend", |job| {
        let suspend = job.pointer("/spec/suspend") == Some(&json!(true));
        json!(if suspend { "True" } else { "False" })
    }),
    column("Active", |job| {
        json!(list(job, "/status/active").len().to_string())
    }),
    column("Last Schedule", |job| {
        let never = text(job, "/status/lastScheduleTime").is_empty();
        json!(if never {
            "<none>".to_owned()
        } else {
            age_of(job, &["/status/lastScheduleTime"])
        })
    }),
    AGE,
    wide("Containers", |job| json!(containers(job, "name"))),
    wide("Images", |job| json!(containers(job, "image"))),
    wide("Selector", |_| json!("<none>")),
];

fn containers(job: &Value, field: &str) -> String {
    let names: Vec<&str> = list(job, "/spec/jobTemplate/spec/template/spec/containers")
        .iter()
        .filter_map(|one| one.get(field)?.as_str())
        .collect();
    names.join(",")
}

/// k8s.io/kubernetes/pkg/apis/batch/v1/defaults.go.
fn defaults(object: &mut Object) {
    if let Some(spec) = child(object, "spec") {
        for (field, value) in [
            ("concurrencyPolicy", json!("Allow")),
            ("suspend", json!(false)),
            ("successfulJobsHistoryLimit", json!(3)),
            ("failedJobsHistoryLimit", json!(1)),
        ] {
            set(Some(spec), field, value);
        }
        let template = child(spec, "jobTemplate");
        if let Some(job) = template.and_then(|template| child(template, "spec")) {
            pod_defaults::template(job);
        }
    }
    set(Some(object), "status", json!({}));
}

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    let name = text(object, "/metadata/name");
    if name.len() > NAME_BYTES {
        let why = format!("must be no more than {NAME_BYTES} characters");
        found.invalid("metadata.name", &json!(name), &why);
    }
    let schedule = text(spec, "/schedule");
    if schedule.is_empty() {
        found.required("spec.schedule", "");
    } else if schedule.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        found.invalid("spec.schedule", &json!(schedule), why);
    } else if let Err(why) = Schedule::parse(schedule) {
        found.invalid("spec.schedule", &json!(schedule), &why);
    }
    if let Some(zone) = spec.get("timeZone").filter(|zone| !zone.is_null()) {
        found.one_of("spec.timeZone", Some(zone), &TIME_ZONES);
    }
    found.one_of(
        "spec.concurrencyPolicy",
        spec.get("concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
    );
    let fields = [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ];
    numbers::not_negative(spec, "spec", &fields, found);
    match spec
        .pointer("/jobTemplate/spec")
        .filter(|job| job.is_object())
    {
        Some(job) => {
            job_spec::validate(job, "spec.jobTemplate.spec", found);
            job_spec::pods(job, "spec.jobTemplate.spec", found);
        }
        None => found.required("spec.jobTemplate.spec", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_zones_and_templates_are_checked() {
        for (field, value, expected) in [
            ("schedule", json!("*/5 * * * *"), None),
            ("timeZone", json!("Etc/UTC"), None),
            ("schedule", json!("often"), Some("spec.schedule")),
            ("schedule", json!("TZ=UTC 0 0 * * *"), Some("spec.schedule")),
            ("timeZone", json!("Europe/Berlin"), Some("spec.timeZone")),
            (
                "concurrencyPolicy",
                json!("Maybe"),
                Some("spec.concurrencyPolicy"),
            ),
            (
                "failedJobsHistoryLimit",
                json!(-1),
                Some("spec.failedJobsHistoryLimit"),
            ),
            ("jobTemplate", json!({}), Some("spec.jobTemplate.spec")),
        ] {
            let pod =
                json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
            let mut object = json!({"metadata": {"name": "c"}, "spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": {"spec": pod}}}}});
            object["spec"][field] = value;
            defaults(object.as_object_mut().expect("an object"));
            let mut found = Causes::default();
            validate(&object, None, &mut found);
            let fields: Vec<String> = found.0.into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, Vec::from_iter(expected), "{field}");
        }
    }
}
