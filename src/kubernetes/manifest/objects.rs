//! One file's text to its objects: documents, lists taken apart, and what is wrong with each.

use std::path::Path;

use serde_json::{Value, json};

use super::defined;
use super::place::{Place, Position, SyntaxProblem, Tree};
use super::{
    Check, FieldProblem, Manifest, ManifestProblem, NotApplied, Rules, Unenforced, Weight,
    json as stream, yaml,
};
use crate::kubernetes::client::{RESOURCES, ResourceKind, resource_for};
use crate::kubernetes::pod_images;

/// Parses one file's text into its objects, each of which `check` looks at; empty documents are skipped.
pub fn parse(
    source: &Path,
    text: &str,
    check: Check,
) -> Result<Vec<Manifest>, Vec<ManifestProblem>> {
    parse_for(source, text, check, Rules::default())
}

/// As [`parse`], for a cluster with rules of its own.
pub fn parse_for(
    source: &Path,
    text: &str,
    check: Check,
    rules: Rules<'_>,
) -> Result<Vec<Manifest>, Vec<ManifestProblem>> {
    parse_among(source, text, check, rules, &defined::in_text(source, text))
}

/// As [`parse_for`], one file of several: `known` are the kinds that those before it define, to which its own are added.
pub fn parse_next(
    source: &Path,
    text: &str,
    check: Check,
    rules: Rules<'_>,
    known: &mut Vec<ResourceKind>,
) -> Result<Vec<Manifest>, Vec<ManifestProblem>> {
    known.extend(defined::in_text(source, text));
    parse_among(source, text, check, rules, known)
}

/// As [`parse_for`], where objects may be of these kinds, too.
pub(super) fn parse_among(
    source: &Path,
    text: &str,
    check: Check,
    rules: Rules<'_>,
    defined: &[ResourceKind],
) -> Result<Vec<Manifest>, Vec<ManifestProblem>> {
    let mut reader = Reader {
        source,
        check,
        rules,
        defined,
        manifests: Vec::new(),
        problems: Vec::new(),
    };
    for (line, document) in documents(text) {
        reader.read(line, &document);
    }
    if reader.problems.is_empty() {
        Ok(reader.manifests)
    } else {
        reader
            .problems
            .sort_by_key(|problem| (problem.line, problem.column));
        Err(reader.problems)
    }
}

/// The objects of a document with which nothing is wrong by itself.
pub(super) fn right_ones(source: &Path, document: &str) -> Vec<Manifest> {
    let mut reader = Reader {
        source,
        check: |_, _| Vec::new(),
        rules: Rules {
            unenforced: Unenforced::Accepted,
            images: None,
        },
        defined: &[],
        manifests: Vec::new(),
        problems: Vec::new(),
    };
    reader.read(1, document);
    reader.manifests
}

/// Cuts at `---` in the first column, whatever white space follows. What follows on that line belongs to the document. Each with the
/// number of its first line.
pub(super) fn documents(text: &str) -> Vec<(u64, String)> {
    let mut cut: Vec<(u64, String)> = vec![(1, String::new())];
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let separator = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if let Some(rest) = separator {
            cut.push((number, format!("   {rest}\n")));
        } else if let Some((_, document)) = cut.last_mut() {
            let is_end = line.trim_end() == "...";
            document.push_str(if is_end { "" } else { line });
            document.push('\n');
        }
    }
    let is_content =
        |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with(['#', '%']);
    cut.retain(|(_, document)| document.lines().any(is_content));
    cut
}

struct Reader<'a> {
    source: &'a Path,
    check: Check,
    rules: Rules<'a>,
    /// Kinds that are not served as they are, but that definitions define.
    defined: &'a [ResourceKind],
    manifests: Vec<Manifest>,
    problems: Vec<ManifestProblem>,
}

/// What the items of a typed list are, if they do not say so themselves.
#[derive(Clone, Default)]
struct Inherited {
    api_version: String,
    kind: String,
}

