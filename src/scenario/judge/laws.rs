//! Laws that the judge holds for every history: `docs/verdicts.md` tells them in words.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::report::{State, Verdict};
use super::super::requests::Sample;
use super::super::spec::Scenario;
use super::testing::{History, scenario};

const RATE: f64 = 4.0;
const SECONDS: f64 = 40.0;
const PERIOD_MS: f64 = 1000.0 / RATE;

/// What no tail of good requests may mend.
const LASTING: &str = r#"
web.worst = { window = "5s", failed = "<= 10%" }
web.longest_outage = "<= 2s"
web.recovery.kill = { within = "6s", hold = "4s" }
web.new.recovery.kill = { within = "6s", hold = "4s" }
web.during.kill.failed = "<= 10%"
web.new.during.kill.downtime = "<= 2s"
web.during.kill.worst = { window = "5s", failed = "<= 10%" }
web.during.kill.degraded = "<= 4s"
"#;

static ROWS: LazyLock<Scenario> = LazyLock::new(|| {
    let more = r#"
web.failed = "<= 3%"
web.downtime = "<= 3s"
web.degraded = "<= 6s"
"#;
    scenario(RATE, &format!("{LASTING}{more}"))
});
static LASTING_ROWS: LazyLock<Scenario> = LazyLock::new(|| scenario(RATE, LASTING));

static RENAMED_ROWS: LazyLock<Scenario> =
    LazyLock::new(|| scenario(RATE, &LASTING.replace("web.new.", "web.reused.")));
/// Bounds of the longest outage, in milliseconds; that of the downtime is twice as long.
const LIMITS_MS: [u32; 8] = [500, 700, 1_000, 1_700, 2_500, 3_600, 5_000, 7_000];
static LIMITED: LazyLock<Vec<Scenario>> = LazyLock::new(|| {
    let rows = |limit: u32| {
        let sum = 2 * limit;
        format!("web.longest_outage = \"<= {limit}ms\"\nweb.downtime = \"<= {sum}ms\"\n")
    };
    LIMITS_MS
        .iter()
        .map(|limit| scenario(RATE, &rows(*limit)))
        .collect()
});

/// A run with up to four stretches in which a share of the requests fails, late requests and a pause.
fn history() -> impl Strategy<Value = History> {
    let stretch = (0.0..SECONDS * 1000.0, 0.0..8_000.0, 1..5_u64);
    let stretches = proptest::collection::vec(stretch, 0..4);
    let late = proptest::collection::vec(0..300_usize, 0..4);
    let pause = proptest::option::of((0.0..SECONDS * 1000.0, 60.0..500.0));
    let fault = (5_000..25_000_u64, 0..8_000_u64);
    (stretches, late, pause, fault).prop_map(|(stretches, late, pause, (onset, lasts))| {
        let mut history = History::new(RATE, SECONDS, |_, at| {
            stretches.iter().any(|(from, length, every)| {
                let number = (at / PERIOD_MS).round() as u64;
                (*from..from + length).contains(&at) && number.is_multiple_of(*every)
            })
        });
        history.fault = Some((onset, onset + lasts));
        history
            .pauses
            .extend(pause.map(|(from, length)| (from, from + length)));
        for (_, samples) in &mut history.streams {
            for index in &late {
                let sample = samples[index % samples.len()];
                let index = index % samples.len();
                samples[index] = Sample::made(sample.intended_ms(), sample.good(), true);
            }
        }
        history
    })
}

