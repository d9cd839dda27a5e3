//! `snapshot save|restore|list|rm|export|import`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::cluster::{interrupted, open_home, print_status};
use super::failure::Failure;
use super::snapshot_files::{self, Export, ImportFile};
use super::terminal::{Live, complain, say};
use crate::cluster::life::{self, Boot, KEPT_SNAPSHOTS, Lifetime, SnapshotUse};
use crate::cluster::snapshot::Kind;
use crate::model::names::ClusterName;

/// What commands that bring clusters up do with automatic snapshots.
#[derive(Debug, Args)]
pub(super) struct Automatic {
    /// Neither restore nor save a snapshot: boot cold.
    #[arg(long)]
    pub(super) fresh: bool,
    /// Automatic snapshots of a cluster name that are kept; 0 restores and keeps none.
    #[arg(long, value_name = "N", default_value_t = KEPT_SNAPSHOTS, env = "FLIGHTCAGE_KEEP_SNAPSHOTS")]
    pub(super) keep_snapshots: usize,
}

impl Automatic {
    pub(super) fn usage(&self) -> SnapshotUse {
        if self.fresh || self.keep_snapshots == 0 {
            SnapshotUse::Ignore
        } else {
            SnapshotUse::Keep(self.keep_snapshots)
        }
    }

    pub(super) fn boot(&self, lifetime: Lifetime) -> Boot {
        Boot {
            lifetime,
            snapshots: self.usage(),
        }
    }
}

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub(super) struct SnapshotCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Save the running cluster with everything in it: memory, disks, keys, ports. It stands still for a moment.
    Save {
        /// Lower-case letters, digits and `-`; without it, the time.
        snapshot: Option<String>,
    },
    /// Replace the cluster, if it is up, by a saved one.
    Restore {
        /// Which one.
        snapshot: String,
    },
    /// List the cluster's snapshots, oldest first.
    List {
        /// As one JSON array, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Write a snapshot into one file, for another machine.
    #[command(after_help = snapshot_files::EXPORT_HELP)]
    Export(Export),
    /// Take a snapshot from a file that `export` wrote.
    #[command(after_help = snapshot_files::IMPORT_HELP)]
    Import(ImportFile),
    /// Remove snapshots.
    Rm {
        /// Which ones.
        #[arg(required = true, value_name = "SNAPSHOT")]
        snapshots: Vec<String>,
    },
}

impl SnapshotCommand {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        match self.verb {
            Verb::Save { snapshot } => save(&name, snapshot).await?,
            Verb::Restore { snapshot } => restore(&name, &snapshot).await?,
            Verb::List { json } => list(&name, json)?,
            Verb::Export(export) => export.run(&name).await?,
            Verb::Import(import) => import.run(&name).await?,
            Verb::Rm { snapshots } => return remove(&name, &snapshots),
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn save(name: &ClusterName, snapshot: Option<String>) -> Result<(), Failure> {
    let snapshot = snapshot.unwrap_or_else(|| {
        jiff::Timestamp::now()
            .strftime("s%Y%m%d-%H%M%S")
            .to_string()
    });
    let live = Live::new();
    let saved = life::save(&open_home()?, name, &snapshot, live.reporter()).await;
    live.finish();
    say(&saved.map_err(Failure::from)?.name);
    Ok(())
}

async fn restore(name: &ClusterName, snapshot: &str) -> Result<(), Failure> {
    let home = open_home()?;
    let live = Live::new();
    let restored = tokio::select! {
        restored = life::restore(&home, name, snapshot, live.reporter()) => restored,
        () = interrupted() => {
            live.finish();
            life::down(&home.cluster(name)).await?;
            return Err(Failure::new("interrupted; what was begun is taken down"));
        }
    };
    live.finish();
    print_status(&restored?.paths, false).await
}

fn list(name: &ClusterName, as_json: bool) -> Result<(), Failure> {
    let snapshots = life::shelf(&open_home()?.cluster(name)).list()?;
    if as_json {
        let rows: Vec<_> = snapshots
            .iter()
            .map(|(name, manifest)| match manifest {
                Ok(manifest) => json!({
                    "name": name, "automatic": manifest.kind == Kind::Automatic, "created": manifest.created.to_string(),
                    "bytes": manifest.bytes(), "nodes": manifest.spec.machines.len(), "refused": null,
                }),
                Err(error) => json!({ "name": name, "refused": error.to_string() }),
            })
            .collect();
        say(&serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if snapshots.is_empty() {
        complain(&format!("cluster `{name}` has no snapshots"));
    }
    for (name, manifest) in snapshots {
        match manifest {
            Ok(manifest) => {
                let kind = if manifest.kind == Kind::Automatic {
                    "automatic"
                } else {
                    "named"
                };
                let created = manifest.created.strftime("%Y-%m-%dT%H:%M:%SZ");
                say(&format!(
                    "{name:<24} {kind:<10} {created} {:>6} MiB",
                    manifest.bytes() >> 20
                ));
            }
            Err(error) => say(&format!("{name:<24} {error}")),
        }
    }
    Ok(())
}

/// Removes all that exist; one that does not is an error, told after the others are gone.
fn remove(name: &ClusterName, snapshots: &[String]) -> Result<ExitCode, Failure> {
    let paths = open_home()?.cluster(name);
    let mut failed = None;
    for snapshot in snapshots {
        if let Err(error) = life::remove_snapshot(&paths, snapshot)
            && let Some(earlier) = failed.replace(Failure::from(error))
        {
            super::failure::print(&earlier);
        }
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}
