//! Images on this node: pulled from the cluster's registry mirror, each layer unpacked once and shared by digest.
//!
//! Invariants: bytes are hashed once, while they stream into the unpacker; a layer appears under its name by rename, after its
//! digest was right, so half of one is never used; an image's record is written after its last layer. The mirror is asked
//! with containerd's `ns` parameter, which names the registry that the reference named.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::super::runtime::{Image, Login, PullError, PullPolicy};
use super::bundle::ImageRecord;
use super::helper::chain;
use super::mirror::{client, document, refusal};
use super::records;
use super::{gaps, layer};
use crate::model::definition::hexadecimal;
use crate::model::image_reference::{Reference, is_digest};
use crate::model::signals;
use crate::model::turns::Turns;
use crate::orchestrator::config::IdentityFiles;

/// Layers of one image that are fetched and unpacked together.
const PARALLEL_LAYERS: usize = 2;
/// Chunks between the network and the unpacker.
const CHUNKS_AHEAD: usize = 16;
/// Layers that an image may have, as with Docker.
const MAX_LAYERS: usize = 127;
/// What the machines are, in images' words.
const NODE_ARCHITECTURE: &str = "amd64";
/// Manifests and indexes that are read until the image for this node is found.
const MAX_MANIFESTS: usize = 32;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// The images of this node.
#[derive(Clone)]
pub(crate) struct Images {
    http: reqwest::Client,
    mirror: String,
    layers: PathBuf,
    records: PathBuf,
    /// One pull at a time for each image, and for each layer: whoever comes later finds it done.
    turns: std::sync::Arc<Turns>,
}

/// An image, and who asks its registry for it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    reference: &'a Reference,
    login: Option<&'a Login>,
}

impl Asked<'_> {
    fn version_text(&self) -> &str {
        self.reference.version_text()
    }
}

/// A manifest or an index, of OCI or Docker.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Descriptor {
    /// Whether its index says that it is for other machines, or no image at all, such as what BuildKit attests.
    fn is_foreign(&self) -> bool {
        self.platform
            .as_ref()
            .is_some_and(|platform| !platform.is_ours())
    }
}

impl Platform {
    fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == NODE_ARCHITECTURE
    }
}

#[derive(Deserialize)]
struct ImageConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<ContainerConfig>,
}

