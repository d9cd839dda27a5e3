//! v1 Event.

use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::parts::causes::no_rules;
use super::parts::cells::{Column, age_of, column, text, wide};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<Event>,
    default: no_defaults,
    name: names::subdomain,
    validate: no_rules,
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
