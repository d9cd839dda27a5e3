//! What happens now, for the bar above a live page: a pure function of the state. The browser writes it as text, never as HTML.

use serde_json::{Value, json};

use crate::cli::board::clock;
use crate::cli::board::lines::doing;
use crate::cli::board::state::{NOT_BEGUN, Now, State};
use crate::scenario::live::LiveRun;

/// The last lines that were told.
const TOLD_MAX: usize = 6;

/// The state as JSON in one line.
pub(super) fn json(state: &State, now: Now) -> String {
    let run = state.run.as_ref();
    let what = match run {
        Some(run) => doing(run, now.run_ms),
        None if state.over => "over".to_owned(),
        None => [state.step.as_str(), state.detail.as_str()].join("  "),
    };
    let elapsed = run.map_or(now.command, |_| {
        std::time::Duration::from_millis(now.run_ms)
    });
    let told = run.map_or(Vec::new(), |run| {
        let lines = run.lines.iter().rev().take(TOLD_MAX).rev();
        let line = |(at, text): &(std::time::Duration, String)| {
            format!("{:.1} s  {text}", at.as_secs_f64())
        };
        lines.map(line).collect()
    });
    let notes: Vec<String> = state.notes.iter().cloned().collect();
    let told = [notes, told].concat();
    json!({
        "title": state.title,
        "what": what.trim(),
        "clock": clock(elapsed),
        "more": run.map(left_out).unwrap_or_default(),
        "machines": machines(state, now),
        "told": told,
        "page": state.changes,
        "over": state.over,
    })
    .to_string()
}

/// What the page does not show.
fn left_out(run: &LiveRun) -> String {
    let mut parts = Vec::new();
    if run.thinned > 0 {
        parts.push(format!("{} good requests are left out here", run.thinned));
    }
    if run.dropped > 0 {
        parts.push(format!(
            "{} messages of the run were not shown in time",
            run.dropped
        ));
    }
    parts.join("; ")
}

/// One card a machine: its power, and what it does.
fn machines(state: &State, now: Now) -> Vec<Value> {
    let nodes = state.run.iter().flat_map(|run| run.facts.nodes.keys());
    let mut names: Vec<&String> = state.machines.keys().chain(nodes).collect();
    names.sort();
    names.dedup();
    let card = |name: &String| {
        let boots = state.machines.get(name).map_or("", String::as_str);
        let ready = state.run.as_ref().and_then(|run| run.facts.nodes.get(name));
        let does = match ready {
            Some(true) => "Ready",
            Some(false) => "not Ready",
            None => boots,
        };
        let broken = state.run.as_ref().and_then(|run| power(run, name, now));
        let power = broken.unwrap_or(if boots == NOT_BEGUN && ready.is_none() {
            "off"
        } else {
            "on"
        });
        json!({
            "name": name,
            "power": power,
            "does": does,
            "away": broken.is_some() || ready == Some(&false),
        })
    };
    names.into_iter().map(card).collect()
}

/// What a fault that acts has done to a machine's power.
fn power(run: &LiveRun, machine: &str, now: Now) -> Option<&'static str> {
    let acting = run.acting(now.run_ms);
    let mut of_machine = acting.iter().filter(|(fault, _)| fault.target == machine);
    let words = |kind: &str| match kind {
        "node.power_off" => Some("off"),
        "node.freeze" => Some("frozen"),
        "node.reset" => Some("reset"),
        _ => None,
    };
    of_machine.find_map(|(fault, _)| words(&fault.kind))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scenario::live::state::tests::busy;

    fn of(state: &State, run_ms: u64) -> Value {
        let now = Now {
            command: Duration::from_secs(9),
            run_ms,
        };
        serde_json::from_str(&json(state, now)).expect("it is JSON")
    }

    #[test]
    fn machines_are_there_before_they_boot_and_show_their_power_later() {
        let mut state = State::new();
        state.machines(["c1", "w1", "w2"].into_iter());
        state.step("box flightcage-os and images");
        let card = |told: &Value, index: usize| {
            let card = &told["machines"][index];
            let text = |key: &str| card[key].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {} {} {}",
                text("name"),
                text("power"),
                text("does"),
                card["away"]
            )
        };
        let told = of(&state, 0);
        assert_eq!(card(&told, 1), "w1 off not begun false");
        assert_eq!(told["what"], "box flightcage-os and images");
        assert_eq!(told["clock"], "0:09");
        state.machine("w1", "connecting by SSH");
        assert_eq!(card(&of(&state, 0), 1), "w1 on connecting by SSH false");
        state.run = Some(busy("failover"));
        let told = of(&state, 70_000);
        assert_eq!(card(&told, 0), "c1 on Ready false");
        assert_eq!(card(&told, 1), "w1 off not Ready true");
        assert_eq!(told["clock"], "1:10");
        assert!(
            told["told"][0]
                .as_str()
                .is_some_and(|line| line.contains("begins"))
        );
        assert_eq!(told["over"], false);
    }
}
