//! coordination.k8s.io/v1 Lease.

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use super::parts::causes::no_rules;
use super::parts::cells::{AGE, NAME, column, text};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<Lease>,
    default: no_defaults,
    name: names::subdomain,
    validate: no_rules,
    columns: &[
        NAME,
        column("Holder", |lease| json!(text(lease, "/spec/holderIdentity"))),
        AGE,
    ],
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Eventual,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};
