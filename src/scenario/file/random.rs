//! Reads a step whose `fault` has the kind `random`: it becomes as many steps as it draws faults.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::{Reading, fault, is_word, step};
use crate::model::reader::{Table, Value};
use crate::scenario::random::{Choice, Draw, KIND, TIMES_MAX, WEIGHT_MAX};
use crate::scenario::spec::Step;

const TIMES: RangeInclusive<u64> = 1..=TIMES_MAX;
const WEIGHT: RangeInclusive<u64> = 1..=WEIGHT_MAX;

/// The steps that such a step stands for; `None` if it is another one. None are returned of one with problems.
pub(super) fn steps(
    table: &Table<'_, '_>,
    reading: &Reading<'_>,
    earlier: &[Step],
) -> Option<Vec<Step>> {
    let fault = random_fault(table)?;
    table.allow(&["id", "when", "fault"]);
    fault.allow(&["kind", "from", "times", "pause"]);
    let before = table.problems_so_far();
    let times = fault
        .require("times")
        .and_then(|value| value.integer(TIMES))
        .unwrap_or(1);
    let id = table
        .require("id")
        .and_then(|value| series_name(&value, times, earlier));
    let when = table
        .get("when")
        .and_then(|value| value.table())
        .and_then(|table| step::when(&table, earlier));
    let pause = fault
        .get("pause")
        .map_or(Some(Duration::ZERO), |value| value.duration());
    let from = fault
        .require("from")
        .map(|value| choices(&value, reading))
        .unwrap_or_default();
    let (Some(id), Some(pause), Some(first)) = (id, pause, from.first().cloned()) else {
        return Some(Vec::new());
    };
    if table.problems_so_far() > before {
        return Some(Vec::new());
    }
    let from = Arc::new(from);
    let drawn = (1..=times).map(|number| Step {
        id: numbered(&id, number),
        when: when.clone().filter(|_| number == 1),
        // Until the seed is known.
        action: first.action.clone(),
        drawn: Some(Draw {
            from: Arc::clone(&from),
            pause: if number == 1 { Duration::ZERO } else { pause },
        }),
    });
    Some(drawn.collect())
}

/// The ids of the steps that such a step stands for, as far as it is written right.
pub(super) fn ids(table: &Table<'_, '_>) -> Option<Vec<String>> {
    let fault = random_fault(table)?;
    let id = table.get("id")?.if_string()?;
    let times = fault.get("times").and_then(|value| value.if_integer());
    let times = times.and_then(|times| u64::try_from(times).ok());
    let times = times.filter(|times| TIMES.contains(times)).unwrap_or(1);
    Some((1..=times).map(|number| numbered(id, number)).collect())
}

fn random_fault<'r, 't>(table: &Table<'r, 't>) -> Option<Table<'r, 't>> {
    let fault = table.get("fault")?.if_table()?;
    (fault.get("kind")?.if_string()? == KIND).then_some(fault)
}

fn numbered(id: &str, number: u64) -> String {
    format!("{id}-{number}")
}

fn series_name(value: &Value<'_, '_>, times: u64, earlier: &[Step]) -> Option<String> {
    let id = value.string()?;
    if !is_word(&numbered(id, times)) {
        value.problem(format!("`{id}` is not a name of `[a-z0-9-]+`"), None);
    }
    for number in 1..=times {
        let numbered = numbered(id, number);
        if earlier.iter().any(|step| step.id == numbered) {
            value.problem(format!("there are two steps `{numbered}`"), None);
        }
    }
    Some(id.to_owned())
}

fn choices(value: &Value<'_, '_>, reading: &Reading<'_>) -> Vec<Choice> {
    let Some(values) = value.array() else {
        return Vec::new();
    };
    if values.is_empty() {
        let help = "such as `from = [{ weight = 3, fault = { kind = \"pod.kill\", … } }]`";
        value.problem("there is nothing to draw from", Some(help.into()));
    }
    values
        .iter()
        .filter_map(|value| choice(&value.table()?, reading))
        .collect()
}

