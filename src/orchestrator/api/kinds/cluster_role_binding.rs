//! rbac.authorization.k8s.io/v1 ClusterRoleBinding: what it grants is enforced by `rbac`.

use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, text, wide};
use super::parts::decode::through;
use super::parts::warnings::no_warnings;
use super::parts::{rbac, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<ClusterRoleBinding>,
    default: rbac::binding_defaults,
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
    column("Role", |binding| {
        let kind = text(binding, "/roleRef/kind");
        json!(format!("{kind}/{}", text(binding, "/roleRef/name")))
    }),
    AGE,
    wide("Users", |binding| json!(rbac::subjects(binding, "User"))),
    wide("Groups", |binding| json!(rbac::subjects(binding, "Group"))),
    wide("ServiceAccounts", |binding| {
        json!(rbac::subjects(binding, "ServiceAccount"))
    }),
];

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let roles: &[&str] = &["ClusterRole"];
    rbac::binding(object, old, roles, found);
}
