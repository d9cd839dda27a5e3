//! Which image of an archive is for our machines, and which files it is made of, from its documents alone.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::source::Contents;
use super::{NODE_ARCHITECTURE, Problem, tag_name};
use crate::images::Resolved;
use crate::model::definition::hexadecimal;
use crate::model::image_reference::is_digest;
use crate::model::signals;

/// Indexes within indexes.
const MAX_DEPTH: u32 = 4;
/// Layers of an image, as with Docker.
const MAX_LAYERS: usize = 127;
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The full name that containerd and `docker save` write; the other is a tag only, or a name.
const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    digest: String,
    size: Option<u64>,
    media_type: Option<String>,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// A manifest or an index.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// An element of `docker save`'s `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Configuration {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    config: Option<Settings>,
    rootfs: Option<RootFs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    stop_signal: Option<String>,
    healthcheck: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

/// A blob that is stored as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) size: Option<u64>,
    /// What a layer has to be without its packing.
    pub(super) diff_id: Option<String>,
}

/// An image that is to be loaded.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) names: Vec<String>,
    pub(super) parts: Parts,
    /// What is not applied.
    pub(super) notes: Vec<String>,
}

/// What an image is made of.
#[derive(Debug)]
pub(super) enum Parts {
    /// Of an OCI layout: blobs as they are, by file, and what its name stands for.
    Layout {
        top: Resolved,
        blobs: BTreeMap<String, Blob>,
    },
    /// Of a `docker save`: the configuration, and its layers' files with what they have to be.
    Saved {
        config: Vec<u8>,
        layers: Vec<(String, String)>,
    },
}

/// The images of an archive.
pub(super) fn images(contents: &Contents) -> Result<Vec<Image>, Problem> {
    let saved = contents.document("manifest.json");
    let Some(index) = contents.document("index.json") else {
        return match saved {
            Some(document) => saved_images(contents, document),
            None => Err(neither(contents)),
        };
    };
    let laid_out = layout_images(contents, index);
    let Some(saved) = saved else {
        return laid_out;
    };
    // Docker writes both since 25; names may be in one only.
    match laid_out {
        Ok(images) if images.iter().any(|image| !image.names.is_empty()) => Ok(images),
        laid_out => saved_images(contents, saved).or(laid_out),
    }
}

fn neither(contents: &Contents) -> Problem {
    let what = if contents.has("repositories") {
        "it was saved by a Docker older than 1.10: load it there, and save it with a newer one"
    } else if contents.has("manifest.json") || contents.has("index.json") {
        "its `manifest.json` or `index.json` is not JSON"
    } else if contents.has(".dockerenv") || contents.has("etc/passwd") || contents.has("bin/sh") {
        "it is the file system of a container (`docker export`), not an image: use `docker save`"
    } else {
        "it has neither `index.json` (OCI) nor `manifest.json` (docker save)"
    };
    what.into()
}

fn layout_images(contents: &Contents, document: &[u8]) -> Result<Vec<Image>, Problem> {
    let index: Manifest = parse("index.json", document)?;
    let mut images = Vec::new();
    let mut others = Vec::new();
    for descriptor in index.manifests.unwrap_or_default() {
        if descriptor.is_foreign() {
            others.extend(descriptor.platform.as_ref().map(Platform::text));
            continue;
        }
        images.extend(layout_image(contents, &descriptor, &mut others)?);
    }
    if images.is_empty() {
        return Err(nothing_for_us(&others));
    }
    Ok(images)
}

fn nothing_for_us(others: &[String]) -> Problem {
    let mut others: Vec<&str> = others
        .iter()
        .map(String::as_str)
        .filter(|other| !other.contains("unknown"))
        .collect();
    others.sort_unstable();
    others.dedup();
    let others = match others.as_slice() {
        [] => String::new(),
        others => format!(", only for {}", others.join(", ")),
    };
    format!("it has no image for linux/{NODE_ARCHITECTURE}{others}: build or pull it with `--platform linux/{NODE_ARCHITECTURE}`").into()
}

fn layout_image(
    contents: &Contents,
    descriptor: &Descriptor,
    others: &mut Vec<String>,
) -> Result<Option<Image>, Problem> {
    let mut blobs = BTreeMap::new();
    let mut notes = Vec::new();
    let found = choose(
        contents, descriptor, MAX_DEPTH, &mut blobs, others, &mut notes,
    )?;
    if !found {
        return Ok(None);
    }
    let top: Manifest = parse(&descriptor.digest, manifest_document(contents, descriptor)?)?;
    let shape = if top.config.is_some() {
        MANIFEST_TYPE
    } else {
        INDEX_TYPE
    };
    let media_type = top.media_type.or(descriptor.media_type.clone());
    let name = NAME_ANNOTATIONS
        .iter()
        .find_map(|key| descriptor.annotations.as_ref()?.get(*key))
        .filter(|name| name.contains(['/', ':']));
    Ok(Some(Image {
        names: name.and_then(|name| tag_name(name)).into_iter().collect(),
        parts: Parts::Layout {
            top: Resolved {
                digest: descriptor.digest.clone(),
                media_type: media_type.unwrap_or_else(|| shape.to_owned()),
            },
            blobs,
        },
        notes,
    }))
}

