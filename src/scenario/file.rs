//! Reads a scenario file: TOML to [`Scenario`], every problem at once.

mod against;
mod deploy;
mod fault;
mod lint;
mod matrix;
mod rate;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::spec::{
    Action, Baseline, Capability, Condition, Deploy, Exec, Load, Progress, Scenario, Step,
    StreamKind, UpdateEnd, Url, When, Which,
};
use super::{expectations, file_problem::ScenarioFileError};
use crate::cluster::file::cluster;
use crate::kubernetes::manifest::Check;
use crate::model::diagnostic::Refusal;
use crate::model::reader::{Problems, Table, Value, suggestion};
use crate::model::text_file;
use against::Nodes;
pub use against::{Against, Machines};
use deploy::{DEPLOY_WAIT, deploy, manifest_file};

/// The format this program reads.
const FORMAT: u64 = 1;
/// How long the baseline may take that says nothing.
const BASELINE_WITHIN: Duration = Duration::from_mins(1);
/// kubectl's default pause between the pods of a rolling update.
const UPDATE_PERIOD: Duration = Duration::from_mins(1);
/// How long a rolling update may take that says nothing.
const UPDATE_WITHIN: Duration = Duration::from_mins(5);
const STATUS: RangeInclusive<u64> = 100..=599;
const COUNT: RangeInclusive<u64> = 0..=10_000;
/// Longest name of a scenario, load or step: names become files' names, which systems limit to 255 bytes.
const WORD_MAX: usize = 200;

/// Reads a scenario.
///
/// # Errors
/// When the file cannot be read, or has problems: all of them.
pub fn read(path: &Path, against: &Against<'_>) -> Result<Scenario, ScenarioFileError> {
    let text = text_file::read(path).map_err(|error| {
        let file = path.display().to_string();
        match error.located(&file) {
            Ok(refusal) => ScenarioFileError::Refused(refusal),
            Err(error) => ScenarioFileError::Read {
                file,
                source: error.into_io(),
            },
        }
    })?;
    Ok(parse(path, &text, against)?)
}

/// Parses the text of a scenario file; `path` gives its name and the folder that its manifests are relative to.
///
/// # Errors
/// When it has problems: all of them.
pub fn parse(path: &Path, text: &str, against: &Against<'_>) -> Result<Scenario, Refusal> {
    let file = path.display().to_string();
    let problems = Problems::new(&file, text);
    let document = problems.parse();
    let root = Table::of(&problems, &document);
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if !is_word(&name) {
        problems.add(
            0..0,
            format!("a scenario's name is its file's stem, and `{name}` is not `[a-z0-9-]+`"),
            None,
        );
    }
    let scenario = scenario(&root, name, path, against);
    let cannot_fail = lint::cannot_fail(&root, &problems, &scenario);
    drop(document);
    let warnings = problems.warnings();
    problems.finish(Scenario {
        text: text.to_owned(),
        warnings,
        cannot_fail,
        ..scenario
    })
}

/// What the parts of a file are read with.
struct Reading<'a> {
    /// Manifests are relative to it.
    folder: &'a Path,
    nodes: Nodes,
    check: Check,
    /// Whether manifests must be there.
    manifests: bool,
}

