//! Label and field selectors.

use serde_json::Value;

use super::kinds::Kind;
use super::status::Status;

/// Which objects of a kind are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<LabelRequirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelRequirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    field: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// From `labelSelector` and `fieldSelector` of a request.
    pub fn parse(kind: &Kind, labels: Option<&str>, fields: Option<&str>) -> Result<Self, Status> {
        let labels = split_labels(labels.unwrap_or_default())
            .into_iter()
            .map(|part| label_requirement(&part))
            .collect::<Result<_, _>>()?;
        let fields = fields
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| field_requirement(kind, part))
            .collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether the object is meant.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|wanted| wanted.matches(object))
            && self.fields.iter().all(|wanted| wanted.matches(object))
    }

    /// The value a field is required to equal, if it is.
    #[must_use]
    pub fn required_field(&self, field: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|wanted| wanted.equal && wanted.field == field)
            .map(|wanted| wanted.value.as_str())
    }
}

impl LabelRequirement {
    fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| {
            object
                .get("metadata")
                .and_then(|meta| meta.get("labels"))
                .and_then(|labels| labels.get(key))
                .and_then(Value::as_str)
        };
        match self {
            Self::In(key, values) => {
                label(key).is_some_and(|found| values.iter().any(|value| value == found))
            }
            Self::NotIn(key, values) => {
                label(key).is_none_or(|found| values.iter().all(|value| value != found))
            }
            Self::Exists(key) => label(key).is_some(),
            Self::Absent(key) => label(key).is_none(),
        }
    }
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let found = self
            .field
            .split('.')
            .try_fold(object, |inner, part| inner.get(part));
        let found = match found {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            _ if self.field == "spec.unschedulable" => "false".to_owned(),
            _ => String::new(),
        };
        (found == self.value) == self.equal
    }
}

/// Splits at commas outside parentheses.
fn split_labels(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut depth) = (Vec::new(), String::new(), 0_u32);
    for letter in text.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(letter);
    }
    parts.push(part);
    parts
        .iter()
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

fn label_requirement(part: &str) -> Result<LabelRequirement, Status> {
    let refused = || Status::bad_request(format!("unable to parse requirement: `{part}`"));
    if let Some(key) = part.strip_prefix('!') {
        return Ok(LabelRequirement::Absent(key.trim().to_owned()));
    }
    if let Some(inner) = part.strip_suffix(')') {
        let (head, values) = inner.split_once('(').ok_or_else(refused)?;
        let values = values
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(LabelRequirement::In(key.to_owned(), values)),
            (Some(key), Some("notin"), None) => Ok(LabelRequirement::NotIn(key.to_owned(), values)),
            _ => Err(refused()),
        };
    }
    let pair = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    if let Some((key, value)) = part.split_once("!=") {
        let (key, values) = pair(key, value);
        return Ok(LabelRequirement::NotIn(key, values));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let (key, values) = pair(key, value);
        return Ok(LabelRequirement::In(key, values));
    }
    if part.contains(char::is_whitespace) {
        Err(refused())
    } else {
        Ok(LabelRequirement::Exists(part.to_owned()))
    }
}

fn field_requirement(kind: &Kind, part: &str) -> Result<FieldRequirement, Status> {
    let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
        (field, value, false)
    } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (field, value, true)
    } else {
        return Err(Status::bad_request(format!(
            "invalid selector: '{part}'; can't understand '{part}'"
        )));
    };
    let known = ["metadata.name", "metadata.namespace"].contains(&field)
        || kind.strategy.selectable_fields.contains(&field)
        || kind
            .definition()
            .is_some_and(|definition| definition.selectable.iter().any(|known| known == field));
    if !known {
        return Err(Status::bad_request(format!(
            "field label not supported: {field}"
        )));
    }
    Ok(FieldRequirement {
        field: field.to_owned(),
        value: value.to_owned(),
        equal,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::kinds;

    #[test]
    fn labels() {
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "web", "tier": "front"}}});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web, db),tier notin (back)", true),
            ("app notin (web)", false),
            ("missing notin (x)", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("missing=x", false),
        ] {
            let parsed = Selector::parse(&kinds::POD, Some(selector), None).expect("parses");
            assert_eq!(parsed.matches(&pod), expected, "{selector}");
        }
        assert!(Selector::parse(&kinds::POD, Some("app maybe (x)"), None).is_err());
    }

    #[test]
    fn fields() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "w1"}, "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("metadata.name=p", true),
            ("spec.nodeName=w1,status.phase!=Failed", true),
            ("spec.nodeName=", false),
        ] {
            let parsed = Selector::parse(&kinds::POD, None, Some(selector)).expect("parses");
            assert_eq!(parsed.matches(&pod), expected, "{selector}");
        }
        let parsed = Selector::parse(&kinds::POD, None, Some("spec.nodeName=w1")).expect("parses");
        assert_eq!(parsed.required_field("spec.nodeName"), Some("w1"));
        assert!(Selector::parse(&kinds::POD, None, Some("spec.color=red")).is_err());
    }
}
