//! apps/v1 ControllerRevision: a template that a StatefulSet or a DaemonSet has had.

use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, NAME, column, list, number, text};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<ControllerRevision>,
    default: no_defaults,
    name: names::subdomain,
    validate,
    columns: &[
        NAME,
        column("Controller", |revision| json!(controller(revision))),
        column("Revision", |revision| {
            json!(number(revision, "/revision").to_string())
        }),
        AGE,
    ],
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

/// `statefulset.apps/web`.
fn controller(revision: &Value) -> String {
    let owner = list(revision, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true);
    owner.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let group = text(owner, "/apiVersion")
                .split_once('/')
                .map_or(String::new(), |(group, _)| format!(".{group}"));
            let kind = text(owner, "/kind").to_lowercase();
            format!("{kind}{group}/{}", text(owner, "/name"))
        },
    )
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    if let Some(number) = object
        .get("revision")
        .filter(|number| number.as_i64().is_none_or(|number| number < 0))
    {
        found.invalid("revision", number, "must be greater than or equal to 0");
    }
    if old.is_some_and(|old| old.get("data") != object.get("data")) {
        let data = object.get("data").unwrap_or(&Value::Null);
        found.invalid("data", data, "field is immutable");
    }
}
