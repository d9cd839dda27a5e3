//! The orchestrator without kubectl: `kubeconfig`, `apply`, `get`, `logs`, `rolling-update`, `rollback`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets};
use futures::StreamExt;
use serde_json::Value;

use super::File;
use super::cluster::{connect, open_home};
use super::failure::Failure;
use super::journal::JournalOptions;
use super::manifests;
use super::terminal::{self, complain, say};
use crate::cluster::daemon::{ClusterRecord, read_json};
use crate::kubernetes;
use crate::kubernetes::client::{ListParams, LogParams, RESOURCES, resource_named};
use crate::kubernetes::exec::{self, ExecOutput, ExecTarget};
use crate::kubernetes::manifest::{self, Folders, ManifestError, Rules, Unenforced};
use crate::kubernetes::rolling_update::{self, Options, RollingUpdateError};
use crate::model::names::ClusterName;
use crate::model::units::parse_duration;

/// Which namespace.
#[derive(Debug, Args)]
struct Namespace {
    /// Namespace of the objects.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

pub(super) fn kubeconfig(name: ClusterName) -> Result<ExitCode, Failure> {
    let path = open_home()?.cluster(&name).kubeconfig();
    let text = std::fs::read(&path).map_err(|error| {
        Failure::new(format!("cluster `{name}` is not up"))
            .because(error)
            .hint(format!("`flightcage up --name {name}` brings it up"))
    })?;
    terminal::write(&text);
    say("");
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(super) struct Apply {
    /// Manifest file or folder (YAML or JSON, several documents allowed), `-` for standard input; may be repeated.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<File>,
    /// Also what stands in folders of folders.
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    namespace: Namespace,
}

impl Apply {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let folders = if self.recursive {
            Folders::Recursive
        } else {
            Folders::Flat
        };
        let read = read_manifests(&self.files, folders, &name)?;
        let cluster = connect(name).await?;
        for applied in manifest::apply(&cluster.client, &self.namespace.namespace, &read)
            .await
            .map_err(refused)?
        {
            say(&format!(
                "{}/{} {}",
                applied.kind.kind.to_lowercase(),
                applied.name,
                applied.outcome
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads manifest files for the cluster of this name; every problem of every file at once, and what would have no effect there.
pub(super) fn read_manifests(
    files: &[File],
    folders: Folders,
    name: &ClusterName,
) -> Result<Vec<manifest::Manifest>, Failure> {
    let recorded: Option<ClusterRecord> = open_home()
        .ok()
        .and_then(|home| read_json(&home.cluster(name).spec()).ok());
    let spec = recorded.as_ref().map(|record| &record.spec);
    let rules = Rules {
        unenforced: match spec {
            Some(spec) if spec.accept_unenforced => Unenforced::Accepted,
            _ => Unenforced::Refused,
        },
        images: spec.map(|spec| &spec.images),
    };
    let read = manifest::load_checked(files, folders, manifests::check, rules);
    let read = read.map_err(refused)?;
    for one in read.iter().flat_map(|manifest| &manifest.not_applied) {
        complain(&format!("warning: {one}"));
    }
    Ok(read)
}

/// A manifest that is wrong, or that the API server refuses, is wrong input.
fn refused(error: ManifestError) -> Failure {
    let invalid = match &error {
        ManifestError::Invalid(_) => true,
        ManifestError::Apply { source, .. } => source.is_wrong_input(),
        ManifestError::NotServed { .. } => false,
    };
    if invalid {
        Failure::from(error).invalid()
    } else {
        Failure::from(error)
    }
}

/// So are controllers that are not there, or cannot replace each other.
fn update_failed(error: RollingUpdateError) -> Failure {
    let invalid = match &error {
        RollingUpdateError::Invalid { .. } => true,
        RollingUpdateError::Client { source, .. } => source.is_wrong_input(),
        RollingUpdateError::NoProgress { .. } => false,
    };
    if invalid {
        Failure::from(error).invalid()
    } else {
        Failure::from(error)
    }
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// Kind of the objects, as kubectl takes it: `pods`, `po`, `rc`, `svc`, `nodes`, …
    kind: String,
    /// One object's name.
    object: Option<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// Of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// As JSON, or only the names.
    #[arg(short, long, value_parser = ["json", "name"])]
    output: Option<String>,
}

impl Get {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let Some(kind) = resource_named(&self.kind) else {
            let known: Vec<&str> = RESOURCES.iter().map(|kind| kind.plural).collect();
            return Err(Failure::new(format!("`{}` is not a kind", self.kind))
                .hint(format!("one of {}", known.join(", ")))
                .invalid());
        };
        let client = connect(name).await?.client;
        let namespace = if self.all_namespaces || !kind.namespaced {
            ""
        } else {
            &self.namespace.namespace
        };
        let params = ListParams {
            label_selector: self.selector.clone(),
            field_selector: None,
        };
        let Some(output) = &self.output else {
            let table = client
                .table(&kind, namespace, self.object.as_deref(), &params)
                .await?;
            print_table(&table, self.all_namespaces && kind.namespaced);
            return Ok(ExitCode::SUCCESS);
        };
        let items = match &self.object {
            Some(object) => vec![client.get_value(&kind, namespace, object).await?],
            None => client.list_values(&kind, namespace, &params).await?.items,
        };
        match output.as_str() {
            "json" if self.object.is_some() => say(&serde_json::to_string_pretty(&items[0])?),
            "json" => {
                let list =
                    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items });
                say(&serde_json::to_string_pretty(&list)?);
            }
            _ => items
                .iter()
                .for_each(|item| say(text(item, "/metadata/name"))),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The server's own table, as kubectl prints it.
fn print_table(table: &kubernetes::client::Table, with_namespace: bool) {
    let mut printed = Table::new();
    printed.load_style(presets::NOTHING);
    let mut header: Vec<String> = with_namespace
        .then(|| "NAMESPACE".to_owned())
        .into_iter()
        .collect();
    header.extend(table.columns.iter().map(|title| title.to_uppercase()));
    printed.set_header(header);
    for row in &table.rows {
        let mut cells: Vec<&str> = with_namespace
            .then_some(row.namespace.as_str())
            .into_iter()
            .collect();
        cells.extend(row.cells.iter().map(String::as_str));
        printed.add_row(cells);
    }
    say(&printed.trim_fmt());
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Name of the pod.
    pod: Option<String>,
    #[command(flatten)]
    journal: JournalOptions,
    #[command(flatten)]
    namespace: Namespace,
    /// Which container, when the pod has several.
    #[arg(short, long)]
    container: Option<String>,
    /// Keep printing as more is written.
    #[arg(short, long)]
    follow: bool,
    /// Of the instance before the current one.
    #[arg(short, long)]
    previous: bool,
    /// Only the last so many lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// With the time before each line.
    #[arg(long)]
    timestamps: bool,
}

impl Logs {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let pod = match (&self.journal.node, self.pod) {
            (Some(node), _) => return self.journal.run(&name, node, self.follow).await,
            (None, Some(pod)) => pod,
            (None, None) => unreachable!("one of the two is required"),
        };
        let client = connect(name).await?.client;
        let params = LogParams {
            container: self.container,
            follow: self.follow,
            previous: self.previous,
            timestamps: self.timestamps,
            tail_lines: self.tail,
            ..LogParams::default()
        };
        let mut chunks = client
            .logs(&self.namespace.namespace, &pod, &params)
            .await?;
        while let Some(chunk) = chunks.next().await {
            terminal::write(&chunk?);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Name of the pod.
    pod: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Which container, when the pod has several.
    #[arg(short, long)]
    container: Option<String>,
    /// The command, after `--`.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Exec {
    /// The command's exit code is ours.
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let client = connect(name).await?.client;
        let target = ExecTarget {
            namespace: self.namespace.namespace,
            pod: self.pod,
            container: self.container,
        };
        let code = exec::exec(&client, &target, &self.command, |output| match output {
            ExecOutput::Stdout(bytes) => terminal::write(&bytes),
            ExecOutput::Stderr(bytes) => terminal::write_error(&bytes),
        })
        .await?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// Arguments of `rolling-update`.
#[derive(Debug, Args)]
pub(super) struct RollingUpdate {
    /// The ReplicationController that runs now.
    old: String,
    /// Manifest of the one that replaces it.
    #[arg(short, long = "filename", value_name = "FILE")]
    file: File,
    #[command(flatten)]
    namespace: Namespace,
    /// Pause between two steps, with its unit.
    #[arg(long, default_value = "1m", value_parser = duration)]
    update_period: Duration,
    /// Give up after so long without progress.
    #[arg(long, default_value = "5m", value_parser = duration)]
    timeout: Duration,
}

impl RollingUpdate {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let read = read_manifests(std::slice::from_ref(&self.file), Folders::Flat, &name)?;
        let new = match read.as_slice() {
            [only] if only.kind.kind == "ReplicationController" => only.value.clone(),
            _ => {
                return Err(Failure::new(format!(
                    "`{}` must hold one ReplicationController and nothing else",
                    self.file.display()
                ))
                .invalid());
            }
        };
        let client = connect(name).await?.client;
        let options = Options {
            update_period: self.update_period,
            timeout: self.timeout,
            ..Options::default()
        };
        let summary = rolling_update::rolling_update(
            &client,
            &self.namespace.namespace,
            &self.old,
            new,
            &options,
            |step| {
                say(&step.to_string());
            },
        )
        .await
        .map_err(update_failed)?;
        say(&format!(
            "{} has {} replicas; {} is gone",
            summary.controller, summary.replicas, summary.replaced
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The old ReplicationController, which is to serve again.
    old: String,
    /// The new one, which is to go.
    new: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Pause between two steps, with its unit.
    #[arg(long, default_value = "1m", value_parser = duration)]
    update_period: Duration,
}

impl Rollback {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let client = connect(name).await?.client;
        let options = Options {
            update_period: self.update_period,
            ..Options::default()
        };
        let summary = rolling_update::rollback(
            &client,
            &self.namespace.namespace,
            &self.old,
            &self.new,
            &options,
            |step| {
                say(&step.to_string());
            },
        )
        .await
        .map_err(update_failed)?;
        say(&format!(
            "{} has {} replicas; {} is gone",
            summary.controller, summary.replicas, summary.replaced
        ));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_that_cannot_begin_is_wrong_input_and_one_that_stops_is_not() {
        let invalid = RollingUpdateError::Invalid {
            controller: "a".into(),
            problem: "same name".into(),
        };
        assert!(update_failed(invalid).is_invalid());
        let timeout = Duration::from_secs(1);
        let (controller, new, seen) = ("a".into(), "b".into(), String::new());
        let (new_replicas, new_available, old_replicas) = (2, 1, 1);
        let stopped = RollingUpdateError::NoProgress {
            controller,
            new,
            new_replicas,
            new_available,
            old_replicas,
            timeout,
            seen,
        };
        assert!(!update_failed(stopped).is_invalid());
    }
}
