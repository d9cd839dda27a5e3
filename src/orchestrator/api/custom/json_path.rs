//! Kubernetes' JSONPath as definitions use it, for columns and for scale (client-go/util/jsonpath): fields, elements, filters by one
//! comparison.

use serde_json::Value;

/// A path, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// From the end if it is negative.
    Element(i64),
    All,
    /// Elements whose field has, or has not, this value; without one, those that have the field.
    Filter(Vec<Step>, Option<(bool, Value)>),
}

/// Longest path.
const PATH_BYTES: usize = 1024;

impl JsonPath {
    /// Reads a path that begins with a point.
    pub(super) fn read(text: &str) -> Result<Self, &'static str> {
        if text.len() > PATH_BYTES {
            return Err("is too long");
        }
        if !text.starts_with('.') && !text.starts_with('[') {
            return Err("should be a simple json path starting with .");
        }
        steps(text).map(Self)
    }

    /// The names of a path of nothing but fields.
    pub(super) fn fields(&self) -> Option<Vec<&str>> {
        self.0
            .iter()
            .map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                Step::Element(_) | Step::All | Step::Filter(..) => None,
            })
            .collect()
    }

    /// The first value at it.
    pub(super) fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        first(&self.0, value)
    }
}

fn first<'v>(steps: &[Step], value: &'v Value) -> Option<&'v Value> {
    let Some((step, rest)) = steps.split_first() else {
        return Some(value);
    };
    match step {
        Step::Field(name) => first(rest, value.get(name)?),
        Step::Element(number) => {
            let list = value.as_array()?;
            let place = if *number < 0 {
                list.len()
                    .checked_sub(usize::try_from(number.unsigned_abs()).ok()?)?
            } else {
                usize::try_from(*number).ok()?
            };
            first(rest, list.get(place)?)
        }
        Step::All => children(value).find_map(|one| first(rest, one)),
        Step::Filter(path, wanted) => children(value)
            .filter(|one| match (first(path, one), wanted) {
                (found, None) => found.is_some(),
                (found, Some((equal, wanted))) => {
                    found.is_some_and(|found| (found == wanted) == *equal)
                }
            })
            .find_map(|one| first(rest, one)),
    }
}

fn children(value: &Value) -> impl Iterator<Item = &Value> {
    let list = value.as_array().into_iter().flatten();
    let map = value
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::values);
    list.chain(map)
}

fn steps(text: &str) -> Result<Vec<Step>, &'static str> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let (name, after) = field(after);
            // `.items[0]` and `..` have nothing between: the first is fine.
            match name.as_str() {
                "" if after.starts_with('[') => {}
                "" => return Err("has a step without a name"),
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (inner, after) = bracket(after)?;
            steps.push(in_brackets(inner)?);
            rest = after;
        } else {
            return Err("has something else than a field or brackets after a step");
        }
    }
    Ok(steps)
}

/// A field's name, in which a backslash takes the meaning of a point, and what follows.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut escaped = false;
    for (place, letter) in text.char_indices() {
        match letter {
            _ if escaped => {
                name.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            '.' | '[' => return (name, &text[place..]),
            _ => name.push(letter),
        }
    }
    (name, "")
}

/// What stands in brackets, whose opening one is read, and what follows.
fn bracket(text: &str) -> Result<(&str, &str), &'static str> {
    let (mut quote, mut depth) = (None, 0_usize);
    for (place, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth > 0 => depth -= 1,
            (None, ']') => return Ok((&text[..place], &text[place + 1..])),
            (None, _) => {}
        }
    }
    Err("has a bracket that does not end")
}

fn in_brackets(inner: &str) -> Result<Step, &'static str> {
    let inner = inner.trim();
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = quoted(inner) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Ok(number) = inner.parse() {
        return Ok(Step::Element(number));
    }
    let filter = inner
        .strip_prefix("?(")
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or("has brackets with something else than a number, a name, * or a filter")?;
    let (path, wanted) = if let Some((path, value)) = filter.split_once("==") {
        (path, Some((true, literal(value.trim())?)))
    } else if let Some((path, value)) = filter.split_once("!=") {
        (path, Some((false, literal(value.trim())?)))
    } else {
        (filter, None)
    };
    let path = path
        .trim()
        .strip_prefix('@')
        .ok_or("has a filter that does not begin with @")?;
    let inside = steps(path)?;
    if inside.iter().any(|step| matches!(step, Step::Filter(..))) {
        return Err("has a filter in a filter");
    }
    Ok(Step::Filter(inside, wanted))
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

fn literal(text: &str) -> Result<Value, &'static str> {
    match quoted(text) {
        Some(text) => Ok(Value::from(text)),
        None => serde_json::from_str(text).map_err(|_| "compares with something that is no value"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_somewhere() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"list": [{"n": "a", "v": 1}, {"n": "b", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (path, expected) in [
            (".spec.list[0].v", json!(1)),
            (".spec.list[-1].v", json!(2)),
            (".spec.list[*].n", json!("a")),
            (".spec.list[?(@.n=='b')].v", json!(2)),
            (".spec.list[?(@.v!=1)].n", json!("b")),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!("True"),
            ),
            (r".metadata.annotations.a\.b/c", json!("x")),
            (".metadata.annotations['a.b/c']", json!("x")),
        ] {
            let read = JsonPath::read(path).expect(path);
            assert_eq!(read.find(&object), Some(&expected), "{path}");
        }
        let absent = JsonPath::read(".spec.list[9].v").expect("right");
        assert_eq!(absent.find(&object), None);
    }

    #[test]
    fn others_are_refused() {
        for path in [
            "",
            "spec",
            ".a[",
            ".a..b",
            ".a[?(b==1)]",
            ".a[?(@.b==x)]",
            ".a[1]b",
        ] {
            assert!(JsonPath::read(path).is_err(), "{path}");
        }
        let plain = JsonPath::read(".spec.replicas").expect("right");
        assert_eq!(plain.fields(), Some(vec!["spec", "replicas"]));
    }
}
