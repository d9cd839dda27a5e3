//! Reading objects into Kubernetes' own types.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::json;

/// The object as its type writes it again.
pub(in crate::orchestrator::api) fn through<T: DeserializeOwned + Serialize>(
    object: &Value,
) -> Result<Value, serde_json::Error> {
    json::to_value(&json::from_value::<T>(object)?)
}
