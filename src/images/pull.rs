//! Pulls an image from its registry into the store, so that nodes find it in the mirror.
//!
//! Anonymously; over HTTPS, or plain HTTP on loopback. The registry is always asked: a tag may have moved.

use serde::Deserialize;

use super::mirror::{Mirror, MirrorError, Registry, Upstreams};
use super::{ImageStore, Resolved};
use crate::model::image_reference::Reference;
use crate::shell::debian::Progress;

/// Most layers of one image.
const MAX_LAYERS: usize = 256;

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry has none, or wants a login.
    #[error("{0} is not there, or not for everybody: its registry says there is none")]
    NotFound(String),
    /// It is not an image that nodes can run.
    #[error("{image} cannot be used: {what}")]
    Unusable {
        /// Its name.
        image: String,
        /// Why.
        what: String,
    },
    /// The registry or the store failed.
    #[error("pull {image}")]
    Failed {
        /// Its name.
        image: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    /// Bytes of the blob, as the manifest says.
    #[serde(default)]
    size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// Pulls the image for `linux` on `architecture` (`amd64`); returns the digest that its name stands for now.
pub async fn pull(
    reference: &Reference,
    architecture: &str,
    store: &ImageStore,
    upstreams: Upstreams,
    progress: Progress<'_>,
) -> Result<String, PullError> {
    let image = reference.to_string();
    let failed = |error: MirrorError| match error {
        MirrorError::ManifestUnknown | MirrorError::BlobUnknown | MirrorError::NameUnknown => {
            PullError::NotFound(image.clone())
        }
        other => PullError::Failed {
            image: image.clone(),
            source: Box::new(other),
        },
    };
    let unusable = |what: String| PullError::Unusable {
        image: image.clone(),
        what,
    };
    let registry = Registry::anonymous(&reference.registry);
    let repository = reference.repository.as_str();
    let mirror = Mirror::new(store.clone(), upstreams);
    progress(&format!("asking {registry}"));
    let top = mirror
        .fetch_manifest(registry, repository, reference.version_text())
        .await
        .map_err(failed)?;
    let mut manifest = read(store, &top).map_err(unusable)?;
    if manifest.config.is_none() {
        let fits =
            |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
        let chosen = manifest
            .manifests
            .iter()
            .find(|entry| entry.platform.as_ref().is_some_and(fits));
        let chosen = chosen
            .ok_or_else(|| unusable(format!("its index has no image for linux/{architecture}")))?;
        let chosen = mirror
            .manifest(registry, repository, &chosen.digest)
            .await
            .map_err(failed)?;
        manifest = read(store, &chosen).map_err(unusable)?;
    }
    let config = manifest
        .config
        .ok_or_else(|| unusable("its manifest is not an image's".into()))?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(unusable(format!(
            "it has {} layers, at most {MAX_LAYERS} are taken",
            manifest.layers.len()
        )));
    }
    let blobs: Vec<&Descriptor> = std::iter::once(&config).chain(&manifest.layers).collect();
    let sizes: Vec<u64> = blobs.iter().map(|blob| blob.size).collect();
    for (number, blob) in blobs.iter().enumerate() {
        progress(&left(number, &sizes));
        mirror
            .blob(registry, repository, &blob.digest)
            .await
            .map_err(failed)?;
    }
    // The name comes last: until now it stood for what was there before, whole.
    mirror
        .keep_name(registry, repository, reference.version_text(), &top)
        .map_err(|error| failed(error.into()))?;
    Ok(top.digest)
}

/// What is left when this blob, counted from 0, begins.
fn left(number: usize, sizes: &[u64]) -> String {
    let bytes = sizes
        .iter()
        .skip(number)
        .fold(0, |all: u64, size| all.saturating_add(*size));
    let bytes = bytesize::ByteSize::b(bytes).display().iec();
    format!("blob {} of {}, {bytes} are left", number + 1, sizes.len())
}

