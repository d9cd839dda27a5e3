//! A deserializer that does not stop: what does not fit is noted with its path, and the type goes on with an empty value.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected,
    IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use super::empty::{Empty, empty};

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A field of a type.
    Field(String),
    /// A key of a map.
    Key(String),
    /// An element of a list.
    Index(usize),
}

/// What was found at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The value is not of its field's type; this is wrong with it. The value itself is never told.
    Wrong(String),
    /// The type has no such field; this may help.
    Unknown(Option<String>),
    /// A field of this type that has a value.
    Used(&'static str, &'static str),
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub path: Vec<Step>,
    /// What.
    pub found: Found,
}

impl Finding {
    /// The path as Kubernetes writes it: `spec.ports[0].port`, `data[a.b]`.
    #[must_use]
    pub fn field(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Step::Key(key) => text.push_str(&format!("[{key}]")),
                Step::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }

    /// The value at its path.
    #[must_use]
    pub fn value<'v>(&self, object: &'v Value) -> Option<&'v Value> {
        self.path.iter().try_fold(object, |value, step| match step {
            Step::Field(key) | Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })
    }

    /// Takes what stands at its path out of the object; an element of a list becomes an empty one.
    pub fn take_out(&self, object: &mut Value) {
        let Some((last, around)) = self.path.split_last() else {
            return;
        };
        let inside = around.iter().try_fold(object, |value, step| match step {
            Step::Field(key) | Step::Key(key) => value.get_mut(key),
            Step::Index(index) => value.get_mut(index),
        });
        match (inside, last) {
            (Some(Value::Object(map)), Step::Field(key) | Step::Key(key)) => {
                map.shift_remove(key);
            }
            (Some(Value::Array(list)), Step::Index(index)) => {
                if let Some(element) = list.get_mut(*index) {
                    *element = Value::Object(Map::new());
                }
            }
            _ => {}
        }
    }
}

/// What is said of text that is no base64, as `k8s-openapi` reads it: without line breaks.
pub const NO_BASE64: &str = "must be base64";

/// Everything that type `T` says about `object`.
pub(super) fn walk<T: DeserializeOwned>(object: &Value) -> Vec<Finding> {
    let notes = RefCell::default();
    let at = At {
        value: object,
        path: Vec::new(),
        notes: &notes,
    };
    let whole = T::deserialize(at.clone()).map(drop);
    if let Err(Refused(problem)) = whole {
        at.note(Found::Wrong(problem));
    }
    notes.into_inner()
}

/// What a type does not take, without the value.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Error for Refused {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        // What libraries say about a text repeats parts of it.
        let said = problem.to_string();
        Self(if said.starts_with("Invalid") {
            NO_BASE64.to_owned()
        } else if said.contains("pars") {
            "must be a time such as `2026-01-31T12:00:00Z`".to_owned()
        } else {
            said
        })
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Bool(_) => "a boolean",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Str(_) => "text",
            Unexpected::Unit | Unexpected::Option => "nothing",
            Unexpected::Seq => "a list",
            _ => "a mapping",
        };
        Self(format!(
            "must be {}, this is {found}",
            known_as(&expected.to_string())
        ))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self(format!("must be {}", known_as(&expected.to_string())))
    }
}

/// What people call what a type expects.
fn known_as(expected: &str) -> String {
    match expected {
        "IntOrString" => "a whole number or text".to_owned(),
        "Quantity" => "a quantity such as `100m` or `64Mi`".to_owned(),
        other => other.to_owned(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// A value at a path.
#[derive(Clone)]
struct At<'v, 'n> {
    value: &'v Value,
    path: Vec<Step>,
    notes: &'n RefCell<Vec<Finding>>,
}

impl<'v> At<'v, '_> {
    fn note(&self, found: Found) {
        self.notes.borrow_mut().push(Finding {
            path: self.path.clone(),
            found,
        });
    }

    /// Notes that something else is wanted, unless there is nothing: that is the type's empty value.
    fn wrong(&self, wanted: &str) {
        if self.value.is_null() {
            return;
        }
        let hint = match (wanted, self.value) {
            ("text", Value::Number(_) | Value::Bool(_)) => ": put it in quotes",
            ("a whole number" | "a number", Value::String(text)) if text.parse::<f64>().is_ok() => {
                ": write it without quotes"
            }
            ("a boolean", Value::String(text)) if ["true", "false"].contains(&text.as_str()) => {
                ": write it without quotes"
            }
            ("a boolean", _) => ": write `true` or `false`",
            ("a list", _) => ": begin each element with `- `",
            ("a mapping", Value::Array(_)) => ": leave the `- ` out",
            _ => "",
        };
        self.note(Found::Wrong(format!(
            "must be {wanted}, this is {}{hint}",
            kind_of(self.value)
        )));
    }

    fn inside(&self, step: Step, value: &'v Value) -> Self {
        let mut path = self.path.clone();
        path.push(step);
        Self {
            value,
            path,
            notes: self.notes,
        }
    }

    /// The type's value; after a problem an empty one.
    fn read<T: Deserialize<'v>>(self) -> Result<T, Refused> {
        let noted = self.clone();
        match T::deserialize(self) {
            Err(Refused(problem)) => {
                if !problem.is_empty() {
                    noted.note(Found::Wrong(problem));
                }
                empty()
            }
            read => read,
        }
    }

    fn integer(&self, least: i64, most: i64) -> i64 {
        match self.value.as_i64() {
            Some(number) if (least..=most).contains(&number) => number,
            Some(_) => {
                self.note(Found::Wrong(format!("must be from {least} to {most}")));
                0
            }
            None if self.value.is_u64() => {
                self.note(Found::Wrong(format!("must be from {least} to {most}")));
                0
            }
            None => {
                self.wrong("a whole number");
                0
            }
        }
    }
}

/// The refusal of an empty text that stands for a value whose problem is noted already.
fn told() -> Refused {
    Refused(String::new())
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            let most = i64::try_from(<$type>::MAX).unwrap_or(i64::MAX);
            let least = i64::try_from(<$type>::MIN).unwrap_or(0);
            let number = self.integer(least, most);
            visitor.$visit(<$type>::try_from(number).unwrap_or_default())
        }
    )*};
}

