//! Reads a scenario file: TOML to [`Scenario`], every problem at once.

mod against;
mod deploy;
mod fault;
mod include;
mod lint;
mod load;
mod matrix;
mod parallel;
mod random;
mod rate;
mod render;
#[cfg(test)]
mod spoiled;
mod step;
mod variables;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use super::spec::{Capability, Deploy, Scenario, Step, Url};
use super::{expectations, file_problem::ScenarioFileError};
use crate::cluster::file::cluster;
use crate::kubernetes::client::ResourceKind;
use crate::kubernetes::manifest::{Check, NotApplied, Rules};
use crate::model::diagnostic::Refusal;
use crate::model::reader::{Problems, Table, Value, suggestion};
use crate::model::text_file;
pub(in crate::scenario) use against::Nodes;
pub use against::{Against, Machines};
use deploy::{DEPLOY_WAIT, deploy};
pub(in crate::scenario) use fault::node;
pub(in crate::scenario) use load::KEYS as LOAD_KEYS;
use load::load;
pub(in crate::scenario) use step::actions;
use step::step;

/// The tables and keys of a file.
pub(in crate::scenario) const KEYS: [&str; 10] = [
    "flightcage",
    "needs",
    include::KEY,
    variables::KEY,
    "matrix",
    "cluster",
    "deploy",
    "load",
    "step",
    "expect",
];
/// The format this program reads.
pub(in crate::scenario) const FORMAT: u64 = 1;
pub(in crate::scenario) const STATUS: RangeInclusive<u64> = 100..=599;
pub(in crate::scenario) const COUNT: RangeInclusive<u64> = 0..=10_000;
/// Longest name of a scenario, load or step: names become files' names, which systems limit to 255 bytes.
pub(in crate::scenario) const WORD_MAX: usize = 200;

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
    let gathered = include::gather(path, text);
    let mut problems = Problems::new(&file, text);
    let mut document = gathered.document(&mut problems);
    let edits = variables::fill(&mut document, against.set, &problems);
    let filled = if gathered.is_alone() {
        edits.applied(text)
    } else {
        render::document(document.get_ref())
    };
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
    let foreign_only = lint::foreign_only(&root, &problems);
    drop(document);
    let warnings = problems.warnings();
    problems.finish(Scenario {
        text: filled,
        warnings,
        cannot_fail,
        foreign_only,
        ..scenario
    })
}

/// What the parts of a file are read with.
struct Reading<'a> {
    nodes: Nodes,
    check: Check,
    /// What the cluster says about the objects of its manifests.
    rules: Rules<'a>,
    /// What the manifests set without effect.
    not_applied: RefCell<Vec<NotApplied>>,
    /// Kinds that the manifests read so far define.
    defined: RefCell<Vec<ResourceKind>>,
    /// Whether manifests must be there.
    manifests: bool,
    /// Where each step so far was given its id.
    steps: RefCell<BTreeMap<String, String>>,
}

fn scenario(root: &Table<'_, '_>, name: String, path: &Path, against: &Against<'_>) -> Scenario {
    root.allow(&KEYS);
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
    let capabilities = Capability::all();
    let capabilities: Vec<_> = capabilities.iter().map(|one| (one.name(), *one)).collect();
    let needs = array(root, "needs")
        .iter()
        .filter_map(|value| word(value, "capability", &capabilities))
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
        nodes,
        check: against.manifests,
        rules: against.rules(spec.as_ref()),
        not_applied: RefCell::default(),
        defined: RefCell::default(),
        manifests: !matches!(against.machines, Machines::Gone),
        steps: RefCell::default(),
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
        let Some(table) = value.table() else {
            continue;
        };
        let drawn = random::steps(&table, &reading, &steps);
        let read = drawn.unwrap_or_else(|| step(&table, &reading, &steps).into_iter().collect());
        steps.extend(read);
    }
    parallel::check(root);
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
    let not_applied = reading.not_applied.into_inner();
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
        not_applied,
        cannot_fail: Vec::new(),
        foreign_only: Vec::new(),
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
    let ids = |value: &Value<'_, '_>| {
        let step = value.if_table()?;
        let own = || Some(vec![step.get("id")?.if_string()?.to_owned()]);
        random::ids(&step).or_else(own)
    };
    values.iter().filter_map(ids).flatten().collect()
}

pub(in crate::scenario) fn word<T: Copy>(
    value: &Value<'_, '_>,
    what: &str,
    known: &[(&str, T)],
) -> Option<T> {
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

/// A text, a whole number, `true` or `false`, as JSON has it.
pub(in crate::scenario) fn json_of(value: &Value<'_, '_>) -> Option<Json> {
    let known = value
        .if_string()
        .map(Json::from)
        .or_else(|| value.if_boolean().map(Json::from))
        .or_else(|| value.if_integer().map(Json::from));
    if known.is_none() {
        value.problem("expected a text, a whole number, `true` or `false`", None);
    }
    known
}

pub(in crate::scenario) fn share(value: &Value<'_, '_>) -> Option<f64> {
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

pub(in crate::scenario) fn positive(value: &Value<'_, '_>) -> Option<Duration> {
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

pub(in crate::scenario) fn count(value: &Value<'_, '_>) -> Option<u32> {
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

#[cfg(test)]
mod tests;
