//! The steps of the list are read with all their problems, planned, and see what they wait for.

use std::path::Path;

use serde_json::json;

use super::scale::scaled;
use super::wait_object::Wanted;
use crate::scenario::file::{Against, parse};
use crate::scenario::spec::{Action, Scenario};

fn read(step: &str) -> Result<Scenario, Vec<String>> {
    let text = format!("flightcage = 1\n[[step]]\nid = \"it\"\n{step}\n");
    let name = "test".parse().unwrap();
    let against = Against::own_cluster(&name, |_, _| Vec::new());
    parse(Path::new("demo.toml"), &text, &against).map_err(|refusal| {
        let told = refusal.problems().iter();
        told.map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
            .collect()
    })
}

fn plan(step: &str) -> String {
    let scenario = read(step).unwrap();
    match &scenario.steps[0].action {
        Action::Other(action) => action.plan(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn they_are_planned_in_words() {
    for (step, words) in [
        (
            "scale = { kind = \"Deployment\", name = \"web\", replicas = 3, within = \"60s\" }",
            "scale Deployment `web` to 3, ready within 60 s",
        ),
        (
            "delete = { kind = \"cm\", name = \"site\", within = \"5s\" }",
            "delete ConfigMap `site`, gone within 5 s",
        ),
        (
            "drain = { node = \"w1\", within = \"90s\" }",
            "drain node `w1`, empty within 90 s",
        ),
        (
            "uncordon = { node = \"w1\" }",
            "let node `w1` take pods again",
        ),
        ("pause = \"2s\"", "do nothing for 2 s"),
        (
            "rollout = { kind = \"deploy\", name = \"web\", image = { web = \"web:v2\" }, within = \"60s\" }",
            "roll out Deployment `web` with web = web:v2, done within 60 s",
        ),
        (
            "rollout = { kind = \"ds\", name = \"web\", undo = true, within = \"60s\" }",
            "undo the last rollout of DaemonSet `web`, done within 60 s",
        ),
        (
            "wait = { kind = \"Deployment\", name = \"web\", condition = \"Available\", within = \"1m\" }",
            "wait at most 60 s for Deployment `web` to be Available",
        ),
        (
            "wait = { kind = \"Service\", name = \"web\", where = { \"spec.ports.0.port\" = 80 }, within = \"1s\" }",
            "wait at most 1 s for Service `web` to be spec.ports.0.port = 80",
        ),
    ] {
        assert_eq!(plan(step), words);
    }
}

#[test]
fn every_problem_is_told_with_its_place() {
    let problems = read("scale = { kind = \"Secret\", replicas = 20000, within = \"0s\", x = 1 }")
        .unwrap_err();
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert!(
        problems.contains(&"4:18 `Secret` is no kind for this".to_owned()),
        "{problems:?}"
    );
    let problems =
        read("wait = { kind = \"Pod\", name = \"a\", where = { a = 1.5 }, within = \"1s\" }")
            .unwrap_err();
    assert_eq!(
        problems,
        ["4:50 expected a text, a whole number, `true` or `false`"]
    );
    let problems = read("wait = { kind = \"Pod\", name = \"a\", within = \"1s\" }").unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].ends_with("say once what is waited for"),
        "{problems:?}"
    );
}

#[test]
fn every_problem_of_a_node_a_pause_or_a_rollout_is_told_with_its_place() {
    let problems = |step: &str| read(step).unwrap_err();
    assert_eq!(
        problems("drain = { node = \"w9\", within = \"0s\", now = true }"),
        [
            "4:18 there is no node `w9` in this cluster",
            "4:33 must be longer than nothing",
            "4:39 unknown key `now`",
        ]
    );
    assert_eq!(
        problems("uncordon = { node = \"W 1\" }").len(),
        1,
        "it is no name of a machine"
    );
    assert_eq!(
        problems("pause = \"11m\""),
        ["4:9 a pause is at most 600 s"]
    );
    assert_eq!(problems("pause = 10"), ["4:9 `10` has no unit"]);
    let rollout = |what: &str| {
        problems(&format!(
            "rollout = {{ kind = \"Deployment\", name = \"web\", within = \"1s\", {what} }}"
        ))
    };
    assert_eq!(rollout("image = {}"), ["4:71 names no container"]);
    assert_eq!(
        rollout("image = { web = \"a b\" }"),
        ["4:79 `a b` is not an image's name"]
    );
    assert_eq!(
        rollout("undo = false"),
        ["4:70 a rollout that is not undone changes nothing"]
    );
    assert_eq!(
        rollout("undo = true, image = { web = \"web:2\" }"),
        ["4:11 say once what is rolled out"]
    );
    assert_eq!(
        problems("rollout = { kind = \"Pod\", name = \"web\", undo = true, within = \"1s\" }"),
        ["4:20 `Pod` is no kind for this"]
    );
}

#[test]
fn lint_warns_of_a_pause() {
    let warnings = read("pause = \"2s\"").unwrap().warnings;
    let told: Vec<(usize, usize)> = warnings
        .iter()
        .map(|warning| (warning.line, warning.column))
        .collect();
    assert_eq!(told, [(4, 9)]);
}

#[test]
fn they_see_what_they_wait_for() {
    let web = json!({
        "spec": { "ports": [{ "port": 80 }] },
        "status": {
            "replicas": 3, "readyReplicas": 2,
            "conditions": [{ "type": "Available", "status": "False", "message": "too few" }]
        }
    });
    let sees = |wanted: Wanted| wanted.holds(Some(&web));
    let field = |path: &str, value: u32| Wanted::Fields(vec![(path.to_owned(), json!(value))]);
    assert_eq!(sees(field("spec.ports.0.port", 80)), Ok(()));
    assert_eq!(
        sees(field("status.readyReplicas", 3)),
        Err("status.readyReplicas is 2".into())
    );
    assert_eq!(
        sees(field("spec.ports.1.port", 80)),
        Err("spec.ports.1.port is absent".into())
    );
    assert_eq!(
        sees(Wanted::Condition("Available".into())),
        Err("Available is False too few".into())
    );
    assert_eq!(
        sees(Wanted::Condition("Ready".into())),
        Err("Ready is absent".into())
    );
    assert_eq!(sees(Wanted::Exists(false)), Err("it is there".into()));
    assert_eq!(Wanted::Exists(false).holds(None), Ok(()));
    assert_eq!(field("a", 1).holds(None), Err("it is not there".into()));
    assert_eq!(
        scaled(Some(&web), 3),
        Err("2 of 3 replicas are ready".into())
    );
    assert_eq!(scaled(Some(&json!({ "status": {} })), 0), Ok(()));
}