impl ImageConfig {
    /// Whether this node can run it; one that does not say is believed.
    fn is_ours(&self) -> bool {
        matches!(self.os.as_str(), "" | "linux")
            && (self.architecture.is_empty() || self.architecture == NODE_ARCHITECTURE)
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

impl Images {
    pub(crate) fn open(
        data: &Path,
        mirror: &str,
        identity: &IdentityFiles,
    ) -> Result<Self, String> {
        let layers = data.join("layers");
        let images = data.join("images");
        for directory in [&layers, &images] {
            fs::create_dir_all(directory)
                .map_err(|error| format!("make `{}`: {error}", directory.display()))?;
        }
        // What an agent that died was unpacking.
        for entry in fs::read_dir(&layers).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".part") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(Self {
            http: client(identity)?,
            mirror: mirror.trim_end_matches('/').to_owned(),
            layers,
            records: images,
            turns: std::sync::Arc::default(),
        })
    }

    /// Makes sure that an image is here.
    pub(crate) async fn pull(
        &self,
        text: &str,
        policy: PullPolicy,
        login: Option<&Login>,
    ) -> Result<Image, PullError> {
        let reference =
            Reference::parse(text).ok_or_else(|| PullError::InvalidName(text.to_owned()))?;
        let name = reference.to_string();
        let _turn = self.turns.take(&name).await;
        let here = self.find(&name);
        match (policy, here) {
            (PullPolicy::Never | PullPolicy::IfNotPresent, Some(image)) => Ok(image),
            (PullPolicy::Never, None) => Err(PullError::NeverPull(name)),
            (PullPolicy::Always | PullPolicy::IfNotPresent, _) => {
                let asked = Asked {
                    reference: &reference,
                    login,
                };
                self.fetch(asked, &name).await
            }
        }
    }

    /// The record of an image that is here.
    pub(crate) fn record(&self, digest: &str) -> Option<ImageRecord> {
        records::read(&self.records.join(format!("{}.json", hex(digest)?)))
    }

    /// Directory of an unpacked layer.
    pub(crate) fn layer(&self, digest: &str) -> PathBuf {
        // Half of the digest is unique enough, and overlayfs' options are short.
        self.layers.join(hex(digest).map_or("", |hex| &hex[..32]))
    }

    /// The directories that an image's root is mounted from, uppermost first. A layer that an image has twice counts once, where it
    /// is uppermost: overlayfs refuses a directory that is named twice.
    pub(crate) fn stack(&self, digest: &str, record: &ImageRecord) -> Vec<PathBuf> {
        let mut stack = Vec::new();
        stack.extend(record.filled.then(|| self.filling(digest)));
        for layer in record.layers.iter().rev() {
            let layer = self.layer(layer);
            if !stack.contains(&layer) {
                stack.push(layer);
            }
        }
        stack
    }

    /// Directory of what fills an image's gaps.
    fn filling(&self, digest: &str) -> PathBuf {
        self.layer(digest).with_extension("filled")
    }

    /// Fills the gaps of an image whose layers are here; returns whether it has any.
    fn fill(&self, digest: &str, layers: &[String]) -> io::Result<bool> {
        let place = self.filling(digest);
        let temporary = place.with_extension("part");
        for left in [&temporary, &place] {
            match fs::remove_dir_all(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::create_dir(&temporary)?;
        let layers: Vec<PathBuf> = layers.iter().map(|layer| self.layer(layer)).collect();
        let filled = gaps::fill(&layers, &temporary).and_then(|filled| {
            if filled {
                rustix::fs::syncfs(&fs::File::open(&temporary)?)?;
                fs::rename(&temporary, &place)?;
            }
            Ok(filled)
        });
        if !matches!(filled, Ok(true)) {
            let _ = fs::remove_dir_all(&temporary);
        }
        filled
    }

    fn find(&self, name: &str) -> Option<Image> {
        let digest: String = records::read(&self.name_file(name))?;
        let record = self.record(&digest)?;
        self.stack(&digest, &record)
            .iter()
            .all(|directory| directory.is_dir())
            .then(|| Image {
                digest,
                reference: name.to_owned(),
            })
    }

    fn name_file(&self, name: &str) -> PathBuf {
        let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
        self.records
            .join(format!("{}.name", hexadecimal(digest.as_ref())))
    }

    async fn fetch(&self, reference: Asked<'_>, name: &str) -> Result<Image, PullError> {
        let failed = |what: String| PullError::Failed {
            image: name.to_owned(),
            what,
        };
        let digest_wanted = Some(reference.version_text()).filter(|text| is_digest(text));
        let (mut manifest, mut digest) = self
            .manifest(reference, reference.version_text(), digest_wanted, name)
            .await?;
        let top = digest.clone();
        if manifest.config.is_none() {
            (manifest, digest) = self.choose(reference, manifest, name).await?;
        }
        tracing::debug!(image = name, %top, %digest, "manifest");
        let Some(config) = &manifest.config else {
            return Err(failed(format!("manifest {digest} is not an image's")));
        };
        if manifest.layers.len() > MAX_LAYERS {
            return Err(failed(format!(
                "it has {} layers, at most {MAX_LAYERS} are supported",
                manifest.layers.len()
            )));
        }
        let known = self.record(&digest);
        let is_known = known.is_some();
        let mut record = match known {
            Some(record) => record,
            None => self
                .configuration(reference, &config.digest, &manifest.layers)
                .await
                .map_err(failed)?,
        };
        let mut fetches = Vec::new();
        for digest in &record.layers {
            fetches.push(self.fetch_layer(reference, digest));
        }
        let done: Result<Vec<()>, String> = futures::stream::iter(fetches)
            .buffer_unordered(PARALLEL_LAYERS)
            .try_collect()
            .await;
        done.map_err(failed)?;
        if !is_known {
            let (images, of, layers) = (self.clone(), digest.clone(), record.layers.clone());
            let filled = tokio::task::spawn_blocking(move || images.fill(&of, &layers)).await;
            let filled = filled.unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
            record.filled = filled
                .map_err(|error| failed(self.disk_reason("put the layers together", &error)))?;
        }
        hex(&digest)
            .ok_or_else(|| io::Error::other("the manifest's digest is not sha256"))
            .and_then(|hex| records::write(&self.records.join(format!("{hex}.json")), &record))
            .and_then(|()| records::write(&self.name_file(name), &digest))
            .map_err(|error| failed(self.disk_reason("record the image", &error)))?;
        Ok(Image {
            digest,
            reference: name.to_owned(),
        })
    }

    /// The image for this node of an index, which may hold indexes, and may leave out which platform an image is for.
    async fn choose(
        &self,
        reference: Asked<'_>,
        index: Manifest,
        name: &str,
    ) -> Result<(Manifest, String), PullError> {
        let failed = |what: String| PullError::Failed {
            image: name.to_owned(),
            what,
        };
        let mut left: std::collections::VecDeque<Descriptor> = index.manifests.into();
        for _ in 0..MAX_MANIFESTS {
            left.retain(|entry| !entry.is_foreign());
            // Those that say that they are for this node first.
            let ours = left.iter().position(|entry| entry.platform.is_some());
            let Some(entry) = left.remove(ours.unwrap_or(0)) else {
                break;
            };
            let is_told = entry.platform.is_some();
            let (manifest, digest) = self
                .manifest(reference, &entry.digest, Some(&entry.digest), name)
                .await?;
            let Some(config) = &manifest.config else {
                for (at, inner) in manifest.manifests.into_iter().enumerate() {
                    left.insert(at.min(left.len()), inner);
                }
                continue;
            };
            if is_told {
                return Ok((manifest, digest));
            }
            let config = self
                .image_config(reference, &config.digest)
                .await
                .map_err(failed)?;
            if config.is_ours() {
                return Ok((manifest, digest));
            }
        }
        Err(failed(format!(
            "its index has no image for linux/{NODE_ARCHITECTURE}"
        )))
    }

    async fn manifest(
        &self,
        reference: Asked<'_>,
        version: &str,
        wanted: Option<&str>,
        name: &str,
    ) -> Result<(Manifest, String), PullError> {
        let failed = |what: String| PullError::Failed {
            image: name.to_owned(),
            what,
        };
        let request = self
            .get(reference, "manifests", version)
            .header(http::header::ACCEPT, MANIFEST_TYPES);
        let response = request
            .send()
            .await
            .map_err(|error| failed(chain(&error)))?;
        if response.status() == http::StatusCode::NOT_FOUND {
            return Err(PullError::NotFound(name.to_owned()));
        }
        let refused = [http::StatusCode::FORBIDDEN, http::StatusCode::UNAUTHORIZED];
        if refused.contains(&response.status()) {
            return Err(failed(refusal(response).await));
        }
        let bytes = document(response, "manifest").await.map_err(failed)?;
        let digest = digest_of(&bytes);
        if wanted.is_some_and(|wanted| wanted != digest) {
            return Err(failed(format!(
                "manifest {version} came with digest {digest}"
            )));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| failed(format!("read manifest {digest}: {error}")))?;
        if manifest.schema_version != 2 {
            return Err(failed(format!(
                "manifest schema {} is not supported, only 2 is",
                manifest.schema_version
            )));
        }
        Ok((manifest, digest))
    }

    async fn image_config(
        &self,
        reference: Asked<'_>,
        digest: &str,
    ) -> Result<ImageConfig, String> {
        let response = self
            .get(reference, "blobs", digest)
            .send()
            .await
            .map_err(|error| chain(&error))?;
        let bytes = document(response, "image configuration").await?;
        let found = digest_of(&bytes);
        if found != digest {
            return Err(format!(
                "image configuration {digest} came with digest {found}"
            ));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| format!("read image configuration {digest}: {error}"))
    }

    async fn configuration(
        &self,
        reference: Asked<'_>,
        digest: &str,
        layers: &[Descriptor],
    ) -> Result<ImageRecord, String> {
        let config = self.image_config(reference, digest).await?;
        if !config.is_ours() {
            return Err(format!(
                "it is for {}/{}, not for linux/{NODE_ARCHITECTURE}",
                config.os, config.architecture
            ));
        }
        let config = config.config.unwrap_or_default();
        let stop_signal = config.stop_signal.unwrap_or_default();
        if !stop_signal.is_empty() && signals::number(&stop_signal).is_none() {
            return Err(format!(
                "its STOPSIGNAL `{stop_signal}` is no signal: a name such as SIGQUIT or SIGRTMIN+3, or a number from 1 to 64"
            ));
        }
        if let Some(wrong) = layers.iter().find(|layer| !is_digest(&layer.digest)) {
            return Err(format!(
                "its manifest names a layer `{}`, which is not a sha256 digest",
                wrong.digest
            ));
        }
        Ok(ImageRecord {
            layers: layers.iter().map(|layer| layer.digest.clone()).collect(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            stop_signal,
            filled: false,
        })
    }

    async fn fetch_layer(&self, reference: Asked<'_>, digest: &str) -> Result<(), String> {
        let _turn = self.turns.take(digest).await;
        let place = self.layer(digest);
        if place.is_dir() {
            return Ok(());
        }
        let response = self
            .get(reference, "blobs", digest)
            .send()
            .await
            .map_err(|error| chain(&error))?;
        let response = response
            .error_for_status()
            .map_err(|error| format!("layer {digest}: {}", chain(&error)))?;
        let temporary = place.with_extension("part");
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let unpacking = {
            let (temporary, digest) = (temporary.clone(), digest.to_owned());
            tokio::task::spawn_blocking(move || unpack(receiver, &temporary, &digest))
        };
        let mut body = response.bytes_stream();
        let mut broken = None;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| io::Error::other(chain(&error)));
            broken = chunk.as_ref().err().map(ToString::to_string);
            // A closed channel means that unpacking failed: its own error says why.
            if sender.send(chunk).await.is_err() || broken.is_some() {
                break;
            }
        }
        drop(sender);
        let unpacked = unpacking
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        let finished = unpacked
            .and_then(|gaps| gaps.write(&place))
            .and_then(|()| fs::rename(&temporary, &place));
        finished.map_err(|error| {
            let _ = fs::remove_dir_all(&temporary);
            let reason = self.disk_reason(&format!("layer {digest}"), &error);
            broken.map_or(reason.clone(), |broken| format!("layer {digest}: {broken}"))
        })
    }

    fn disk_reason(&self, what: &str, error: &io::Error) -> String {
        if error.kind() == io::ErrorKind::StorageFull
            || error.to_string().contains("No space left on device")
        {
            return format!(
                "{what}: the disk of `{}` is full: give the machine a larger one",
                self.layers.display()
            );
        }
        format!("{what}: {error}")
    }

    fn get(&self, reference: Asked<'_>, kind: &str, version: &str) -> reqwest::RequestBuilder {
        let Reference {
            registry,
            repository,
            ..
        } = reference.reference;
        let request = self.http.get(format!(
            "{}/v2/{repository}/{kind}/{version}?ns={registry}",
            self.mirror
        ));
        match reference.login {
            // For the mirror to hand on; marked so that nothing prints it.
            Some(login) => request.basic_auth(login.username(), Some(login.password())),
            None => request,
        }
    }
}

/// Runs in a blocking thread: hashes what arrives, unpacks it, and compares the digest.
fn unpack(
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    directory: &Path,
    digest: &str,
) -> io::Result<gaps::Gaps> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir(directory)?,
    }
    let mut stream = Hashed {
        receiver,
        chunk: Bytes::new(),
        digest: ring::digest::Context::new(&ring::digest::SHA256),
    };
    let gaps = layer::unpack(&mut stream, directory)?;
    let found = format!("sha256:{}", hexadecimal(stream.digest.finish().as_ref()));
    if found != digest {
        return Err(io::Error::other(format!("what came has digest {found}")));
    }
    // The rename that follows must not reach the disk before the files do: machines lose power here on purpose.
    let directory = fs::File::open(directory)?;
    rustix::fs::syncfs(&directory)?;
    Ok(gaps)
}

struct Hashed {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
    digest: ring::digest::Context,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
            self.digest.update(&self.chunk);
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

fn hex(digest: &str) -> Option<&str> {
    is_digest(digest).then(|| &digest["sha256:".len()..])
}

fn digest_of(bytes: &[u8]) -> String {
    format!(
        "sha256:{}",
        hexadecimal(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
    )
}
