//! Baselines on made-up logs.

use super::super::Class;
use super::*;

const PERIOD_MS: f64 = 40.0;

/// One character a request, 40 ms apart: `.` good, `x` bad.
fn log(text: &str) -> Vec<Record> {
    let classes = text
        .bytes()
        .map(|c| if c == b'.' { Class::Ok } else { Class::Refused });
    let mut at = 0.0;
    classes
        .map(|class| {
            let intended_ms = at;
            at += PERIOD_MS;
            Record {
                stream: StreamKind::New,
                intended_ms,
                sent_ms: intended_ms,
                connected_ms: None,
                first_byte_ms: None,
                end_ms: intended_ms + 5.0,
                connection: None,
                status: None,
                version: None,
                endpoint: None,
                class,
            }
        })
        .collect()
}

#[test]
fn latency_counts_from_the_intended_time() {
    let mut records = log("....");
    records[3].end_ms = records[3].intended_ms + 900.0;
    let found = latency(&records);
    let near = |found: f64, expected: f64| (found - expected).abs() / expected < 0.002;
    assert!(near(found.p50, 5.0), "{found:?}");
    assert!(
        near(found.max, 900.0) && near(found.p99, 900.0),
        "{found:?}"
    );
    assert_eq!(latency(&[]), Latency::default());
}

#[test]
fn a_baseline_says_what_is_missing() {
    let rule = Baseline {
        window: std::time::Duration::from_millis(200),
        good: 1.0,
        p99: None,
        within: std::time::Duration::from_secs(1),
    };
    let check =
        |text: &str, settled: f64| baseline(&log(text), &[StreamKind::New], &rule, 0.0, settled);
    assert_eq!(
        check("x.....", 240.0),
        BaselineState::Reached { from_ms: 40.0 }
    );
    assert!(matches!(check("x.....", 160.0), BaselineState::NotYet(_)));
    assert_eq!(
        check(".x....", 240.0),
        BaselineState::NotYet("stream `new`: 4 of 5 good (refused 1)".to_owned())
    );
}
