//! Typed JSON by one door.
//!
//! Serde makes a copy of a type's code for each kind of source and of sink. Kubernetes' types are so large that a second copy costs
//! a minute of every build. So whatever reads or writes them goes through a [`Value`]: one copy to read, one to write.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Error, Value};

/// Reads an object from a JSON value.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(value)
}

/// Reads an object from a JSON text.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    from_value(&serde_json::from_slice(text)?)
}

/// Writes an object as a JSON value.
pub fn to_value<T: Serialize>(object: &T) -> Result<Value, Error> {
    serde_json::to_value(object)
}

/// Writes an object as a JSON text.
pub fn to_vec<T: Serialize>(object: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(&to_value(object)?)
}