fn choice(table: &Table<'_, '_>, reading: &Reading<'_>) -> Option<Choice> {
    table.allow(&["weight", "fault"]);
    let weight = table
        .get("weight")
        .map_or(Some(1), |value| value.integer(WEIGHT));
    let action = table
        .require("fault")
        .and_then(|value| value.table())
        .and_then(|table| fault::fault(&table, &reading.nodes));
    Some(Choice {
        weight: u32::try_from(weight?).ok()?,
        action: action?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::{Against, parse};
    use crate::scenario::spec::Scenario;

    fn read(text: &str) -> Result<Scenario, Vec<String>> {
        let text = format!("flightcage = 1\n{text}");
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        parse(Path::new("demo.toml"), &text, &against).map_err(|refusal| {
            let told = refusal.problems().iter();
            told.map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
                .collect()
        })
    }

    const KILL: &str = r#"{ fault = { kind = "pod.kill", target = { pod = "web" } } }"#;

    #[test]
    fn one_step_stands_for_several_that_others_refer_to_by_their_names() {
        let text = format!(
            "[[step]]\nid = \"first\"\nwait = {{ nodes_ready = 3, within = \"9s\" }}\n\
             [[step]]\nid = \"chaos\"\nwhen = {{ step = \"first\" }}\n\
             fault = {{ kind = \"random\", times = 3, pause = \"10s\", from = [{KILL}] }}\n\
             [[step]]\nid = \"last\"\nwhen = {{ step = \"chaos-2\" }}\n\
             wait = {{ nodes_ready = 3, within = \"9s\" }}\n"
        );
        let scenario = read(&text).unwrap();
        let ids: Vec<&str> = scenario.steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(ids, ["first", "chaos-1", "chaos-2", "chaos-3", "last"]);
        let waits: Vec<bool> = scenario
            .steps
            .iter()
            .map(|step| step.when.is_some())
            .collect();
        assert_eq!(waits, [false, true, false, false, true]);
        let pauses = scenario.steps.iter().filter_map(|step| step.drawn.as_ref());
        let pauses: Vec<Duration> = pauses.map(|draw| draw.pause).collect();
        let ten = Duration::from_secs(10);
        assert_eq!(pauses, [Duration::ZERO, ten, ten]);
    }

    #[test]
    fn the_step_itself_is_none_that_could_be_named() {
        let text = format!(
            "[load.web]\nurl = \"http://web/\"\nrate = \"5/s\"\nstreams = [\"new\"]\n\
             deadline = \"1s\"\nbaseline = {{ for = \"5s\", good = \"100%\" }}\n\
             [[step]]\nid = \"chaos\"\n\
             fault = {{ kind = \"random\", times = 2, from = [{KILL}] }}\n\
             [expect]\nweb.during.chaos-2.failed = \"<= 5%\"\n"
        );
        assert!(read(&text).is_ok(), "{:?}", read(&text).err());
        let problems = read(&text.replace("during.chaos-2", "during.chaos")).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("there is no step `chaos`"),
            "{problems:?}"
        );
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once() {
        let wrong = "[[step]]\nid = \"Chaos\"\n\
                     fault = { kind = \"random\", times = 0, pause = 3, often = 1, from = [\n\
                     { weight = 0, fault = { kind = \"random\", target = {} } },\n] }\n";
        let problems = read(wrong).unwrap_err();
        for part in [
            "`Chaos` is not a name",
            "`0` is not within 1 to 100",
            "`3` has no unit",
            "unknown key `often`",
            "`0` is not within 1 to 1000",
            "unknown fault kind `random`",
        ] {
            let told = problems.iter().any(|problem| problem.contains(part));
            assert!(told, "{part}: {problems:?}");
        }
        let twice = format!(
            "[[step]]\nid = \"a-2\"\nwait = {{ nodes_ready = 3, within = \"9s\" }}\n[[step]]\nid = \"a\"\n\
             fault = {{ kind = \"random\", times = 2, from = [{KILL}] }}\n"
        );
        assert_eq!(read(&twice).unwrap_err(), ["6:6 there are two steps `a-2`"]);
        let empty = "[[step]]\nid = \"a\"\nfault = { kind = \"random\", times = 2, from = [] }\n";
        assert_eq!(
            read(empty).unwrap_err(),
            ["4:46 there is nothing to draw from"]
        );
    }
}
