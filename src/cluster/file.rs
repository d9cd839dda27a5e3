//! The cluster file `flightcage.toml`: one `[cluster]` table, which may also stand in a scenario file.
//!
//! ```toml
//! [cluster]
//! workers = 2
//! memory = "512MiB"              # of each machine
//! disk = "4GiB"
//! cpus = 2
//! box = "flightcage-os"
//! upstream_registries = ["quay.io"]
//! eviction_brake_percent = 50    # with more than so many per cent of the workers silent, nothing is evicted
//! accept_unenforced = false      # whether objects are taken that ask for protection which nobody here enforces
//! tokens = false                 # whether ServiceAccounts' tokens open connections without a certificate, and pods get them
//! images = { allow = ["quay.io/purplebooth/*"], pinned = true }  # any other image is refused: see [`images`]
//! [[cluster.node]]               # what one machine has instead
//! name = "w2"
//! memory = "1GiB"
//! labels = { disk = "fast" }
//! ```
//! With `provider = "hosts"` the machines are an inventory instead: see [`hosts`]. With `provider = "vagrant"` a table more says how
//! Vagrant makes them: see [`vagrant`].

mod hosts;
mod images;
mod made;
#[cfg(test)]
mod spoiled;
mod vagrant;

use std::path::Path;

use crate::model::addresses::MAX_NODES;
use crate::model::cluster::{ClusterSpec, ProviderKind};
use crate::model::diagnostic::Refusal;
use crate::model::names::ClusterName;
use crate::model::reader::{Problems, Table, Value, suggestion};
use crate::model::text_file;

/// The name of the file that `up` reads in the current folder when it is there.
pub const FILE_NAME: &str = "flightcage.toml";
/// Workers of a cluster that says nothing else.
pub const DEFAULT_WORKERS: usize = 2;

/// Why a cluster file gave no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFileError {
    /// The file cannot be read.
    #[error("read cluster file `{file}`")]
    Read {
        /// Its name.
        file: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file has problems.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The text of a file that is named beside the one that names it, as far as it can be read; with its name as it was written.
fn text_beside<'r>(value: &Value<'r, '_>) -> Option<(&'r str, String)> {
    let name = value.string()?;
    let folder = Path::new(value.file()).parent();
    let path = folder.unwrap_or(Path::new("")).join(name);
    let text = text_file::read(&path);
    let text = text.map_err(|error| {
        value.problem(
            format!("`{}` cannot be read: {error}", path.display()),
            Some("it is looked for beside this file".into()),
        );
    });
    Some((name, text.ok()?))
}

/// Reads a cluster file.
///
/// # Errors
/// When it cannot be read or has problems: all of them.
pub fn read(path: &Path, name: &ClusterName) -> Result<ClusterSpec, ClusterFileError> {
    let file = path.display().to_string();
    let text = text_file::read(path).map_err(|error| {
        let file = path.display().to_string();
        match error.located(&file) {
            Ok(refusal) => ClusterFileError::Refused(refusal),
            Err(error) => ClusterFileError::Read {
                file,
                source: error.into_io(),
            },
        }
    })?;
    Ok(parse(&file, &text, name)?)
}

/// Parses the text of a cluster file.
///
/// # Errors
/// When it has problems: all of them.
pub fn parse(file: &str, text: &str, name: &ClusterName) -> Result<ClusterSpec, Refusal> {
    let problems = Problems::new(file, text);
    let document = problems.parse();
    let root = Table::of(&problems, &document);
    root.allow(&["cluster"]);
    let spec = root
        .get("cluster")
        .and_then(|value| value.table())
        .map_or_else(
            || ClusterSpec::with_workers(name.clone(), DEFAULT_WORKERS),
            |table| cluster(&table, name),
        );
    drop(document);
    problems.finish(spec)
}

/// Keys of a `[cluster]` table.
#[must_use]
pub fn keys() -> Vec<&'static str> {
    let own = [
        "provider",
        "controllers",
        "workers",
        "box",
        "upstream_registries",
        "eviction_brake_percent",
        "accept_unenforced",
        "tokens",
        "images",
        "node",
        "login",
        "host",
        "vagrant",
    ];
    own.into_iter().chain(made::SHARED).collect()
}

