//! Manifests: many YAML documents to objects, and applying them.
//!
//! Everything that is wrong in all files is reported at once, each with its file, line and column. What kubectl accepts is
//! accepted: `---` followed by spaces, lone dashes, trailing spaces, octal modes, `List` objects.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::client::{Client, ClientError, Patch, RESOURCES, ResourceKind, resource_for};

/// The annotation in which kubectl keeps what was applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How often a patch is computed again because somebody else changed the object meanwhile.
const CONFLICT_RETRIES: usize = 5;

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The object as it was written.
    pub value: Value,
    /// Its kind.
    pub kind: ResourceKind,
    /// Where it was written.
    pub source: PathBuf,
    /// The line on which its document begins.
    pub line: u64,
}

/// One thing that is wrong in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestProblem {
    /// The file.
    pub source: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for ManifestProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}:{}: {}",
            self.source.display(),
            self.line,
            self.column,
            self.problem
        )
    }
}

/// What a server would refuse about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Path of the field, for instance `spec.ports[0].port`; empty when it is the whole object.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Finds everything that a server would refuse about an object of this kind, without asking one.
pub type Check = fn(&ResourceKind, &Value) -> Vec<FieldProblem>;

/// Why manifests could not be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file could not be read.
    #[error("read manifest `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The files are wrong; here is everything that is.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<ManifestProblem>),
    /// The API server refused an object.
    #[error("apply {object} ({}:{line})", path.display())]
    Apply {
        /// Kind and name.
        object: String,
        /// The file it is in.
        path: PathBuf,
        /// The line it begins on.
        line: u64,
        /// What the server said.
        #[source]
        source: Box<ClientError>,
    },
}

/// What applying one object did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The object is new.
    Created,
    /// The object was changed.
    Configured,
    /// The object was so already.
    Unchanged,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        })
    }
}

/// One object that was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its namespace, empty if the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What was done.
    pub outcome: Outcome,
}

impl Manifest {
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `metadata.namespace`, or the default; empty for kinds without one.
    pub fn namespace<'a>(&'a self, default: &'a str) -> &'a str {
        if !self.kind.namespaced {
            return "";
        }
        self.value["metadata"]["namespace"]
            .as_str()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or(default)
    }
}

/// Reads files, or all `.yaml`, `.yml` and `.json` files of folders in the order of their names.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Manifest>, ManifestError> {
    load_checked(paths, |_, _| Vec::new())
}

/// As [`load`], and what `check` finds is wrong too.
pub fn load_checked(paths: &[PathBuf], check: Check) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    let mut problems = Vec::new();
    for path in expand(paths)? {
        let text = std::fs::read_to_string(&path).map_err(|source| ManifestError::Read {
            path: path.clone(),
            source,
        })?;
        match parse(&path, &text, check) {
            Ok(more) => manifests.extend(more),
            Err(more) => problems.extend(more),
        }
    }
    if problems.is_empty() {
        Ok(manifests)
    } else {
        Err(ManifestError::Invalid(problems))
    }
}

fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ManifestError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = |source| ManifestError::Read {
            path: path.clone(),
            source,
        };
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| {
                ["yaml", "yml", "json"]
                    .iter()
                    .any(|known| extension == *known)
            }) {
                inside.push(file);
            }
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

/// Parses one file's text into its objects, each of which `check` looks at; empty documents are skipped.
pub fn parse(
    source: &Path,
    text: &str,
    check: Check,
) -> Result<Vec<Manifest>, Vec<ManifestProblem>> {
    let mut reader = Reader {
        source,
        check,
        manifests: Vec::new(),
        problems: Vec::new(),
    };
    for document in documents(text) {
        reader.read(&document);
    }
    if reader.problems.is_empty() {
        Ok(reader.manifests)
    } else {
        Err(reader.problems)
    }
}

struct Document {
    /// Number of the first line, from 1.
    line: u64,
    /// Line of the first content within the document, from 1.
    content: u64,
    text: String,
}

