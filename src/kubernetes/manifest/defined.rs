//! Kinds that manifests define for each other, by CustomResourceDefinitions.

use std::path::Path;

use serde_json::Value;

use super::objects::{documents, right_ones};
use crate::kubernetes::client::{ResourceKind, resource_for};

/// The kind of definitions.
pub(in crate::kubernetes) const DEFINITION: &str = "CustomResourceDefinition";

/// The kinds that the definitions in a text define. What is wrong in it is told elsewhere: here, a text with anything wrong in it
/// defines what stands in its right parts.
pub(super) fn in_text(source: &Path, text: &str) -> Vec<ResourceKind> {
    if !text.contains(DEFINITION) {
        return Vec::new();
    }
    documents(text)
        .iter()
        .filter(|(_, document)| document.contains(DEFINITION))
        .flat_map(|(_, document)| right_ones(source, document))
        .filter(|manifest| manifest.kind.kind == DEFINITION)
        .flat_map(|manifest| of(&manifest.value))
        .collect()
}

/// The kinds that a definition defines: one for each version that is served.
pub(in crate::kubernetes) fn of(crd: &Value) -> Vec<ResourceKind> {
    let text = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str);
    let (Some(group), Some(kind), Some(plural)) = (
        text("/spec/group"),
        text("/spec/names/kind"),
        text("/spec/names/plural"),
    ) else {
        return Vec::new();
    };
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    versions
        .into_iter()
        .flatten()
        .filter(|version| version.get("served") == Some(&Value::Bool(true)))
        .filter_map(|version| version.get("name")?.as_str())
        .filter(|version| resource_for(&format!("{group}/{version}"), kind).is_none())
        .map(|version| ResourceKind {
            group: leaked(group),
            version: leaked(version),
            kind: leaked(kind),
            plural: leaked(plural),
            namespaced: text("/spec/scope") != Some("Cluster"),
            short: &[],
            in_all: false,
            kept_by_cluster: false,
        })
        .collect()
}

/// Kinds are handed around for as long as a command runs; what it reads is as long as its files.
fn leaked(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::super::objects::parse;
    use super::*;

    const LAMPS: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: lamps.example.org}\n\
        spec: {group: example.org, scope: Namespaced, names: {plural: lamps, kind: Lamp},\n  versions: [\n\
        \x20   {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}},\n\
        \x20   {name: v0, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}]}\n";

    #[test]
    fn kinds_of_the_same_text_are_known() {
        let text =
            format!("apiVersion: example.org/v1\nkind: Lamp\nmetadata: {{name: a}}\n---\n{LAMPS}");
        let read = parse(Path::new("f"), &text, |_, _| Vec::new()).expect("right");
        assert_eq!(read[0].kind.plural, "lamps");
        assert_eq!(read[0].kind.resource(), "lamps.example.org");
        let old = text.replace("example.org/v1\nkind: Lamp", "example.org/v0\nkind: Lamp");
        let told = parse(Path::new("f"), &old, |_, _| Vec::new()).expect_err("not served");
        assert_eq!(told[0].line, 2, "{told:?}");
    }

    #[test]
    fn what_is_wrong_elsewhere_hides_no_definition() {
        let text = format!(
            "{LAMPS}---\nkind: Nothing\n---\napiVersion: example.org/v1\nkind: Lamp\nmetadata: {{name: a}}\n"
        );
        let told =
            parse(Path::new("f"), &text, |_, _| Vec::new()).expect_err("a document is wrong");
        assert!(
            told.iter().all(|one| !one.problem.contains("Lamp")),
            "{told:?}"
        );
    }
}
