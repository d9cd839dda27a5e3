//! The caches: `box` and `image`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::cluster::open_home;
use super::failure::Failure;
use super::terminal::{Live, complain, say};
use crate::cluster::home::Home;
use crate::images::{self, ImageStore};
use crate::machines::boxes::{self, BoxDefinition, BoxError, Origin};
use crate::machines::provider::{BoxBoot, BoxFiles};
use crate::machines::vagrant;

use crate::model::image_reference::Reference;

/// Authorities that the host trusts.
const HOST_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What our boxes are, as images call it.
const NODE_ARCHITECTURE: &str = "amd64";

/// Arguments of `box`.
#[derive(Debug, Args)]
pub(super) struct BoxCommand {
    #[command(subcommand)]
    verb: BoxVerb,
}

#[derive(Debug, Subcommand)]
enum BoxVerb {
    /// List the boxes that can be built or fetched, and which are in the cache.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Download a published box, prove it by its digest and signature, and unpack it, unless the cache has it.
    Fetch {
        /// Name of a built-in box, or a definition file.
        #[arg(value_name = "BOX")]
        definition: String,
        /// Look for a newer image, also when the cache has one.
        #[arg(long)]
        refresh: bool,
    },
    /// Build a box (or fetch a published one), unless the cache has it.
    Build {
        /// Name of a built-in box, or a definition file.
        #[arg(default_value = "flightcage-os", value_name = "BOX")]
        definition: String,
    },
    /// Write a box as a `.box` file for Vagrant's libvirt provider, building it if need be.
    Package {
        /// Name of a built-in box, or a definition file.
        #[arg(default_value = "flightcage-os", value_name = "BOX")]
        definition: String,
        /// Where to; without it: `flightcage-os-HASH.box` in the current folder.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// What a package is called unless another name is given.
fn package_name(files: &BoxFiles) -> PathBuf {
    format!("{}.box", vagrant::own_box_name(&files.hash)).into()
}

impl BoxCommand {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let home = open_home()?;
        match self.verb {
            BoxVerb::List { json } => list_boxes(&home, json)?,
            BoxVerb::Build { definition } => {
                make_box(&home, &load_box(&definition)?, "building the box").await?
            }
            BoxVerb::Fetch {
                definition,
                refresh,
            } => {
                let definition = load_box(&definition)?;
                if matches!(definition.origin, Origin::Debian(_)) {
                    let hint = format!("flightcage box build {}", definition.name);
                    return Err(Failure::new(format!(
                        "box `{}` is built, not fetched",
                        definition.name
                    ))
                    .hint(hint)
                    .invalid());
                }
                if refresh {
                    boxes::expire(&definition, &home.boxes());
                }
                make_box(&home, &definition, "fetching the box").await?;
            }
            BoxVerb::Package { definition, output } => {
                let live = Live::new();
                live.step("building the box");
                let files =
                    boxes::build(&load_box(&definition)?, &home.boxes(), &detail(&live)).await?;
                live.step("packaging it for Vagrant");
                let output = output.unwrap_or_else(|| package_name(&files));
                vagrant::package::package(&files, &output).await?;
                live.finish();
                say(&output.display().to_string());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn load_box(name_or_path: &str) -> Result<BoxDefinition, Failure> {
    BoxDefinition::load(name_or_path).map_err(|error| match error {
        BoxError::Invalid { problems, .. } => super::scenarios::refused(&problems),
        error => Failure::from(error).invalid(),
    })
}

async fn make_box(home: &Home, definition: &BoxDefinition, step: &str) -> Result<(), Failure> {
    let live = Live::new();
    live.step(step);
    let made = boxes::build(definition, &home.boxes(), &detail(&live)).await;
    live.finish();
    let files = made?;
    let path = match &files.boot {
        BoxBoot::Kernel(boot) => &boot.root,
        BoxBoot::Disk(image) => &image.path,
        BoxBoot::Existing => return Ok(()),
    };
    say(&format!("{} {}", &files.hash[..12], path.display()));
    if let Some(fetched) = boxes::fetched(definition, &home.boxes()) {
        let signed = fetched
            .signed_by
            .map(|signer| format!(", signed by {signer}"))
            .unwrap_or_default();
        say(&format!("from {}{signed}", fetched.url));
    }
    Ok(())
}

fn list_boxes(home: &Home, json: bool) -> Result<(), Failure> {
    let mut listed = Vec::new();
    for name in BoxDefinition::builtin_names() {
        let definition = BoxDefinition::load(name)?;
        let made = match definition.origin {
            Origin::Debian(_) => "built",
            Origin::Image(_) => "fetched",
        };
        let cached = boxes::cached(&definition, &home.boxes());
        let fetched = boxes::fetched(&definition, &home.boxes());
        if json {
            listed.push(serde_json::json!({
                "name": name, "description": definition.description, "architecture": definition.architecture, "origin": made,
                "cached": cached.is_some(), "hash": cached.map(|files| files.hash), "fetched": fetched,
            }));
        } else {
            let state = if cached.is_some() {
                made.to_owned()
            } else {
                format!("not {made}")
            };
            say(&format!(
                "{name:<16} {state:<12} {}",
                definition.description
            ));
        }
    }
    if json {
        say(&serde_json::Value::Array(listed).to_string());
    }
    Ok(())
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
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Build the flappy stack's images, unless the store has them.
    Build,
    /// Load images from files: an OCI layout (directory or archive), or what `docker save` writes.
    Load {
        /// The files.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<std::path::PathBuf>,
        /// The name of the only image in the only file.
        #[arg(long, value_name = "NAME")]
        tag: Option<String>,
    },
    /// Pull an image from its registry, without a login.
    Pull {
        /// Its name, for instance quay.io/purplebooth/flappy-endpoint:v1.
        #[arg(value_name = "NAME")]
        image: String,
    },
}

impl ImageCommand {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let home = open_home()?;
        let store = ImageStore::open(home.images())?;
        match self.verb {
            ImageVerb::List { json: true } => {
                let listed: Vec<_> = store.tags()?.into_iter().collect();
                let listed = listed.iter().map(|(name, manifest)| serde_json::json!({ "name": name, "digest": manifest.digest }));
                say(&serde_json::Value::Array(listed.collect()).to_string());
            }
            ImageVerb::List { json: false } => {
                for (reference, manifest) in store.tags()? {
                    say(&format!("{reference} {}", manifest.digest));
                }
            }
            ImageVerb::Load { files, tag } => load_images(files, tag.as_deref(), store).await?,
            ImageVerb::Pull { image } => {
                let reference = image_name(&image)?;
                let roots = std::fs::read(HOST_AUTHORITIES).map_err(|error| {
                    Failure::new(format!("read {HOST_AUTHORITIES}")).because(error)
                })?;
                let upstreams = images::mirror::Upstreams::only(&reference.registry, &roots)?;
                let live = Live::new();
                live.step(&format!("pulling {reference}"));
                let pulled = images::pull(
                    &reference,
                    NODE_ARCHITECTURE,
                    &store,
                    upstreams,
                    &detail(&live),
                )
                .await;
                live.finish();
                say(&format!("{reference} {}", pulled?));
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

fn image_name(name: &str) -> Result<Reference, Failure> {
    let hint = "a name such as `quay.io/purplebooth/flappy-endpoint:v1`";
    Reference::parse(name).ok_or_else(|| {
        Failure::new(format!("`{name}` is not an image's name"))
            .hint(hint)
            .invalid()
    })
}

async fn load_images(
    files: Vec<std::path::PathBuf>,
    tag: Option<&str>,
    store: ImageStore,
) -> Result<(), Failure> {
    let tag = tag.map(image_name).transpose()?;
    if tag.is_some() && files.len() != 1 {
        return Err(Failure::new("`--tag` names the image of one file").invalid());
    }
    let live = Live::on_terminal();
    let shown = live.clone();
    let loading = tokio::task::spawn_blocking(
        move || -> Result<images::Loaded, (images::Loaded, images::LoadError)> {
            let mut loaded = images::Loaded::default();
            for (number, file) in files.iter().enumerate() {
                if let Some(live) = &shown {
                    let (number, all) = (number + 1, files.len());
                    live.step(&format!("loading {} ({number} of {all})", file.display()));
                }
                match images::load(file, tag.as_ref(), &store) {
                    Ok(more) => {
                        loaded.names.extend(more.names);
                        loaded.notes.extend(more.notes);
                    }
                    Err(error) => return Err((loaded, error)),
                }
            }
            Ok(loaded)
        },
    );
    let (loaded, error) = match loading.await.expect("loading does not panic") {
        Ok(loaded) => (loaded, None),
        Err((loaded, error)) => (loaded, Some(error)),
    };
    if let Some(live) = live {
        live.finish();
    }
    for name in &loaded.names {
        say(name);
    }
    for note in &loaded.notes {
        complain(&format!("warning: {note}"));
    }
    error.map_or(Ok(()), |error| {
        let is_invalid = error.is_invalid();
        let failure = Failure::from(error);
        Err(if is_invalid {
            failure.invalid()
        } else {
            failure
        })
    })
}

fn detail(live: &Arc<Live>) -> impl Fn(&str) + Send + Sync + use<> {
    let live = live.clone();
    move |line| live.detail(line)
}
