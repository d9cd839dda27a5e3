//! v1 ServiceAccount: kept as it is; its tokens are made by `tokens`.

use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::json;

use super::parts::causes::no_rules;
use super::parts::cells::{AGE, NAME, column, list};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Token],
    decode: through::<ServiceAccount>,
    default: no_defaults,
    name: names::subdomain,
    validate: no_rules,
    columns: &[
        NAME,
        column("Secrets", |account| {
            json!(list(account, "/secrets").len().to_string())
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
