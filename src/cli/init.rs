//! `init`: writes a commented file to begin with.

use std::borrow::Cow;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::File;
use super::failure::Failure;
use super::terminal::say;
use crate::cluster::file::FILE_NAME;

pub(super) const CLUSTER: &str = include_str!("init/flightcage.toml");
const SCENARIO: &str = include_str!("init/scenario.toml");

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A cluster file with every key, explained.
    Cluster(Target),
    /// A scenario that kills a worker under load.
    Scenario(Target),
    /// A JSON Schema of scenario files, printed unless `--output` says where to.
    Schema(Target),
}

#[derive(Debug, Args)]
struct Target {
    /// Where to; `-` is standard output [default: flightcage.toml or scenario.toml; a schema is printed]
    #[arg(short, long, value_name = "FILE")]
    output: Option<File>,
    /// Overwrite the file if it exists.
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (target, text, default) = match self.what {
            What::Cluster(target) => (target, Cow::Borrowed(CLUSTER), FILE_NAME),
            What::Scenario(target) => (target, Cow::Borrowed(SCENARIO), "scenario.toml"),
            What::Schema(target) => {
                let schema = format!("{:#}\n", crate::scenario::schema::schema());
                (target, Cow::Owned(schema), "-")
            }
        };
        let path = target.output.unwrap_or_else(|| default.into());
        if path == Path::new("-") {
            say(text.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        let mut file = std::fs::OpenOptions::new();
        file.write(true)
            .create(target.force)
            .truncate(target.force)
            .create_new(!target.force);
        let written = file
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| {
            let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
            let failure = Failure::new(format!("write {}", path.display())).because(error);
            if exists {
                failure.hint("`--force` overwrites it").invalid()
            } else {
                failure
            }
        })?;
        say(&format!("wrote {}", path.display()));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cluster::ClusterSpec;
    use crate::scenario::file::Against;

    #[test]
    fn what_is_written_is_right_and_the_default() {
        let name = "test".parse().unwrap();
        let cluster = crate::cluster::file::parse(FILE_NAME, CLUSTER, &name).unwrap();
        assert_eq!(cluster, ClusterSpec::with_workers(name.clone(), 2));
        let scenario = crate::scenario::file::parse(
            Path::new("scenario.toml"),
            SCENARIO,
            &Against::own_cluster(&name, crate::cli::manifests::check),
        )
        .unwrap();
        assert_eq!((scenario.loads.len(), scenario.steps.len()), (1, 2));
    }

    #[test]
    fn an_editor_finds_the_schema_by_the_first_line() {
        let first = SCENARIO.lines().next().unwrap();
        assert_eq!(first, "#:schema scenario.schema.json");
    }

    /// What is commented out is right too: every example is read with its comment taken off.
    #[test]
    fn every_example_of_the_cluster_file_is_right() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("motd.ign"),
            r#"{"ignition":{"version":"3.3.0"}}"#,
        )
        .unwrap();
        let is_example = |line: &str| {
            line.starts_with("[[")
                || line
                    .split_once(" = ")
                    .is_some_and(|(key, _)| !key.contains(' '))
        };
        let uncomment = |line: &str| match line.strip_prefix("# ") {
            Some(example) if is_example(example) => format!("{example}\n"),
            _ => format!("{line}\n"),
        };
        let text: String = CLUSTER.lines().map(uncomment).collect();
        let file = folder.path().join(FILE_NAME).display().to_string();
        let spec = crate::cluster::file::parse(&file, &text, &"test".parse().unwrap())
            .unwrap_or_else(|refusal| panic!("{}", refusal.listing()));
        let second = &spec.machines[2];
        assert_eq!(
            (
                second.memory_bytes,
                second.labels["zone"].as_str(),
                second.ignition.len()
            ),
            (1 << 30, "b", 1)
        );
        assert!(second.address.is_some() && spec.upstream_registries == ["quay.io"]);
    }
}