fn scenario(root: &Table<'_, '_>, name: String, path: &Path, against: &Against<'_>) -> Scenario {
    root.allow(&[
        "flightcage",
        "needs",
        "matrix",
        "cluster",
        "deploy",
        "load",
        "step",
        "expect",
    ]);
    if let Some(value) = root.get("flightcage") {
        if value
            .integer(0..=u64::MAX)
            .is_some_and(|format| format != FORMAT)
        {
            value.problem(
                "unknown format version",
                Some(format!("this program reads `flightcage = {FORMAT}`")),
            );
        }
    } else {
        root.problem_at_start(
            "`flightcage` is missing",
            Some(format!("begin with `flightcage = {FORMAT}`")),
        );
    }
    let needs = array(root, "needs")
        .iter()
        .filter_map(|value| word(value, "capability", &Capability::ALL))
        .collect();
    let matrix = root
        .get("matrix")
        .and_then(|value| value.table())
        .and_then(|table| matrix::matrix(&table));
    let before = root.problems_so_far();
    let spec = root
        .get("cluster")
        .and_then(|value| value.table())
        .map(|table| cluster(&table, against.cluster_name));
    // The machines of a cluster that was refused are not known.
    let nodes = if root.problems_so_far() == before {
        Nodes::of(against, spec.as_ref())
    } else {
        Nodes::any()
    };
    let reading = Reading {
        folder: path.parent().unwrap_or_else(|| Path::new("")),
        nodes,
        check: against.manifests,
        manifests: !matches!(against.machines, Machines::Gone),
    };
    let deploy = root
        .get("deploy")
        .and_then(|value| value.table())
        .map_or_else(
            || Deploy {
                files: Vec::new(),
                tls_secret: None,
                wait: DEPLOY_WAIT,
            },
            |table| deploy(&table, &reading),
        );
    let mut loads = BTreeMap::new();
    for (name, span, value) in root
        .get("load")
        .and_then(|value| value.table())
        .map(|table| table.entries())
        .unwrap_or_default()
    {
        if !is_word(name) {
            root.problem_with(span, format!("`{name}` is not a name of `[a-z0-9-]+`"));
        }
        if let Some(load) = value.table().and_then(|table| load(&table)) {
            loads.insert(name.to_owned(), load);
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    for value in array(root, "step") {
        if let Some(step) = value
            .table()
            .and_then(|table| step(&table, &reading, &steps))
        {
            steps.push(step);
        }
    }
    let expect = root.get("expect").and_then(|value| value.table());
    // A step or load that was refused must not be reported a second time by what refers to it.
    let loads_written = names_written(root, "load");
    let steps_written = step_ids_written(root);
    let expectations = expect.map_or_else(Vec::new, |table| {
        expectations::read(
            &table,
            &expectations::Known {
                loads: &loads,
                loads_written: &loads_written,
                steps: &steps,
                steps_written: &steps_written,
            },
        )
    });
    Scenario {
        name,
        path: path.to_owned(),
        needs,
        matrix,
        cluster: spec,
        deploy,
        loads,
        steps,
        expectations,
        text: String::new(),
        warnings: Vec::new(),
        cannot_fail: Vec::new(),
    }
}

fn array<'r, 't>(table: &Table<'r, 't>, key: &str) -> Vec<Value<'r, 't>> {
    table
        .get(key)
        .and_then(|value| value.array())
        .unwrap_or_default()
}

fn names_written(root: &Table<'_, '_>, key: &str) -> Vec<String> {
    let table = root.get(key).and_then(|value| value.if_table());
    table
        .map(|table| {
            table
                .entries()
                .iter()
                .map(|(name, ..)| (*name).to_owned())
                .collect()
        })
        .unwrap_or_default()
}

fn step_ids_written(root: &Table<'_, '_>) -> Vec<String> {
    let Some(values) = root.get("step").and_then(|value| value.if_array()) else {
        return Vec::new();
    };
    let id = |value: &Value<'_, '_>| value.if_table()?.get("id")?.if_string().map(str::to_owned);
    values.iter().filter_map(id).collect()
}

fn word<T: Copy>(value: &Value<'_, '_>, what: &str, known: &[(&str, T)]) -> Option<T> {
    let text = value.string()?;
    let found = known
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, meaning)| *meaning);
    if found.is_none() {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        value.problem(format!("unknown {what} `{text}`"), suggestion(text, &names));
    }
    found
}

fn load(table: &Table<'_, '_>) -> Option<Load> {
    table.allow(&[
        "url", "rate", "streams", "deadline", "good", "version", "endpoint", "baseline",
    ]);
    let url = table.require("url").and_then(|value| url(&value));
    let rate = table.require("rate").and_then(|value| rate::rate(&value));
    let known = [("new", StreamKind::New), ("reused", StreamKind::Reused)];
    let streams_value = table.require("streams");
    let mut streams: Vec<StreamKind> = Vec::new();
    for value in streams_value
        .and_then(|value| value.array())
        .unwrap_or_default()
    {
        if let Some(stream) = word(&value, "stream", &known) {
            if streams.contains(&stream) {
                value.problem(format!("`{}` is there twice", stream.name()), None);
            } else {
                streams.push(stream);
            }
        }
    }
    if let Some(value) = streams_value
        && value.if_array().is_some_and(|values| values.is_empty())
    {
        value.problem("no stream", Some("`new`, `reused` or both".into()));
    }
    let deadline = table.require("deadline").and_then(|value| positive(&value));
    let good_status = table
        .get("good")
        .and_then(|value| value.table())
        .and_then(|good| {
            good.allow(&["status"]);
            good.require("status").and_then(|value| status(&value))
        });
    let version_header = header_name(table, "version");
    let endpoint_header = header_name(table, "endpoint");
    let baseline = table
        .require("baseline")
        .and_then(|value| value.table())
        .and_then(|table| baseline(&table));
    Some(Load {
        url: url?,
        rate: rate?.0,
        automatic: rate?.1,
        streams,
        deadline: deadline?,
        good_status: good_status.unwrap_or(200),
        version_header,
        endpoint_header,
        baseline: baseline?,
    })
}

/// `key = { header = "…" }`.
fn header_name(table: &Table<'_, '_>, key: &str) -> Option<String> {
    let inner = table.get(key)?.table()?;
    inner.allow(&["header"]);
    let value = inner.require("header")?;
    let name = value.string()?;
    if name.parse::<http::HeaderName>().is_err() {
        value.problem(format!("`{name}` is not a header's name"), None);
    }
    Some(name.to_owned())
}

