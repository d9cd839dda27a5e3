//! What is read, what a watch says event by event, and what is judged of it.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::track::Tracker;
use super::{GapReport, Guard, GuardReport};
use crate::kubernetes::client::WatchEvent;
use crate::scenario::file::{Against, parse};
use crate::scenario::judge::judge;
use crate::scenario::report::{Report, State, TargetFacts, Verdict};
use crate::scenario::requests::Requests;
use crate::scenario::spec::Scenario;

const FAILED: &str =
    r#"never = [{ kind = "Pod", selector = "app=web", where = { "status.phase" = "Failed" } }]"#;
const SECRET: &str = r#"always = [{ kind = "Secret", name = "ssl-certs", exists = true }]"#;

fn read(rows: &str) -> Result<Scenario, Vec<String>> {
    let text = format!("flightcage = 1\n[expect]\n{rows}\n");
    let name = "test".parse().unwrap();
    let against = Against::own_cluster(&name, |_, _| Vec::new());
    parse(Path::new("demo.toml"), &text, &against).map_err(|refusal| {
        let told = refusal.problems().iter();
        told.map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
            .collect()
    })
}

fn guard(row: &str) -> Guard {
    let scenario = read(row).unwrap_or_else(|problems| panic!("{problems:?}"));
    let guards = scenario.expectations.iter();
    let mut guards = guards.filter_map(|row| row.check.guard());
    guards.next().unwrap().clone()
}

fn pod(name: &str, revision: u32, phase: &str) -> Json {
    json!({
        "metadata": { "name": name, "uid": format!("uid-{name}"), "resourceVersion": revision.to_string() },
        "status": { "phase": phase }
    })
}

/// A watch that listed these objects before the baseline at 1000 ms.
fn watched(row: &str, items: &[Json]) -> Tracker {
    let mut tracker = Tracker::new(guard(row));
    tracker.listed(items, 500);
    tracker.begin(1_000);
    tracker
}

fn ended(mut tracker: Tracker) -> GuardReport {
    tracker.confirm();
    tracker.finish(9_000)
}

fn judged(row: &str, found: GuardReport) -> (Verdict, State, String) {
    let target = TargetFacts {
        provider: "qemu".into(),
        accel: "tcg".into(),
        nodes: 3,
    };
    let mut evidence = Report::without_run("demo", 7, target, Verdict::Pass, Vec::new());
    evidence.guards = vec![found];
    // As it is stored.
    let stored: Report = serde_json::from_str(&evidence.to_json()).unwrap();
    let judgement = judge(&read(row).unwrap(), &stored, &Requests::default());
    let row = &judgement.rows[0];
    let note = row.note.clone().unwrap_or_default();
    (
        judgement.verdict,
        row.state,
        format!("{} {note}", row.measured),
    )
}

#[test]
fn entries_are_rows_that_say_what_they_watch() {
    let more = r#"always = [
        { kind = "deploy", name = "web", condition = "Available" },
        { kind = "Node", where = { "spec.unschedulable" = false } },
    ]"#;
    let scenario = read(&format!("{FAILED}\n{more}")).unwrap();
    let rows = scenario.expectations.iter();
    let rows: Vec<(&str, &str)> = rows
        .map(|row| (row.name.as_str(), row.expected.as_str()))
        .collect();
    assert_eq!(
        rows,
        [
            (
                "never.1",
                "never Pod of app=web with status.phase = \"Failed\""
            ),
            ("always.1", "always Deployment `web` with Available"),
            (
                "always.2",
                "always any Node with spec.unschedulable = false"
            ),
        ]
    );
    assert!(scenario.cannot_fail.is_empty());
}

#[test]
fn every_problem_is_told_with_its_place() {
    let wrong = r#"never = [
{ kind = "Pood", exists = true },
{ kind = "Pod", selector = "app in (web", exists = true },
{ kind = "Pod", where = { "status.phse" = "Failed" } },
{ kind = "Pod", name = "a", selector = "b", exists = true },
{ kind = "Pod", names = "a" },
"Pod",
]
always = []"#;
    assert_eq!(
        read(wrong).unwrap_err(),
        [
            "4:10 `Pood` is no kind for this",
            "5:28 `app in (web` is not a label selector: its parentheses do not match",
            "6:27 Pod has no field `status.phse`",
            "7:40 `name` and `selector` exclude each other",
            "8:1 say once what never is",
            "8:17 unknown key `names`",
            "9:1 expected a table, found a string",
            "11:10 no entry",
        ]
    );
    let twice = r#"never = [{ kind = "Pod", exists = true }, { kind = "pods", exists = true }]"#;
    assert_eq!(
        read(twice).unwrap_err(),
        ["3:43 `never any Pod there` is there twice"]
    );
}

#[test]
fn the_first_violation_decides_also_if_it_was_short() {
    let mut tracker = watched(FAILED, &[pod("web-1", 3, "Running")]);
    tracker.take(&WatchEvent::Modified(pod("web-1", 4, "Failed")), 2_000);
    tracker.take(&WatchEvent::Modified(pod("web-1", 5, "Running")), 2_001);
    let covered = tracker.take(&WatchEvent::Added(pod("web-2", 6, "Failed")), 3_000);
    assert_eq!(covered.as_deref(), Some("6"));
    let found = ended(tracker);
    assert_eq!((found.seen, found.violated), (2, 2));
    assert_eq!(found.violations[0].until_ms, Some(2_001));
    assert_eq!(found.violations[1].until_ms, None);
    let (verdict, state, words) = judged(FAILED, found);
    assert_eq!((verdict, state), (Verdict::Fail, State::NotMet));
    assert_eq!(
        words.trim_end(),
        "violated 2 times, first at 2000 ms by Pod `web-1`: status.phase = \"Failed\""
    );
}

