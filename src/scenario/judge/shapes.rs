//! The track record: every wrong verdict ever met, with the history that reproduces it. `docs/verdicts.md` tells them.

use super::super::report::{State, Verdict};
use super::testing::{History, scenario};

/// As they were on 2026-11-30, when all of these were PASS.
const FAILOVER: &str = r#"
web.failed = "<= 5%"
web.new.longest_outage = "<= 3s"
web.reused.longest_outage = "<= 3s"
web.recovery.kill = { within = "30s", hold = "5s" }
"#;

const RATE: f64 = 12.0;

fn check(history: &History, more: &str, expected: Verdict) -> Vec<String> {
    let judgement = history.judge(&scenario(RATE, &format!("{FAILOVER}{more}")));
    assert_eq!(judgement.verdict, expected, "{:#?}", judgement.reasons);
    judgement.reasons
}

fn between(at: f64, from_ms: f64, to_ms: f64) -> bool {
    (from_ms..to_ms).contains(&at)
}

#[test]
fn a_brown_out_of_25_s_is_not_diluted() {
    let number = |at: f64| (at * RATE / 1000.0).round() as u64;
    let history = History::new(RATE, 200.0, |_, at| {
        between(at, 110_000.0, 135_000.0) && number(at).is_multiple_of(4)
    });
    check(&history, "", Verdict::Pass);
    let worst = r#"web.worst = { window = "10s", failed = "<= 20%" }"#;
    let reasons = check(&history, worst, Verdict::Fail);
    assert!(
        reasons[0].starts_with("web.worst: expected window 10s, failed <= 20%, measured 25"),
        "{reasons:?}"
    );
    check(&history, r#"web.degraded = "<= 5s""#, Verdict::Fail);
}

#[test]
fn three_black_holes_are_told_together() {
    let history = History::new(RATE, 200.0, |_, at| {
        [20_000.0, 130_000.0, 160_000.0]
            .iter()
            .any(|from| between(at, *from, from + 2_600.0))
    });
    check(&history, "", Verdict::Pass);
    check(&history, r#"web.downtime = "<= 5s""#, Verdict::Fail);
    check(&history, r#"web.outages = "<= 2""#, Verdict::Fail);
}

#[test]
fn damage_that_comes_late_counts() {
    let history = History::new(RATE, 200.0, |_, at| between(at, 68_000.0, 70_000.0));
    let within = |seconds: u32| {
        let row = format!("web.recovery.kill = {{ within = \"{seconds}s\", hold = \"5s\" }}");
        history.judge(&scenario(RATE, &row))
    };
    assert_eq!(within(5).verdict, Verdict::Fail);
    assert_eq!(within(30).verdict, Verdict::Pass);
    assert_eq!(within(30).rows[0].measured, "9958 ms");
}

#[test]
fn a_prober_that_slept_over_an_outage_cannot_tell() {
    let mut history = History::new(RATE, 200.0, |_, _| false);
    history.pauses.push((120_000.0, 120_900.0));
    check(
        &history,
        r#"web.downtime = "<= 500ms""#,
        Verdict::Inconclusive,
    );
    check(&history, r#"web.downtime = "<= 1s""#, Verdict::Pass);
}

#[test]
fn a_machine_that_served_nothing_proves_nothing() {
    let mut history = History::new(RATE, 200.0, |_, _| false);
    check(&history, "", Verdict::Pass);
    history.struck.clear();
    check(&history, "", Verdict::Inconclusive);
    let states = history.states(&scenario(RATE, FAILOVER));
    assert_eq!(states, [State::Vacuous; 4]);
}

#[test]
fn a_scenario_that_expects_nothing_cannot_be_run() {
    assert_eq!(scenario(RATE, "").cannot_fail.len(), 1);
    assert_eq!(
        scenario(RATE, "faults_left = 0").cannot_fail.len(),
        1,
        "of the load"
    );
    assert!(
        scenario(RATE, "web.failed = \"<= 1%\"")
            .cannot_fail
            .is_empty()
    );
}
