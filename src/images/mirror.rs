//! The registry mirror: the read half of the OCI distribution API over the image store, for the nodes of a cluster.
//!
//! A node asks for `<name>` and adds `ns=<registry>`, as containerd's mirrors do, so that one mirror stands for all registries.
//! Invariants: nothing is served whose digest was not verified when it came in; an upstream registry that the cluster file
//! does not list is never asked; a login that comes with a request is for that registry only, and never written down; with a key, no
//! manifest is served that its owner did not sign.

mod asked;
mod path;
mod response;
mod serve;
#[cfg(test)]
mod tests;
mod upstreams;
mod vouched;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as UrlPath, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

pub(in crate::images) use self::asked::Registry;
use self::path::{Wanted, wanted};
use self::response::file_response;
pub use self::serve::serve;
pub use self::upstreams::Upstreams;
use self::upstreams::unknown;
use self::vouched::Vouched;
use super::signature::VerifyingKey;
use super::store::place;
use super::{ImageStore, Resolved, StoreError};
use crate::model::definition::hexadecimal;
use crate::model::image_reference::is_digest;
use crate::model::turns::Turns;

const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// The mirror's HTTP API.
pub fn router(store: ImageStore, upstreams: Upstreams) -> Router {
    routes(Mirror::new(store, upstreams))
}

/// As [`router`], but only images are served that the key's owner signed.
pub fn router_of_signed(store: ImageStore, upstreams: Upstreams, key: VerifyingKey) -> Router {
    let mut mirror = Mirror::new(store, upstreams);
    mirror.vouched = Some(Vouched::new(key));
    routes(mirror)
}

fn routes(mirror: Mirror) -> Router {
    let mirror = Arc::new(mirror);
    Router::new()
        .route(
            "/v2/",
            axum::routing::get(|| async { axum::Json(serde_json::json!({})) }),
        )
        .route("/v2/{*path}", axum::routing::get(answer))
        .with_state(mirror)
}

async fn answer(
    State(mirror): State<Arc<Mirror>>,
    UrlPath(path): UrlPath<String>,
    Query(namespace): Query<Namespace>,
    headers: HeaderMap,
) -> Result<Response, MirrorError> {
    let login = asked::login(&headers);
    let registry = Registry {
        name: namespace.ns.as_deref().unwrap_or("docker.io"),
        auth: &login,
    };
    match wanted(&path).ok_or(MirrorError::NameUnknown)? {
        Wanted::Manifest {
            repository,
            reference,
        } => {
            let manifest = mirror.manifest(registry, repository, reference).await?;
            mirror.admit(registry, repository, &manifest).await?;
            let file = mirror
                .store
                .blob_path(&manifest.digest)
                .filter(|file| file.is_file());
            let file = file.ok_or(MirrorError::ManifestUnknown)?;
            Ok(file_response(
                &file,
                &manifest.digest,
                &manifest.media_type,
                &HeaderMap::new(),
            )
            .await?)
        }
        Wanted::Blob { repository, digest } => {
            let file = mirror.blob(registry, repository, digest).await?;
            Ok(file_response(&file, digest, "application/octet-stream", &headers).await?)
        }
    }
}

#[derive(Deserialize)]
struct Namespace {
    ns: Option<String>,
}

/// Why something cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum MirrorError {
    #[error("manifest unknown")]
    ManifestUnknown,
    #[error("blob unknown")]
    BlobUnknown,
    #[error("repository name not known to registry")]
    NameUnknown,
    #[error("{image} is not signed with the key of `[cluster] images.signed_by`: {why}")]
    Unsigned { image: String, why: String },
    #[error("registry {0} refuses the login of the pod's image pull secrets")]
    Login(String),
    #[error("upstream registry: {0}")]
    Upstream(#[from] OciDistributionError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("image store: {0}")]
    File(#[from] io::Error),
}

impl IntoResponse for MirrorError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::Login(_) => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::Unsigned { .. } => (StatusCode::FORBIDDEN, "DENIED"),
            Self::Upstream(_) => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
            Self::Store(_) | Self::File(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        };
        let body = serde_json::json!({"errors": [{"code": code, "message": self.to_string()}]});
        (status, axum::Json(body)).into_response()
    }
}

pub(super) struct Mirror {
    store: ImageStore,
    upstreams: Upstreams,
    /// One fetch at a time for each thing: whoever comes later finds it here.
    turns: Turns,
    /// Who has to vouch for what is served.
    vouched: Option<Vouched>,
}

impl Mirror {
    pub(super) fn new(store: ImageStore, upstreams: Upstreams) -> Self {
        Self {
            store,
            upstreams,
            turns: Turns::default(),
            vouched: None,
        }
    }