impl<'de> Deserializer<'de> for At<'de, '_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_i64(number),
                (None, Some(number), _) => visitor.visit_u64(number),
                (None, None, number) => visitor.visit_f64(number.unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    integers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64,
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        if !self.value.is_boolean() {
            self.wrong("a boolean");
        }
        visitor.visit_bool(self.value.as_bool().unwrap_or_default())
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        if !self.value.is_number() {
            self.wrong("a number");
        }
        visitor.visit_f64(self.value.as_f64().unwrap_or_default())
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.value {
            Value::String(text) => visitor.visit_borrowed_str(text),
            _ => {
                self.wrong("text");
                visitor.visit_str("").map_err(|_: Refused| told())
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        if self.value.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        // Kubernetes takes a quantity without a unit as a number, too.
        if name == "Quantity" && self.value.is_number() {
            return visitor.visit_newtype_struct(Empty("0"));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let elements: &'de [Value] = match self.value {
            Value::Array(elements) => elements,
            _ => {
                self.wrong("a list");
                &[]
            }
        };
        visitor.visit_seq(Elements {
            list: self,
            rest: elements.iter().enumerate(),
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let entries = self.entries();
        visitor.visit_map(Entries {
            map: self,
            rest: entries.into_iter(),
            next: None,
            as_field: false,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let mut known = Vec::new();
        for (key, value) in self.entries() {
            let inside = self.inside(Step::Field(key.clone()), value);
            match fields.iter().find(|field| *field == key) {
                Some(field) => {
                    if !value.is_null() {
                        inside.note(Found::Used(name, field));
                    }
                    known.push((key, value));
                }
                None => inside.note(Found::Unknown(suggestion(key, fields))),
            }
        }
        visitor.visit_map(Entries {
            map: self,
            rest: known.into_iter(),
            next: None,
            as_field: true,
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

impl<'v> At<'v, '_> {
    fn entries(&self) -> Vec<(&'v String, &'v Value)> {
        match self.value {
            Value::Object(map) => map.iter().collect(),
            _ => {
                self.wrong("a mapping");
                Vec::new()
            }
        }
    }
}

fn suggestion(key: &str, fields: &[&str]) -> Option<String> {
    let nearest = fields
        .iter()
        .map(|field| {
            (
                strsim::damerau_levenshtein(&field.to_lowercase(), &key.to_lowercase()),
                *field,
            )
        })
        .min()?;
    (nearest.0 <= 2.max(key.len() / 4)).then(|| format!("did you mean `{}`?", nearest.1))
}

struct Elements<'v, 'n> {
    list: At<'v, 'n>,
    rest: std::iter::Enumerate<std::slice::Iter<'v, Value>>,
}

impl<'de> SeqAccess<'de> for Elements<'de, '_> {
    type Error = Refused;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Refused> {
        let Some((index, value)) = self.rest.next() else {
            return Ok(None);
        };
        seed.deserialize(self.list.inside(Step::Index(index), value))
            .map(Some)
    }

    fn next_element<T: Deserialize<'de>>(&mut self) -> Result<Option<T>, Refused> {
        let Some((index, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.list.inside(Step::Index(index), value).read().map(Some)
    }
}

struct Entries<'v, 'n> {
    map: At<'v, 'n>,
    rest: std::vec::IntoIter<(&'v String, &'v Value)>,
    next: Option<(&'v String, &'v Value)>,
    as_field: bool,
}

impl<'v, 'n> Entries<'v, 'n> {
    fn value(&mut self) -> Result<At<'v, 'n>, Refused> {
        let (key, value) = self
            .next
            .take()
            .ok_or_else(|| Refused("a value without a key".to_owned()))?;
        let step = if self.as_field {
            Step::Field(key.clone())
        } else {
            Step::Key(key.clone())
        };
        Ok(self.map.inside(step, value))
    }
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Refused;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Refused> {
        let Some(entry) = self.rest.next() else {
            return Ok(None);
        };
        self.next = Some(entry);
        let key: StrDeserializer<'_, Refused> = entry.0.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        seed.deserialize(self.value()?)
    }

    fn next_value<T: Deserialize<'de>>(&mut self) -> Result<T, Refused> {
        self.value()?.read()
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
