//! v1 ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;

use super::parts::cells::{AGE, NAME, column};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{data, names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<ConfigMap>,
    default: no_defaults,
    name: names::subdomain,
    validate: |object, _, found| {
        data::keys(object, "data", found);
        data::keys(object, "binaryData", found);
    },
    columns: &[NAME, column("Data", data::count), AGE],
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};
