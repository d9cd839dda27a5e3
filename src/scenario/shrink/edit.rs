//! A scenario's file with some of its faults left out and others shortened: everything else stays as it was written, comments included.
//!
//! What refers to a fault that is left out: a step that only looks (`wait`, `http`) goes with it, another one begins when the one
//! before it has ended, and its rows `recovery.STEP` and `during.STEP` of `[expect]` go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::FaultStep;
use crate::scenario::spec::{Action, Scenario};

/// Steps that change nothing.
const LOOKS: [&str; 2] = ["wait", "http"];
/// Rows that are about one step.
const OF_STEP: [&str; 2] = ["recovery", "during"];

/// Why a file cannot be shrunk.
#[derive(Debug, thiserror::Error)]
pub enum NotShrinkable {
    /// It is no TOML.
    #[error("the scenario is not TOML")]
    NotToml(#[from] toml_edit::TomlError),
    /// Its steps are written as a list of inline tables.
    #[error("the steps are not written as `[[step]]`, each a table of its own")]
    StepsInline,
    /// A step is not where it was read.
    #[error("step `{0}` is not found in the file as it was read")]
    NoStep(String),
    /// A step's faults are drawn from something else than a list of inline tables.
    #[error("step `{0}` does not draw from a list `from = [{{ fault = {{ … }} }}]`")]
    DrawnFrom(String),
}

/// The text with every drawn fault as a step of its own, as this seed draws it. `scenario` is what was read of the text.
///
/// # Errors
/// When its steps are written in a way that is not edited.
pub fn with_drawn(text: &str, scenario: &Scenario, seed: u64) -> Result<String, NotShrinkable> {
    if scenario.steps.iter().all(|step| step.drawn.is_none()) {
        return Ok(text.to_owned());
    }
    let mut document: DocumentMut = text.parse()?;
    let steps = steps_of(&mut document)?;
    let mut drawn = ArrayOfTables::new();
    for table in steps.iter() {
        let id = id_of(table).to_owned();
        if draws(table) {
            for one in drawn_steps(table, &id, scenario, seed)? {
                drawn.push(one);
            }
        } else {
            drawn.push(table.clone());
        }
    }
    *steps = drawn;
    Ok(document.to_string())
}

/// The text with these faults of `all` only, each as long as it says. It runs on one seed: a matrix is taken out.
///
/// # Errors
/// When its steps are written in a way that is not edited.
pub fn with_only(
    text: &str,
    all: &[FaultStep],
    kept: &[FaultStep],
) -> Result<String, NotShrinkable> {
    let lasting: BTreeMap<&str, Duration> = kept
        .iter()
        .map(|fault| (fault.id.as_str(), fault.lasts))
        .collect();
    let left_out = all.iter().map(|fault| fault.id.as_str());
    let left_out: BTreeSet<&str> = left_out.filter(|id| !lasting.contains_key(id)).collect();
    let mut document: DocumentMut = text.parse()?;
    document.remove("matrix");
    let steps = steps_of(&mut document)?;
    for fault in kept {
        let found = steps.iter_mut().find(|table| id_of(table) == fault.id);
        let table = found.ok_or_else(|| NotShrinkable::NoStep(fault.id.clone()))?;
        let was = all.iter().find(|one| one.id == fault.id);
        if was.is_some_and(|was| was.lasts != fault.lasts) {
            set_duration(table, fault)?;
        }
    }
    let gone = leave_out(steps, &left_out);
    if steps.is_empty() {
        document.remove("step");
    }
    if let Some(expect) = document.get_mut("expect").and_then(Item::as_table_like_mut) {
        prune(expect, &gone);
    }
    Ok(document.to_string())
}

fn steps_of(document: &mut DocumentMut) -> Result<&mut ArrayOfTables, NotShrinkable> {
    document
        .get_mut("step")
        .and_then(Item::as_array_of_tables_mut)
        .ok_or(NotShrinkable::StepsInline)
}

fn id_of(step: &Table) -> &str {
    step.get("id").and_then(Item::as_str).unwrap_or_default()
}

/// A text below keys of tables, however these are written.
fn text_at<'i>(step: &'i Table, keys: [&str; 2]) -> Option<&'i str> {
    let [outer, inner] = keys;
    let table = step.get(outer)?.as_table_like()?;
    table.get(inner)?.as_str()
}

