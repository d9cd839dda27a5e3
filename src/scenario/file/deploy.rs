//! Reads `[deploy]`, and the manifests that it and steps name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::{Reading, array};
use crate::kubernetes::client::ResourceKind;
use crate::kubernetes::manifest::{self, FieldProblem, Manifest};
use crate::model::reader::{Table, Value};
use crate::model::text_file::{self, TextFileError};
use crate::scenario::deploy::{NAMESPACE, REPLICATED};
use crate::scenario::spec::{Deploy, TlsSecret};

/// How long a deployment may take that says nothing.
pub(super) const DEPLOY_WAIT: Duration = Duration::from_mins(4);

pub(super) fn deploy(table: &Table<'_, '_>, reading: &Reading<'_>) -> Deploy {
    table.allow(&["files", "tls_secret", "wait"]);
    let files = array(table, "files")
        .iter()
        .filter_map(|value| Some(manifest_file(value, reading)?.0))
        .collect();
    let tls_secret = table
        .get("tls_secret")
        .and_then(|value| value.table())
        .and_then(|table| tls_secret(&table, reading));
    let wait = table
        .get("wait")
        .and_then(|value| value.duration())
        .unwrap_or(DEPLOY_WAIT);
    Deploy {
        files,
        tls_secret,
        wait,
    }
}

fn tls_secret(table: &Table<'_, '_>, reading: &Reading<'_>) -> Option<TlsSecret> {
    table.allow(&["name", "crt", "key", "host"]);
    let text = |key: &str| {
        table
            .require(key)
            .and_then(|value| value.string())
            .map(str::to_owned)
    };
    let (name, crt, key, host) = (text("name"), text("crt"), text("key"), text("host"));
    let (name, crt, key, host) = (name?, crt?, key?, host?);
    let object = json!({ "metadata": { "name": name }, "stringData": { (crt.as_str()): "", (key.as_str()): "" } });
    for FieldProblem { field, problem, .. } in
        (reading.check)(&ResourceKind::of::<Secret>(), &object)
    {
        table.problem(format!("Secret `{name}`: `{field}`: {problem}"), None);
    }
    Some(TlsSecret {
        name,
        crt,
        key,
        host,
    })
}

/// A manifest that exists, can be read as one and would not be refused; and its objects.
pub(super) fn manifest_file(
    value: &Value<'_, '_>,
    reading: &Reading<'_>,
) -> Option<(PathBuf, Vec<Manifest>)> {
    let name = value.string()?;
    // Relative to the file that names it, which may be an included one.
    let folder = Path::new(value.file()).parent();
    let path = folder.unwrap_or(Path::new("")).join(name);
    if !reading.manifests {
        return Some((path, Vec::new()));
    }
    let text = match text_file::read(&path) {
        Ok(text) => text,
        Err(error) => {
            let help = match &error {
                TextFileError::NotAFile("a directory") => "name each of its files",
                TextFileError::NotAFile(_) => "name a file of YAML or JSON",
                TextFileError::TooLarge => "is it a manifest? split it if it is",
                _ => "names are relative to the scenario file",
            };
            let message = format!("manifest `{}` cannot be read: {error}", path.display());
            value.problem(message, Some(help.into()));
            return None;
        }
    };
    let parsed = manifest::parse_next(
        &path,
        &text,
        reading.check,
        reading.rules,
        &mut reading.defined.borrow_mut(),
    );
    match parsed {
        Ok(manifests) => {
            if manifests.is_empty() {
                let message = format!("manifest {}:1:1: there is no object in it", path.display());
                value.problem(message, None);
            }
            elsewhere(value, &manifests);
            for one in manifests.iter().flat_map(|manifest| &manifest.not_applied) {
                let mut known = reading.not_applied.borrow_mut();
                if !known.contains(one) {
                    value.warn(format!("manifest {one}"), None);
                    known.push(one.clone());
                }
            }
            Some((path, manifests))
        }
        Err(problems) => {
            for problem in problems {
                value.problem(format!("manifest {problem}"), None);
            }
            None
        }
    }
}

/// A workload in another namespace would be waited for in vain, and not be removed before the next scenario.
fn elsewhere(value: &Value<'_, '_>, manifests: &[Manifest]) {
    let controllers = manifests
        .iter()
        .filter(|manifest| REPLICATED.contains(&manifest.kind.kind));
    for manifest in controllers.filter(|manifest| manifest.namespace(NAMESPACE) != NAMESPACE) {
        let (file, line, namespace) = (
            manifest.source.display(),
            manifest.line,
            manifest.namespace(NAMESPACE),
        );
        let what = format!(
            "manifest {file}:{line}:1: {} `{}` is in namespace `{namespace}`",
            manifest.kind.kind,
            manifest.name()
        );
        value.problem(
            what,
            Some(format!(
                "a scenario's controllers are in `{NAMESPACE}`: leave `metadata.namespace` out"
            )),
        );
    }
}
