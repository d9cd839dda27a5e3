//! `rate = "25/s"`, or `rate = { auto = "45%", at_most = "50/s" }`, or `stages = [{ rate = "50/s", for = "30s" }, …]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Table, Value, positive, share};
use crate::scenario::load::automatic::{Automatic, RATE_MIN};
use crate::scenario::spec::Stage;

/// Requests a second that one stream may ask for.
const RATE_MAX: f64 = 2000.0;
/// Shares of a worker's processors that a load may take.
const SHARES: RangeInclusive<f64> = 0.05..=0.95;

/// More stages are a mistake.
const STAGES_MAX: usize = 100;

/// How often each stream asks.
pub(super) struct Rates {
    /// Requests a second: the most, if it is left to the host, and the least of the stages.
    pub(super) rate: f64,
    /// How it is found.
    pub(super) automatic: Option<Automatic>,
    /// Rates one after another.
    pub(super) stages: Vec<Stage>,
}

/// Reads `rate` or `stages`.
pub(super) fn rates(table: &Table<'_, '_>) -> Option<Rates> {
    let Some(stages) = table.get("stages") else {
        let (rate, automatic) = table.require("rate").and_then(|value| rate(&value))?;
        return Some(Rates {
            rate,
            automatic,
            stages: Vec::new(),
        });
    };
    if table.get("rate").is_some() {
        stages.problem(
            "`rate` and `stages` exclude each other",
            Some("one stage without `for` is what `rate` says".into()),
        );
    }
    let stages = several(&stages)?;
    let rates = stages.iter().map(|stage| stage.rate);
    Some(Rates {
        rate: rates.fold(f64::INFINITY, f64::min),
        automatic: None,
        stages,
    })
}

fn several(value: &Value<'_, '_>) -> Option<Vec<Stage>> {
    let values = value.array()?;
    if values.is_empty() || values.len() > STAGES_MAX {
        value.problem(
            format!("from one to {STAGES_MAX} stages"),
            Some("such as `[{ rate = \"10/s\", for = \"30s\" }, { rate = \"50/s\" }]`".into()),
        );
        return None;
    }
    let last = values.len() - 1;
    let read: Vec<Option<Stage>> = values
        .iter()
        .enumerate()
        .map(|(index, value)| stage(&value.table()?, index == last))
        .collect();
    read.into_iter().collect()
}

/// One stage; the last one goes on, and need not say how long.
fn stage(table: &Table<'_, '_>, is_last: bool) -> Option<Stage> {
    table.allow(&["rate", "for"]);
    let rate = table.require("rate").and_then(|value| fixed(&value));
    let lasts = match table.get("for") {
        None if is_last => Some(Duration::ZERO),
        None => {
            table.problem("`for` is missing", None);
            None
        }
        Some(value) => positive(&value),
    };
    Some(Stage {
        rate: rate?,
        lasts: lasts?,
    })
}

/// Requests a second of each stream (the most, if it is left to the host), and how it is found.
fn rate(value: &Value<'_, '_>) -> Option<(f64, Option<Automatic>)> {
    let Some(table) = value.if_table() else {
        return Some((fixed(value)?, None));
    };
    table.allow(&["auto", "at_most"]);
    let share = table.require("auto").and_then(|value| {
        let share = share(&value)?;
        if !SHARES.contains(&share) {
            value.problem("from 5% to 95% of a worker's processors", None);
            return None;
        }
        Some(share)
    });
    let at_most = table.require("at_most").and_then(|value| {
        let rate = fixed(&value)?;
        if rate < RATE_MIN {
            value.problem(format!("an automatic rate is at least {RATE_MIN}/s"), None);
            return None;
        }
        Some(rate)
    });
    let (share, at_most) = (share?, at_most?);
    Some((at_most, Some(Automatic { share, at_most })))
}

fn fixed(value: &Value<'_, '_>) -> Option<f64> {
    let rate = value.rate()?;
    if rate > RATE_MAX {
        value.problem(
            format!("at most {RATE_MAX} requests a second a stream"),
            None,
        );
        return None;
    }
    Some(rate)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Against, parse};
    use crate::scenario::spec::Load;

    fn read(keys: &str) -> Result<Load, Vec<String>> {
        let text = format!(
            "flightcage = 1\n[load.web]\nurl = \"http://web/\"\nstreams = [\"new\"]\n\
             deadline = \"1s\"\nbaseline = {{ for = \"5s\", good = \"100%\" }}\n{keys}\n"
        );
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        let scenario = parse(Path::new("demo.toml"), &text, &against).map_err(|refusal| {
            let told = refusal.problems().iter();
            told.map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
                .collect::<Vec<_>>()
        })?;
        Ok(scenario.loads["web"].clone())
    }

    #[test]
    fn what_is_reckoned_by_a_rate_takes_the_least_of_the_stages() {
        let load = read(
            "stages = [{ rate = \"50/s\", for = \"30s\" }, { rate = \"5/s\", for = \"10s\" }, { rate = \"20/s\" }]",
        )
        .unwrap();
        assert!((load.rate - 5.0).abs() < 1e-9 && (load.highest_rate() - 50.0).abs() < 1e-9);
        let told: Vec<String> = load.rates().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["50/s for 30 s", "5/s for 10 s", "20/s for 0 s"]);
        let problems = read(
            "stages = [{ rate = \"50/s\", for = \"30s\" }, { rate = \"5/s\" }]\n[expect]\nweb.longest_outage = \"<= 300ms\"",
        )
        .unwrap_err();
        assert_eq!(
            problems,
            ["9:22 at 5/s nothing shorter than 400 ms can be told from one failed request"]
        );
        let plain = read("rate = \"5/s\"").unwrap();
        assert_eq!((plain.rates().len(), plain.stages.len()), (1, 0));
    }

    #[test]
    fn every_problem_of_stages_is_told_with_its_place() {
        let told = |keys: &str| read(keys).unwrap_err();
        assert_eq!(told("stages = []"), ["7:10 from one to 100 stages"]);
        assert_eq!(
            told("stages = [{ rate = \"5/s\" }, { rate = \"5\", for = \"0s\", x = 1 }]"),
            [
                "7:11 `for` is missing",
                "7:38 `5` has no unit",
                "7:49 must be longer than nothing",
                "7:55 unknown key `x`",
            ]
        );
        assert_eq!(
            told("rate = \"5/s\"\nstages = [{ rate = \"5/s\" }]"),
            ["8:10 `rate` and `stages` exclude each other"]
        );
        assert_eq!(told("").len(), 1);
    }
}
