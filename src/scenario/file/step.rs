//! Reads `[[step]]`.

use std::time::Duration;

use super::deploy::manifest_file;
use super::{Reading, count, fault, is_word, parallel, positive, status, url};
use crate::model::reader::{Table, Value, suggestion};
use crate::scenario::spec::{Action, Condition, Exec, Progress, Step, UpdateEnd, When, Which};
use crate::scenario::steps::{self, STEPS};

/// kubectl's default pause between the pods of a rolling update.
const UPDATE_PERIOD: Duration = Duration::from_mins(1);
/// How long a rolling update may take that says nothing.
const UPDATE_WITHIN: Duration = Duration::from_mins(5);

/// What a step may do, by its key.
pub(in crate::scenario) fn actions() -> Vec<&'static str> {
    const ACTIONS: [&str; 9] = [
        "fault",
        "wait",
        "rolling_update",
        "rollback",
        "delete_pod",
        "exec",
        "apply",
        "http",
        "parallel",
    ];
    let others = STEPS.iter().map(|step| step.key);
    ACTIONS.into_iter().chain(others).collect()
}

pub(super) fn step(table: &Table<'_, '_>, reading: &Reading<'_>, earlier: &[Step]) -> Option<Step> {
    let actions = actions();
    table.allow(&[&["id", "when"][..], &actions].concat());
    let id = table.require("id").and_then(|value| {
        let id = value.string()?;
        if !is_word(id) {
            value.problem(format!("`{id}` is not a name of `[a-z0-9-]+`"), None);
        }
        let place = value.place();
        let other = reading.steps.borrow_mut().insert(id.to_owned(), place);
        if let Some(other) = other {
            let help = format!("the other is at {other}");
            value.problem(format!("there are two steps `{id}`"), Some(help));
        }
        Some(id.to_owned())
    });
    let when = table
        .get("when")
        .and_then(|value| value.table())
        .and_then(|table| when(&table, earlier));
    let written: Vec<&str> = actions
        .iter()
        .copied()
        .filter(|action| table.get(action).is_some())
        .collect();
    let [action] = written[..] else {
        let help = Some(format!("one of `{}`", actions.join("`, `")));
        table.problem(
            if written.is_empty() {
                "the step does nothing"
            } else {
                "the step does several things"
            },
            help,
        );
        return None;
    };
    let value = table.get(action)?;
    let action = match STEPS.iter().find(|step| step.key == action) {
        Some(step) => (step.read)(&value, &reading.nodes).map(Action::Other),
        None if action == "parallel" => parallel::read(&value),
        None => of_table(action, &value.table()?, reading, earlier),
    };
    Some(Step {
        id: id?,
        when,
        action: action?,
        drawn: None,
    })
}

/// The steps that are variants of [`Action`].
fn of_table(
    action: &str,
    inner: &Table<'_, '_>,
    reading: &Reading<'_>,
    earlier: &[Step],
) -> Option<Action> {
    match action {
        "fault" => fault::fault(inner, &reading.nodes),
        "wait" => wait(inner, earlier),
        "rolling_update" => rolling_update(inner, reading),
        "rollback" => rollback(inner),
        "delete_pod" => delete_pod(inner),
        "exec" => exec(inner),
        "apply" => apply(inner, reading),
        "http" => http_step(inner),
        _ => None,
    }
}

fn earlier_step<'s>(value: &Value<'_, '_>, earlier: &'s [Step]) -> Option<&'s Step> {
    let id = value.string()?;
    let found = earlier.iter().find(|step| step.id == id);
    if found.is_none() {
        let known: Vec<&str> = earlier.iter().map(|step| step.id.as_str()).collect();
        value.problem(
            format!("there is no step `{id}` before this one"),
            suggestion(id, &known),
        );
    }
    found
}

pub(super) fn when(table: &Table<'_, '_>, earlier: &[Step]) -> Option<When> {
    table.allow(&["step", "plus", "replaced"]);
    let step = table
        .require("step")
        .and_then(|value| earlier_step(&value, earlier));
    let progress = match (table.get("plus"), table.get("replaced")) {
        (Some(plus), None) => plus.duration().map(Progress::Plus),
        (None, Some(value)) => {
            if step.is_some_and(|step| !matches!(step.action, Action::RollingUpdate { .. })) {
                value.problem(
                    "`replaced` counts the pods of a `rolling_update` step",
                    None,
                );
            }
            count(&value).map(Progress::Replaced)
        }
        (None, None) => Some(Progress::Plus(Duration::ZERO)),
        (Some(_), Some(value)) => {
            value.problem("`plus` and `replaced` exclude each other", None);
            None
        }
    };
    Some(When {
        step: step?.id.clone(),
        progress: progress?,
    })
}