fn badness(state: State) -> u8 {
    match state {
        State::Met => 0,
        State::Undecided | State::Vacuous => 1,
        State::NotMet => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn one_more_bad_request_improves_nothing(before in history(), index in 0..300_usize) {
        let mut after = before.clone();
        let samples = &mut after.streams[index % 2].1;
        let index = index % samples.len();
        samples[index] = samples[index].failed();
        let (old, new) = (before.judge(&ROWS), after.judge(&ROWS));
        for (old, new) in old.rows.iter().zip(&new.rows) {
            prop_assert!(badness(old.state) <= badness(new.state), "{old:?}\n{new:?}");
            let ends = |low: Option<f64>| low.unwrap_or(f64::INFINITY);
            prop_assert!(ends(old.high) <= ends(new.high) + 1e-6, "{old:?}\n{new:?}");
        }
        prop_assert!(old.verdict == Verdict::Pass || new.verdict != Verdict::Pass);
    }

    #[test]
    fn a_longer_good_tail_mends_nothing_that_failed(before in history(), seconds in 1..40_u32) {
        let mut after = before.clone();
        for (_, samples) in &mut after.streams {
            let last = samples.last().map_or(0.0, Sample::intended_ms);
            for number in 1..=seconds * 4 {
                samples.push(Sample::made(last + f64::from(number) * PERIOD_MS, true, false));
            }
        }
        after.to_ms += f64::from(seconds) * 1000.0;
        let (old, new) = (before.judge(&LASTING_ROWS), after.judge(&LASTING_ROWS));
        for (old, new) in old.rows.iter().zip(&new.rows) {
            prop_assert!(old.state != State::NotMet || new.state != State::Met, "{old:?}\n{new:?}");
        }
    }

    #[test]
    fn names_clocks_and_order_change_nothing(history in history(), shift in 0..100_000_u64) {
        let mut moved = history.clone();
        let shift_ms = shift as f64;
        moved.from_ms += shift_ms;
        moved.to_ms += shift_ms;
        moved.fault = moved.fault.map(|(onset, healed)| (onset + shift, healed + shift));
        for (from, to) in &mut moved.pauses {
            *from += shift_ms;
            *to += shift_ms;
        }
        for (_, samples) in &mut moved.streams {
            for sample in samples {
                *sample = Sample::made(sample.intended_ms() + shift_ms, sample.good(), sample.late());
            }
        }
        prop_assert_eq!(history.states(&ROWS), moved.states(&ROWS));
        let mut renamed = history.clone();
        for (name, _) in &mut renamed.streams {
            *name = if *name == "new" { "reused" } else { "new" };
        }
        renamed.streams.reverse();
        prop_assert_eq!(history.states(&LASTING_ROWS), renamed.states(&RENAMED_ROWS));
    }

    #[test]
    fn the_truth_lies_in_the_interval(
        from in 5_000.0..10_000.0,
        length in 300.0..5_000.0,
        apart in 2_000.0..8_000.0,
        limit in 0..LIMITS_MS.len(),
    ) {
        // The server is away twice, exactly then, whatever is asked when.
        let second = from + length + apart;
        let away = |at: f64| (from..from + length).contains(&at) || (second..second + length).contains(&at);
        let mut history = History::new(RATE, SECONDS, |_, at| away(at));
        history.fault = Some((from as u64, (second + length) as u64));
        let judgement = history.judge(&LIMITED[limit]);
        let limit_ms = LIMITS_MS[limit];
        for (row, truth, limit) in [
            (&judgement.rows[0], length, f64::from(limit_ms)),
            (&judgement.rows[1], 2.0 * length, f64::from(2 * limit_ms)),
        ] {
            let (low, high) = (row.low.unwrap(), row.high.unwrap());
            prop_assert!(low <= truth && truth <= high, "{truth}: {row:?}");
            let error = high - low;
            prop_assert!(truth > limit - error || row.state != State::NotMet, "{truth}: {row:?}");
            prop_assert!(truth < limit + error || row.state != State::Met, "{truth}: {row:?}");
        }
    }

    #[test]
    fn without_its_fault_nothing_is_met(history in history()) {
        let without = History { fault: None, ..history };
        let rows = without.judge(&LASTING_ROWS).rows;
        for row in rows.iter().filter(|row| row.name.contains("kill")) {
            prop_assert_eq!(row.state, State::Vacuous, "{:?}", row);
        }
    }
}

static LATENCIES: LazyLock<Scenario> = LazyLock::new(|| {
    let rows =
        "web.p50 = \"<= 100ms\"\nweb.new.during.kill.p90 = \"<= 300ms\"\nweb.max = \"<= 900ms\"";
    scenario(RATE, rows)
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn one_more_bad_request_is_no_quicker(before in history(), index in 0..300_usize) {
        let mut after = before.clone();
        let samples = &mut after.streams[0].1;
        let index = index % samples.len();
        samples[index] = samples[index].failed();
        let (old, new) = (before.judge(&LATENCIES), after.judge(&LATENCIES));
        for (old, new) in old.rows.iter().zip(&new.rows) {
            prop_assert!(old.low <= new.low && old.high <= new.high, "{old:?}\n{new:?}");
            prop_assert!(badness(old.state) <= badness(new.state), "{old:?}\n{new:?}");
        }
    }
}

/// Half a period is missing of each stream's span, and a whole request of each may still come: 14 of 140 keep the bound that 14 of 138 miss.
#[test]
fn what_the_load_did_not_see_to_its_end_is_not_decided() {
    let mut history = History::new(RATE, SECONDS, |_, at| (30_000.0..31_750.0).contains(&at));
    history.fault = Some((22_675, 30_126));
    let rows = scenario(RATE, "web.during.kill.failed = \"<= 10%\"");
    assert_eq!(history.states(&rows), [State::Undecided]);
}