fn read(store: &ImageStore, manifest: &Resolved) -> Result<Manifest, String> {
    let path = store
        .blob_path(&manifest.digest)
        .ok_or("its digest is not sha256")?;
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| format!("its manifest: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::Stored;
    use crate::images::mirror::router;

    /// A registry on loopback: our own mirror over another store, where names begin with `docker.io`.
    async fn registry(store: &ImageStore) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = router(store.clone(), Upstreams::none());
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    #[test]
    fn what_is_left_is_told_before_each_blob() {
        let sizes = [1 << 10, 3 << 20, 1 << 20];
        assert_eq!(left(0, &sizes), "blob 1 of 3, 4.0 MiB are left");
        assert_eq!(left(2, &sizes), "blob 3 of 3, 1.0 MiB are left");
        assert!(left(0, &[u64::MAX, 1]).starts_with("blob 1 of 2, "));
    }

    fn manifest(store: &ImageStore, layer: &Stored) -> Resolved {
        let config = store.put_blob(b"{}").unwrap();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let text = serde_json::json!({ "schemaVersion": 2, "mediaType": media_type,
            "config": { "digest": config.digest, "size": config.size }, "layers": [{ "digest": layer.digest, "size": layer.size }] });
        let stored = store.put_blob(text.to_string().as_bytes()).unwrap();
        Resolved {
            digest: stored.digest,
            media_type: media_type.into(),
        }
    }

    #[tokio::test]
    async fn an_image_comes_whole_and_a_moved_tag_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (theirs, ours) = (
            directory.path().join("theirs"),
            directory.path().join("ours"),
        );
        let (theirs, ours) = (
            ImageStore::open(theirs).unwrap(),
            ImageStore::open(ours).unwrap(),
        );
        let host = registry(&theirs).await;
        let upstreams = || Upstreams::plain_http(vec![host.clone()]);
        let reference = Reference::parse(&format!("{host}/a/b:v1")).unwrap();
        let pull = async || pull(&reference, "amd64", &ours, upstreams(), &|_| ()).await;

        let error = pull().await.unwrap_err();
        assert!(matches!(error, PullError::NotFound(_)), "{error}");
        for content in [&b"one"[..], b"two"] {
            let layer = theirs.put_blob(content).unwrap();
            let made = manifest(&theirs, &layer);
            theirs.tag("docker.io/a/b:v1", &made).unwrap();
            assert_eq!(pull().await.unwrap(), made.digest);
            assert_eq!(ours.blob_size(&layer.digest), Some(3));
            assert_eq!(
                ours.resolve(&format!("{host}/a/b"), "v1").unwrap(),
                Some(made)
            );
        }
        // A layer that is not there leaves the name where it was.
        let before = ours.tags().unwrap();
        let gone = Stored {
            digest: format!("sha256:{}", "0".repeat(64)),
            size: 1,
        };
        theirs
            .tag("docker.io/a/b:v1", &manifest(&theirs, &gone))
            .unwrap();
        pull().await.unwrap_err();
        assert_eq!(ours.tags().unwrap(), before);
    }

    #[tokio::test]
    async fn of_an_index_the_architectures_image_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let (theirs, ours) = (
            directory.path().join("theirs"),
            directory.path().join("ours"),
        );
        let (theirs, ours) = (
            ImageStore::open(theirs).unwrap(),
            ImageStore::open(ours).unwrap(),
        );
        let layer = theirs.put_blob(b"layer").unwrap();
        let image = manifest(&theirs, &layer);
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [
            { "digest": format!("sha256:{}", "0".repeat(64)), "platform": { "os": "linux", "architecture": "arm64" } },
            { "digest": image.digest, "platform": { "os": "linux", "architecture": "amd64" } } ] });
        let index = theirs.put_blob(index.to_string().as_bytes()).unwrap();
        theirs
            .tag(
                "docker.io/a/b:v1",
                &Resolved {
                    digest: index.digest.clone(),
                    media_type: media_type.into(),
                },
            )
            .unwrap();
        let host = registry(&theirs).await;
        let reference = Reference::parse(&format!("{host}/a/b:v1")).unwrap();
        let upstreams = || Upstreams::plain_http(vec![host.clone()]);
        assert_eq!(
            pull(&reference, "amd64", &ours, upstreams(), &|_| ())
                .await
                .unwrap(),
            index.digest
        );
        assert_eq!(ours.blob_size(&layer.digest), Some(5));
        let error = pull(&reference, "riscv64", &ours, upstreams(), &|_| ())
            .await
            .unwrap_err();
        assert!(matches!(error, PullError::Unusable { .. }), "{error}");
    }
}
