//! batch/v1 Job.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{
    AGE, Column, NAME, column, containers, duration, list, number, or_none, text, wide,
};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::no_warnings;
use super::parts::{job_spec, names, selector};
use super::{DeletionRule, Generation, Propagation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

/// The labels by which a Job finds its pods, and those that say to whom they belong.
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const OLD_UID_LABEL: &str = "controller-uid";
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<Job>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &["status.successful"],
    selector: selector::labels,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    // As batch/v1 did from its beginning: pods stay unless the client says otherwise, as every current one does.
    deletion: DeletionRule {
        propagation: Propagation::Orphan,
        ..DeletionRule::AT_ONCE
    },
    allocate: None,
    warnings: no_warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", |job| json!(state(job))),
    column("Completions", |job| json!(completions(job))),
    column("Duration", |job| json!(lasted(job))),
    AGE,
    wide("Containers", |job| json!(containers(job, "name"))),
    wide("Images", |job| json!(containers(job, "image"))),
    wide("Selector", |job| json!(or_none(&selector::labels(job)))),
];

fn state(job: &Value) -> &'static str {
    let is = |kind: &str| {
        list(job, "/status/conditions")
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.pointer("/metadata/deletionTimestamp").is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(job, "/status/succeeded");
    let parallelism = number(job, "/spec/parallelism");
    match job.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn lasted(job: &Value) -> String {
    let time = |field: &str| -> Option<jiff::Timestamp> {
        text(job, &format!("/status/{field}")).parse().ok()
    };
    let Some(started) = time("startTime") else {
        return String::new();
    };
    let ended = time("completionTime").unwrap_or_else(jiff::Timestamp::now);
    duration(ended.duration_since(started).as_secs())
}

/// k8s.io/kubernetes/pkg/apis/batch/v1/defaults.go, and the selector that `strategy.go` generates.
fn defaults(object: &mut Object) {
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    if let Some(spec) = child(object, "spec") {
        let given = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
        let (completions, parallelism) = (given("completions"), given("parallelism"));
        if !completions && !parallelism {
            set(Some(spec), "completions", json!(1));
        }
        set(Some(spec), "parallelism", json!(1));
        for (field, value) in [
            ("backoffLimit", json!(6)),
            ("completionMode", json!("NonIndexed")),
            ("suspend", json!(false)),
            ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ] {
            set(Some(spec), field, value);
        }
        if spec.get("manualSelector") != Some(&json!(true)) {
            generate_selector(spec, &metadata);
        }
        super::parts::pod_defaults::template(spec);
    }
    set(Some(object), "status", json!({}));
}

fn generate_selector(spec: &mut Object, metadata: &Value) {
    // A manifest that is only looked at has none yet.
    let uid = json!(text(metadata, "/uid"));
    let name = json!(text(metadata, "/name"));
    set(
        Some(spec),
        "selector",
        json!({"matchLabels": {UID_LABEL: uid}}),
    );
    let template = child(spec, "template");
    let Some(template) = template else { return };
    let meta = template.entry("metadata").or_insert_with(|| json!({}));
    if !meta.is_object() {
        *meta = json!({});
    }
    let Some(meta) = meta.as_object_mut() else {
        return;
    };
    let labels = meta.entry("labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    for label in [UID_LABEL, OLD_UID_LABEL] {
        set(labels.as_object_mut(), label, uid.clone());
    }
    for label in NAME_LABELS {
        set(labels.as_object_mut(), label, name.clone());
    }
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    job_spec::validate(spec, "spec", found);
    job_spec::template(spec, found);
    let Some(before) = old.and_then(|old| old.get("spec")) else {
        return;
    };
    for field in ["completions", "selector", "template", "completionMode"] {
        if before.get(field) != spec.get(field) {
            let value = spec.get(field).unwrap_or(&Value::Null);
            found.invalid(format!("spec.{field}"), value, "field is immutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(fields: &Value) -> Value {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        for (field, value) in fields.as_object().expect("fields") {
            job["spec"][field] = value.clone();
        }
        defaults(job.as_object_mut().expect("an object"));
        job
    }

    fn fields(job: &Value, old: Option<&Value>) -> Vec<String> {
        let mut found = Causes::default();
        validate(job, old, &mut found);
        found.0.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn a_selector_is_generated_and_stays() {
        let once = job(&json!({}));
        assert_eq!(
            once["spec"]["selector"]["matchLabels"],
            json!({UID_LABEL: "u"})
        );
        let labels = &once["spec"]["template"]["metadata"]["labels"];
        assert_eq!(
            (&labels[UID_LABEL], &labels["job-name"]),
            (&json!("u"), &json!("j"))
        );
        assert_eq!(once["spec"]["completions"], json!(1));
        assert!(fields(&once, None).is_empty());
        let mut twice = once.clone();
        defaults(twice.as_object_mut().expect("an object"));
        assert_eq!(once, twice);
    }

    #[test]
    fn completions_follow_parallelism_only_if_neither_is_given() {
        let queue = job(&json!({"parallelism": 3}));
        assert_eq!(queue["spec"].get("completions"), None);
        assert_eq!(completions(&queue), "0/1 of 3");
        assert_eq!(completions(&job(&json!({"completions": 4}))), "0/4");
    }

    #[test]
    fn what_is_wrong_or_cannot_be_honoured_is_refused() {
        for (given, expected) in [
            (json!({"backoffLimit": -1}), vec!["spec.backoffLimit"]),
            (
                json!({"completionMode": "Indexed", "parallelism": 2}),
                vec!["spec.completions"],
            ),
            (
                json!({"completionMode": "Odd"}),
                vec!["spec.completionMode"],
            ),
            (
                json!({"podFailurePolicy": {"rules": []}}),
                vec!["spec.podFailurePolicy"],
            ),
            (json!({"managedBy": "me.io/x"}), vec!["spec.managedBy"]),
        ] {
            assert_eq!(fields(&job(&given), None), expected, "{given}");
        }
        let mut always = job(&json!({}));
        always["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        assert_eq!(fields(&always, None), ["spec.template.spec.restartPolicy"]);
        let old = job(&json!({}));
        let mut changed = old.clone();
        changed["spec"]["parallelism"] = json!(2);
        changed["spec"]["suspend"] = json!(true);
        assert!(fields(&changed, Some(&old)).is_empty());
        changed["spec"]["completions"] = json!(2);
        assert_eq!(fields(&changed, Some(&old)), ["spec.completions"]);
    }

    #[test]
    fn states_are_told_in_their_order() {
        let with = |kinds: &[&str]| {
            let conditions: Vec<Value> = kinds
                .iter()
                .map(|kind| json!({"type": kind, "status": "True"}))
                .collect();
            state(&json!({"status": {"conditions": conditions}}))
        };
        assert_eq!(with(&[]), "Running");
        assert_eq!(with(&["SuccessCriteriaMet", "Complete"]), "Complete");
        assert_eq!(with(&["FailureTarget"]), "FailureTarget");
    }
}