impl Reader<'_> {
    fn read(&mut self, line: u64, document: &str) {
        let is_json = document.trim_start().starts_with('{');
        let read = if is_json {
            stream::read(document, line)
        } else {
            Ok(Vec::new())
        };
        // A flow mapping of YAML begins with a brace, too.
        let (trees, problems) = match read {
            Ok(trees) if is_json => (trees, Vec::new()),
            streamed => {
                let (tree, problems) = yaml::read(document, line);
                match (streamed, tree) {
                    (Err(wrong), None) if document.contains('"') => (Vec::new(), vec![wrong]),
                    (_, tree) => (tree.into_iter().collect(), problems),
                }
            }
        };
        for SyntaxProblem { at, problem } in problems {
            self.problem(at, problem);
        }
        for Tree { value, place, .. } in trees {
            if !value.is_null() {
                self.object(value, place, &Inherited::default());
            }
        }
    }

    fn object(&mut self, mut value: Value, place: Place, inherited: &Inherited) {
        if !value.is_object() {
            let what = format!("a manifest is a mapping, this is {}", type_name(&value));
            return self.problem(place.at, what);
        }
        for (field, known) in [
            ("apiVersion", &inherited.api_version),
            ("kind", &inherited.kind),
        ] {
            if value[field].is_null() && !known.is_empty() {
                value[field] = json!(known);
            }
        }
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if let Some(of) = kind
            .strip_suffix("List")
            .filter(|_| !api_version.is_empty())
        {
            return self.list(value, &place, &api_version, of);
        }
        let before = self.problems.len();
        for field in ["apiVersion", "kind"] {
            if value[field].as_str().is_none_or(str::is_empty) {
                let at = place.entry(field).map_or(place.at, |entry| entry.at);
                let what = match &value[field] {
                    Value::Null | Value::String(_) => format!("`{field}` is missing: add it"),
                    other => format!("`{field}` must be text, this is {}", type_name(other)),
                };
                self.problem(at, what);
            }
        }
        if value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            let at = place.find("metadata.name");
            match &value["metadata"]["name"] {
                Value::Null | Value::String(_) => {
                    self.problem(at, "`metadata.name` is missing: add it".to_owned());
                }
                Value::Number(_) | Value::Bool(_) => {}
                other => {
                    let what = type_name(other);
                    self.problem(at, format!("`metadata.name` must be text, this is {what}"));
                }
            }
        }
        let defined = || {
            let mut kinds = self.defined.iter();
            kinds.find(|known| known.kind == kind && known.api_version() == api_version)
        };
        let resource = resource_for(&api_version, &kind).or_else(|| defined().cloned());
        if resource.is_none() && !kind.is_empty() && !api_version.is_empty() {
            self.problem(place.find("kind"), unknown_kind(&api_version, &kind));
        }
        let Some(resource) = resource else { return };
        let told = self.problems.len() > before;
        let mut found = (self.check)(&resource, &value);
        if !value["metadata"]["name"].is_string()
            && !found
                .iter()
                .any(|one| one.field.starts_with("metadata.name"))
            && !told
        {
            found.push(FieldProblem {
                field: "metadata.name".to_owned(),
                problem: format!(
                    "must be text, this is {}: put it in quotes",
                    type_name(&value["metadata"]["name"])
                ),
                weight: Weight::Wrong,
            });
        }
        found.extend(self.images(&resource, &value));
        let mut not_applied = Vec::new();
        for FieldProblem {
            field,
            problem,
            weight,
        } in found
        {
            let is_taken = match weight {
                Weight::Wrong => false,
                Weight::Unenforced => self.rules.unenforced == Unenforced::Accepted,
                Weight::NotApplied => true,
            };
            if is_taken {
                let at = place.find(&field);
                not_applied.push(NotApplied {
                    source: self.source.to_owned(),
                    line: at.line,
                    column: at.column,
                    object: format!(
                        "{kind} `{}`",
                        value["metadata"]["name"].as_str().unwrap_or_default()
                    ),
                    field,
                    instead: problem,
                });
                continue;
            }
            if told && field == "metadata.name" {
                continue;
            }
            let what = if field.is_empty() {
                String::new()
            } else {
                format!("`{field}`: ")
            };
            self.problem(place.find(&field), format!("{what}{problem}"));
        }
        if self.problems.len() == before {
            self.manifests.push(Manifest {
                value,
                kind: resource,
                source: self.source.to_owned(),
                line: place.at.line,
                not_applied,
                place,
            });
        }
    }

    /// The images that may not run where the object is for.
    fn images(&self, kind: &ResourceKind, object: &Value) -> Vec<FieldProblem> {
        let Some(policy) = self.rules.images else {
            return Vec::new();
        };
        let used = pod_images::of(kind.kind, object).into_iter();
        used.filter_map(|one| {
            let reason = policy.refusal(one.image)?;
            Some(FieldProblem {
                field: one.field,
                problem: format!(
                    "{}: image `{}` is not allowed by `[cluster] images`: {reason}",
                    one.user, one.image
                ),
                weight: Weight::Wrong,
            })
        })
        .collect()
    }

    /// The items of a `List`, or of a list of one kind as a server answers it: those say what its items are.
    fn list(&mut self, mut value: Value, place: &Place, api_version: &str, of: &str) {
        let inherited = if of.is_empty() {
            Inherited::default()
        } else {
            Inherited {
                api_version: api_version.to_owned(),
                kind: of.to_owned(),
            }
        };
        match value["items"].take() {
            Value::Null => {}
            Value::Array(items) => {
                let places = place.entry("items");
                for (index, item) in items.into_iter().enumerate() {
                    let inner = places.and_then(|items| items.element(index));
                    self.object(item, inner.unwrap_or(place).clone(), &inherited);
                }
            }
            _ => self.problem(
                place.find("items"),
                "`items` of a List must be a sequence of objects".to_owned(),
            ),
        }
    }

    fn problem(&mut self, at: Position, problem: String) {
        self.problems.push(ManifestProblem {
            source: self.source.to_owned(),
            line: at.line,
            column: at.column,
            problem,
        });
    }
}

