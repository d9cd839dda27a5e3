//! A deserializer that pretends to have every field once, and lists the types that ask for them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::empty::empty;
use super::roots;
use super::walk::Refused;

/// A type and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFields {
    /// Its name, for instance `PodSpec`.
    pub name: &'static str,
    /// Its fields' names.
    pub fields: &'static [&'static str],
    /// Its fields that hold other types, alone, in lists or in maps, with these types' names.
    pub holds: BTreeSet<(&'static str, &'static str)>,
}

/// Every type that objects of a kind are made of, its own first; empty for a kind without a type here.
#[must_use]
pub fn types_of(api_version: &str, kind: &str) -> Vec<TypeFields> {
    roots::find(api_version, kind).map_or_else(Vec::new, |root| (root.trace)())
}

pub(super) fn trace<T: DeserializeOwned>() -> Vec<TypeFields> {
    let seen = Seen::default();
    let whole = Trace {
        seen: &seen,
        field: None,
    };
    drop(T::deserialize(whole));
    let mut seen = seen.into_inner();
    seen.order
        .into_iter()
        .map(|name| TypeFields {
            name,
            fields: seen.fields[name],
            holds: seen.holds.remove(name).unwrap_or_default(),
        })
        .collect()
}

#[derive(Default)]
struct Types {
    order: Vec<&'static str>,
    fields: BTreeMap<&'static str, &'static [&'static str]>,
    holds: BTreeMap<&'static str, BTreeSet<(&'static str, &'static str)>>,
}

type Seen = RefCell<Types>;

#[derive(Clone, Copy)]
struct Trace<'s> {
    seen: &'s Seen,
    /// The type around, and its field that is asked for.
    field: Option<(&'static str, &'static str)>,
}

impl Trace<'_> {
    fn read<'de, T: Deserialize<'de>>(self) -> Result<T, Refused> {
        T::deserialize(self).or_else(|_| empty())
    }
}

impl<'de> Deserializer<'de> for Trace<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_i64(0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_bool(false)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_f64(0.0)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_str("")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_str("")
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_seq(Once {
            trace: self,
            left: 1,
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_map(Keys {
            trace: self,
            around: None,
            rest: ["key"].iter(),
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let is_new = {
            let mut seen = self.seen.borrow_mut();
            if let Some((around, field)) = self.field {
                seen.holds.entry(around).or_default().insert((field, name));
            }
            let is_new = seen.fields.insert(name, fields).is_none();
            if is_new {
                seen.order.push(name);
            }
            is_new
        };
        // A type inside of itself is known already.
        let inside: &'static [&'static str] = if is_new { fields } else { &[] };
        visitor.visit_map(Keys {
            trace: self,
            around: Some(name),
            rest: inside.iter(),
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

/// One element.
struct Once<'s> {
    trace: Trace<'s>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Refused;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left = 0;
        seed.deserialize(self.trace).map(Some)
    }

    fn next_element<T: Deserialize<'de>>(&mut self) -> Result<Option<T>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left = 0;
        self.trace.read().map(Some)
    }
}

/// One entry for each key, but for those that say what an object is.
struct Keys<'s> {
    trace: Trace<'s>,
    /// The type whose fields these are; none of a map.
    around: Option<&'static str>,
    rest: std::slice::Iter<'static, &'static str>,
}

impl<'de> MapAccess<'de> for Keys<'_> {
    type Error = Refused;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Refused> {
        let next = self.rest.find(|key| !["apiVersion", "kind"].contains(*key));
        let Some(key) = next else { return Ok(None) };
        if let Some(around) = self.around {
            self.trace.field = Some((around, *key));
        }
        let key: StrDeserializer<'_, Refused> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        seed.deserialize(self.trace)
    }

    fn next_value<T: Deserialize<'de>>(&mut self) -> Result<T, Refused> {
        self.trace.read()
    }

    fn next_entry<K: Deserialize<'de>, T: Deserialize<'de>>(
        &mut self,
    ) -> Result<Option<(K, T)>, Refused> {
        match self.next_key()? {
            Some(key) => Ok(Some((key, self.next_value()?))),
            None => Ok(None),
        }
    }
}
