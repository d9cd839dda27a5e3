//! Reads `[expect]`: what each key means, which bounds it takes, and which of them could not be decided or could not fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::counts::{Count, CountExpectation};
use super::final_version::FinalVersion;
use super::load_figure::{BoundedFigure, Unit, WINDOW_REQUESTS_MIN};
use super::recovery::Recovery;
use super::{Bound, Comparison, Expectation, FIGURES, LoadFigure};
use crate::model::reader::{Table, Value, suggestion};
use crate::scenario::guards::{self, Rule};
use crate::scenario::load::automatic::RATE_MIN;
use crate::scenario::spec::{Action, Arrival, Load, Row, Step};

/// Streams of a load.
pub(in crate::scenario) const STREAMS: [&str; 2] = ["new", "reused"];

/// What is counted from the API at the end.
pub(in crate::scenario) const COUNTS: [&str; 4] =
    ["replicas", "restarts", "pods_deleted", "faults_left"];
/// What is watched.
pub(in crate::scenario) const GUARDS: [&str; 2] = ["never", "always"];
/// Of requests that arrive at random one gap in three thousand is longer, in periods.
const LONGEST_GAP: f64 = 8.0;

/// What an expectation may refer to.
pub(in crate::scenario) struct Known<'a> {
    pub(in crate::scenario) loads: &'a BTreeMap<String, Load>,
    /// Names of all loads, those with problems too.
    pub(in crate::scenario) loads_written: &'a [String],
    pub(in crate::scenario) steps: &'a [Step],
    /// Ids of all steps, those with problems too.
    pub(in crate::scenario) steps_written: &'a [String],
}

