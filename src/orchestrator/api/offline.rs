//! What the API server would refuse about an object, without a server: for files, before anything is changed.

use serde_json::Value;

use super::kinds::Kind;
use super::status::Cause;
use super::{defaults, strict, validation};

/// Everything that is wrong with a new object as it was written: its fields' names and types, then their values. What only the
/// server can know (that a name is taken, that a namespace is missing) is not found.
#[must_use]
pub fn check(kind: &Kind, written: &Value) -> Vec<Cause> {
    let mut object = written.clone();
    let unknown = match strict::drop_unknown_fields(kind, &mut object) {
        Ok(unknown) => unknown,
        // Nothing more can be said about an object that is not of its type.
        Err(wrong) => {
            return vec![Cause {
                reason: "FieldValueTypeInvalid",
                field: wrong.field,
                message: wrong.problem,
            }];
        }
    };
    let unknown_field = |field| Cause {
        reason: "FieldValueForbidden",
        field,
        message: "unknown field".to_owned(),
    };
    let mut causes: Vec<Cause> = unknown.into_iter().map(unknown_field).collect();
    defaults::apply(kind, &mut object);
    causes.extend(validation::check(kind, &object, None));
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
    fn names_types_and_values_are_all_looked_at() {
        let right = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
        assert_eq!(problems(&kinds::SERVICE, &right), Vec::<String>::new());
        let wrong = json!({"metadata": {"name": "S"}, "spec": {"prots": [], "selectr": {"a": "b"}, "ports": [{"port": 70000}]}});
        assert_eq!(
            problems(&kinds::SERVICE, &wrong),
            [
                "spec.selectr",
                "metadata.name",
                "spec.ports[0].port",
                "spec.ports[0].targetPort"
            ]
        );
        let mistyped = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": "http"}]}});
        assert_eq!(problems(&kinds::SERVICE, &mistyped), ["spec.ports[0].port"]);
    }
}
