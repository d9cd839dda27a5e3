//! Verdicts of made-up measurements, and the shape of the report.

use std::path::Path;

use super::super::file::Against;
use super::super::load::Class;
use super::super::report::{Report, TargetFacts};
use super::*;

fn scenario() -> Scenario {
    let text = r#"flightcage = 1
[load.web]
url = "https://web/"
rate = "25/s"
streams = ["new"]
deadline = "1s"
version = { header = "X-Version" }
baseline = { for = "5s", good = "100%" }
[[step]]
id = "kill"
fault = { kind = "node.power_off", target = { node = "w1" }, for = "5s" }
[expect]
web.failed = "<= 0.5%"
web.new.longest_outage = "<= 3s"
web.recovery.kill = { within = "10s", hold = "2s" }
web.final_version = "v2"
replicas.web = 2
pods_deleted = 0
faults_left = 0
"#;
    let name = "test".parse().unwrap();
    super::super::file::parse(
        Path::new("demo.toml"),
        text,
        &Against::own_cluster(&name, |_, _| Vec::new()),
    )
    .unwrap()
}

/// 500 requests, 40 ms apart: v1 up to the 250th, then v2; a fault at 4000 ms.
fn measured() -> Measured {
    let mut records = Vec::new();
    for number in 0..500_u32 {
        let intended_ms = f64::from(number) * 40.0;
        records.push(Record {
            stream: StreamKind::New,
            intended_ms,
            sent_ms: intended_ms + 1.0,
            connected_ms: Some(intended_ms + 2.0),
            first_byte_ms: Some(intended_ms + 8.0),
            end_ms: intended_ms + 10.0,
            connection: Some(u64::from(number)),
            status: Some(200),
            version: Some(if number < 250 { "v1" } else { "v2" }.to_owned()),
            endpoint: None,
            class: Class::Ok,
        });
    }
    let fault = FaultReport {
        measured: None,
        id: "kill".into(),
        kind: "node.power_off".into(),
        target: "w1".into(),
        requested_ms: 3990,
        onset_ms: Some(4000),
        healed_ms: Some(9000),
        verified: true,
    };
    Measured {
        loads: BTreeMap::from([(
            "web".to_owned(),
            MeasuredLoad {
                records,
                from_ms: 0.0,
                end_ms: 20_000.0,
                stalled: Duration::ZERO,
            },
        )]),
        faults: vec![fault],
        replicas: BTreeMap::from([("web".to_owned(), 2)]),
        ..Measured::default()
    }
}

fn check(change: impl FnOnce(&mut Measured)) -> (Verdict, Vec<String>) {
    let mut measured = measured();
    change(&mut measured);
    let judgement = judge(&scenario(), &measured);
    (judgement.verdict, judgement.reasons)
}

fn records(measured: &mut Measured) -> &mut Vec<Record> {
    &mut measured.loads.get_mut("web").unwrap().records
}