/// Finds the image for our machines behind a descriptor, and notes the blobs that lead to it and that it is made of.
fn choose(
    contents: &Contents,
    descriptor: &Descriptor,
    depth: u32,
    blobs: &mut BTreeMap<String, Blob>,
    others: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Result<bool, Problem> {
    let digest = &descriptor.digest;
    let document = manifest_document(contents, descriptor)?;
    let manifest: Manifest = parse(digest, document)?;
    if manifest.schema_version == Some(1) {
        return Err(format!("manifest {digest} is of Docker's schema 1, which is no longer in use: push or save the image with a Docker since 1.10").into());
    }
    let Some(config) = &manifest.config else {
        let Some(children) = &manifest.manifests else {
            return Err(format!("{digest} is neither a manifest nor an index of images").into());
        };
        if depth == 0 {
            return Err(format!("its indexes lie more than {MAX_DEPTH} deep").into());
        }
        let (told, untold): (Vec<_>, Vec<_>) =
            children.iter().partition(|child| child.platform.is_some());
        let mut problem = None;
        for child in told.into_iter().chain(untold) {
            if child.is_foreign() {
                others.extend(child.platform.as_ref().map(Platform::text));
                continue;
            }
            match choose(contents, child, depth - 1, blobs, others, notes) {
                Ok(true) => {
                    note(contents, descriptor, None, blobs)?;
                    return Ok(true);
                }
                Ok(false) => {}
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        return problem.map_or(Ok(false), Err);
    };
    if manifest.layers.len() > MAX_LAYERS {
        return Err(format!(
            "it has {} layers, at most {MAX_LAYERS} are taken",
            manifest.layers.len()
        )
        .into());
    }
    if let Some(kind) = config.media_type.as_deref()
        && !kind.contains("container.image")
        && !kind.contains("image.config")
    {
        // An artifact: a chart, a signature, an attestation.
        others.push(format!("unknown ({kind})"));
        return Ok(false);
    }
    let document = document_of(contents, config)?;
    let configuration: Configuration = parse(&config.digest, document)?;
    if !configuration.is_ours() {
        others.push(configuration.platform());
        return Ok(false);
    }
    let diff_ids = configuration.check(notes)?;
    if diff_ids.len() != manifest.layers.len() {
        return Err(format!(
            "its configuration names {} layers (`rootfs.diff_ids`), its manifest {}",
            diff_ids.len(),
            manifest.layers.len()
        )
        .into());
    }
    for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let kind = layer.media_type.as_deref().unwrap_or_default();
        if kind.contains("encrypted") {
            return Err(format!("layer {} is encrypted: decrypt it first", layer.digest).into());
        }
        note(contents, layer, Some(diff_id), blobs)?;
    }
    note(contents, config, None, blobs)?;
    note(contents, descriptor, None, blobs)?;
    Ok(true)
}

fn note(
    contents: &Contents,
    descriptor: &Descriptor,
    diff_id: Option<&String>,
    blobs: &mut BTreeMap<String, Blob>,
) -> Result<(), Problem> {
    let file = blob_file(contents, &descriptor.digest)?;
    let blob = Blob {
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        diff_id: diff_id.cloned(),
    };
    if let Some(before) = blobs.get(&file)
        && before.diff_id != blob.diff_id
    {
        return Err(format!(
            "blob {} is named as two layers that differ",
            descriptor.digest
        )
        .into());
    }
    blobs.insert(file, blob);
    Ok(())
}

fn blob_file(contents: &Contents, digest: &str) -> Result<String, Problem> {
    if !is_digest(digest) {
        return Err(format!("`{digest}` is no digest: `sha256:` and 64 hexadecimal digits").into());
    }
    let name = format!("blobs/sha256/{}", &digest["sha256:".len()..]);
    contents
        .resolve(&name)
        .ok_or_else(|| format!("blob {digest} is missing").into())
}

fn document_of<'a>(contents: &'a Contents, descriptor: &Descriptor) -> Result<&'a [u8], Problem> {
    let digest = &descriptor.digest;
    let file = blob_file(contents, digest)?;
    let document = contents
        .document(&file)
        .ok_or_else(|| Problem::from(format!("blob {digest} is not JSON, or too large")))?;
    let found = format!("sha256:{}", hexadecimal(&Sha256::digest(document)));
    if found != *digest {
        return Err(format!("blob {digest} has digest {found}").into());
    }
    let size = document.len() as u64;
    match descriptor.size {
        Some(told) if told != size => {
            Err(format!("blob {digest} has {size} bytes, not {told} as its descriptor says").into())
        }
        _ => Ok(document),
    }
}