/// Cuts at `---` in the first column, whatever white space follows. What follows on that line belongs to the document.
fn documents(text: &str) -> Vec<Document> {
    let mut cut: Vec<(u64, String)> = vec![(1, String::new())];
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let separator = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if let Some(rest) = separator {
            cut.push((number, format!("   {rest}\n")));
        } else if let Some((_, document)) = cut.last_mut() {
            document.push_str(if line.trim_end() == "..." { "" } else { line });
            document.push('\n');
        }
    }
    let is_content =
        |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with(['#', '%']);
    cut.into_iter()
        .filter_map(|(line, text)| {
            let content = (1..)
                .zip(text.lines())
                .find(|(_, line)| is_content(line))
                .map(|(number, _)| number)?;
            Some(Document {
                line,
                content,
                text,
            })
        })
        .collect()
}

struct Reader<'a> {
    source: &'a Path,
    check: Check,
    manifests: Vec<Manifest>,
    problems: Vec<ManifestProblem>,
}

impl Reader<'_> {
    fn read(&mut self, document: &Document) {
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        match serde_saphyr::from_str_with_options::<Value>(&document.text, options) {
            Ok(Value::Null) => {}
            Ok(value) => self.object(document, value),
            Err(error) => {
                let error = error.without_snippet();
                let (line, column) = error.location().map_or((document.content, 1), |at| {
                    (at.line().max(1), at.column().max(1))
                });
                let text = error.to_string();
                let problem = format!("not YAML: {}", text.lines().next().unwrap_or_default());
                self.problem(document.line + line - 1, column, problem);
            }
        }
    }

    fn object(&mut self, document: &Document, value: Value) {
        let line = document.line + document.content - 1;
        if !value.is_object() {
            return self.problem(
                line,
                1,
                format!("a manifest is a mapping, this is {}", type_name(&value)),
            );
        }
        let kind = value["kind"].as_str().unwrap_or_default();
        let api_version = value["apiVersion"].as_str().unwrap_or_default();
        if kind == "List" && api_version == "v1" {
            let Value::Array(items) = value["items"].clone() else {
                return self.problem(
                    line,
                    1,
                    "`items` of a List must be a sequence of objects".to_owned(),
                );
            };
            for item in items {
                self.object(document, item);
            }
            return;
        }
        let before = self.problems.len();
        for field in ["apiVersion", "kind"] {
            if value[field].as_str().is_none_or(str::is_empty) {
                self.problem(line, 1, format!("`{field}` is missing: add it"));
            }
        }
        if value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            let problem = match &value["metadata"]["name"] {
                Value::Null => "`metadata.name` is missing: add it".to_owned(),
                other => format!(
                    "`metadata.name` must be text, this is {}: put it in quotes",
                    type_name(other)
                ),
            };
            self.problem(key_line(document, "name").unwrap_or(line), 1, problem);
        }
        let resource = resource_for(api_version, kind);
        if resource.is_none() && !kind.is_empty() && !api_version.is_empty() {
            let at = key_line(document, "kind").unwrap_or(line);
            self.problem(at, 1, unknown_kind(api_version, kind));
        }
        if let Some(kind) = resource.filter(|_| self.problems.len() == before) {
            for FieldProblem { field, problem } in (self.check)(&kind, &value) {
                let (line, column) = field_place(document, &field).unwrap_or((line, 1));
                let what = if field.is_empty() {
                    String::new()
                } else {
                    format!("`{field}`: ")
                };
                self.problem(line, column, format!("{what}{problem}"));
            }
            self.manifests.push(Manifest {
                value,
                kind,
                source: self.source.to_owned(),
                line,
            });
        }
    }

    fn problem(&mut self, line: u64, column: u64, problem: String) {
        self.problems.push(ManifestProblem {
            source: self.source.to_owned(),
            line,
            column,
            problem,
        });
    }
}

/// The line of the file on which the document's first `key:` stands.
fn key_line(document: &Document, key: &str) -> Option<u64> {
    let wanted = |line: &str| {
        line.trim_start_matches(['-', ' '])
            .strip_prefix(key)
            .is_some_and(|rest| rest.starts_with(':'))
    };
    (document.line..)
        .zip(document.text.lines())
        .find(|(_, line)| wanted(line))
        .map(|(number, _)| number)
}

