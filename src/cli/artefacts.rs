//! The caches: `box` and `image`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::cluster::open_home;
use super::failure::Failure;
use super::terminal::{Live, say};
use crate::images::{self, ImageStore};
use crate::machines::boxes::{self, BoxDefinition};

/// Arguments of `box`.
#[derive(Debug, Args)]
pub(super) struct BoxCommand {
    #[command(subcommand)]
    verb: BoxVerb,
}

#[derive(Debug, Subcommand)]
enum BoxVerb {
    /// List the boxes that can be built, and which are in the cache.
    List,
    /// Build a box, unless the cache has it.
    Build {
        /// Name of a built-in box, or a definition file.
        #[arg(default_value = "flightcage-os", value_name = "BOX")]
        definition: String,
    },
}

impl BoxCommand {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let home = open_home()?;
        match self.verb {
            BoxVerb::List => {
                for name in BoxDefinition::builtin_names() {
                    let definition = BoxDefinition::load(name)?;
                    let cached = if boxes::cached(&definition, &home.boxes()).is_some() { "built" } else { "not built" };
                    say(&format!("{name:<16} {cached}"));
                }
            }
            BoxVerb::Build { definition } => {
                let definition = BoxDefinition::load(&definition).map_err(|error| Failure::from(error).invalid())?;
                let live = Live::new();
                live.step("building the box");
                let files = boxes::build(&definition, &home.boxes(), &detail(&live)).await?;
                live.finish();
                say(&format!("{} {}", &files.hash[..12], files.root.display()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `image`.
#[derive(Debug, Args)]
pub(super) struct ImageCommand {
    #[command(subcommand)]
    verb: ImageVerb,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    /// List the images that the registry mirror serves.
    List,
    /// Build the flappy stack's images, unless the store has them.
    Build,
}

impl ImageCommand {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let home = open_home()?;
        let store = ImageStore::open(home.images())?;
        match self.verb {
            ImageVerb::List => {
                for (reference, manifest) in store.tags()? {
                    say(&format!("{reference} {}", manifest.digest));
                }
            }
            ImageVerb::Build => {
                let live = Live::new();
                live.step("building images");
                for image in images::builtin() {
                    images::build(&image, &store, &home.scratch(), &detail(&live)).await?;
                }
                live.finish();
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn detail(live: &Arc<Live>) -> impl Fn(&str) + Send + Sync + use<> {
    let live = live.clone();
    move |line| live.detail(line)
}