fn manifest_document<'a>(
    contents: &'a Contents,
    descriptor: &Descriptor,
) -> Result<&'a [u8], Problem> {
    document_of(contents, descriptor)
}

fn saved_images(contents: &Contents, document: &[u8]) -> Result<Vec<Image>, Problem> {
    let saved: Vec<Saved> = parse("manifest.json", document)?;
    if saved.is_empty() {
        return Err("its `manifest.json` names no image".into());
    }
    let mut images = Vec::new();
    let mut others = Vec::new();
    for saved in &saved {
        images.extend(saved_image(contents, saved, &mut others)?);
    }
    if images.is_empty() {
        return Err(nothing_for_us(&others));
    }
    Ok(images)
}

fn saved_image(
    contents: &Contents,
    saved: &Saved,
    others: &mut Vec<String>,
) -> Result<Option<Image>, Problem> {
    if contents.resolve(&saved.config).is_none() {
        return Err(format!("`{}` is missing, its configuration", saved.config).into());
    }
    let document = contents.document(&saved.config).ok_or_else(|| {
        Problem::from(format!("`{}` is not JSON, its configuration", saved.config))
    })?;
    let configuration: Configuration = parse(&saved.config, document)?;
    if !configuration.is_ours() {
        others.push(configuration.platform());
        return Ok(None);
    }
    let mut notes = Vec::new();
    let diff_ids = configuration.check(&mut notes)?;
    let names = saved.layers.as_deref().unwrap_or_default();
    if names.len() > MAX_LAYERS {
        return Err(format!(
            "it has {} layers, at most {MAX_LAYERS} are taken",
            names.len()
        )
        .into());
    }
    if diff_ids.len() != names.len() {
        return Err(format!(
            "its configuration names {} layers (`rootfs.diff_ids`), its `manifest.json` {}",
            diff_ids.len(),
            names.len()
        )
        .into());
    }
    let mut layers = Vec::new();
    for (name, diff_id) in names.iter().zip(diff_ids) {
        let file = contents
            .resolve(name)
            .ok_or_else(|| Problem::from(format!("`{name}` is missing, a layer")))?;
        layers.push((file, diff_id.clone()));
    }
    Ok(Some(Image {
        names: (saved.repo_tags.iter().flatten())
            .filter_map(|name| tag_name(name))
            .collect(),
        parts: Parts::Saved {
            config: document.to_vec(),
            layers,
        },
        notes,
    }))
}

impl Descriptor {
    /// For other machines, or no image at all, such as what BuildKit attests.
    fn is_foreign(&self) -> bool {
        let is_attestation = self
            .annotations
            .as_ref()
            .is_some_and(|notes| notes.contains_key("vnd.docker.reference.type"));
        is_attestation
            || self.platform.as_ref().is_some_and(|platform| {
                platform.os != "linux" || platform.architecture != NODE_ARCHITECTURE
            })
    }
}

impl Platform {
    fn text(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }
}

impl Configuration {
    /// Whether our machines can run it; one that does not say is believed.
    fn is_ours(&self) -> bool {
        matches!(self.os.as_str(), "" | "linux")
            && (self.architecture.is_empty() || self.architecture == NODE_ARCHITECTURE)
    }

    fn platform(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }

    /// Refuses what no node could do; returns the layers without their packing.
    fn check(&self, notes: &mut Vec<String>) -> Result<&[String], Problem> {
        let settings = self.config.as_ref();
        let signal = settings.and_then(|settings| settings.stop_signal.as_deref());
        if let Some(signal) = signal.filter(|signal| !signal.is_empty())
            && signals::number(signal).is_none()
        {
            return Err(format!("its STOPSIGNAL `{signal}` is no signal: a name such as SIGQUIT or SIGRTMIN+3, or a number from 1 to 64").into());
        }
        let check = settings.and_then(|settings| settings.healthcheck.as_ref());
        let is_none = check.is_some_and(|check| check["Test"][0] == "NONE");
        if check.is_some_and(|check| !check.is_null()) && !is_none {
            notes.push("its HEALTHCHECK is not applied, as in Kubernetes: give the pod a livenessProbe or a readinessProbe".to_owned());
        }
        let diff_ids = self
            .rootfs
            .as_ref()
            .and_then(|rootfs| rootfs.diff_ids.as_deref());
        Ok(diff_ids.unwrap_or_default())
    }
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, document: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(document).map_err(|error| format!("`{name}`: {error}").into())
}