fn draws(step: &Table) -> bool {
    text_at(step, ["fault", "kind"]) == Some("random")
}

/// The steps that one stands for, as the seed draws them.
fn drawn_steps(
    table: &Table,
    id: &str,
    scenario: &Scenario,
    seed: u64,
) -> Result<Vec<Table>, NotShrinkable> {
    let unknown = || NotShrinkable::DrawnFrom(id.to_owned());
    let from = table.get("fault").and_then(Item::as_table_like);
    let from = from.and_then(|fault| fault.get("from")?.as_array());
    let from = from.ok_or_else(unknown)?;
    let mut steps = Vec::new();
    let mut before: Option<(String, Duration)> = None;
    for number in 1.. {
        let own = format!("{id}-{number}");
        let Some(step) = scenario.steps.iter().find(|step| step.id == own) else {
            break;
        };
        let draw = step.drawn.as_ref().ok_or_else(unknown)?;
        let place = draw.pick(&own, seed);
        let fault = from.get(place).and_then(Value::as_inline_table);
        let fault = fault.and_then(|choice| choice.get("fault"));
        let fault = fault.ok_or_else(unknown)?.clone().decorated(" ", "");
        let mut one = if number == 1 {
            table.clone()
        } else {
            let mut next = Table::new();
            next.set_position(table.position());
            next
        };
        one.insert("id", Item::Value(Value::from(own.as_str())));
        if let Some((earlier, lasts)) = before.filter(|_| !draw.pause.is_zero()) {
            one.insert("when", Item::Value(when(&earlier, lasts + draw.pause)));
        }
        one.insert("fault", Item::Value(fault));
        let lasts = match draw.from.get(place).map(|choice| &choice.action) {
            Some(Action::Fault { duration, .. }) => *duration,
            _ => Duration::ZERO,
        };
        before = Some((own, lasts));
        steps.push(one);
    }
    Ok(steps)
}

fn when(step: &str, plus: Duration) -> Value {
    let mut when = InlineTable::new();
    when.insert("step", Value::from(step));
    when.insert("plus", Value::from(words(plus)));
    Value::from(when)
}

/// A duration as files write it.
#[must_use]
pub fn words(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000)
    } else {
        format!("{millis}ms")
    }
}

fn set_duration(step: &mut Table, fault: &FaultStep) -> Result<(), NotShrinkable> {
    let lasts = step
        .get_mut("fault")
        .and_then(Item::as_table_like_mut)
        .and_then(|fault| fault.get_mut("for"))
        .and_then(Item::as_value_mut)
        .ok_or_else(|| NotShrinkable::NoStep(fault.id.clone()))?;
    let decor = lasts.decor().clone();
    *lasts = Value::from(words(fault.lasts));
    *lasts.decor_mut() = decor;
    Ok(())
}

/// Takes steps out, and what only waits for them. Returns the ids of all that are gone.
fn leave_out(steps: &mut ArrayOfTables, left_out: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut gone: BTreeSet<String> = BTreeSet::new();
    // Steps refer to earlier ones only.
    for step in steps.iter_mut() {
        let id = id_of(step).to_owned();
        let waits = text_at(step, ["when", "step"]).is_some_and(|other| gone.contains(other));
        let looks_only = LOOKS.iter().any(|key| step.contains_key(key));
        if left_out.contains(id.as_str()) || looks_only && (waits || avoids(step, &gone)) {
            gone.insert(id);
        } else if waits {
            step.remove("when");
        }
    }
    steps.retain(|step| !gone.contains(id_of(step)));
    gone
}

