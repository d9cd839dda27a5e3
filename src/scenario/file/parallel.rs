//! Reads `parallel = ["a", "b"]`, and whether the steps that it names can be started so.

use std::collections::BTreeMap;

use super::Value;
use crate::model::reader::{Table, suggestion};
use crate::scenario::spec::Action;

/// The steps that a step starts together.
pub(super) fn read(value: &Value<'_, '_>) -> Option<Action> {
    let values = value.array()?;
    if values.is_empty() {
        value.problem(
            "starts no step",
            Some("the ids of steps that stand later, such as `[\"kill\", \"update\"]`".into()),
        );
        return None;
    }
    let names: Vec<Option<String>> = values
        .iter()
        .map(|name| name.string().map(str::to_owned))
        .collect();
    let names: Option<Vec<String>> = names.into_iter().collect();
    names.map(Action::Parallel)
}

/// A step as it is written, whatever problems it has.
struct Written<'r, 't> {
    id: &'r str,
    starts: Vec<Value<'r, 't>>,
    when: Option<Value<'r, 't>>,
}

/// Refuses names of steps that cannot be started together: there is none, it stands before or starts this one, or another starts it.
pub(super) fn check(root: &Table<'_, '_>) {
    let steps = root.get("step").and_then(|value| value.if_array());
    let steps: Vec<Written<'_, '_>> = steps
        .unwrap_or_default()
        .iter()
        .map(|value| {
            let table = value.if_table();
            let get = |key: &str| table.as_ref().and_then(|table| table.get(key));
            Written {
                id: get("id").and_then(|id| id.if_string()).unwrap_or_default(),
                starts: get("parallel")
                    .and_then(|value| value.if_array())
                    .unwrap_or_default(),
                when: get("when"),
            }
        })
        .collect();
    let mut started: BTreeMap<&str, &str> = BTreeMap::new();
    for (index, step) in steps.iter().enumerate() {
        for value in &step.starts {
            let Some(name) = value.if_string() else {
                continue;
            };
            if let Some(at) = later(&steps, index, name, value) {
                start(&steps[at], step, value, &mut started);
            }
        }
    }
}

/// Where the named step stands, if it is one that stands later.
fn later(
    steps: &[Written<'_, '_>],
    index: usize,
    name: &str,
    value: &Value<'_, '_>,
) -> Option<usize> {
    let step = &steps[index];
    if name == step.id {
        value.problem(format!("`{name}` cannot start itself"), None);
        return None;
    }
    let Some(at) = steps.iter().position(|other| other.id == name) else {
        let known: Vec<&str> = steps[index + 1..].iter().map(|other| other.id).collect();
        value.problem(
            format!("there is no step `{name}`"),
            suggestion(name, &known),
        );
        return None;
    };
    if at > index {
        return Some(at);
    }
    if reaches(steps, at, step.id) {
        value.problem(
            format!(
                "`{name}` starts `{}`: they would wait for each other",
                step.id
            ),
            None,
        );
    } else {
        value.problem(
            format!("`{name}` stands before this step"),
            Some("name steps that stand later".into()),
        );
    }
    None
}

/// Whether a step starts the one of this id, itself or by others.
fn reaches(steps: &[Written<'_, '_>], from: usize, id: &str) -> bool {
    let mut seen = vec![from];
    let mut next = 0;
    while let Some(at) = seen.get(next).copied() {
        next += 1;
        for name in steps[at].starts.iter().filter_map(Value::if_string) {
            if name == id {
                return true;
            }
            let found = steps.iter().position(|step| step.id == name);
            if let Some(found) = found.filter(|found| !seen.contains(found)) {
                seen.push(found);
            }
        }
    }
    false
}

/// Notes who starts a step, of which there may be one; it begins then, and not by a `when`.
fn start<'s>(
    step: &Written<'s, '_>,
    starter: &Written<'s, '_>,
    value: &Value<'_, '_>,
    started: &mut BTreeMap<&'s str, &'s str>,
) {
    if let Some(other) = started.insert(step.id, starter.id) {
        value.problem(
            format!("`{}` is started by `{other}` already", step.id),
            None,
        );
    }
    if let Some(when) = &step.when {
        when.problem(
            format!("`{}` begins when `{}` starts it", step.id, starter.id),
            Some("without `when`".into()),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Against, parse};
    use crate::scenario::spec::{Action, Scenario};

    fn read(steps: &[&str]) -> Result<Scenario, Vec<String>> {
        let steps: Vec<String> = steps
            .iter()
            .map(|step| format!("[[step]]\n{step}\n"))
            .collect();
        let text = format!("flightcage = 1\n{}", steps.concat());
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        parse(Path::new("demo.toml"), &text, &against).map_err(|refusal| {
            let told = refusal.problems().iter();
            told.map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
                .collect()
        })
    }

    const A: &str = "id = \"a\"\npause = \"1s\"";
    const B: &str = "id = \"b\"\npause = \"1s\"";

    #[test]
    fn later_steps_are_started_together() {
        let scenario = read(&["id = \"both\"\nparallel = [\"a\", \"b\"]", A, B]).unwrap();
        match &scenario.steps[0].action {
            Action::Parallel(names) => assert_eq!(names, &["a", "b"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_started_so_is_told_with_its_place() {
        let told = |steps: &[&str]| read(steps).unwrap_err();
        assert_eq!(
            told(&[
                "id = \"both\"\nparallel = [\"both\", \"c\", \"a\", \"a\", 1]",
                A
            ]),
            [
                "4:13 `both` cannot start itself",
                "4:21 there is no step `c`",
                "4:31 `a` is started by `both` already",
                "4:36 expected a string, found an integer",
            ]
        );
        assert_eq!(
            told(&[A, "id = \"both\"\nparallel = [\"a\"]"]),
            ["7:13 `a` stands before this step"]
        );
        assert_eq!(
            told(&[
                "id = \"p\"\nparallel = [\"q\"]",
                "id = \"q\"\nparallel = [\"r\"]",
                "id = \"r\"\nparallel = [\"p\"]",
            ]),
            ["10:13 `p` starts `r`: they would wait for each other"]
        );
        assert_eq!(
            told(&[
                "id = \"p\"\nparallel = [\"a\"]",
                "id = \"q\"\nparallel = [\"a\"]",
                A,
            ]),
            ["7:13 `a` is started by `p` already"]
        );
        assert_eq!(
            told(&["id = \"p\"\nparallel = []"]),
            ["4:12 starts no step"]
        );
        assert_eq!(
            told(&[
                "id = \"p\"\nparallel = [\"a\"]",
                "id = \"a\"\nwhen = { step = \"p\" }\npause = \"1s\"",
            ]),
            ["7:8 `a` begins when `p` starts it"]
        );
    }
}