    /// The manifest that the store has, else the upstream registry's, which is kept.
    pub(super) async fn manifest(
        &self,
        registry: Registry<'_>,
        repository: &str,
        reference: &str,
    ) -> Result<Resolved, MirrorError> {
        if let Some(manifest) = self.stored(registry, repository, reference) {
            return Ok(manifest);
        }
        let _turn = self
            .turns
            .take(&format!("{registry}/{repository}:{reference}"))
            .await;
        if let Some(manifest) = self.stored(registry, repository, reference) {
            return Ok(manifest);
        }
        let manifest = self.fetch_manifest(registry, repository, reference).await?;
        self.keep_name(registry, repository, reference, &manifest)?;
        Ok(manifest)
    }

    fn stored(
        &self,
        registry: Registry<'_>,
        repository: &str,
        reference: &str,
    ) -> Option<Resolved> {
        let resolved = self
            .store
            .resolve(&format!("{registry}/{repository}"), reference);
        resolved
            .inspect_err(|error| tracing::warn!(%error, "image store"))
            .ok()?
    }

    /// Records which manifest a tag stands for; a digest stands for itself.
    pub(super) fn keep_name(
        &self,
        registry: Registry<'_>,
        repository: &str,
        reference: &str,
        manifest: &Resolved,
    ) -> Result<(), StoreError> {
        if reference.starts_with("sha256:") {
            return Ok(());
        }
        self.store
            .tag(&format!("{registry}/{repository}:{reference}"), manifest)
    }

    /// The manifest that the upstream registry has now; kept as a blob, its name is not recorded.
    pub(super) async fn fetch_manifest(
        &self,
        registry: Registry<'_>,
        repository: &str,
        reference: &str,
    ) -> Result<Resolved, MirrorError> {
        let client = self
            .upstreams
            .client(registry)?
            .ok_or(MirrorError::ManifestUnknown)?;
        let image = image(registry, repository, reference);
        let pulled = client
            .pull_manifest_raw(&image, registry.auth, &MANIFEST_TYPES)
            .await;
        let (bytes, _) =
            pulled.map_err(|error| unknown(error, registry, MirrorError::ManifestUnknown))?;
        let digest = format!("sha256:{}", hexadecimal(&Sha256::digest(&bytes)));
        if is_digest(reference) && reference != digest {
            return Err(StoreError::Digest {
                expected: reference.to_owned(),
                actual: digest,
            }
            .into());
        }
        let mut file = self.store.incoming()?;
        file.write_all(&bytes)?;
        place(
            file,
            &self
                .store
                .blob_path(&digest)
                .expect("a SHA-256 in hexadecimal is a digest"),
        )?;
        Ok(Resolved {
            digest,
            media_type: media_type(&bytes),
        })
    }

    pub(super) async fn blob(
        &self,
        registry: Registry<'_>,
        repository: &str,
        digest: &str,
    ) -> Result<PathBuf, MirrorError> {
        let path = self.store.blob_path(digest);
        let path =
            path.ok_or_else(|| io::Error::other(format!("`{digest}` is not a SHA-256 digest")))?;
        if path.is_file() {
            return Ok(path);
        }
        let client = self
            .upstreams
            .client(registry)?
            .ok_or(MirrorError::BlobUnknown)?;
        let _turn = self.turns.take(digest).await;
        if path.is_file() {
            return Ok(path);
        }
        let image = image(registry, repository, digest);
        client
            .store_auth_if_needed(image.resolve_registry(), registry.auth)
            .await;
        let file = self.store.incoming()?;
        let writer = tokio::fs::File::from_std(file.reopen()?);
        let descriptor = OciDescriptor {
            digest: digest.to_owned(),
            ..OciDescriptor::default()
        };
        // `pull_blob` verifies the digest.
        client
            .pull_blob(&image, &descriptor, writer)
            .await
            .map_err(|error| unknown(error, registry, MirrorError::BlobUnknown))?;
        place(file, &path)?;
        Ok(path)
    }
}

fn image(registry: Registry<'_>, repository: &str, reference: &str) -> oci_client::Reference {
    let (registry, repository, reference) = (
        registry.name.to_owned(),
        repository.to_owned(),
        reference.to_owned(),
    );
    if is_digest(&reference) {
        return oci_client::Reference::with_digest(registry, repository, reference);
    }
    oci_client::Reference::with_tag(registry, repository, reference)
}

/// A manifest's own `mediaType`, else what its shape says.
fn media_type(bytes: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let shape = if value.get("manifests").is_some() {
        MANIFEST_TYPES[1]
    } else {
        MANIFEST_TYPES[0]
    };
    value
        .get("mediaType")
        .and_then(|kind| kind.as_str())
        .unwrap_or(shape)
        .to_owned()
}