/// Reads a `[cluster]` table. Problems are on the table's list; what is wrong keeps its default.
#[must_use]
pub fn cluster(table: &Table<'_, '_>, name: &ClusterName) -> ClusterSpec {
    table.allow(&keys());
    let provider = table
        .get("provider")
        .and_then(|value| provider(&value))
        .unwrap_or_default();
    if let Some(value) = table.get("controllers")
        && value
            .integer(0..=MAX_NODES as u64)
            .is_some_and(|count| count != 1)
    {
        value.problem(
            "a cluster has one controller",
            Some("its store is on one machine: more of them are not supported yet".into()),
        );
    }
    let workers = table
        .get("workers")
        .and_then(|value| value.integer(1..=MAX_NODES as u64 - 1));
    let workers = workers.map_or(DEFAULT_WORKERS, |count| {
        usize::try_from(count).expect("at most 199")
    });
    let mut spec = ClusterSpec::with_workers(name.clone(), workers);
    spec.provider = provider;
    if provider == ProviderKind::Hosts {
        for key in ["controllers", "workers", "box", "node"]
            .into_iter()
            .chain(made::SHARED)
        {
            if let Some((_, span, _)) = table.entries().into_iter().find(|(name, ..)| *name == key)
            {
                table.problem_with(span, format!("`{key}` is not for machines that exist"));
            }
        }
        spec.machines = hosts::machines(table, &spec.machines[0]);
    } else {
        made(table, &mut spec);
    }
    match table.get("vagrant") {
        Some(value) if provider != ProviderKind::Vagrant => {
            value.problem(
                "`vagrant` is for machines that Vagrant makes",
                Some("provider = \"vagrant\"".into()),
            );
        }
        _ if provider == ProviderKind::Vagrant => vagrant::vagrant(table, &mut spec),
        _ => {}
    }
    registries(table, &mut spec);
    if let Some(percent) = table
        .get("eviction_brake_percent")
        .and_then(|value| value.integer(1..=100))
    {
        spec.eviction_brake_percent = u8::try_from(percent).expect("at most 100");
    }
    spec.accept_unenforced = table
        .get("accept_unenforced")
        .and_then(|value| value.boolean())
        .unwrap_or(false);
    spec.tokens = table
        .get("tokens")
        .and_then(|value| value.boolean())
        .unwrap_or(false);
    spec.images = images::images(table);
    spec
}

fn provider(value: &Value<'_, '_>) -> Option<ProviderKind> {
    const KNOWN: [ProviderKind; 3] = [
        ProviderKind::Qemu,
        ProviderKind::Vagrant,
        ProviderKind::Hosts,
    ];
    let text = value.string()?;
    let known = KNOWN.into_iter().find(|kind| kind.as_str() == text);
    if known.is_none() {
        value.problem(
            format!("unknown provider `{text}`"),
            suggestion(text, &KNOWN.map(ProviderKind::as_str)),
        );
    }
    known
}

/// Machines that the provider makes.
fn made(table: &Table<'_, '_>, spec: &mut ClusterSpec) {
    for key in ["login", "host"] {
        if let Some((_, span, _)) = table.entries().into_iter().find(|(name, ..)| *name == key) {
            table.problem_with_help(
                span,
                format!("`{key}` is for machines that exist"),
                Some("provider = \"hosts\"".into()),
            );
        }
    }
    made::read(table, spec);
}

fn registries(table: &Table<'_, '_>, spec: &mut ClusterSpec) {
    for value in table
        .get("upstream_registries")
        .and_then(|value| value.array())
        .unwrap_or_default()
    {
        let Some(registry) = value.string() else {
            continue;
        };
        if registry.is_empty() || registry.contains("://") || registry.contains('/') {
            value.problem(
                format!("`{registry}` is not a registry"),
                Some("a host, such as `quay.io`".into()),
            );
        } else {
            spec.upstream_registries.push(registry.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<ClusterSpec, Vec<String>> {
        parse("flightcage.toml", text, &"test".parse().unwrap())
            .map_err(|refusal| refusal.problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_file_is_the_default_cluster() {
        assert_eq!(
            check(""),
            Ok(ClusterSpec::with_workers("test".parse().unwrap(), 2))
        );
    }

    #[test]
    fn a_node_may_differ() {
        let spec = check("[cluster]\nworkers = 3\nmemory = \"1GiB\"\n[[cluster.node]]\nname = \"w3\"\ncpus = 1\n").unwrap();
        assert_eq!(spec.machines.len(), 4);
        assert!(
            spec.machines
                .iter()
                .all(|machine| machine.memory_bytes == 1 << 30)
        );
        assert_eq!(spec.machines[3].cpus, 1);
        assert_eq!(spec.machines[2].cpus, 2);
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let text = "[cluster]\nworkres = 2\nmemory = 512\ndisk = \"1KiB\"\n[[cluster.node]]\nname = \"w9\"\n";
        let problems = check(text).unwrap_err();
        let places: Vec<&str> = problems
            .iter()
            .map(|p| p.strip_prefix("flightcage.toml:").unwrap())
            .collect();
        assert_eq!(
            places,
            [
                "2:1: unknown key `workres`",
                "3:10: `512` has no unit",
                "4:8: `disk` is too small",
                "6:8: unknown node `w9`"
            ]
        );
    }
}
