//! v1 ServiceAccount.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::parts::causes::no_rules;
use super::parts::cells::{AGE, NAME};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<ServiceAccount>,
    default: no_defaults,
    name: names::subdomain,
    validate: no_rules,
    columns: &[NAME, AGE],
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
};
