//! Manifests are held against the API server's own rules before anything is changed, so that everything it would refuse, or take
//! without applying it, is told at once.

#[cfg(test)]
mod generated;

use serde_json::Value;

use crate::kubernetes::client::ResourceKind;
use crate::kubernetes::manifest::{FieldProblem, Weight};
use crate::orchestrator::api::{honoured, kinds, offline};

/// What the API server would refuse about an object, or take without applying it.
pub(super) fn check(kind: &ResourceKind, object: &Value) -> Vec<FieldProblem> {
    let mut found = check_foreign(kind, object);
    if let Some(served) = kinds::find(kind.group, kind.version, kind.plural) {
        let not_applied = honoured::look(served, object).into_iter();
        found.extend(not_applied.map(|one| FieldProblem {
            problem: one.told(),
            weight: if one.protects {
                Weight::Unenforced
            } else {
                Weight::NotApplied
            },
            field: one.field,
        }));
    }
    found
}

/// What any API server would refuse about an object: a cluster that is not ours applies what it applies.
pub(super) fn check_foreign(kind: &ResourceKind, object: &Value) -> Vec<FieldProblem> {
    let Some(served) = kinds::find(kind.group, kind.version, kind.plural) else {
        return Vec::new();
    };
    let causes = offline::check(served, object).into_iter();
    causes
        .map(|cause| FieldProblem {
            field: cause.field,
            problem: cause.message,
            weight: Weight::Wrong,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::scenario::file::{self, Against};

    #[test]
    fn every_shipped_scenario_and_its_manifests_are_right() {
        let name = "test".parse().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let entries = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let files: Vec<_> = entries
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            })
            .collect();
        assert!(files.len() >= 10, "{files:?}");
        for path in files {
            file::read(&path, &Against::own_cluster(&name, check))
                .unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        }
    }

    #[test]
    fn what_the_server_would_refuse_is_found() {
        let kind = crate::kubernetes::client::resource_for("v1", "Secret").unwrap();
        let secret = serde_json::json!({"metadata": {"name": "S"}, "data": {"a": "dg\n==\n", "b": "no base64"}, "typ": "Opaque"});
        let fields: Vec<String> = check(&kind, &secret)
            .into_iter()
            .map(|problem| problem.field)
            .collect();
        assert_eq!(fields, ["typ", "metadata.name", "data[b]"]);
    }
}
