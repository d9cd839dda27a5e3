//! rbac.authorization.k8s.io/v1 Role: what it grants is enforced by `rbac`.

use k8s_openapi::api::rbac::v1::Role;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{Column, NAME, column, text};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{rbac, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<Role>,
    default: no_defaults,
    name: rbac::name,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Created At", |role| {
        json!(text(role, "/metadata/creationTimestamp"))
    }),
];

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    rbac::rules(object, rbac::Scope::Namespace, found);
}
