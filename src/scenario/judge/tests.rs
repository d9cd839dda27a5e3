//! Doubts, failures and the order of the verdict; the shape of the report; a folder judged again.

use super::super::report::{
    CountedReport, Report, StarvedBy, StarvedReport, State, StepReport, TargetFacts, Verdict,
};
use super::super::requests::Sample;
use super::testing::{History, scenario};
use super::{Judgement, again, judge};

const RATE: f64 = 25.0;
const ROWS: &str = r#"
web.failed = "<= 0.5%"
web.worst = { window = "10s", failed = "<= 5%" }
web.new.longest_outage = "<= 3s"
web.during.kill.p99 = "<= 300ms"
web.recovery.kill = { within = "10s", hold = "2s" }
replicas.web = 2
restarts."deployment/web" = "<= 1"
pods_deleted = 0
faults_left = 0
"#;

fn calm() -> History {
    let mut history = History::new(RATE, 40.0, |_, _| false);
    history.fault = Some((10_000, 15_000));
    history
}

fn evidence(history: &History) -> Report {
    let mut evidence = history.evidence();
    evidence.counted = Some(CountedReport {
        replicas: [("web".to_owned(), 2)].into(),
        restarts: [("deployment/web".to_owned(), 0)].into(),
        pods_deleted: 0,
        faults_left: 0,
    });
    evidence
}

fn check(history: &History, change: impl FnOnce(&mut Report)) -> Judgement {
    let mut evidence = evidence(history);
    change(&mut evidence);
    judge(&scenario(RATE, ROWS), &evidence, &history.requests())
}

fn starved(evidence: &mut Report, from_ms: u64, machine: &str) {
    evidence.load.get_mut("web").unwrap().machines = vec!["w1".to_owned()];
    evidence.host.starved.push(StarvedReport {
        from_ms,
        to_ms: from_ms + 1_000,
        by: StarvedBy::Cage,
        machine: Some(machine.to_owned()),
        share: None,
    });
}

#[test]
fn each_doubt_and_each_failure_has_its_verdict() {
    let history = calm();
    let verdict = |change: &dyn Fn(&mut Report)| check(&history, change).verdict;
    assert_eq!(check(&history, |_| {}).reasons, Vec::<String>::new());
    assert_eq!(verdict(&|_| {}), Verdict::Pass);
    assert_eq!(
        verdict(&|e| e.faults[0].verified = false),
        Verdict::Inconclusive
    );
    assert_eq!(
        verdict(&|e| e.faults[0].healed_ms = None),
        Verdict::Inconclusive
    );
    assert_eq!(verdict(&|e| e.struck.clear()), Verdict::Inconclusive);
    assert_eq!(
        verdict(&|e| e.doubts.push("interrupted".into())),
        Verdict::Inconclusive
    );
    let counted =
        |change: fn(&mut CountedReport)| verdict(&|e| change(e.counted.as_mut().unwrap()));
    assert_eq!(counted(|c| c.faults_left = 1), Verdict::Fail);
    assert_eq!(counted(|c| c.pods_deleted = 1), Verdict::Fail);
    assert_eq!(counted(|c| c.replicas.clear()), Verdict::Fail);
    assert_eq!(
        counted(|c| *c.restarts.get_mut("deployment/web").unwrap() = 1),
        Verdict::Pass
    );
    assert_eq!(
        counted(|c| *c.restarts.get_mut("deployment/web").unwrap() = 2),
        Verdict::Fail
    );
    assert_eq!(counted(|c| c.restarts.clear()), Verdict::Inconclusive);
    let failed = StepReport {
        id: "back".into(),
        failed: Some("no".into()),
        ..StepReport::default()
    };
    let judged = check(&history, |e| e.steps.push(failed));
    assert_eq!(
        (judged.verdict, judged.reasons),
        (Verdict::Fail, vec!["step `back`: no".to_owned()])
    );
}

#[test]
fn starvation_counts_where_it_overlaps_what_was_not_met() {
    let mut history = calm();
    for sample in &mut history.streams[0].1[300..500] {
        *sample = sample.failed();
    }
    let verdict = |change: &dyn Fn(&mut Report)| check(&history, change).verdict;
    assert_eq!(verdict(&|_| {}), Verdict::Fail);
    assert_eq!(
        verdict(&|e| starved(e, 12_000, "w1")),
        Verdict::Inconclusive
    );
    assert_eq!(
        verdict(&|e| starved(e, 12_000, "c1")),
        Verdict::Fail,
        "not of the path"
    );
    assert_eq!(
        verdict(&|e| starved(e, 90_000, "w1")),
        Verdict::Fail,
        "after all of it"
    );
    assert_eq!(
        verdict(&|e| starved(e, 2_000, "w1")),
        Verdict::Fail,
        "while nothing failed"
    );
    let fails = |e: &mut Report| {
        starved(e, 12_000, "w1");
        e.host.slow_fails = true;
    };
    assert_eq!(
        verdict(&fails),
        Verdict::Fail,
        "a slow host is no excuse here"
    );
    assert_eq!(
        check(&calm(), |e| starved(e, 12_000, "w1")).verdict,
        Verdict::Pass
    );
}

