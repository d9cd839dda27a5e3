//! `store export|import`: the orchestrator's objects as one file.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::{Args, Subcommand};

use super::File;
use super::cluster::connect;
use super::failure::Failure;
use super::kubernetes::read_manifests;
use super::snapshot_files::to_its_end;
use super::terminal::{complain, say};
use crate::kubernetes::manifest::Folders;
use crate::kubernetes::transfer::{self, Imported, Left, Secrets, TransferError};
use crate::model::names::ClusterName;
use crate::model::text_file::TEXT_BYTES_MAX;

const EXPORT_HELP: &str = "\
The file is JSON, an object a line, readable by you alone; `store import` and `kubectl apply -f` read it. It holds what was asked for:
  - not what controllers make of it (a Deployment, and not its pods), nor nodes, Endpoints, Leases and Events;
  - no status, uid, resourceVersion, generation or time: those are of one cluster. A Service's address is chosen anew;
  - owner references with the owner's old uid, for which an import puts the new one;
  - CustomResourceDefinitions, and not the objects of their kinds;
  - Secrets only with --with-secrets, and then in plain base64: whoever has the file has them.
Pods and Jobs that have ended are left out, since they would run again. What is left out is counted.

  flightcage store export objects.jsonl
  flightcage up --name other && flightcage store import --name other objects.jsonl";

const IMPORT_HELP: &str = "\
Everything that is wrong is told at once, with line and column, and nothing is changed then: what the API server would refuse, objects that
exist already, namespaces and owners that are neither in the file nor in the cluster. A namespace that exists is taken as it is. Objects
are created after their namespace and their owners. If the server refuses one all the same, or you press Ctrl-C, what was created before
is removed again. Any manifest is taken; `flightcage apply` changes objects that exist.";

/// Arguments of `store`.
#[derive(Debug, Args)]
pub(super) struct StoreCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the objects of the running cluster into a new file.
    #[command(after_help = EXPORT_HELP)]
    Export {
        /// The file to write; it must not exist.
        #[arg(value_name = "FILE")]
        file: File,
        /// Secrets, too, with their values.
        #[arg(long)]
        with_secrets: bool,
    },
    /// Create the objects of a file in the running cluster: all of them, or none.
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// The file that `store export` wrote, or any manifest.
        #[arg(value_name = "FILE")]
        file: File,
    },
}