fn baseline(table: &Table<'_, '_>) -> Option<Baseline> {
    table.allow(&["for", "good", "p99", "within"]);
    let window = table.require("for").and_then(|value| positive(&value));
    let good = table.require("good").and_then(|value| {
        let good = share(&value)?;
        if good <= 0.0 {
            let what = "no baseline can fail this, so that nothing of the load counts";
            value.warn(what, Some("such as \"100%\"".into()));
        }
        Some(good)
    });
    let p99 = table.get("p99").and_then(|value| value.duration());
    let within = table
        .get("within")
        .and_then(|value| value.duration())
        .unwrap_or(BASELINE_WITHIN);
    Some(Baseline {
        window: window?,
        good: good?,
        p99,
        within,
    })
}

fn share(value: &Value<'_, '_>) -> Option<f64> {
    let text = value.string()?;
    let percent = text
        .strip_suffix('%')
        .and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => Some(percent / 100.0),
        _ => {
            value.problem(
                format!("`{text}` is not a share"),
                Some("write a percentage, such as \"100%\"".into()),
            );
            None
        }
    }
}

fn positive(value: &Value<'_, '_>) -> Option<Duration> {
    let duration = value.duration()?;
    if duration.is_zero() {
        value.problem("must be longer than nothing", None);
        return None;
    }
    Some(duration)
}

fn status(value: &Value<'_, '_>) -> Option<u16> {
    value
        .integer(STATUS)
        .map(|status| u16::try_from(status).expect("at most 599"))
}

fn count(value: &Value<'_, '_>) -> Option<u32> {
    value
        .integer(COUNT)
        .map(|count| u32::try_from(count).expect("at most 10 000"))
}

fn url(value: &Value<'_, '_>) -> Option<Url> {
    let text = value.string()?;
    let refuse = |what: &str| {
        value.problem(
            format!("`{text}`: {what}"),
            Some("write a Service's name, such as \"https://flappy-nginx/\"".into()),
        );
        None
    };
    let Ok(uri) = text.parse::<http::Uri>() else {
        return refuse("not a URL");
    };
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return refuse("neither http nor https"),
    };
    let Some(host) = uri.host() else {
        return refuse("no host");
    };
    let (service, namespace) = host.split_once('.').unwrap_or((host, "default"));
    if !is_service_name(service) || !is_service_name(namespace) {
        return refuse("the host is not a Service's name");
    }
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    Some(Url {
        tls,
        host: service.to_owned(),
        namespace: namespace.to_owned(),
        port,
        path,
    })
}

/// `[a-z0-9-]+`: the names that a scenario gives. They are no host names, as those of machines are.
fn is_word(text: &str) -> bool {
    let right = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty() && text.len() <= WORD_MAX && text.bytes().all(right)
}

fn is_service_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

fn step(table: &Table<'_, '_>, reading: &Reading<'_>, earlier: &[Step]) -> Option<Step> {
    const ACTIONS: [&str; 8] = [
        "fault",
        "wait",
        "rolling_update",
        "rollback",
        "delete_pod",
        "exec",
        "apply",
        "http",
    ];
    table.allow(&[&["id", "when"][..], &ACTIONS].concat());
    let id = table.require("id").and_then(|value| {
        let id = value.string()?;
        if !is_word(id) {
            value.problem(format!("`{id}` is not a name of `[a-z0-9-]+`"), None);
        }
        if earlier.iter().any(|step| step.id == id) {
            value.problem(format!("there are two steps `{id}`"), None);
        }
        Some(id.to_owned())
    });
    let when = table
        .get("when")
        .and_then(|value| value.table())
        .and_then(|table| when(&table, earlier));
    let written: Vec<&str> = ACTIONS
        .into_iter()
        .filter(|action| table.get(action).is_some())
        .collect();
    let [action] = written[..] else {
        let help = Some(format!("one of `{}`", ACTIONS.join("`, `")));
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
    let inner = table.get(action).and_then(|value| value.table())?;
    let action = match action {
        "fault" => fault::fault(&inner, &reading.nodes),
        "wait" => wait(&inner, earlier),
        "rolling_update" => rolling_update(&inner, reading),
        "rollback" => rollback(&inner),
        "delete_pod" => delete_pod(&inner),
        "exec" => exec(&inner),
        "apply" => apply(&inner, reading),
        _ => http_step(&inner),
    };
    Some(Step {
        id: id?,
        when,
        action: action?,
    })
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

fn when(table: &Table<'_, '_>, earlier: &[Step]) -> Option<When> {
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
                Some("`replicas_ready` or `nodes_ready`".into()),
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

#[cfg(test)]
mod tests;
