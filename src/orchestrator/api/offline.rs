//! What the API server would refuse about an object, without a server: for files, before anything is changed.

use serde_json::Value;

use super::kinds::Kind;
use super::status::Cause;
use super::{defaults, validation};
use crate::kubernetes::fields::{self, Found};

/// Everything that is wrong with a new object as it was written: its fields' names and types, then their values. What only the
/// server can know (that a name is taken, that a namespace is missing) is not found.
#[must_use]
pub fn check(kind: &Kind, written: &Value) -> Vec<Cause> {
    let mut object = written.clone();
    let found = fields::walk(&kind.api_version(), kind.kind, written).unwrap_or_default();
    let mut causes = Vec::new();
    // From the end: what is taken out moves nothing that comes before it.
    for finding in found.iter().rev() {
        let cause = match &finding.found {
            Found::Used(..) => continue,
            // A server takes line breaks in it: the kinds' own rules look at these values.
            Found::Wrong(problem) if problem == fields::NO_BASE64 => continue,
            Found::Wrong(problem) => Cause {
                reason: "FieldValueTypeInvalid",
                field: finding.field(),
                message: problem.clone(),
            },
            Found::Unknown(help) => Cause {
                reason: "FieldValueForbidden",
                field: finding.field(),
                message: help.as_ref().map_or_else(
                    || "unknown field".to_owned(),
                    |help| format!("unknown field: {help}"),
                ),
            },
        };
        causes.push(cause);
        finding.take_out(&mut object);
    }
    causes.reverse();
    let told: Vec<String> = causes.iter().map(|cause| cause.field.clone()).collect();
    defaults::apply(kind, &mut object);
    let values = validation::check(kind, &object, None);
    causes.extend(values.into_iter().filter(|cause| {
        let told_already = |field: &String| cause.field.starts_with(field.as_str());
        !told.iter().any(told_already)
    }));
    causes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::kinds;

    fn problems(kind: &Kind, object: &Value) -> Vec<String> {
        check(kind, object)
            .into_iter()
            .map(|cause| cause.field)
            .collect()
    }

    #[test]
    fn every_kind_has_its_types() {
        for kind in kinds::ALL {
            let found = fields::walk(&kind.api_version(), kind.kind, &json!({}));
            assert!(found.is_some(), "{} is not in fields/roots.rs", kind.kind);
        }
    }

    #[test]
    fn names_types_and_values_are_all_looked_at() {
        let right = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
        assert_eq!(problems(&kinds::SERVICE, &right), Vec::<String>::new());
        let wrong = json!({"metadata": {"name": "S"}, "spec": {"prots": [], "selectr": {"a": "b"}, "ports": [{"port": 70000}]}});
        assert_eq!(
            problems(&kinds::SERVICE, &wrong),
            [
                "spec.prots",
                "spec.selectr",
                "metadata.name",
                "spec.ports[0].port",
                "spec.ports[0].targetPort"
            ]
        );
        let mistyped = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": "http"}]}});
        assert_eq!(
            problems(&kinds::SERVICE, &mistyped),
            ["spec.ports[0].port", "spec.ports[0].targetPort"]
        );
    }
}
