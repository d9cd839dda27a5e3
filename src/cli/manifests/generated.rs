//! Wrong manifests that a seed makes: every problem that was put in is told, at its line and column.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::check;
use crate::kubernetes::manifest;

const SEED: u64 = 18;
const FILES: usize = 400;
const DOCUMENTS_MAX: usize = 4;
const PROBLEMS_MAX: usize = 7;

/// A key or an index on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

/// Objects that are right.
fn right() -> Vec<Value> {
    let pod = json!({
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 20,
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [3000, 4000]},
        "volumes": [
            {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 256, "items": [{"key": "k", "path": "k", "mode": 256}]}},
            {"name": "settings", "configMap": {"name": "settings", "optional": true}},
            {"name": "scratch", "emptyDir": {}},
        ],
        "containers": [{
            "name": "web",
            "image": "web:1",
            "command": ["serve", "--all"],
            "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}, {"containerPort": 8443}],
            "env": [{"name": "A", "value": "b"}, {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": "http", "httpHeaders": [{"name": "X", "value": "y"}]}, "periodSeconds": 2},
            "livenessProbe": {"tcpSocket": {"port": 8080}, "initialDelaySeconds": 1},
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
            "securityContext": {"readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
            "volumeMounts": [{"name": "keys", "mountPath": "/keys", "readOnly": true}, {"name": "scratch", "mountPath": "/scratch"}],
        }],
    });
    let template = json!({"metadata": {"labels": {"app": "web"}, "annotations": {"note": "none"}}, "spec": pod});
    vec![
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "labels": {"app": "one"}}, "spec": pod}),
        json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "two"},
            "spec": {"replicas": 2, "selector": {"app": "web"}, "template": template}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "three", "namespace": "default"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "minReadySeconds": 1, "template": template,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "four"},
            "spec": {"type": "ClusterIP", "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "https", "port": 443, "targetPort": 8443, "protocol": "TCP"}]}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "five"}, "data": {"a.conf": "x = 1", "b": "text"}, "immutable": true}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "six"}, "type": "Opaque", "data": {"k": "dg=="}, "stringData": {"s": "t"}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "seven", "labels": {"a": "b"}}}),
    ]
}

/// Maps by any key: a key more is no unknown field.
fn is_free(path: &[Step]) -> bool {
    let last = path.last();
    let named =
        |names: &[&str]| matches!(last, Some(Step::Key(key)) if names.contains(&key.as_str()));
    let is_selector = matches!(path, [.., Step::Key(spec), Step::Key(selector)] if spec == "spec" && selector == "selector");
    named(&[
        "labels",
        "annotations",
        "matchLabels",
        "nodeSelector",
        "limits",
        "data",
        "stringData",
    ]) || is_selector
}

/// What says what an object is, or where others look it up.
fn is_left_alone(path: &[Step]) -> bool {
    let [.., Step::Key(key)] = path else {
        return path.is_empty();
    };
    ["apiVersion", "kind", "metadata"].contains(&key.as_str())
        || path.len() == 2 && key == "name"
        || path.len() == 1
}

fn places(value: &Value, path: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    if !is_left_alone(path) {
        found.push(path.clone());
    }
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                path.push(Step::Key(key.clone()));
                places(inner, path, found);
                path.pop();
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                path.push(Step::Index(index));
                places(inner, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

fn at<'v>(object: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(object, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Index(index) => &mut value[*index],
    })
}

/// Makes the value at `path` wrong; returns the path of what is wrong.
fn spoil(object: &mut Value, path: &[Step], rng: &mut StdRng) -> Vec<Step> {
    let value = at(object, path);
    let mut wrong = path.to_vec();
    let is_free_map = is_free(path);
    match value {
        Value::Object(map) if !is_free_map && rng.random_bool(0.7) => {
            let key = format!("unheard{}", rng.random_range(0..100));
            map.insert(key.clone(), json!("of"));
            wrong.push(Step::Key(key));
        }
        Value::Object(_) => {
            *value = [json!("text"), json!(5), json!(["a"])][rng.random_range(0..3)].clone()
        }
        Value::Array(_) => {
            *value = [json!("text"), json!(true), json!({"a": 1})][rng.random_range(0..3)].clone()
        }
        Value::String(_) => {
            *value = [json!({"a": 1}), json!(["a", "b"])][rng.random_range(0..2)].clone()
        }
        Value::Bool(_) => {
            *value = [json!("yes"), json!(1), json!({"a": 1})][rng.random_range(0..3)].clone()
        }
        Value::Number(_) => {
            *value = [json!({"a": 1}), json!([7]), json!(true)][rng.random_range(0..3)].clone()
        }
        Value::Null => unreachable!("no object above holds a null"),
    }
    wrong
}

/// Block style, and the place of every key and element.
#[derive(Default)]
struct Written {
    text: String,
    line: usize,
    places: BTreeMap<Vec<Step>, (usize, usize)>,
}

impl Written {
    fn document(&mut self, object: &Value) {
        self.places.clear();
        self.text.push_str("---\n");
        self.line += 1;
        self.inside(object, 0, &mut Vec::new(), false);
    }

