//! Paths into objects of a kind, checked against Kubernetes' own types.

use serde_json::{Map, Value as Json, json};

use crate::kubernetes::client::ResourceKind;
use crate::kubernetes::fields::{Found, walk};

/// Whether objects of `kind` may have `value` at `path`; else what is wrong, and what may be right.
pub(super) fn check(
    kind: &ResourceKind,
    path: &str,
    value: &Json,
) -> Result<(), (String, Option<String>)> {
    if path.is_empty() || path.split('.').any(str::is_empty) {
        let help = "names with dots between them, such as `status.phase` or `spec.ports.0.port`";
        return Err((format!("`{path}` is not a path"), Some(help.to_owned())));
    }
    let as_list = problem(kind, path, value, true);
    // A number may be the key of a map, too.
    let numbered = path.split('.').any(is_number);
    match as_list {
        Some(_) if numbered && problem(kind, path, value, false).is_none() => Ok(()),
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

fn problem(
    kind: &ResourceKind,
    path: &str,
    value: &Json,
    lists: bool,
) -> Option<(String, Option<String>)> {
    let mut object = value.clone();
    for part in path.rsplit('.') {
        object = if lists && is_number(part) {
            Json::Array(vec![object])
        } else {
            let mut map = Map::new();
            map.insert(part.to_owned(), object);
            Json::Object(map)
        };
    }
    let Json::Object(map) = &mut object else {
        return Some((
            format!("`{path}` is not a path: an object is no list"),
            None,
        ));
    };
    for (key, own) in [
        ("apiVersion", json!(kind.api_version())),
        ("kind", json!(kind.kind)),
    ] {
        map.entry(key).or_insert(own);
    }
    // A kind without a type here is not known so well.
    let findings = walk(&kind.api_version(), kind.kind, &object)?;
    findings.into_iter().find_map(|finding| {
        let field = finding.field();
        match finding.found {
            Found::Used(..) => None,
            Found::Unknown(help) => Some((format!("{} has no field `{field}`", kind.kind), help)),
            Found::Wrong(why) => Some((format!("`{field}` of {}: {why}", kind.kind), None)),
        }
    })
}

fn is_number(part: &str) -> bool {
    part.parse::<usize>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::client::resource_named;

    fn told(kind: &str, path: &str, value: &Json) -> Option<String> {
        let kind = resource_named(kind).unwrap();
        check(&kind, path, value).err().map(|(what, _)| what)
    }

    #[test]
    fn fields_that_the_kind_has_are_right() {
        for (kind, path, value) in [
            ("Pod", "status.phase", json!("Failed")),
            ("Deployment", "status.readyReplicas", json!(3)),
            ("Service", "spec.ports.0.port", json!(80)),
            ("Service", "spec.ports.1.name", json!("http")),
            ("ConfigMap", "data.mode", json!("on")),
            ("ConfigMap", "data.0", json!("on")),
            ("Pod", "metadata.labels.app", json!("web")),
            ("Node", "spec.unschedulable", json!(true)),
        ] {
            assert_eq!(told(kind, path, &value), None, "{kind} {path}");
        }
    }

    #[test]
    fn what_it_has_not_is_told() {
        let unknown = told("Pod", "status.phse", &json!("Failed")).unwrap();
        assert_eq!(unknown, "Pod has no field `status.phse`");
        let wrong = told("Deployment", "status.readyReplicas", &json!("3")).unwrap();
        assert!(
            wrong.starts_with("`status.readyReplicas` of Deployment: must be a whole number"),
            "{wrong}"
        );
        for path in ["", "status..phase", ".status"] {
            let what = told("Pod", path, &json!("x")).unwrap();
            assert_eq!(what, format!("`{path}` is not a path"));
        }
    }
}
