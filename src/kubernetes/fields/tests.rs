use serde_json::{Value, json};

use super::*;

/// What is wrong with a Pod of this spec: path and words.
fn problems(spec: &Value) -> Vec<String> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
    let found = walk("v1", "Pod", &pod).expect("a kind with a type");
    let told = found.into_iter().filter_map(|finding| {
        let field = finding.field();
        match finding.found {
            Found::Used(..) => None,
            Found::Wrong(why) => Some(format!("{field}: {why}")),
            Found::Unknown(help) => Some(format!("{field}: unknown {}", help.unwrap_or_default())),
        }
    });
    told.collect()
}

#[test]
fn nothing_hides_what_comes_after_it() {
    let wrong = json!({
        "hostPID": "true", "nodeSelector": [], "containrs": [], "terminationGracePeriodSeconds": 1.5,
        "activeDeadlineSeconds": "10",
        "containers": [
            "web",
            {"name": 5, "args": ["a", 7], "env": {"A": "b"}, "ports": [{"containerPort": 99_999_999_999_i64}]},
            {"resources": {"limits": {"cpu": ["1"]}}, "livenessProbe": {"httpGet": {"port": {}}}},
        ],
    });
    assert_eq!(
        problems(&wrong),
        [
            "spec.containrs: unknown did you mean `containers`?",
            "spec.hostPID: must be a boolean, this is text: write it without quotes",
            "spec.nodeSelector: must be a mapping, this is a list: leave the `- ` out",
            "spec.terminationGracePeriodSeconds: must be a whole number, this is a number",
            "spec.activeDeadlineSeconds: must be a whole number, this is text: write it without quotes",
            "spec.containers[0]: must be a mapping, this is text",
            "spec.containers[1].name: must be text, this is a number: put it in quotes",
            "spec.containers[1].args[1]: must be text, this is a number: put it in quotes",
            "spec.containers[1].env: must be a list, this is a mapping: begin each element with `- `",
            "spec.containers[1].ports[0].containerPort: must be from -2147483648 to 2147483647",
            "spec.containers[2].resources.limits[cpu]: must be a quantity such as `100m` or `64Mi`, this is a list",
            "spec.containers[2].livenessProbe.httpGet.port: must be a whole number or text, this is a mapping",
        ]
    );
}

#[test]
fn what_the_types_take_is_right() {
    let right = json!({
        "hostPID": null, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "memory": "64Mi"}, "requests": {"cpu": 0.5}},
            "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"tcpSocket": {"port": 80}}}],
    });
    assert_eq!(problems(&right), [""; 0]);
    let secret = json!({"metadata": {"name": "s", "creationTimestamp": null}, "data": {"a": "dg==", "b": "no base64"}, "type": true});
    let found = walk("v1", "Secret", &secret).expect("a kind with a type");
    let wrong: Vec<String> = (found.iter())
        .filter(|finding| matches!(finding.found, Found::Wrong(_)))
        .map(|finding| format!("{}: {:?}", finding.field(), finding.found))
        .collect();
    assert_eq!(
        wrong,
        [
            "data[b]: Wrong(\"must be base64\")",
            "type: Wrong(\"must be text, this is a boolean: put it in quotes\")"
        ]
    );
    assert_eq!(walk("example.org/v1", "Lamp", &json!({})), None);
}

#[test]
fn times_and_their_like_are_read() {
    let wrong =
        json!({"metadata": {"name": "n", "creationTimestamp": "yesterday", "generation": 4}});
    let found = walk("v1", "Namespace", &wrong).expect("a kind with a type");
    let wrong: Vec<&Finding> = (found.iter())
        .filter(|finding| matches!(finding.found, Found::Wrong(_)))
        .collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(wrong[0].field(), "metadata.creationTimestamp");
    let Found::Wrong(why) = &wrong[0].found else {
        unreachable!("filtered above")
    };
    assert!(
        why.contains("2026-01-31T12:00:00Z") && !why.contains("yesterday"),
        "{why}"
    );
}

#[test]
fn every_kind_has_its_types() {
    let types = types_of("v1", "Pod");
    let names: Vec<&str> = types.iter().map(|one| one.name).collect();
    for name in [
        "Pod",
        "ObjectMeta",
        "PodSpec",
        "Container",
        "Probe",
        "SecurityContext",
        "SeccompProfile",
        "Volume",
        "PodStatus",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let spec = types
        .iter()
        .find(|one| one.name == "PodSpec")
        .expect("listed");
    assert!(
        spec.fields.contains(&"hostUsers") && spec.fields.len() > 35,
        "{spec:?}"
    );
    assert!(types_of("example.org/v1", "Lamp").is_empty());
}