#[test]
fn what_was_over_before_the_baseline_does_not_count() {
    let mut tracker = Tracker::new(guard(FAILED));
    tracker.listed(&[pod("web-1", 3, "Failed"), pod("web-2", 3, "Failed")], 100);
    tracker.take(&WatchEvent::Deleted(pod("web-1", 4, "Failed")), 400);
    tracker.begin(1_000);
    tracker.take(&WatchEvent::Modified(pod("web-2", 5, "Running")), 1_500);
    let found = ended(tracker);
    assert_eq!(found.violated, 1);
    let first = &found.violations[0];
    assert_eq!((first.at_ms, first.until_ms), (1_000, Some(1_500)));
    assert_eq!(first.object, "Pod `web-2`");
}

#[test]
fn nothing_violated_is_met_and_nothing_there_is_vacuous() {
    let found = ended(watched(FAILED, &[pod("web-1", 3, "Running")]));
    let (verdict, state, _) = judged(FAILED, found);
    assert_eq!((verdict, state), (Verdict::Pass, State::Met));
    let found = ended(watched(FAILED, &[]));
    let (verdict, state, words) = judged(FAILED, found);
    assert_eq!((verdict, state), (Verdict::Inconclusive, State::Vacuous));
    assert!(words.ends_with("there was no Pod of app=web"), "{words}");
    let other = GuardReport::default();
    let (verdict, state, _) = judged(FAILED, other);
    assert_eq!((verdict, state), (Verdict::Inconclusive, State::Undecided));
}

#[test]
fn an_object_that_has_to_be_there_may_not_be_away_for_a_moment() {
    let secret = |uid: &str| json!({ "metadata": { "name": "ssl-certs", "uid": uid, "resourceVersion": "7" } });
    let mut tracker = watched(SECRET, &[secret("a")]);
    tracker.take(&WatchEvent::Deleted(secret("a")), 2_000);
    tracker.take(&WatchEvent::Added(secret("b")), 2_010);
    let found = ended(tracker);
    let (verdict, _, words) = judged(SECRET, found);
    assert_eq!(verdict, Verdict::Fail);
    assert!(
        words.starts_with("violated once, first at 2000 ms by Secret `ssl-certs`: it is not there"),
        "{words}"
    );
    // Presence could have failed even if nothing ever was there.
    let never = r#"never = [{ kind = "Pod", name = "web", exists = true }]"#;
    let (verdict, state, _) = judged(never, ended(watched(never, &[])));
    assert_eq!((verdict, state), (Verdict::Pass, State::Met));
}

#[test]
fn what_a_gap_may_have_hidden_is_undecided_and_never_met() {
    let mut tracker = watched(FAILED, &[pod("web-1", 3, "Running")]);
    tracker.take(
        &WatchEvent::Bookmark {
            revision: "8".into(),
        },
        2_000,
    );
    tracker.lost("the watch broke: compacted");
    tracker.listed(&[pod("web-1", 3, "Running")], 5_000);
    let found = ended(tracker);
    assert_eq!(
        found.gaps,
        [GapReport {
            from_ms: 2_000,
            to_ms: 5_000,
            why: "the watch broke: compacted".into(),
        }]
    );
    let (verdict, state, words) = judged(FAILED, found);
    assert_eq!((verdict, state), (Verdict::Inconclusive, State::Undecided));
    assert!(
        words.contains("from 2000 to 5000 ms is not known"),
        "{words}"
    );
    // A violation that was seen is one.
    let mut tracker = watched(FAILED, &[pod("web-1", 3, "Running")]);
    tracker.lost("the watch broke");
    tracker.listed(&[pod("web-1", 9, "Failed")], 5_000);
    assert_eq!(judged(FAILED, ended(tracker)).1, State::NotMet);
}

#[test]
fn an_object_that_nobody_touched_proves_that_a_gap_hid_nothing() {
    let secret = |revision: &str| json!({ "metadata": { "name": "ssl-certs", "uid": "a", "resourceVersion": revision } });
    let mut tracker = watched(SECRET, &[secret("7")]);
    tracker.lost("the watch broke");
    tracker.listed(&[secret("7")], 5_000);
    let found = ended(tracker);
    assert!(found.gaps.is_empty(), "{:?}", found.gaps);
    assert_eq!(judged(SECRET, found).1, State::Met);
    let mut tracker = watched(SECRET, &[secret("7")]);
    tracker.lost("the watch broke");
    tracker.listed(&[secret("8")], 5_000);
    assert_eq!(judged(SECRET, ended(tracker)).1, State::Undecided);
}

#[test]
fn an_end_that_was_not_confirmed_is_a_gap() {
    let mut tracker = watched(FAILED, &[pod("web-1", 3, "Running")]);
    assert!(tracker.is_current(&[pod("web-1", 3, "Running")]));
    assert!(!tracker.is_current(&[pod("web-1", 4, "Running")]));
    let found = tracker.finish(9_000);
    assert_eq!((found.gaps[0].from_ms, found.gaps[0].to_ms), (1_000, 9_000));
    assert_eq!(judged(FAILED, found).1, State::Undecided);
}

#[test]
fn the_values_of_secrets_are_not_told() {
    let row = r#"always = [{ kind = "Secret", name = "s", where = { "data.a" = "dg==" } }]"#;
    let secret = json!({ "metadata": { "name": "s", "uid": "a", "resourceVersion": "1" }, "data": { "a": "aGlkZGVu" } });
    let found = ended(watched(row, &[secret]));
    assert_eq!(found.violated, 1);
    assert!(!found.violations[0].seen.contains("aGlkZGVu"));
}
