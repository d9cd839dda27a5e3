//! Equal runs are never worse, worse ones are, and what one event says decides nothing.

use std::path::Path;

use super::*;
use crate::scenario::load::{Class, Record};
use crate::scenario::report::{LoadReport, SpanReport, TargetFacts};
use crate::scenario::requests::format::{write_header, write_line};
use crate::scenario::spec::StreamKind;

const SCENARIO: &str = r#"flightcage = 1
[load.web]
url = "http://web/"
rate = "20/s"
streams = ["new"]
deadline = "1s"
baseline = { for = "5s", good = "100%" }
[expect]
web.failed = "<= 5%"
"#;

/// A run of 60 s at 20 requests a second: whether each failed, and how long it took.
fn write(folder: &Path, request: impl Fn(u32) -> (bool, f64)) {
    use std::io::Write as _;
    let mut text = Vec::new();
    write_header(&mut text);
    for number in 0..1200 {
        let intended_ms = 1000.0 + f64::from(number) * 50.0;
        let (good, took_ms) = request(number);
        let record = Record {
            stream: StreamKind::New,
            intended_ms,
            sent_ms: intended_ms,
            connected_ms: None,
            first_byte_ms: None,
            end_ms: intended_ms + took_ms,
            connection: None,
            status: None,
            version: None,
            endpoint: None,
            class: if good { Class::Ok } else { Class::Refused },
        };
        write_line(&mut text, "web", &record);
    }
    let file = std::fs::File::create(folder.join(FILE_NAME)).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    packed.write_all(&text).unwrap();
    packed.finish().unwrap();
    std::fs::write(folder.join(SCENARIO_FILE), SCENARIO).unwrap();
    let target = TargetFacts {
        provider: "qemu".into(),
        accel: "tcg".into(),
        nodes: 3,
    };
    let mut report = Report::without_run("demo", 1, target, Verdict::Pass, Vec::new());
    let load = LoadReport {
        window: Some(SpanReport {
            from_ms: 1000,
            to_ms: 61_000,
        }),
        rate: Some(20.0),
        ..LoadReport::default()
    };
    report.load.insert("web".to_owned(), load);
    std::fs::write(folder.join("report.json"), report.to_json()).unwrap();
    let judged = again::judge_again(folder, None).unwrap();
    std::fs::write(folder.join("report.json"), judged.to_json()).unwrap();
}

/// A number that looks drawn, from 0 to 1.
fn noise(number: u32, salt: u32) -> f64 {
    let mixed = (number ^ salt.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    f64::from((mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35) >> 8) / f64::from(1 << 24)
}

fn usual(salt: u32) -> impl Fn(u32) -> (bool, f64) {
    move |number| {
        let failed = noise(number, salt + 1000) < 0.01;
        (!failed, 5.0 + 20.0 * noise(number, salt))
    }
}

fn compared(a: impl Fn(u32) -> (bool, f64), b: impl Fn(u32) -> (bool, f64)) -> Difference {
    let (folder_a, folder_b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(folder_a.path(), a);
    write(folder_b.path(), b);
    compare(folder_a.path(), folder_b.path(), 0.1).unwrap()
}

fn change(difference: &Difference, name: &str) -> Change {
    let figure = difference.figures.iter().find(|figure| figure.name == name);
    figure.unwrap_or_else(|| panic!("no figure {name}")).change
}

#[test]
fn a_run_is_not_worse_than_itself_or_one_like_it() {
    let same = compared(usual(1), usual(1));
    assert_eq!(same.worse, [""; 0]);
    assert!(
        same.figures
            .iter()
            .all(|figure| figure.difference == Some(0.0))
    );
    for salt in 2..12 {
        let like = compared(usual(1), usual(salt));
        assert_eq!(like.worse, [""; 0], "salt {salt}");
    }
}

#[test]
fn more_failures_and_slower_answers_are_worse_and_the_other_way_round_better() {
    let failing = |number: u32| (noise(number, 5) >= 0.04, 5.0 + 20.0 * noise(number, 3));
    let worse = compared(usual(1), failing);
    assert_eq!(change(&worse, "web.new.failed"), Change::Worse);
    assert!(
        worse.worse[0].starts_with("web.new.failed: "),
        "{:?}",
        worse.worse
    );
    let better = compared(failing, usual(1));
    assert_eq!(
        (change(&better, "web.new.failed"), better.worse.len()),
        (Change::Better, 0)
    );
    let slow = |number: u32| (true, 10.0 + 25.0 * noise(number, 4));
    let slower = compared(usual(1), slow);
    assert_eq!(change(&slower, "web.new.p50"), Change::Worse);
    assert_eq!(slower.worse.len(), 2, "p50 and p90: {:?}", slower.worse);
}

#[test]
fn one_longer_outage_is_told_and_decides_nothing_but_a_row_does() {
    let outage = |length: u32| move |number: u32| (!(400..400 + length).contains(&number), 8.0);
    let longer = compared(outage(4), outage(30));
    assert_eq!(change(&longer, "web.new.longest_outage"), Change::Worse);
    assert_eq!(longer.worse, [""; 0]);
    let lost = compared(outage(4), outage(70));
    assert_eq!(lost.worse, ["web.failed: met by A, not met by B"]);
    assert_eq!(
        lost.expectations[0],
        Row {
            name: "web.failed".into(),
            expected_a: Some("<= 5%".into()),
            expected_b: Some("<= 5%".into()),
            a: Some(State::Met),
            b: Some(State::NotMet)
        }
    );
}

#[test]
fn it_reads_well_on_a_terminal_and_in_a_pull_request() {
    let difference = compared(usual(1), |number| (noise(number, 5) >= 0.04, 12.0));
    let plain = plain(&difference);
    assert!(
        plain.contains("A  PASS          demo (seed 1) in "),
        "{plain}"
    );
    assert!(plain.contains("\n  web.new.failed"), "{plain}");
    assert!(
        plain
            .trim_end()
            .lines()
            .last()
            .unwrap()
            .starts_with("B is worse: "),
        "{plain}"
    );
    let markdown = markdown(&difference);
    assert!(markdown.contains("| web.new.failed | "), "{markdown}");
    assert_eq!(
        markdown
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.matches('|').count())
            .max(),
        Some(7)
    );
}