/// Whether it waits for pods away from where one of these faults struck.
fn avoids(step: &Table, gone: &BTreeSet<String>) -> bool {
    let wait = step.get("wait").and_then(Item::as_table_like);
    let ready = wait.and_then(|wait| wait.get("replicas_ready")?.as_table_like());
    let avoiding = ready.and_then(|ready| ready.get("avoiding")?.as_str());
    avoiding.is_some_and(|step| gone.contains(step))
}

/// Takes the rows about these steps out, and tables that are empty then.
fn prune(table: &mut dyn TableLike, gone: &BTreeSet<String>) {
    let mut empty = Vec::new();
    for (key, item) in table.iter_mut() {
        let Some(inner) = item.as_table_like_mut() else {
            continue;
        };
        if inner.is_empty() {
            continue;
        }
        if OF_STEP.contains(&key.get()) {
            for id in gone {
                inner.remove(id);
            }
        } else {
            prune(inner, gone);
        }
        if inner.is_empty() {
            empty.push(key.get().to_owned());
        }
    }
    for key in empty {
        table.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::faults;
    use super::*;
    use crate::scenario::file::{Against, parse};

    const FILE: &str = r#"# What this is about.
flightcage = 1

[matrix]
seed = [1, 2]

[load.web]
url = "http://web/"              # a Service
rate = "50/s"
streams = ["new"]
deadline = "1s"
baseline = { for = "5s", good = "100%" }

# The worker goes.
[[step]]
id = "kill"
fault = { kind = "node.power_off", target = { node = "w1" }, for = "40s" } # long

# It is replaced.
[[step]]
id = "elsewhere"
when = { step = "kill" }
wait = { replicas_ready = { rc = "web", count = 2, avoiding = "kill" }, within = "90s" }

# And the link.
[[step]]
id = "cut"
when = { step = "kill", plus = "10s" }
fault = { kind = "net.cut", target = { node = "w2" }, for = "20s" }

[[step]]
id = "back"
when = { step = "cut", plus = "20s" }
wait = { nodes_ready = 3, within = "90s" }

[expect]
web.failed = "<= 1%"             # of all
web.recovery.kill = { within = "30s", hold = "5s" }
web.during.cut.failed = "<= 5%"
web.new.during.kill.p99 = "<= 1s"
faults_left = 0
"#;

    fn read(text: &str) -> Scenario {
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        parse(Path::new("demo.toml"), text, &against)
            .unwrap_or_else(|refusal| panic!("{}\n{text}", refusal.listing()))
    }

    fn only(text: &str, kept: &[(&str, u64)]) -> String {
        let all = faults(&read(text));
        let kept: Vec<FaultStep> = kept
            .iter()
            .map(|(id, lasts_ms)| FaultStep {
                id: (*id).to_owned(),
                lasts: Duration::from_millis(*lasts_ms),
            })
            .collect();
        with_only(text, &all, &kept).unwrap()
    }

    fn ids(text: &str) -> Vec<String> {
        let steps = read(text).steps.into_iter();
        steps.map(|step| step.id).collect()
    }

    fn rows(text: &str) -> Vec<String> {
        let rows = read(text).expectations.into_iter();
        rows.map(|row| row.name).collect()
    }

    #[test]
    fn what_is_kept_is_as_it_was_written() {
        let all = only(FILE, &[("kill", 40_000), ("cut", 20_000)]);
        assert_eq!(all, FILE.replace("[matrix]\nseed = [1, 2]\n\n", ""));
        let shorter = only(FILE, &[("kill", 2_500), ("cut", 20_000)]);
        assert_eq!(
            shorter,
            all.replace("for = \"40s\" }", "for = \"2500ms\" }")
        );
    }

    #[test]
    fn what_waits_for_a_fault_goes_with_it_and_what_does_something_stays() {
        let text = only(FILE, &[("cut", 20_000)]);
        assert_eq!(ids(&text), ["cut", "back"]);
        assert_eq!(read(&text).steps[0].when, None);
        let rows_left = rows(&text);
        assert_eq!(rows_left.len(), 3, "{rows_left:?}");
        assert!(
            rows_left.iter().all(|row| !row.contains("kill")),
            "{rows_left:?}"
        );
        for comment in [
            "# What this is about.",
            "# a Service",
            "# And the link.",
            "# of all",
        ] {
            assert!(text.contains(comment), "{comment}\n{text}");
        }
        let text = only(FILE, &[("kill", 40_000)]);
        assert_eq!(ids(&text), ["kill", "elsewhere"]);
        let rows_left = rows(&text);
        assert_eq!(rows_left.len(), 4, "{rows_left:?}");
    }

    #[test]
    fn without_any_fault_the_rest_is_a_scenario_still() {
        let text = only(FILE, &[]);
        assert_eq!(ids(&text), [""; 0]);
        assert_eq!(rows(&text).len(), 2, "{text}");
    }

    #[test]
    fn drawn_faults_become_steps_that_can_be_left_out() {
        let text = "flightcage = 1\n# Anything may break.\n[[step]]\nid = \"chaos\"\n\
                    fault = { kind = \"random\", times = 3, pause = \"5s\", from = [\n\
                    \x20 { weight = 3, fault = { kind = \"pod.kill\", target = { pod = \"web\" } } },\n\
                    \x20 { fault = { kind = \"node.freeze\", target = { node = \"w1\" }, for = \"2s\" } },\n] }\n\
                    [[step]]\nid = \"last\"\nwait = { nodes_ready = 3, within = \"9s\" }\n\
                    [expect]\nfaults_left = 0\n";
        for seed in 0..10 {
            let scenario = read(text);
            let written = with_drawn(text, &scenario, seed).unwrap();
            assert_eq!(ids(&written), ["chaos-1", "chaos-2", "chaos-3", "last"]);
            assert!(written.contains("# Anything may break."), "{written}");
            let drawn = crate::scenario::random::drawn(&scenario, seed);
            assert_eq!(faults(&read(&written)), faults(&drawn));
            assert!(read(&written).steps.iter().all(|step| step.drawn.is_none()));
            let kept = faults(&drawn)[1].clone();
            let one = with_only(&written, &faults(&drawn), &[kept]).unwrap();
            assert_eq!(ids(&one), ["chaos-2", "last"]);
        }
        let plain = with_drawn(FILE, &read(FILE), 1).unwrap();
        assert_eq!(plain, FILE);
    }

    #[test]
    fn the_fixture_keeps_its_comments_whatever_is_left_out() {
        let text = include_str!("../../../tests/fixtures/scenarios/fails-by-one.toml");
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/scenarios/fails-by-one.toml");
        let read = |text: &str| parse(&path, text, &against).unwrap();
        let all = faults(&read(text));
        let memory = FaultStep {
            lasts: Duration::from_secs(1),
            ..all[1].clone()
        };
        let one = with_only(text, &all, &[memory]).unwrap();
        assert_eq!(faults(&read(&one)).len(), 1);
        assert!(one.contains("# This is what fails"), "{one}");
        assert!(one.contains("for = \"1s\" }"), "{one}");
        assert!(!one.contains("Harmless"), "{one}");
        let busy = with_only(text, &all, &all[2..]).unwrap();
        assert_eq!(read(&busy).steps[0].when, None, "{busy}");
    }

    #[test]
    fn steps_in_a_list_are_refused() {
        let text = "flightcage = 1\nstep = [{ id = \"a\", fault = { kind = \"pod.kill\", target = { pod = \"web\" } } }]\n";
        let all = faults(&read(text));
        let refused = with_only(text, &all, &[]).unwrap_err();
        assert!(matches!(refused, NotShrinkable::StepsInline), "{refused}");
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        assert_eq!(words(Duration::from_secs(40)), "40s");
        assert_eq!(words(Duration::from_millis(2_500)), "2500ms");
    }
}