    /// The parts of a map or a list, at this indentation; `begun` when the first stands behind a `- ` that is written already.
    fn inside(&mut self, value: &Value, indent: usize, path: &mut Vec<Step>, mut begun: bool) {
        let parts: Vec<(Step, &Value)> = match value {
            Value::Object(map) => (map.iter())
                .map(|(key, inner)| (Step::Key(key.clone()), inner))
                .collect(),
            Value::Array(list) => (list.iter().enumerate())
                .map(|(index, inner)| (Step::Index(index), inner))
                .collect(),
            _ => unreachable!("only called with a map or a list"),
        };
        for (step, inner) in parts {
            if !std::mem::take(&mut begun) {
                self.text.push_str(&" ".repeat(indent));
            }
            let (mark, column) = match &step {
                Step::Key(key) => (format!("{key}:"), indent + 1),
                Step::Index(_) => ("-".to_owned(), indent + 3),
            };
            self.text.push_str(&mark);
            path.push(step.clone());
            self.places.insert(path.clone(), (self.line + 1, column));
            let has_parts = match inner {
                Value::Object(map) => !map.is_empty(),
                Value::Array(list) => !list.is_empty(),
                _ => false,
            };
            match step {
                Step::Index(_) if has_parts => {
                    self.text.push(' ');
                    self.inside(inner, indent + 2, path, true);
                }
                _ if has_parts => {
                    self.text.push('\n');
                    self.line += 1;
                    self.inside(inner, indent + 2, path, false);
                }
                _ => {
                    writeln!(self.text, " {inner}").expect("a text takes any more");
                    self.line += 1;
                }
            }
            path.pop();
        }
    }
}

/// The path as it is told.
fn field(path: &[Step], object: &Value) -> String {
    let (mut text, mut value, mut free) = (String::new(), object, false);
    for (count, step) in path.iter().enumerate() {
        match step {
            Step::Key(key) if free && key != "matchLabels" => {
                write!(text, "[{key}]").expect("a text takes any more")
            }
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => write!(text, ".{key}").expect("a text takes any more"),
            Step::Index(index) => write!(text, "[{index}]").expect("a text takes any more"),
        }
        free = is_free(&path[..=count]);
        value = match step {
            Step::Key(key) => &value[key.as_str()],
            Step::Index(index) => &value[*index],
        };
    }
    assert!(!value.is_null(), "{text} is not there");
    text
}

/// One file of several documents with problems; each with its line, column and field.
fn wrong_file(rng: &mut StdRng) -> (String, Vec<String>) {
    let kinds = right();
    let mut written = Written::default();
    let mut planted = Vec::new();
    let count = rng.random_range(1..=DOCUMENTS_MAX);
    let mut left = rng.random_range(1..=PROBLEMS_MAX);
    for number in 0..count {
        let mut object = kinds[rng.random_range(0..kinds.len())].clone();
        let wanted = if number + 1 == count {
            left
        } else {
            rng.random_range(0..=left)
        };
        let mut found = Vec::new();
        places(&object, &mut Vec::new(), &mut found);
        let mut spoilt: Vec<Vec<Step>> = Vec::new();
        for _ in 0..wanted {
            let path = found[rng.random_range(0..found.len())].clone();
            // Nothing wrong inside of something that is wrong as a whole.
            if spoilt
                .iter()
                .any(|other| path.starts_with(other) || other.starts_with(&path))
            {
                continue;
            }
            spoilt.push(spoil(&mut object, &path, rng));
            left -= 1;
        }
        written.document(&object);
        for path in spoilt {
            let (line, column) = written.places[&path];
            planted.push(format!(
                "f.yml:{line}:{column}: `{}`: ",
                field(&path, &object)
            ));
        }
    }
    (written.text, planted)
}

#[test]
fn every_problem_of_every_wrong_manifest_is_told_with_its_place() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let (mut wrong, mut problems) = (0, 0);
    for _ in 0..FILES {
        let (text, planted) = wrong_file(&mut rng);
        if planted.is_empty() {
            continue;
        }
        let found = manifest::parse(Path::new("f.yml"), &text, check).expect_err(&text);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        for one in &planted {
            let named = told.iter().find(|line| line.starts_with(one.as_str()));
            let said = named
                .unwrap_or_else(|| panic!("{one}\nis not among\n{}\nof\n{text}", told.join("\n")));
            assert!(said.len() > one.len(), "{said} says what is wrong");
        }
        wrong += 1;
        problems += planted.len();
    }
    assert!(wrong >= 300, "{wrong} files");
    assert!(problems > 2 * wrong, "{problems} problems in {wrong} files");
}

#[test]
fn what_no_problem_was_put_into_is_right() {
    let mut written = Written::default();
    for object in right() {
        written.document(&object);
    }
    let read = manifest::parse(Path::new("f.yml"), &written.text, check).expect("right");
    let values: Vec<Value> = read.into_iter().map(|one| one.value).collect();
    assert_eq!(values, right());
}

#[test]
fn bytes_that_are_left_out_or_changed_panic_nothing() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut written = Written::default();
    for object in right() {
        written.document(&object);
    }
    for _ in 0..FILES {
        let mut letters: Vec<char> = written.text.chars().collect();
        for _ in 0..rng.random_range(1..4) {
            let place = rng.random_range(0..letters.len());
            match rng.random_range(0..3) {
                0 => {
                    letters[place] = ['\u{e9}', '\t', '{', ':', '\u{1f426}', '"', '&', '*', '|']
                        [rng.random_range(0..9)]
                }
                1 => letters.truncate(place + 1),
                _ => drop(letters.remove(place)),
            }
            if letters.is_empty() {
                letters.push('-');
            }
        }
        let text: String = letters.into_iter().collect();
        if let Err(problems) = manifest::parse(Path::new("f.yml"), &text, check) {
            let lines = text.lines().count() as u64 + 1;
            assert!(
                problems
                    .iter()
                    .all(|one| (1..=lines).contains(&one.line) && one.column > 0),
                "{problems:?}"
            );
        }
    }
}