/// Reads the table. Problems are on its list.
pub(in crate::scenario) fn read(table: &Table<'_, '_>, known: &Known<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (key, span, value) in table.entries() {
        match key {
            "replicas" => counts(key, &value, Count::Replicas, &mut rows),
            "restarts" => counts(key, &value, Count::Restarts, &mut rows),
            "faults_left" => count(key, &value, Count::FaultsLeft, &mut rows),
            "pods_deleted" => count(key, &value, Count::PodsDeleted, &mut rows),
            "never" => guarded(Rule::Never, &value, &mut rows),
            "always" => guarded(Rule::Always, &value, &mut rows),
            load if known.loads_written.iter().any(|name| name == load) => {
                if let Some(inner) = value.table() {
                    OfLoad { load, known }.read(&inner, &mut rows);
                }
            }
            other => {
                let mut names: Vec<&str> = known.loads_written.iter().map(String::as_str).collect();
                names.extend(COUNTS);
                names.extend(GUARDS);
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

fn push(
    rows: &mut Vec<Row>,
    name: String,
    expected: String,
    load: Option<&str>,
    check: impl Expectation + 'static,
) {
    rows.push(Row {
        name,
        expected,
        load: load.map(str::to_owned),
        check: Arc::new(check),
    });
}

fn counts(key: &str, value: &Value<'_, '_>, what: impl Fn(String) -> Count, rows: &mut Vec<Row>) {
    for (name, _, value) in value
        .table()
        .map(|table| table.entries())
        .unwrap_or_default()
    {
        count(
            &format!("{key}.{name}"),
            &value,
            what(name.to_owned()),
            rows,
        );
    }
}

fn guarded(rule: Rule, value: &Value<'_, '_>, rows: &mut Vec<Row>) {
    for (name, guard) in guards::read(rule, value) {
        push(rows, name, guard.to_string(), None, guard);
    }
}

/// `2`, or `"<= 2"`.
fn count(name: &str, value: &Value<'_, '_>, count: Count, rows: &mut Vec<Row>) {
    let (bound, expected) = if let Some(text) = value.if_string() {
        let Some(bound) = super::load_figure::read_bound(value, Unit::Count, "2 or \"<= 2\"")
        else {
            return;
        };
        (bound, text.to_owned())
    } else {
        let Some(number) = value.integer(0..=10_000) else {
            return;
        };
        let bound = Bound {
            comparison: Comparison::Equal,
            limit: f64::from(u32::try_from(number).unwrap_or(u32::MAX)),
        };
        (bound, number.to_string())
    };
    let check = CountExpectation {
        name: name.to_owned(),
        count,
        bound,
    };
    push(rows, name.to_owned(), expected, None, check);
}

/// Reads what is expected of one load.
struct OfLoad<'a> {
    load: &'a str,
    known: &'a Known<'a>,
}

impl OfLoad<'_> {
    fn spec(&self) -> Option<&Load> {
        self.known.loads.get(self.load)
    }

    fn read(&self, table: &Table<'_, '_>, rows: &mut Vec<Row>) {
        for (key, span, value) in table.entries() {
            match key {
                "recovery" => self.recoveries(None, &value, rows),
                "during" => self.during(None, &value, rows),
                "final_version" => self.final_version(&value, rows),
                stream if STREAMS.contains(&stream) => {
                    let known = self
                        .spec()
                        .is_none_or(|load| load.streams.iter().any(|known| known.name() == stream));
                    if !known {
                        let what = format!("load `{}` has no stream `{stream}`", self.load);
                        table.problem_with_help(span, what, None);
                    }
                    if let Some(inner) = value.table() {
                        self.of_stream(stream, &inner, rows);
                    }
                }
                _ if self.figure(None, None, key, &value, rows) => {}
                other => {
                    let what = format!("unknown expectation `{other}` of a load");
                    let others = ["recovery", "during", "final_version", "new", "reused"];
                    table.problem_with_help(span, what, suggest(other, &others));
                }
            }
        }
    }

    fn of_stream(&self, stream: &str, table: &Table<'_, '_>, rows: &mut Vec<Row>) {
        for (key, span, value) in table.entries() {
            match key {
                "recovery" => self.recoveries(Some(stream), &value, rows),
                "during" => self.during(Some(stream), &value, rows),
                _ if self.figure(Some(stream), None, key, &value, rows) => {}
                other => {
                    let what = format!("unknown expectation `{other}` of a stream");
                    let help = suggest(other, &["recovery", "during"]);
                    table.problem_with_help(span, what, help);
                }
            }
        }
    }

    fn during(&self, stream: Option<&str>, value: &Value<'_, '_>, rows: &mut Vec<Row>) {
        let Some(table) = value.table() else { return };
        for (step, span, value) in table.entries() {
            self.require_step(&table, step, span);
            let Some(inner) = value.table() else { continue };
            for (key, span, value) in inner.entries() {
                if !self.figure(stream, Some(step), key, &value, rows) {
                    let what = format!("unknown figure `{key}`");
                    inner.problem_with_help(span, what, suggest(key, &[]));
                }
            }
        }
    }

    fn name(&self, stream: Option<&str>, rest: &str) -> String {
        stream.map_or_else(
            || format!("{}.{rest}", self.load),
            |stream| format!("{}.{stream}.{rest}", self.load),
        )
    }

    /// Reads one of [`FIGURES`]; false if the key is none of them.
    fn figure(
        &self,
        stream: Option<&str>,
        during: Option<&str>,
        key: &str,
        value: &Value<'_, '_>,
        rows: &mut Vec<Row>,
    ) -> bool {
        let Some(kind) = FIGURES.iter().find(|kind| kind.key == key) else {
            return false;
        };
        let Some((figure, bound)) = (kind.read)(value, kind) else {
            return true;
        };
        self.lint_figure(figure.as_ref(), bound, value);
        let rest = during.map_or_else(|| key.to_owned(), |step| format!("during.{step}.{key}"));
        let check = BoundedFigure {
            load: self.load.to_owned(),
            stream: stream.map(str::to_owned),
            during: during.map(str::to_owned),
            figure,
            bound,
        };
        let name = self.name(stream, &rest);
        push(rows, name, as_written(value), Some(self.load), check);
        true
    }

    fn recoveries(&self, stream: Option<&str>, value: &Value<'_, '_>, rows: &mut Vec<Row>) {
        let Some(table) = value.table() else { return };
        for (step, span, value) in table.entries() {
            if self.require_step(&table, step, span.clone()) && self.is_no_fault(step) {
                table.problem_with_help(span, format!("step `{step}` is not a fault"), None);
            }
            let Some(inner) = value.table() else { continue };
            inner.allow(&["within", "hold"]);
            let within = inner
                .require("within")
                .and_then(|value| Some((value.duration()?, value)));
            let hold = inner.require("hold").and_then(|value| value.duration());
            let (Some((within, within_value)), Some(hold)) = (within, hold) else {
                continue;
            };
            self.lint_time(within.as_secs_f64() * 1000.0, &within_value);
            let expected = format!(
                "within {} ms, for {} ms",
                within.as_millis(),
                hold.as_millis()
            );
            let check = Recovery {
                load: self.load.to_owned(),
                stream: stream.map(str::to_owned),
                step: step.to_owned(),
                within,
                hold,
            };
            let name = self.name(stream, &format!("recovery.{step}"));
            push(rows, name, expected, Some(self.load), check);
        }
    }

    fn final_version(&self, value: &Value<'_, '_>, rows: &mut Vec<Row>) {
        if self
            .spec()
            .is_some_and(|load| load.version_header.is_none())
        {
            value.problem(
                format!("load `{}` counts no versions", self.load),
                Some("add `version = { header = … }` to it".into()),
            );
        }
        if let Some(version) = value.string() {
            let check = FinalVersion {
                load: self.load.to_owned(),
                version: version.to_owned(),
            };
            let name = self.name(None, "final_version");
            push(rows, name, version.to_owned(), Some(self.load), check);
        }
    }

    /// Refuses the id of a step that is not there.
    fn require_step(
        &self,
        table: &Table<'_, '_>,
        step: &str,
        span: std::ops::Range<usize>,
    ) -> bool {
        let there = self.known.steps_written.iter().any(|id| id == step);
        if !there {
            let ids: Vec<&str> = self
                .known
                .steps_written
                .iter()
                .map(String::as_str)
                .collect();
            let what = format!("there is no step `{step}`");
            table.problem_with_help(span, what, suggestion(step, &ids));
        }
        there
    }

    fn is_no_fault(&self, step: &str) -> bool {
        let steps = self.known.steps.iter();
        let mut written = steps.filter(|written| written.id == step);
        written.any(|step| !matches!(step.action, Action::Fault { .. }))
    }

    /// Tells of a bound that cannot be decided at the load's rate, and of one that cannot fail.
    fn lint_figure(&self, figure: &dyn LoadFigure, bound: Bound, value: &Value<'_, '_>) {
        if figure.unit() == Unit::Share && bound.holds_always(1.0) {
            value.warn(
                "no run can fail this: it holds for every share of failed requests",
                Some("a bound below 100 %".into()),
            );
        }
        if figure.sampled() && bound.is_upper() {
            self.lint_time(bound.limit, value);
        }
        if figure.unit() == Unit::Millis
            && !figure.sampled()
            && bound.is_upper()
            && self.spec().is_some_and(|load| {
                bound.limit >= load.deadline.as_secs_f64() * 1000.0
                    && bound.comparison == Comparison::AtMost
            })
        {
            value.warn(
                "requests that get no answer count as the deadline, which keeps this bound",
                Some("a bound below the load's `deadline`".into()),
            );
        }
        if !figure.shortest().is_zero() {
            self.lint_window(figure.shortest(), value);
        }
    }

    /// A time bound below two periods cannot be told from one request that failed.
    fn lint_time(&self, limit_ms: f64, value: &Value<'_, '_>) {
        let needed = 2000.0 / limit_ms;
        let what = |rate: f64| {
            format!(
                "at {rate}/s nothing shorter than {:.0} ms can be told from one failed request",
                (2000.0 / rate).ceil()
            )
        };
        let help = if needed.is_finite() {
            format!("raise the rate to at least {}/s", needed.ceil())
        } else {
            "expect `outages = \"<= 0\"` or `failed = \"<= 0%\"` instead".to_owned()
        };
        self.lint_rate(needed, &what, help, value);
        self.lint_chance(needed, LONGEST_GAP, value);
    }

    fn lint_window(&self, window: Duration, value: &Value<'_, '_>) {
        let needed = WINDOW_REQUESTS_MIN / window.as_secs_f64();
        let what = |rate: f64| {
            format!(
                "at {rate}/s only {:.0} requests fall into a window, and fewer than {WINDOW_REQUESTS_MIN:.0} say nothing",
                rate * window.as_secs_f64()
            )
        };
        let help = format!(
            "raise the rate to at least {}/s, or lengthen the window",
            (needed * 10.0).ceil() / 10.0
        );
        self.lint_rate(needed, &what, help, value);
        self.lint_chance(needed, 2.0, value);
    }

    /// Warns of what requests at random may leave undecided at a rate that is enough for others.
    fn lint_chance(&self, needed: f64, times: f64, value: &Value<'_, '_>) {
        let Some(load) = self.spec() else { return };
        let enough = load.rate >= needed && load.rate < needed * times;
        if load.arrival == Arrival::Poisson && enough {
            value.warn(
                "requests that arrive at random leave gaps, so that this may stay undecided",
                Some(format!(
                    "raise the rate to at least {}/s",
                    (needed * times).ceil()
                )),
            );
        }
    }

    /// Refuses what no rate of the load reaches; warns of what an automatic one may not.
    fn lint_rate(
        &self,
        needed: f64,
        what: &dyn Fn(f64) -> String,
        help: String,
        value: &Value<'_, '_>,
    ) {
        /// Rates are written as decimals.
        const ROUNDING: f64 = 1e-6;
        let Some(load) = self.spec() else { return };
        if load.rate < needed - ROUNDING {
            value.problem(what(load.rate), Some(help));
        } else if load.automatic.is_some() && RATE_MIN < needed - ROUNDING {
            value.warn(what(RATE_MIN), Some(help));
        }
    }
}

fn suggest(key: &str, others: &[&'static str]) -> Option<String> {
    let names: Vec<&str> = FIGURES
        .iter()
        .map(|kind| kind.key)
        .chain(others.iter().copied())
        .collect();
    suggestion(key, &names)
}

/// A bound as it stands in the file.
fn as_written(value: &Value<'_, '_>) -> String {
    if let Some(text) = value.if_string() {
        return text.to_owned();
    }
    let entries = value.if_table().map(|table| table.entries());
    let words = entries.into_iter().flatten().filter_map(|(key, _, value)| {
        let text = value.if_string()?;
        Some(format!("{key} {text}"))
    });
    words.collect::<Vec<_>>().join(", ")
}
