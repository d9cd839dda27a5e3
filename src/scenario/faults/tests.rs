//! Every fault of the list: it is read, told in words, journalled, and comes back from the journal as it was.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::{Capability, Controls, Doing, FAULTS, LinkOrder, fault_named};
use crate::cluster::guest::Guest;
use crate::cluster::machine::{Order, Seen};
use crate::machines::provider::{DiskFault, PowerAction};
use crate::model::link::Links;
use crate::model::names::NodeName;
use crate::scenario::fault::Effect;
use crate::scenario::file::{Against, parse};
use crate::scenario::injection::{Injection, Place, StruckPod};
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
    (r#"kind = "pod.kill""#, "pod.kill"),
    (r#"kind = "pod.freeze""#, "pod.freeze"),
    (r#"kind = "agent.kill""#, "agent.kill"),
    (r#"kind = "proxy.kill""#, "proxy.kill"),
    (
        r#"kind = "node.cpu", share = "62.5%""#,
        "node.cpu (62.5% of its processors)",
    ),
    (
        r#"kind = "node.memory", size = "64MiB""#,
        "node.memory (64.0 MiB)",
    ),
    (r#"kind = "container.oom""#, "container.oom"),
    (r#"kind = "registry.down""#, "registry.down"),
    (r#"kind = "dns.fail""#, "dns.fail"),
];

fn read(written: &str) -> Fault {
    let name = written.split('"').nth(1).unwrap();
    let target = match fault_named(name).unwrap().strikes {
        super::Strikes::Node | super::Strikes::Machines | super::Strikes::Links => {
            r#"{ node = "w1" }"#
        }
        super::Strikes::Groups => r#"{ groups = [["w1"], ["w2"]] }"#,
        super::Strikes::Pods => r#"{ pod = "web", count = "all" }"#,
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

/// Machines that do what they are ordered, but for one of them.
#[derive(Default)]
struct Fake {
    ordered: Mutex<Vec<String>>,
    blind: Option<&'static str>,
    broken: Option<&'static str>,
}

fn no_lever<T>() -> Doing<'static, T>
where
    T: Send + 'static,
{
    Box::pin(async { Err("there is no such lever".into()) })
}

impl Controls for Fake {
    fn power<'a>(&'a self, _: &'a NodeName, _: PowerAction) -> Doing<'a, ()> {
        no_lever()
    }

    fn set_links<'a>(&'a self, _: &'a LinkOrder) -> Doing<'a, Effect> {
        no_lever()
    }

    fn heal_links<'a>(&'a self, _: &'a Links, _: &'a str) -> Doing<'a, usize> {
        no_lever()
    }

    fn disk<'a>(&'a self, _: &'a NodeName, _: Option<DiskFault>) -> Doing<'a, Effect> {
        no_lever()
    }

    fn guest<'a>(&'a self, _: &'a NodeName) -> Doing<'a, Guest> {
        no_lever()
    }

    fn order<'a>(&'a self, node: &'a NodeName, order: &'a Order) -> Doing<'a, Seen> {
        let text = format!("{node} {}", order.to_text());
        self.ordered.lock().unwrap().push(text);
        let is = |one: Option<&str>| one == Some(node.as_str());
        let seen = Seen {
            verified: !is(self.blind),
            measured: "done".into(),
            acted_for_ms: 20,
        };
        let broken = is(self.broken);
        Box::pin(async move {
            if broken {
                return Err("it is off".into());
            }
            Ok(seen)
        })
    }
}

fn injection(written: &str, place: Place, seconds: u64) -> Injection {
    Injection {
        step: "it".into(),
        fault: read(written),
        place,
        duration: Duration::from_secs(seconds),
    }
}

fn pods() -> Place {
    let pod = |name: &str, node: &str| StruckPod {
        name: name.into(),
        uid: format!("uid-{name}"),
        node: node.parse().unwrap(),
    };
    Place::Pods(vec![pod("a", "w1"), pod("b", "w2"), pod("c", "w1")])
}

/// What the machines are ordered at the onset and at the heal, and what is said of each.
async fn orders(injection: &Injection) -> (Vec<String>, Vec<String>) {
    let fake = Fake::default();
    let action = &injection.fault.action;
    let begun = action.begin(injection, &fake).await.unwrap();
    assert!(begun.verified);
    let begin = std::mem::take(&mut *fake.ordered.lock().unwrap());
    let healed = action.heal(injection, &fake).await.unwrap();
    assert!(healed.verified);
    (begin, fake.ordered.into_inner().unwrap())
}

#[tokio::test]
async fn pods_that_are_killed_once_need_no_healing() {
    let (begin, heal) = orders(&injection(r#"kind = "pod.kill""#, pods(), 0)).await;
    assert_eq!(
        begin,
        [
            r#"w1 {"kill-pods":{"pods":["uid-a","uid-c"],"again_s":0,"name":"it"}}"#,
            r#"w2 {"kill-pods":{"pods":["uid-b"],"again_s":0,"name":"it"}}"#,
        ]
    );
    assert_eq!(heal, [""; 0]);
    let (begin, heal) = orders(&injection(r#"kind = "pod.kill""#, pods(), 5)).await;
    assert!(begin[0].contains(r#""again_s":5"#), "{begin:?}");
    assert_eq!(
        heal,
        [
            r#"w1 {"stop-killing":{"name":"it"}}"#,
            r#"w2 {"stop-killing":{"name":"it"}}"#
        ]
    );
}

#[tokio::test]
async fn frozen_pods_hold_longer_than_asked_if_nobody_thaws_them() {
    let (begin, heal) = orders(&injection(r#"kind = "pod.freeze""#, pods(), 5)).await;
    assert_eq!(
        begin[0],
        r#"w1 {"freeze-pods":{"pods":["uid-a","uid-c"],"hold_s":20,"name":"it"}}"#
    );
    assert_eq!(
        heal[1],
        r#"w2 {"thaw-pods":{"pods":["uid-b"],"name":"it"}}"#
    );
}

#[tokio::test]
async fn a_role_is_killed_once_or_kept_down_and_started_in_the_end() {
    let place = || Place::Node("w1".parse().unwrap());
    let (begin, heal) = orders(&injection(r#"kind = "agent.kill""#, place(), 0)).await;
    assert_eq!(
        begin,
        [r#"w1 {"kill-role":{"role":"agent","down_s":0,"name":"it"}}"#]
    );
    assert_eq!(heal, [r#"w1 {"start-role":{"role":"agent","name":"it"}}"#]);
    let (begin, _) = orders(&injection(r#"kind = "agent.kill""#, place(), 4)).await;
    assert!(begin[0].contains(r#""down_s":19"#), "{begin:?}");
    let (begin, heal) = orders(&injection(r#"kind = "proxy.kill""#, place(), 0)).await;
    assert!(begin[0].contains(r#""role":"proxy""#), "{begin:?}");
    assert_eq!(heal, [r#"w1 {"start-role":{"role":"proxy","name":"it"}}"#]);
}

#[tokio::test]
async fn what_a_machine_has_taken_from_it_is_given_back_by_itself() {
    let place = || Place::Node("w1".parse().unwrap());
    let written = r#"kind = "node.cpu", share = "62.5%""#;
    let (begin, heal) = orders(&injection(written, place(), 5)).await;
    assert_eq!(
        begin,
        [r#"w1 {"take-processor":{"permille":625,"for_s":6,"name":"it"}}"#]
    );
    assert_eq!(heal, [r#"w1 {"leave-processor":{"name":"it"}}"#]);
    let written = r#"kind = "node.memory", share = "30%""#;
    let (begin, heal) = orders(&injection(written, place(), 5)).await;
    assert_eq!(
        begin,
        [r#"w1 {"take-memory":{"amount":{"permille":300},"for_s":15,"name":"it"}}"#]
    );
    assert_eq!(heal, [r#"w1 {"leave-memory":{"name":"it"}}"#]);
}

#[tokio::test]
async fn limits_that_are_hit_once_need_no_healing() {
    let (begin, heal) = orders(&injection(r#"kind = "container.oom""#, pods(), 0)).await;
    assert_eq!(
        begin[1],
        r#"w2 {"exhaust-pods":{"pods":["uid-b"],"again_s":0,"name":"it"}}"#
    );
    assert_eq!(heal, [""; 0]);
    let (begin, heal) = orders(&injection(r#"kind = "container.oom""#, pods(), 5)).await;
    assert!(begin[0].contains(r#""again_s":5"#), "{begin:?}");
    assert_eq!(
        heal[1],
        r#"w2 {"stop-exhausting":{"pods":["uid-b"],"name":"it"}}"#
    );
}

#[tokio::test]
async fn a_service_is_silent_on_every_machine_of_the_place_and_longer_if_nobody_heals_it() {
    let place = || {
        let nodes = ["w1", "w2"].map(|name| name.parse().unwrap());
        Place::Nodes(nodes.to_vec())
    };
    let (begin, heal) = orders(&injection(r#"kind = "dns.fail""#, place(), 5)).await;
    assert_eq!(
        begin,
        [
            r#"w1 {"silence":{"service":"dns","hold_s":20,"name":"it"}}"#,
            r#"w2 {"silence":{"service":"dns","hold_s":20,"name":"it"}}"#,
        ]
    );
    assert_eq!(heal[1], r#"w2 {"hear":{"service":"dns","name":"it"}}"#);
    let (begin, heal) = orders(&injection(r#"kind = "registry.down""#, place(), 1)).await;
    assert!(begin[0].contains(r#""service":"registry""#), "{begin:?}");
    assert_eq!(heal[0], r#"w1 {"hear":{"service":"registry","name":"it"}}"#);
}

#[tokio::test]
async fn a_fault_is_seen_only_where_all_machines_saw_it() {
    let injection = injection(r#"kind = "pod.kill""#, pods(), 0);
    let action = &injection.fault.action;
    let blind = Fake {
        blind: Some("w2"),
        ..Fake::default()
    };
    let effect = action.begin(&injection, &blind).await.unwrap();
    assert!(!effect.verified);
    assert_eq!(effect.measured, "w1: done; w2: done");
    let lasting = Injection {
        duration: Duration::from_secs(5),
        ..injection.clone()
    };
    let healed = action.heal(&lasting, &blind).await.unwrap();
    assert!(!healed.verified);
    let broken = Fake {
        broken: Some("w1"),
        ..Fake::default()
    };
    assert!(action.begin(&injection, &broken).await.is_err());
    assert_eq!(
        broken.ordered.into_inner().unwrap().len(),
        2,
        "the other machine was ordered all the same"
    );
}
