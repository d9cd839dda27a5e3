//! Every fault of the list: it is read, told in words, journalled, and comes back from the journal as it was.

use std::path::Path;
use std::time::Duration;

use super::{Capability, FAULTS, fault_named};
use crate::scenario::file::{Against, parse};
use crate::scenario::injection::{Injection, Place};
use crate::scenario::spec::{Action, Fault};

/// One way to write each.
const WRITTEN: &[(&str, &str)] = &[
    (r#"kind = "node.power_off""#, "node.power_off"),
    (r#"kind = "node.freeze""#, "node.freeze"),
    (r#"kind = "node.reset""#, "node.reset"),
    (r#"kind = "net.cut""#, "net.cut"),
    (r#"kind = "net.partition""#, "net.partition"),
    (
        r#"kind = "net.delay", delay = "50ms""#,
        "net.delay (delay 50 ms)",
    ),
    (r#"kind = "net.shape", loss = "1%""#, "net.shape (loss 1 %)"),
    (
        r#"kind = "disk.throttle", operations = "64/s""#,
        "disk.throttle (64 operations/s)",
    ),
    (
        r#"kind = "disk.error", operations = "reads""#,
        "disk.error (reads fail)",
    ),
    (r#"kind = "disk.full""#, "disk.full"),
    (
        r#"kind = "clock.step", by = "-2m""#,
        "clock.step (-120000 ms)",
    ),
];

fn read(written: &str) -> Fault {
    let name = written.split('"').nth(1).unwrap();
    let target = match fault_named(name).unwrap().strikes {
        super::Strikes::Node | super::Strikes::Links => r#"{ node = "w1" }"#,
        super::Strikes::Groups => r#"{ groups = [["w1"], ["w2"]] }"#,
    };
    let text = format!(
        "flightcage = 1\n[[step]]\nid = \"a\"\nfault = {{ {written}, target = {target}, for = \"1s\" }}"
    );
    let name = "test".parse().unwrap();
    let against = Against::own_cluster(&name, |_, _| Vec::new());
    let scenario = parse(Path::new("demo.toml"), &text, &against).unwrap();
    match &scenario.steps[0].action {
        Action::Fault { fault, .. } => fault.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_fault_is_read_told_and_comes_back_from_the_journal() {
    for (written, words) in WRITTEN {
        let fault = read(written);
        assert_eq!(fault.to_string(), *words);
        let injection = Injection {
            step: "a".into(),
            fault,
            place: Place::Node("w1".parse().unwrap()),
            duration: Duration::from_secs(1),
        };
        let kept = serde_json::to_string(&injection).unwrap();
        let back: Injection = serde_json::from_str(&kept).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), kept);
        assert_eq!(back.fault.to_string(), *words);
    }
    assert_eq!(WRITTEN.len(), FAULTS.len(), "a fault is not written here");
}

#[test]
fn a_journal_of_an_unknown_fault_says_so() {
    let of = |fault: &str| {
        let text = format!(
            r#"{{"step":"a","fault":{fault},"place":{{"node":"w1"}},"duration":{{"secs":1,"nanos":0}}}}"#
        );
        serde_json::from_str::<Injection>(&text)
            .unwrap_err()
            .to_string()
    };
    let unknown = of(r#"{"kind":"node.explode","settings":null}"#);
    assert!(
        unknown.contains("no fault is named `node.explode`"),
        "{unknown}"
    );
    let wrong = of(r#"{"kind":"clock.step","settings":{}}"#);
    assert!(
        wrong.contains("fault `clock.step` cannot have the settings `{}`"),
        "{wrong}"
    );
}

#[test]
fn no_name_stands_twice() {
    let names: std::collections::BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    assert_eq!(names.len(), FAULTS.len());
    let all = Capability::all();
    let needs: std::collections::BTreeSet<&str> = all.iter().map(|one| one.name()).collect();
    assert_eq!(needs.len(), all.len(), "one name, two means");
}
