//! Reads `[expect]`: what each key means and which bounds it takes.

use std::collections::BTreeMap;

use super::spec::{Action, Bound, Check, Comparison, Expectation, Load, Step, StreamKind};
use crate::model::reader::{Table, Value, suggestion};
use crate::model::units::parse_duration;

/// What an expectation may refer to.
pub(super) struct Known<'a> {
    pub(super) loads: &'a BTreeMap<String, Load>,
    /// Names of all loads, those with problems too.
    pub(super) loads_written: &'a [String],
    pub(super) steps: &'a [Step],
    /// Ids of all steps, those with problems too.
    pub(super) steps_written: &'a [String],
}

/// Reads the table. Problems are on its list.
pub(super) fn read(table: &Table<'_, '_>, known: &Known<'_>) -> Vec<Expectation> {
    let mut rows = Vec::new();
    for (key, span, value) in table.entries() {
        match key {
            "replicas" => replicas(&value, &mut rows),
            "faults_left" => {
                if let Some(count) = count(&value) {
                    push(
                        &mut rows,
                        "faults_left",
                        &count.to_string(),
                        Check::FaultsLeft { count },
                    );
                }
            }
            "pods_deleted" => {
                if let Some(count) = count(&value) {
                    push(
                        &mut rows,
                        "pods_deleted",
                        &count.to_string(),
                        Check::PodsDeleted { count },
                    );
                }
            }
            load if known.loads_written.iter().any(|name| name == load) => {
                if let Some(inner) = value.table() {
                    of_load(load, &inner, known, &mut rows);
                }
            }
            other => {
                let mut names: Vec<&str> = known.loads_written.iter().map(String::as_str).collect();
                names.extend(["replicas", "pods_deleted", "faults_left"]);
                table.problem_with_help(
                    span,
                    format!("unknown expectation or load `{other}`"),
                    suggestion(other, &names),
                );
            }
        }
    }
    rows
}

fn push(rows: &mut Vec<Expectation>, name: &str, expected: &str, check: Check) {
    rows.push(Expectation {
        name: name.to_owned(),
        expected: expected.to_owned(),
        check,
    });
}

fn count(value: &Value<'_, '_>) -> Option<u32> {
    value
        .integer(0..=10_000)
        .map(|count| u32::try_from(count).expect("at most 10 000"))
}

fn replicas(value: &Value<'_, '_>, rows: &mut Vec<Expectation>) {
    for (rc, _, value) in value
        .table()
        .map(|table| table.entries())
        .unwrap_or_default()
    {
        if let Some(count) = count(&value) {
            push(
                rows,
                &format!("replicas.{rc}"),
                &count.to_string(),
                Check::Replicas {
                    rc: rc.to_owned(),
                    count,
                },
            );
        }
    }
}

fn of_load(load: &str, table: &Table<'_, '_>, known: &Known<'_>, rows: &mut Vec<Expectation>) {
    let spec = known.loads.get(load);
    for (key, span, value) in table.entries() {
        match key {
            "failed" | "longest_outage" => bound(load, None, key, &value, rows),
            "recovery" => recovery(load, &value, known, rows),
            "final_version" => {
                if spec.is_some_and(|load| load.version_header.is_none()) {
                    value.problem(
                        format!("load `{load}` counts no versions"),
                        Some("add `version = { header = … }` to it".into()),
                    );
                }
                if let Some(version) = value.string() {
                    let check = Check::FinalVersion {
                        load: load.to_owned(),
                        version: version.to_owned(),
                    };
                    push(rows, &format!("{load}.final_version"), version, check);
                }
            }
            "new" | "reused" => {
                let stream = if key == "new" {
                    StreamKind::New
                } else {
                    StreamKind::Reused
                };
                if spec.is_some_and(|load| !load.streams.contains(&stream)) {
                    table.problem_with_help(
                        span,
                        format!("load `{load}` has no stream `{key}`"),
                        None,
                    );
                }
                for (key, span, value) in value
                    .table()
                    .map(|table| table.entries())
                    .unwrap_or_default()
                {
                    if matches!(key, "failed" | "longest_outage") {
                        bound(load, Some(stream), key, &value, rows);
                    } else {
                        let help = suggestion(key, &["failed", "longest_outage"]);
                        table.problem_with_help(
                            span,
                            format!("unknown expectation `{key}` of a stream"),
                            help,
                        );
                    }
                }
            }
            other => {
                let names = [
                    "failed",
                    "longest_outage",
                    "recovery",
                    "final_version",
                    "new",
                    "reused",
                ];
                table.problem_with_help(
                    span,
                    format!("unknown expectation `{other}` of a load"),
                    suggestion(other, &names),
                );
            }
        }
    }
}

