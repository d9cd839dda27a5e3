//! v1 Event (k8s.io/kubernetes/pkg/apis/core/validation/events.go).

use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{Column, age_of, column, text, wide};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::limits::{EVENT_BYTES, EVENT_NOTE_BYTES, EVENT_WORD_BYTES};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<Event>,
    default: no_defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[
        "involvedObject.apiVersion",
        "involvedObject.fieldPath",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.resourceVersion",
        "involvedObject.uid",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Eventual,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

/// Who began to send an `eventTime` fills in the rest as well; Events of the older form have no bounds of their own but the whole.
fn validate(event: &Value, _: Option<&Value>, found: &mut Causes) {
    if event.to_string().len() > EVENT_BYTES {
        found.too_long("", EVENT_BYTES);
    }
    let (own, about) = (
        text(event, "/metadata/namespace"),
        text(event, "/involvedObject/namespace"),
    );
    let timed = !text(event, "/eventTime").is_empty();
    let agrees = if about.is_empty() {
        own == "default" || (timed && own == "kube-system")
    } else {
        // Of one with an eventTime Kubernetes looks only at what has no namespace.
        timed || own == about
    };
    if !agrees {
        let about = Value::from(about);
        found.invalid(
            "involvedObject.namespace",
            &about,
            "does not match event.namespace",
        );
    }
    if !timed {
        return;
    }
    for (field, most) in [
        ("reportingComponent", 253),
        ("reportingInstance", EVENT_WORD_BYTES),
        ("action", EVENT_WORD_BYTES),
        ("reason", EVENT_WORD_BYTES),
    ] {
        match event.get(field).and_then(Value::as_str) {
            None | Some("") => found.required(field, ""),
            Some(text) if text.len() > most => found.too_long(field, most),
            Some(_) => {}
        }
    }
    if text(event, "/message").len() > EVENT_NOTE_BYTES {
        found.too_long("message", EVENT_NOTE_BYTES);
    }
}

/// Events have no column for their name, and their age is the last sighting's.
const COLUMNS: &[Column] = &[
    column("Last Seen", |event| json!(last_seen(event))),
    column("Type", |event| json!(text(event, "/type"))),
    column("Reason", |event| json!(text(event, "/reason"))),
    column("Object", |event| {
        let kind = text(event, "/involvedObject/kind").to_lowercase();
        json!(format!("{kind}/{}", text(event, "/involvedObject/name")))
    }),
    wide("Source", |event| json!(text(event, "/source/component"))),
    column("Message", |event| json!(text(event, "/message").trim())),
    wide("Name", |event| json!(text(event, "/metadata/name"))),
];

fn last_seen(event: &Value) -> String {
    age_of(
        event,
        &[
            "/lastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp",
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_about_their_namespace_and_bounded() {
        let fields = |event: Value| {
            let mut found = Causes::default();
            validate(&event, None, &mut found);
            found
                .0
                .into_iter()
                .map(|cause| cause.field)
                .collect::<Vec<_>>()
        };
        let old = |namespace: &str, about: &str, message: usize| json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": about}, "message": "x".repeat(message)});
        assert!(
            fields(old("a", "a", 15_000)).is_empty() && fields(old("default", "", 0)).is_empty()
        );
        assert_eq!(fields(old("a", "", 0)), ["involvedObject.namespace"]);
        assert_eq!(fields(old("a", "b", 0)), ["involvedObject.namespace"]);
        assert_eq!(fields(old("a", "a", EVENT_BYTES)), [""]);
        let new = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "eventTime": "2026-11-30T00:00:00.000000Z",
            "reportingComponent": "example.com/c", "reportingInstance": "x".repeat(129), "reason": "R", "message": "x".repeat(1025)});
        assert_eq!(fields(new), ["reportingInstance", "action", "message"]);
    }
}