/// Line and column of a field's key, when that key stands only once in the document and cannot be mistaken.
fn field_place(document: &Document, field: &str) -> Option<(u64, u64)> {
    let key = last_key(field);
    let lines = (document.line..).zip(document.text.lines());
    let mut places = lines.flat_map(|(number, line)| {
        key_columns(line, key)
            .into_iter()
            .map(move |column| (number, column))
    });
    let first = places.next()?;
    places.next().is_none().then_some(first)
}

/// The columns at which `key:` stands in a line, also inside of braces.
fn key_columns(line: &str, key: &str) -> Vec<u64> {
    if key.is_empty() {
        return Vec::new();
    }
    let begins =
        |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "-_./".contains(c));
    let ends = |at: usize| line[at + key.len()..].starts_with(':');
    let found = line
        .match_indices(key)
        .map(|(at, _)| at)
        .filter(|at| begins(*at) && ends(*at));
    found
        .map(|at| line[..at].chars().count() as u64 + 1)
        .collect()
}

/// `port` of `spec.ports[0].port`, `cpu` of `limits[cpu]`, `ports` of `spec.ports[1]`.
fn last_key(field: &str) -> &str {
    match field
        .strip_suffix(']')
        .and_then(|rest| rest.rsplit_once('['))
    {
        Some((list, index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => last_key(list),
        Some((_, key)) => key,
        None => field.rsplit_once('.').map_or(field, |(_, key)| key),
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

/// Creates or changes each object in turn; `namespace` is for objects that name none. Stops at the first that is refused: also one
/// with a field that the server does not know, which it would drop silently otherwise.
pub async fn apply(
    client: &Client,
    namespace: &str,
    manifests: &[Manifest],
) -> Result<Vec<Applied>, ManifestError> {
    let client = &client.refusing_unknown_fields();
    let mut applied = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        let outcome = apply_one(client, namespace, manifest)
            .await
            .map_err(|source| ManifestError::Apply {
                object: format!("{}/{}", manifest.kind.plural, manifest.name()),
                path: manifest.source.clone(),
                line: manifest.line,
                source: Box::new(source),
            })?;
        applied.push(Applied {
            kind: manifest.kind.clone(),
            namespace: manifest.namespace(namespace).to_owned(),
            name: manifest.name().to_owned(),
            outcome,
        });
    }
    Ok(applied)
}

async fn apply_one(
    client: &Client,
    namespace: &str,
    manifest: &Manifest,
) -> Result<Outcome, ClientError> {
    let (kind, namespace, name) = (
        &manifest.kind,
        manifest.namespace(namespace),
        manifest.name(),
    );
    let wanted = with_last_applied(&manifest.value, namespace);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let again = |error: &ClientError| {
            attempt < CONFLICT_RETRIES && (error.is_conflict() || error.is_already_exists())
        };
        let done = match client.get_value(kind, namespace, name).await {
            Ok(live) => match merge_patch(&live, &wanted) {
                None => return Ok(Outcome::Unchanged),
                Some(patch) => client
                    .patch_value(kind, namespace, name, &Patch::Merge(patch), None)
                    .await
                    .map(|after| {
                        if changed(&live, &after) {
                            Outcome::Configured
                        } else {
                            Outcome::Unchanged
                        }
                    }),
            },
            Err(error) if error.is_not_found() => client
                .create_value(kind, namespace, &wanted)
                .await
                .map(|_| Outcome::Created),
            Err(error) => Err(error),
        };
        match done {
            Err(error) if again(&error) => {}
            done => return done,
        }
    }
}

fn changed(before: &Value, after: &Value) -> bool {
    before["metadata"]["resourceVersion"] != after["metadata"]["resourceVersion"]
}

fn with_last_applied(value: &Value, namespace: &str) -> Value {
    let mut value = value.clone();
    if !namespace.is_empty() {
        value["metadata"]["namespace"] = json!(namespace);
    }
    let last = format!("{value}\n");
    if !value["metadata"]["annotations"].is_object() {
        value["metadata"]["annotations"] = Value::Object(Map::new());
    }
    value["metadata"]["annotations"][LAST_APPLIED] = json!(last);
    value
}

/// The merge patch that makes `live` what `wanted` says, leaving alone what it does not mention; what was applied last and is
/// gone from `wanted` is removed. `None` if there is nothing to do.
fn merge_patch(live: &Value, wanted: &Value) -> Option<Value> {
    let last: Value = live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    let mut patch = difference(live, wanted, &last)?;
    // The annotation alone does not make an object different.
    if patch
        == json!({"metadata": {"annotations": {LAST_APPLIED: wanted["metadata"]["annotations"][LAST_APPLIED]}}})
        && !last.is_null()
        && last
            == serde_json::from_str::<Value>(
                wanted["metadata"]["annotations"][LAST_APPLIED].as_str()?,
            )
            .ok()?
    {
        return None;
    }
    patch["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    Some(patch)
}

fn difference(live: &Value, wanted: &Value, last: &Value) -> Option<Value> {
    let (Value::Object(live), Value::Object(wanted)) = (live, wanted) else {
        return (!covers(live, wanted)).then(|| wanted.clone());
    };
    let mut patch = Map::new();
    for (key, value) in wanted {
        if let Some(part) = difference(
            live.get(key).unwrap_or(&Value::Null),
            value,
            &last[key.as_str()],
        ) {
            patch.insert(key.clone(), part);
        }
    }
    for key in last.as_object().into_iter().flat_map(Map::keys) {
        if !wanted.contains_key(key) && live.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Whether `live` is `wanted` but for defaults that the server filled in.
fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            value.is_null() || live.get(key).is_some_and(|live| covers(live, value))
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| covers(live, wanted))
        }
        _ => live == wanted || (wanted.is_null() && live.is_null()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "f.yaml:3:1: `metadata.name` must be text, this is a number: put it in quotes"
        );
        assert_eq!(
            found[3],
            "f.yaml:7:1: unknown kind `ReplicationControler`: did you mean `ReplicationController`?"
        );
        assert!(
            found[4].starts_with("f.yaml:1") && found[4].contains("not YAML"),
            "{}",
            found[4]
        );
        assert_eq!(
            found[5],
            "f.yaml:13:1: Lease is of apiVersion `coordination.k8s.io/v1`, not `v1`"
        );
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn what_a_server_would_refuse_has_its_place() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 0\n    name: x\n  selectr: {}\n---\n\
            apiVersion: v1\nkind: Secret\nmetadata: {name: b}\ndata:\n  a.b: x\n";
        let check: Check = |kind, _| {
            let fields: &[&str] = match kind.kind {
                "Service" => &[
                    "spec.ports[0].port",
                    "spec.selectr",
                    "spec.ports[0].targetPort",
                    "metadata.name",
                    "spec.ports[0]",
                ],
                _ => &["data[a.b]", "metadata.name", ""],
            };
            fields
                .iter()
                .map(|field| FieldProblem {
                    field: (*field).to_owned(),
                    problem: "no".to_owned(),
                })
                .collect()
        };
        let found = parse(Path::new("f"), text, check).expect_err("wrong");
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "f:6:5: `spec.ports[0].port`: no",
                "f:8:3: `spec.selectr`: no",
                "f:1:1: `spec.ports[0].targetPort`: no",
                "f:1:1: `metadata.name`: no",
                "f:5:3: `spec.ports[0]`: no",
                "f:14:3: `data[a.b]`: no",
                "f:12:12: `metadata.name`: no",
                "f:10:1: no",
            ]
        );
    }

    #[test]
    fn a_second_apply_changes_nothing() {
        let wanted = with_last_applied(
            &json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "x": 1}}),
            "d",
        );
        let mut live = wanted.clone();
        live["metadata"]["resourceVersion"] = json!("7");
        live["spec"]["clusterIP"] = json!("10.79.0.5");
        live["spec"]["ports"][0]["protocol"] = json!("TCP");
        assert_eq!(merge_patch(&live, &wanted), None);

        let without = with_last_applied(
            &json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 81}]}}),
            "d",
        );
        let patch = merge_patch(&live, &without).expect("different");
        assert_eq!(patch["spec"], json!({"ports": [{"port": 81}], "x": null}));
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
    }
}