#[test]
fn late_requests_widen_and_too_many_are_a_doubt() {
    let late = |count: usize| {
        let mut history = calm();
        for sample in &mut history.streams[0].1[..count] {
            *sample = Sample::made(sample.intended_ms(), true, true);
        }
        history.judge(&scenario(RATE, "web.failed = \"<= 0.2%\""))
    };
    assert_eq!(late(4).verdict, Verdict::Pass);
    // 5 of 2000: their share is beyond the bound, and below 1 % of the stream.
    let judged = late(5);
    assert_eq!(
        (judged.verdict, judged.rows[0].state),
        (Verdict::Inconclusive, State::Undecided)
    );
    assert_eq!(
        (judged.rows[0].low, judged.rows[0].high),
        (Some(0.0), Some(0.0025))
    );
    assert!(
        late(20).reasons[0].contains("late"),
        "{:?}",
        late(20).reasons
    );
}

#[test]
fn reasons_name_the_row_its_interval_and_the_request() {
    let mut history = calm();
    for sample in &mut history.streams[0].1[300..400] {
        *sample = sample.failed();
    }
    let judged = history.judge(&scenario(RATE, "web.new.longest_outage = \"<= 3s\""));
    assert_eq!(
        judged.reasons,
        [
            "web.new.longest_outage: expected <= 3s, measured 4000 ms, between 3920 ms and 4080 ms: not met; first decided by \
          request 301 of stream `new` at 12000 ms (refused), while `kill` acted on `w1` (web-1)"
        ]
    );
}

#[test]
fn bounds_that_cannot_fail_are_vacuous() {
    let history = calm();
    let rows = "web.failed = \"<= 100%\"\nweb.new.during.kill.failed = \">= 0%\"";
    let states = history.states(&scenario(RATE, rows));
    assert_eq!(states, [State::Vacuous, State::Vacuous]);
}

fn report(history: &History) -> Report {
    let target = TargetFacts {
        provider: "qemu".into(),
        accel: "tcg".into(),
        nodes: 3,
    };
    let evidence = Report {
        target,
        ..evidence(history)
    };
    again::judged(&scenario(RATE, ROWS), evidence, &history.requests())
}

#[test]
fn the_report_has_the_contracts_shape() {
    let report = report(&calm());
    insta::assert_snapshot!(report.to_json());
    assert!(super::super::summary::text(&report).starts_with("PASS  demo\n"));
    assert!(report.to_junit().contains("web.recovery.kill"));
    let read: Report = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(read.to_json(), report.to_json());
}

/// Only what the contract names, as another program would write it.
#[test]
fn a_folder_is_judged_by_its_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).unwrap();
    let text = scenario(RATE, "web.failed = \"<= 1%\"\nfaults_left = 0").text;
    let text = format!("{text}[deploy]\nfiles = [\"gone.yml\"]\n");
    write("scenario.toml", text.as_bytes());
    write(
        "report.json",
        br#"{"version":1,"scenario":"demo","seed":7,"verdict":"pass","reasons":[],
            "target":{"provider":"qemu","accel":"tcg","nodes":3},
            "faults":[{"id":"kill","kind":"node.power_off","target":"w1","requested_ms":990,"onset_ms":1000,"healed_ms":2000.0,"verified":true}],
            "struck":{"kill":["web-1"]},"load":{"web":{"window":{"from_ms":0,"to_ms":4000.0},"rate":25.0,"streams":{}}}}"#,
    );
    let mut csv = b"load,stream,intended_ms,sent_ms,connected_ms,first_byte_ms,end_ms,class,status,version,connection,endpoint\r\n".to_vec();
    for number in 0..100 {
        for stream in ["new", "reused"] {
            let at = number * 40;
            csv.extend(format!("web,{stream},{at}.000,{at}.100,,,{at}.900,ok,200,,1,\r\n").bytes());
        }
    }
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &csv).unwrap();
    write("requests.csv.gz", &gz.finish().unwrap());
    let first = again::judge_again(folder.path(), None).unwrap();
    assert_eq!(
        (first.verdict, &first.reasons[..]),
        (Verdict::Pass, &[][..])
    );
    write("report.json", first.to_json().as_bytes());
    let second = again::judge_again(folder.path(), None).unwrap();
    assert_eq!(first.to_json(), second.to_json());
    let stricter = folder.path().join("other.toml");
    std::fs::write(&stricter, text.replace("<= 1%", "> 1%")).unwrap();
    let other = again::judge_again(folder.path(), Some(&stricter)).unwrap();
    assert_eq!(other.verdict, Verdict::Fail);
    std::fs::write(&stricter, text.split("[expect]").next().unwrap()).unwrap();
    assert!(again::judge_again(folder.path(), Some(&stricter)).is_err());
}