fn bound(
    load: &str,
    stream: Option<StreamKind>,
    key: &str,
    value: &Value<'_, '_>,
    rows: &mut Vec<Expectation>,
) {
    let Some(text) = value.string() else { return };
    let failed = key == "failed";
    let parse_limit = |limit: &str| {
        if failed {
            limit
                .strip_suffix('%')
                .and_then(|number| number.trim().parse::<f64>().ok())
                .map(|percent| percent / 100.0)
        } else {
            parse_duration(limit)
                .ok()
                .map(|duration| duration.as_secs_f64() * 1000.0)
        }
    };
    let Some(bound) = parse_bound(text, parse_limit) else {
        let example = if failed { "\"<= 0.5%\"" } else { "\"<= 3s\"" };
        value.problem(
            format!("`{text}` is not a bound"),
            Some(format!(
                "a comparison and a limit with its unit, such as {example}"
            )),
        );
        return;
    };
    let (load, prefix) = (
        load.to_owned(),
        stream
            .map(|stream| format!("{}.", stream.name()))
            .unwrap_or_default(),
    );
    let name = format!("{load}.{prefix}{key}");
    let check = if failed {
        Check::Failed {
            load,
            stream,
            bound,
        }
    } else {
        Check::LongestOutage {
            load,
            stream,
            bound,
        }
    };
    push(rows, &name, text, check);
}

fn parse_bound(text: &str, limit: impl Fn(&str) -> Option<f64>) -> Option<Bound> {
    const SIGNS: [(&str, Comparison); 5] = [
        ("<=", Comparison::AtMost),
        (">=", Comparison::AtLeast),
        ("==", Comparison::Equal),
        ("<", Comparison::Less),
        (">", Comparison::More),
    ];
    let text = text.trim();
    let (rest, comparison) = SIGNS
        .iter()
        .find_map(|(sign, comparison)| Some((text.strip_prefix(sign)?, *comparison)))?;
    let limit = limit(rest.trim()).filter(|limit| limit.is_finite() && *limit >= 0.0)?;
    Some(Bound { comparison, limit })
}

fn recovery(load: &str, value: &Value<'_, '_>, known: &Known<'_>, rows: &mut Vec<Expectation>) {
    let Some(table) = value.table() else { return };
    for (step, span, value) in table.entries() {
        if !known.steps_written.iter().any(|id| id == step) {
            let ids: Vec<&str> = known.steps_written.iter().map(String::as_str).collect();
            table.problem_with_help(
                span,
                format!("there is no step `{step}`"),
                suggestion(step, &ids),
            );
        } else if known
            .steps
            .iter()
            .any(|s| s.id == step && !matches!(s.action, Action::Fault { .. }))
        {
            table.problem_with_help(span, format!("step `{step}` is not a fault"), None);
        }
        let Some(inner) = value.table() else { continue };
        inner.allow(&["within", "hold"]);
        let within = inner.require("within").and_then(|value| value.duration());
        let hold = inner.require("hold").and_then(|value| value.duration());
        if let (Some(within), Some(hold)) = (within, hold) {
            let expected = format!(
                "within {} ms, for {} ms",
                within.as_millis(),
                hold.as_millis()
            );
            let check = Check::Recovery {
                load: load.to_owned(),
                step: step.to_owned(),
                within,
                hold,
            };
            push(rows, &format!("{load}.recovery.{step}"), &expected, check);
        }
    }
}