#[test]
fn each_doubt_and_each_failure_has_its_verdict() {
    assert_eq!(check(|_| {}), (Verdict::Pass, vec![]));
    assert_eq!(
        check(|m| m.faults[0].verified = false).0,
        Verdict::Inconclusive
    );
    assert_eq!(check(|m| records(m).truncate(40)).0, Verdict::Inconclusive);
    assert_eq!(
        check(|m| records(m)[..6].iter_mut().for_each(|r| r.sent_ms += 60.0)).0,
        Verdict::Inconclusive
    );
    assert_eq!(
        check(|m| records(m)[..5].iter_mut().for_each(|r| r.sent_ms += 60.0)).0,
        Verdict::Pass
    );
    assert_eq!(
        check(|m| m.loads.get_mut("web").unwrap().stalled = Duration::from_secs(1)).0,
        Verdict::Inconclusive
    );
    assert_eq!(check(|m| m.faults_left = 1).0, Verdict::Fail);
    let starved = |m: &mut Measured, seconds| {
        m.starvation = Starvation {
            watched: Duration::from_secs(100),
            starved: Duration::from_secs(seconds),
            others: 0.5,
        };
    };
    assert_eq!(
        check(|m| starved(m, 100)).0,
        Verdict::Pass,
        "nothing failed all the same"
    );
    let (verdict, reasons) = check(|m| {
        starved(m, 6);
        m.faults_left = 1;
    });
    assert_eq!(
        (verdict, reasons.len()),
        (Verdict::Inconclusive, 2),
        "{reasons:?}"
    );
    assert!(
        reasons[0].contains("50 %") && reasons[0].contains("6 of 100 s"),
        "{reasons:?}"
    );
    let passing = |m: &mut Measured| {
        starved(m, 5);
        m.faults_left = 1;
    };
    assert_eq!(
        check(passing).0,
        Verdict::Fail,
        "a moment of it proves nothing"
    );
    assert_eq!(check(|m| m.pods_deleted = 1).0, Verdict::Fail);
    assert_eq!(check(|m| m.replicas.clear()).0, Verdict::Fail);
    assert_eq!(
        check(|m| m.step_failures.push("step `back`: no".into())).0,
        Verdict::Fail
    );
    assert_eq!(
        check(|m| m.updates_ended_ms.push(9_000.0)).0,
        Verdict::Fail,
        "v1 was asked for and answered after the update"
    );
    assert_eq!(
        check(|m| m.updates_ended_ms.push(10_000.0)).0,
        Verdict::Pass
    );
    assert_eq!(
        check(|m| records(m)[499].version = Some("v1".into())).0,
        Verdict::Fail
    );
    assert_eq!(
        check(|m| records(m)[490].version = Some("v1".into())).0,
        Verdict::Fail,
        "v2 has not lasted"
    );
}

#[test]
fn only_what_happens_between_the_baseline_and_the_end_counts() {
    let records = records(&mut measured()).clone();
    let pause = |from_ms: f64, to_ms: f64| Pause { from_ms, to_ms };
    let pauses = [
        pause(0.0, 900.0),
        pause(950.0, 1_100.0),
        pause(5_000.0, 5_100.0),
        pause(9_900.0, 10_400.0),
    ];
    let load = MeasuredLoad::between(1_000.0, 10_000.0, records, &pauses);
    let intended = |record: Option<&Record>| record.map(|record| record.intended_ms);
    assert_eq!(
        (
            intended(load.records.first()),
            intended(load.records.last())
        ),
        (Some(1_000.0), Some(9_960.0))
    );
    assert_eq!(load.stalled, Duration::from_millis(100 + 100 + 100));
    // A prober that slept before the baseline was accepted is no reason to doubt the run.
    let early = MeasuredLoad::between(1_000.0, 10_000.0, Vec::new(), &pauses[..1]);
    assert_eq!(early.stalled, Duration::ZERO);
}

#[test]
fn failures_name_the_expectation_and_the_figure() {
    let (verdict, reasons) = check(|m| {
        records(m)[110..200]
            .iter_mut()
            .for_each(|r| r.class = Class::Refused)
    });
    assert_eq!(verdict, Verdict::Fail);
    assert_eq!(
        reasons,
        [
            "web.failed: expected <= 0.5%, measured 18.000 % (90 of 500)",
            "web.new.longest_outage: expected <= 3s, measured 3600 ms",
        ]
    );
}

#[test]
fn the_report_has_the_contracts_shape() {
    let judgement = judge(&scenario(), &measured());
    let target = TargetFacts {
        provider: "qemu".into(),
        accel: "tcg".into(),
        nodes: 3,
    };
    let report = Report {
        faults: measured().faults,
        load: judgement.loads,
        expectations: judgement.rows,
        ..Report::without_run("demo", 7, target, judgement.verdict, judgement.reasons)
    };
    insta::assert_snapshot!(report.to_json());
    assert!(super::super::summary::text(&report).starts_with("PASS  demo\n"));
    assert!(report.to_junit().contains("web.recovery.kill"));
}