impl StoreCommand {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        match self.verb {
            Verb::Export { file, with_secrets } => {
                let secrets = if with_secrets {
                    Secrets::Included
                } else {
                    Secrets::LeftOut
                };
                export(name, &file, secrets).await?;
            }
            Verb::Import { file } => import(name, file).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn export(name: ClusterName, file: &Path, secrets: Secrets) -> Result<(), Failure> {
    if file.symlink_metadata().is_ok() {
        return Err(exists(file));
    }
    let cluster = connect(name).await?;
    let exported = transfer::export(&cluster.client, secrets)
        .await
        .map_err(explain)?;
    if exported.text.len() as u64 > TEXT_BYTES_MAX {
        let limit = TEXT_BYTES_MAX >> 20;
        let what =
            format!("the objects take more than {limit} MiB, which `store import` does not read");
        return Err(Failure::new(what).hint("`flightcage snapshot export` carries a whole cluster"));
    }
    write_new(file, exported.text.as_bytes())?;
    for line in left_in_words(&exported.left) {
        complain(&line);
    }
    say(&format!(
        "{} objects in {}",
        exported.objects,
        file.display()
    ));
    Ok(())
}

async fn import(name: ClusterName, file: File) -> Result<(), Failure> {
    let read = read_manifests(std::slice::from_ref(&file), Folders::Flat, &name)?;
    let cluster = connect(name).await?;
    let stop = AtomicBool::new(false);
    let importing = transfer::import(&cluster.client, &read, &stop);
    for one in to_its_end(importing, &stop).await.map_err(explain)? {
        say(&imported(&one));
    }
    Ok(())
}

fn imported(one: &Imported) -> String {
    let kind = one.kind.singular();
    let place = if one.namespace.is_empty() {
        String::new()
    } else {
        format!(" in {}", one.namespace)
    };
    let what = if one.created { "created" } else { "was there" };
    format!("{kind}/{}{place} {what}", one.name)
}

/// What a user may miss, in words. What every cluster makes for itself is not missed.
fn left_in_words(left: &BTreeMap<Left, usize>) -> Vec<String> {
    let words = |(left, count): (&Left, &usize)| match left {
        Left::Own | Left::Controlled => None,
        Left::Finished => Some(format!("{count} left out: pods and Jobs that have ended")),
        Left::Going => Some(format!("{count} left out: being deleted")),
        Left::Custom => Some(format!(
            "{count} left out: objects of kinds that CustomResourceDefinitions define"
        )),
        Left::Secret => Some(format!(
            "{count} left out: Secrets; `--with-secrets` includes them"
        )),
    };
    left.iter().filter_map(words).collect()
}

fn exists(file: &Path) -> Failure {
    Failure::new(format!(
        "`{}` exists already, and is not overwritten",
        file.display()
    ))
    .hint("name another file")
    .invalid()
}

/// Writes a file that only its owner can read, whole or not at all, and over nothing.
fn write_new(file: &Path, text: &[u8]) -> Result<(), Failure> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let failed =
        |error: io::Error| Failure::new(format!("write `{}`", file.display())).because(error);
    let mut whole = tempfile::Builder::new()
        .prefix(".flightcage-export-")
        .tempfile_in(folder)
        .map_err(failed)?;
    whole.write_all(text).map_err(failed)?;
    whole.as_file().sync_all().map_err(failed)?;
    match whole.persist_noclobber(file) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(file)),
        Err(error) => Err(failed(error.error)),
    }
}

/// A file that is wrong, or that the server refuses, is wrong input.
fn explain(error: TransferError) -> Failure {
    let is_invalid = match &error {
        TransferError::Invalid(_) => true,
        TransferError::Create { source, .. } => {
            source.is_wrong_input() || source.is_already_exists()
        }
        TransferError::Ask { .. } | TransferError::Interrupted(_) => false,
    };
    let failure = Failure::from(error);
    if is_invalid {
        failure.invalid()
    } else {
        failure
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::kubernetes::client::resource_named;

    #[test]
    fn a_file_is_private_whole_and_overwrites_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("objects.jsonl");
        write_new(&file, b"{}\n").unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(write_new(&file, b"other").is_err_and(|failure| failure.is_invalid()));
        assert_eq!(std::fs::read(&file).unwrap(), b"{}\n");
        assert!(write_new(&directory.path().join("no/such/folder"), b"").is_err());
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "nothing unfinished is left");
    }

    #[test]
    fn only_what_a_user_may_miss_is_told() {
        let all = [
            (Left::Own, 9),
            (Left::Controlled, 9),
            (Left::Finished, 1),
            (Left::Secret, 2),
        ];
        let said = left_in_words(&BTreeMap::from(all));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[1].contains("2 left out: Secrets; `--with-secrets`"),
            "{said:?}"
        );
    }

    #[test]
    fn each_object_gets_a_line() {
        let one = |kind: &str, namespace: &str, created| {
            imported(&Imported {
                kind: resource_named(kind).unwrap(),
                namespace: namespace.to_owned(),
                name: "web".to_owned(),
                created,
            })
        };
        assert_eq!(
            one("deploy", "shop", true),
            "deployment/web in shop created"
        );
        assert_eq!(one("ns", "", false), "namespace/web was there");
    }

    #[test]
    fn a_wrong_file_is_wrong_input() {
        assert!(explain(TransferError::Invalid(Vec::new())).is_invalid());
        assert!(!explain(TransferError::Interrupted(Vec::new())).is_invalid());
    }
}