fn unknown_kind(api_version: &str, kind: &str) -> String {
    if let Some(known) = RESOURCES.iter().find(|resource| resource.kind == kind) {
        return format!(
            "{kind} is of apiVersion `{}`, not `{api_version}`",
            known.api_version()
        );
    }
    let nearest = RESOURCES
        .iter()
        .map(|resource| {
            (
                strsim::damerau_levenshtein(&resource.kind.to_lowercase(), &kind.to_lowercase()),
                resource.kind,
            )
        })
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match nearest {
        Some((_, nearest)) => format!("unknown kind `{kind}`: did you mean `{nearest}`?"),
        None => {
            let known: Vec<_> = RESOURCES.iter().map(|resource| resource.kind).collect();
            format!(
                "unknown kind `{kind}` of `{api_version}`: served are {}",
                known.join(", ")
            )
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a sequence",
        Value::Object(_) => "a mapping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::image_policy::{ImagePattern, ImagePolicy};

    fn names(text: &str) -> Vec<String> {
        let manifests = parse(Path::new("f"), text, |_, _| Vec::new()).expect("right");
        let name = |one: Manifest| format!("{}/{}", one.kind.kind, one.name());
        manifests.into_iter().map(name).collect()
    }

    #[test]
    fn images_that_may_not_run_are_told_with_their_places() {
        let policy = ImagePolicy {
            allow: vec![ImagePattern::parse("quay.io/purplebooth/*").expect("a pattern")],
            pinned: false,
            signed_by: None,
        };
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    image: nginx\n\
            \x20 - name: d\n    image: quay.io/purplebooth/flappy\n---\n\
            apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\nspec:\n  template:\n    spec:\n      containers:\n      - {name: c, image: evil/x}\n";
        let rules = Rules {
            images: Some(&policy),
            ..Rules::default()
        };
        let told: Vec<String> = parse_for(Path::new("f"), text, |_, _| Vec::new(), rules)
            .expect_err("refused")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with(
                "f:7:5: `spec.containers[0].image`: container `c`: image `nginx` is not allowed"
            ),
            "{told:?}"
        );
        assert!(
            told[1].starts_with("f:18:19: `spec.template.spec.containers[0].image`: "),
            "{told:?}"
        );
        let free = parse_for(Path::new("f"), text, |_, _| Vec::new(), Rules::default());
        assert_eq!(free.expect("right").len(), 2);
    }

    #[test]
    fn typed_lists_say_what_their_items_are() {
        let text = "apiVersion: v1\nkind: ConfigMapList\nmetadata: {resourceVersion: \"1\"}\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n---\n\
            apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Secret, metadata: {name: c}}]}\n\
            - {apiVersion: v1, kind: ServiceList}\n--- # nothing\n--- \n{apiVersion: v1, kind: ServiceAccount, metadata: {name: d}}\n";
        assert_eq!(
            names(text),
            ["ConfigMap/a", "ConfigMap/b", "Secret/c", "ServiceAccount/d"]
        );
        let wrong = problems("apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {}\n- 5\n");
        assert_eq!(
            wrong,
            [
                "f.yaml:4:3: `metadata.name` is missing: add it",
                "f.yaml:5:3: a manifest is a mapping, this is a number"
            ]
        );
    }

    #[test]
    fn what_kubectl_reads_is_read() {
        let object = |name: &str| {
            format!(
                "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\n\t\"metadata\":{{\"name\":\"{name}\"}}}}"
            )
        };
        let text = format!(
            "\u{feff}{}{}\r\n{}\n---\r\napiVersion: v1\r\nkind: ConfigMap\r\nmetadata:\r\n  name: d\r\n---   \n# end\n...\n",
            object("a"),
            object("b"),
            object("c")
        );
        assert_eq!(
            names(&text),
            ["ConfigMap/a", "ConfigMap/b", "ConfigMap/c", "ConfigMap/d"]
        );
    }

    fn problems(text: &str) -> Vec<String> {
        parse(Path::new("f.yaml"), text, |_, _| Vec::new())
            .expect_err("wrong")
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_style_of_the_slides_parses() {
        let text = "--- \napiVersion: v1\nkind: ReplicationController\nmetadata: \n  name: a\n  labels: \n    x: y1\nspec: \n  replicas: 2\n  \
            template: \n    spec: \n      containers: \n        - \n          name: c\n          ports: \n            - \n              \
            containerPort: 80\n              name: http\n--- \n\n---\nkind: Secret\napiVersion: v1\nmetadata: {name: ssl-certs}\n\
            data: {a.crt: QQ==}\n";
        let manifests = parse(Path::new("f.yaml"), text, |_, _| Vec::new()).expect("right");
        assert_eq!(
            manifests
                .iter()
                .map(|one| (one.kind.kind, one.line))
                .collect::<Vec<_>>(),
            [("ReplicationController", 2), ("Secret", 22)]
        );
        assert_eq!(
            manifests[0].value["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"],
            80
        );
    }

    #[test]
    fn octal_modes_are_those_of_kubectl() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {volumes: [{secret: {defaultMode: 0644}}]}\n";
        let manifests = parse(Path::new("f"), text, |_, _| Vec::new()).expect("right");
        assert_eq!(
            manifests[0].value["spec"]["volumes"][0]["secret"]["defaultMode"],
            420
        );
    }

    #[test]
    fn lists_are_taken_apart() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n\
            - {apiVersion: v1, kind: Node, metadata: {name: b}}\n";
        let manifests = parse(Path::new("f"), text, |_, _| Vec::new()).expect("right");
        assert_eq!(
            manifests
                .iter()
                .map(|one| (one.name(), one.namespace("d")))
                .collect::<Vec<_>>(),
            [("a", "d"), ("b", "")]
        );
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let text = "just text\n---\nkind: Pod\nmetadata: {name: 5}\n---\napiVersion: v1\nkind: ReplicationControler\n\
            metadata: {name: a}\n---\na: [\n---\napiVersion: v1\nkind: Lease\nmetadata: {name: a}\n";
        let found = problems(text);
        assert_eq!(
            found[0],
            "f.yaml:1:1: a manifest is a mapping, this is text"
        );
        assert_eq!(found[1], "f.yaml:3:1: `apiVersion` is missing: add it");
        assert_eq!(
            found[2],
            "f.yaml:7:1: unknown kind `ReplicationControler`: did you mean `ReplicationController`?"
        );
        assert!(
            found[3].starts_with("f.yaml:1") && found[3].contains("not YAML"),
            "{}",
            found[3]
        );
        assert_eq!(
            found[4],
            "f.yaml:13:1: Lease is of apiVersion `coordination.k8s.io/v1`, not `v1`"
        );
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn what_a_server_would_refuse_has_its_place() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 0\n    name: x\n  selectr: {}\n---\n\
            apiVersion: v1\nkind: Secret\nmetadata: {name: b}\ndata:\n  a.b: x\n";
        let check: Check = |kind, _| {
            let fields: &[&str] = match kind.kind {
                "Service" => &[
                    "metadata.name",
                    "spec.ports[0]",
                    "spec.ports[0].port",
                    "spec.selectr",
                ],
                _ => &["", "metadata.name", "data[a.b]"],
            };
            let problem = |field: &&str| FieldProblem {
                field: (*field).to_owned(),
                problem: "no".to_owned(),
                weight: Weight::Wrong,
            };
            fields.iter().map(problem).collect()
        };
        let found = parse(Path::new("f"), text, check).expect_err("wrong");
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "f:3:12: `metadata.name`: no",
                "f:6:5: `spec.ports[0]`: no",
                "f:6:5: `spec.ports[0].port`: no",
                "f:8:3: `spec.selectr`: no",
                "f:10:1: no",
                "f:12:12: `metadata.name`: no",
                "f:14:3: `data[a.b]`: no",
            ]
        );
    }
}
