//! `new`: makes a folder with a scenario, a cluster file and manifests that run as they stand.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::init::CLUSTER;
use super::terminal::say;
use crate::cluster::file::FILE_NAME;

/// The scenario's file.
const SCENARIO_FILE: &str = "worker-lost.toml";
/// What is in the folder.
const FILES: [(&str, &str); 3] = [
    (SCENARIO_FILE, include_str!("new/worker-lost.toml")),
    ("web.yml", include_str!("new/web.yml")),
    (FILE_NAME, CLUSTER),
];

/// Arguments of `new`.
#[derive(Debug, Args)]
pub(super) struct New {
    /// The folder, which must not exist.
    #[arg(value_name = "NAME")]
    folder: PathBuf,
}

impl New {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let folder = &self.folder;
        let told = folder.display();
        fs::create_dir(folder).map_err(|error| {
            let failure = Failure::new(format!("make folder `{told}`"));
            match error.kind() {
                io::ErrorKind::AlreadyExists => failure
                    .because(error)
                    .hint("name one that is not there yet")
                    .invalid(),
                io::ErrorKind::NotFound => failure
                    .because(error)
                    .hint("the folder that it is to stand in must be there")
                    .invalid(),
                _ => failure.because(error),
            }
        })?;
        for (name, text) in FILES {
            let file = folder.join(name);
            if let Err(error) = fs::write(&file, text) {
                // It was made just now, and holds nothing but ours.
                let _ = fs::remove_dir_all(folder);
                return Err(Failure::new(format!("write `{}`", file.display())).because(error));
            }
            say(&format!("wrote {}", file.display()));
        }
        let scenario = folder.join(SCENARIO_FILE);
        say(&format!("next: flightcage run {}", scenario.display()));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::manifests;
    use crate::images::builtin;
    use crate::scenario::file::{Against, read};

    fn make(folder: &Path) -> Result<ExitCode, Failure> {
        let folder = folder.to_owned();
        New { folder }.run()
    }

    #[test]
    fn what_is_made_is_right_without_a_warning_and_needs_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("first-test");
        make(&folder).unwrap();
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, manifests::check);
        let scenario =
            read(&folder.join(SCENARIO_FILE), &against).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(scenario.name, "worker-lost");
        let warnings: Vec<String> = scenario.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, [""; 0]);
        assert!(scenario.cannot_fail.is_empty() && scenario.not_applied.is_empty());
        assert_eq!(scenario.deploy.files, [folder.join("web.yml")]);
        let cluster = crate::cluster::file::read(&folder.join(FILE_NAME), &name)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Some(cluster), scenario.cluster);
        let manifest = fs::read_to_string(folder.join("web.yml")).unwrap();
        let images = manifest
            .lines()
            .filter_map(|line| line.trim().strip_prefix("image: "));
        let carried: Vec<String> = builtin().into_iter().flat_map(|image| image.tags).collect();
        for image in images {
            assert!(
                carried.iter().any(|tag| tag == image),
                "{image}: {carried:?}"
            );
        }
    }

    #[test]
    fn a_folder_that_exists_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("mine");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("web.yml"), "mine").unwrap();
        assert!(make(&folder).unwrap_err().is_invalid());
        let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(fs::read_to_string(folder.join("web.yml")).unwrap(), "mine");
        assert!(
            make(&parent.path().join("no/such"))
                .unwrap_err()
                .is_invalid()
        );
    }
}