fn wait(table: &Table<'_, '_>, earlier: &[Step]) -> Option<Action> {
    if table.get("kind").is_some() {
        return steps::read_wait(table).map(Action::Other);
    }
    table.allow(&["replicas_ready", "nodes_ready", "within"]);
    let within = table.require("within").and_then(|value| positive(&value));
    let condition = match (table.get("replicas_ready"), table.get("nodes_ready")) {
        (Some(replicas), None) => replicas.table().and_then(|table| {
            table.allow(&["rc", "count", "avoiding"]);
            let rc = table
                .require("rc")
                .and_then(|value| value.string())
                .map(str::to_owned);
            let count = table.require("count").and_then(|value| count(&value));
            let avoiding = table.get("avoiding").and_then(|value| {
                let step = earlier_step(&value, earlier)?;
                if !matches!(step.action, Action::Fault { .. }) {
                    value.problem(format!("step `{}` is not a fault", step.id), None);
                }
                Some(step.id.clone())
            });
            Some(Condition::ReplicasReady {
                rc: rc?,
                count: count?,
                avoiding,
            })
        }),
        (None, Some(nodes)) => count(&nodes).map(Condition::NodesReady),
        _ => {
            table.problem(
                "name one thing to wait for",
                Some("`replicas_ready`, `nodes_ready`, or `kind` and `name` of an object".into()),
            );
            None
        }
    };
    Some(Action::Wait {
        condition: condition?,
        within: within?,
    })
}

fn rolling_update(table: &Table<'_, '_>, reading: &Reading<'_>) -> Option<Action> {
    table.allow(&["from", "to", "update_period", "within", "ends"]);
    let from = table
        .require("from")
        .and_then(|value| value.string())
        .map(str::to_owned);
    let to = table.require("to").and_then(|value| {
        let (path, manifests) = manifest_file(&value, reading)?;
        if reading.manifests
            && !manifests
                .iter()
                .any(|manifest| manifest.kind.kind == "ReplicationController")
        {
            value.problem(
                format!("`{}` holds no ReplicationController", path.display()),
                None,
            );
        }
        Some(path)
    });
    let update_period = table
        .get("update_period")
        .map_or(Some(UPDATE_PERIOD), |value| value.duration());
    let within = table
        .get("within")
        .map_or(Some(UPDATE_WITHIN), |value| positive(&value));
    let ends = table
        .get("ends")
        .map_or(Some(UpdateEnd::Done), |value| match value.string()? {
            "done" => Some(UpdateEnd::Done),
            "stopped" => Some(UpdateEnd::Stopped),
            other => {
                value.problem(
                    format!("`{other}` is not how an update ends"),
                    Some("`done` or `stopped`".into()),
                );
                None
            }
        });
    Some(Action::RollingUpdate {
        from: from?,
        to: to?,
        update_period: update_period?,
        within: within?,
        ends: ends?,
    })
}

fn rollback(table: &Table<'_, '_>) -> Option<Action> {
    table.allow(&["old", "new", "within"]);
    let old = table
        .require("old")
        .and_then(|value| value.string())
        .map(str::to_owned);
    let new = table
        .require("new")
        .and_then(|value| value.string())
        .map(str::to_owned);
    let within = table.require("within").and_then(|value| positive(&value));
    Some(Action::Rollback {
        old: old?,
        new: new?,
        within: within?,
    })
}

fn delete_pod(table: &Table<'_, '_>) -> Option<Action> {
    table.allow(&["rc", "grace"]);
    let rc = table
        .require("rc")
        .and_then(|value| value.string())
        .map(str::to_owned);
    let grace = table.require("grace").and_then(|value| value.duration());
    Some(Action::DeletePod {
        rc: rc?,
        grace: grace?,
    })
}

fn exec(table: &Table<'_, '_>) -> Option<Action> {
    table.allow(&["rc", "command", "pods", "contains", "within"]);
    let rc = table
        .require("rc")
        .and_then(|value| value.string())
        .map(str::to_owned);
    let command = table.require("command").and_then(|value| {
        let words: Option<Vec<String>> = value
            .array()?
            .iter()
            .map(|word| word.string().map(str::to_owned))
            .collect();
        if words.as_ref().is_some_and(Vec::is_empty) {
            value.problem("a command names at least a program", None);
        }
        words
    });
    let pods = table
        .get("pods")
        .map_or(Some(Which::One), |value| match value.string()? {
            "one" => Some(Which::One),
            "all" => Some(Which::All),
            other => {
                value.problem(
                    format!("`{other}` does not say which pods"),
                    Some("`one` or `all`".into()),
                );
                None
            }
        });
    let contains = table.get("contains").map_or(Some(None), |value| {
        value.string().map(|text| Some(text.to_owned()))
    });
    let within = table.require("within").and_then(|value| positive(&value));
    Some(Action::Exec(Exec {
        rc: rc?,
        command: command?,
        pods: pods?,
        contains: contains?,
        within: within?,
    }))
}

fn apply(table: &Table<'_, '_>, reading: &Reading<'_>) -> Option<Action> {
    table.allow(&["file"]);
    Some(Action::Apply(
        table
            .require("file")
            .and_then(|value| manifest_file(&value, reading))?
            .0,
    ))
}

fn http_step(table: &Table<'_, '_>) -> Option<Action> {
    table.allow(&["url", "status", "within"]);
    let url = table.require("url").and_then(|value| url(&value));
    let status = table.require("status").and_then(|value| status(&value));
    let within = table.require("within").and_then(|value| positive(&value));
    Some(Action::Http {
        url: url?,
        status: status?,
        within: within?,
    })
}
