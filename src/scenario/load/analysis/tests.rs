//! Outages and recovery on made-up logs.

use proptest::prelude::*;

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

fn lengths(text: &str) -> Vec<(f64, f64)> {
    let records = log(text);
    let records: Vec<&Record> = records.iter().collect();
    #[expect(clippy::cast_precision_loss, reason = "short logs")]
    outages(&records, records.len() as f64 * PERIOD_MS)
        .iter()
        .map(|outage| (outage.from_ms, outage.to_ms))
        .collect()
}

#[test]
fn an_outage_runs_from_the_first_bad_to_the_next_good() {
    assert_eq!(lengths("....."), []);
    assert_eq!(lengths("..x.."), [(80.0, 120.0)]);
    assert_eq!(lengths("..xxx.."), [(80.0, 200.0)]);
    assert_eq!(lengths("x"), [(0.0, 40.0)], "open at the end");
    assert_eq!(
        lengths("x..x..."),
        [(0.0, 160.0)],
        "two goods do not part outages"
    );
    assert_eq!(
        lengths("x...x..."),
        [(0.0, 40.0), (160.0, 200.0)],
        "three goods do"
    );
    assert_eq!(lengths("x.x.x.."), [(0.0, 200.0)], "merging goes on");
}

#[test]
fn recovery_is_the_first_window_that_holds() {
    let check = |text: &str, onset: f64, hold: f64| {
        let records = log(text);
        let records: Vec<&Record> = records.iter().collect();
        #[expect(clippy::cast_precision_loss, reason = "short logs")]
        recovery_ms(&records, onset, hold, records.len() as f64 * PERIOD_MS)
    };
    assert_eq!(check("..........", 70.0, 200.0), Ok(0.0), "never down");
    assert_eq!(check("...xxx..........", 70.0, 200.0), Ok(170.0));
    assert_eq!(
        check("...xxx.x........", 70.0, 200.0),
        Ok(250.0),
        "a short good run does not hold"
    );
    assert_eq!(
        check("...xxxxxxx", 70.0, 200.0),
        Err(330.0),
        "a lower bound"
    );
    assert_eq!(
        check("...xxxx...", 70.0, 200.0),
        Err(330.0),
        "the log ends before the window does"
    );
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
fn versions_take_over_once() {
    let mut records = log("......");
    for (record, version) in records.iter_mut().zip(["v1", "v1", "v2", "v1", "v2", "v2"]) {
        record.version = Some(version.to_owned());
    }
    let expected = Takeover {
        version: "v2".to_owned(),
        last_other_ms: Some(120.0),
        answers_since: 2,
    };
    assert_eq!(takeover(&records), Some(expected));
    assert_eq!(takeover(&log("..")), None);
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

proptest! {
    #[test]
    fn outages_cover_every_bad_request_and_keep_their_distance(bits in proptest::collection::vec(any::<bool>(), 0..200)) {
        let text: String = bits.iter().map(|good| if *good { '.' } else { 'x' }).collect();
        let records = log(&text);
        let refs: Vec<&Record> = records.iter().collect();
        #[expect(clippy::cast_precision_loss, reason = "short logs")]
        let end = refs.len() as f64 * PERIOD_MS;
        let found = outages(&refs, end);
        for record in &records {
            let inside = found.iter().any(|o| (o.from_ms..o.to_ms).contains(&record.intended_ms));
            prop_assert!(record.good() || inside);
        }
        for pair in found.windows(2) {
            let between = records.iter().filter(|r| (pair[0].to_ms..pair[1].from_ms).contains(&r.intended_ms)).count();
            prop_assert!(between >= GOOD_RUN_MIN);
        }
        for outage in &found {
            prop_assert!(records.iter().any(|r| r.intended_ms.total_cmp(&outage.from_ms).is_eq() && !r.good()));
            prop_assert!(outage.length_ms() > 0.0);
        }
    }
}
