//! The registry mirror: the read half of the OCI distribution API over the image store, for the nodes of a cluster.
//!
//! A node asks for `<name>` and adds `ns=<registry>`, as containerd's mirrors do, so that one mirror stands for all registries.
//! Invariants: nothing is served whose digest was not verified when it came in; an upstream registry that the cluster file
//! does not list is never asked.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use oci_client::client::ClientConfig;
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use crate::transport::Listen;

/// Connections served at once: a few for each of the nodes that a cluster may have.
const MAX_CONNECTIONS: usize = 512;
/// A handshake takes long on an emulated machine.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// A manifest that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// `sha256:…` of its bytes, which are a blob of the store.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
}

/// Where the mirror finds images and keeps what it fetched. Called from several tasks at once; calls are short.
pub trait MirrorStore: Send + Sync + 'static {
    /// The manifest of `registry/repository` with this tag or digest.
    fn resolve(&self, registry: &str, repository: &str, reference: &str) -> Option<StoredManifest>;
    /// The file of a blob, manifests included.
    fn blob_path(&self, digest: &str) -> Option<PathBuf>;
    /// A new file on the store's file system for a blob that is coming in. Dropping it removes it.
    fn incoming(&self) -> io::Result<tempfile::NamedTempFile>;
    /// Keeps a whole, verified blob.
    fn keep_blob(&self, digest: &str, file: tempfile::NamedTempFile) -> io::Result<()>;
    /// Records which manifest, already kept as a blob, a reference stands for.
    fn keep_reference(&self, registry: &str, repository: &str, reference: &str, manifest: &StoredManifest) -> io::Result<()>;
}

/// The upstream registries that the cluster file lists.
#[derive(Clone)]
pub struct Upstreams {
    listed: Vec<String>,
    client: Option<oci_client::Client>,
}

impl Upstreams {
    /// No upstream: what the store has not is not found.
    #[must_use]
    pub fn none() -> Self {
        Self { listed: Vec::new(), client: None }
    }

    /// Asks the registries in `listed` anonymously over HTTPS, trusting the authorities in `roots_pem`: a bundle such as
    /// `/etc/ssl/certs/ca-certificates.crt` of the host.
    pub fn https(listed: Vec<String>, roots_pem: &[u8]) -> Result<Self, OciDistributionError> {
        Self::with_roots(listed, roots_pem, oci_client::client::ClientProtocol::Https)
    }

    /// The one registry that a person asks for: over HTTPS, or plain HTTP on loopback, as Docker does.
    pub fn only(registry: &str, roots_pem: &[u8]) -> Result<Self, OciDistributionError> {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let is_local = host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback());
        let protocol =
            if is_local { oci_client::client::ClientProtocol::Http } else { oci_client::client::ClientProtocol::Https };
        Self::with_roots(vec![registry.to_owned()], roots_pem, protocol)
    }

    fn with_roots(
        listed: Vec<String>,
        roots_pem: &[u8],
        protocol: oci_client::client::ClientProtocol,
    ) -> Result<Self, OciDistributionError> {
        let mut tls_certs_only = Vec::new();
        for block in String::from_utf8_lossy(roots_pem).split_inclusive("-----END CERTIFICATE-----") {
            if let Some(start) = block.find("-----BEGIN CERTIFICATE-----") {
                let encoding = oci_client::client::CertificateEncoding::Pem;
                tls_certs_only.push(oci_client::client::Certificate { encoding, data: block.as_bytes()[start..].to_vec() });
            }
        }
        Self::with(listed, ClientConfig { tls_certs_only, protocol, ..ClientConfig::default() })
    }

    fn with(listed: Vec<String>, config: ClientConfig) -> Result<Self, OciDistributionError> {
        let config = ClientConfig {
            platform_resolver: None,
            connect_timeout: Some(Duration::from_secs(20)),
            read_timeout: Some(Duration::from_mins(1)),
            ..config
        };
        Ok(Self { listed, client: Some(config.try_into()?) })
    }

    #[cfg(test)]
    pub(super) fn plain_http(listed: Vec<String>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Without roots the client would look for the machine's own, which a test may not have.
        let key = rcgen::KeyPair::generate().unwrap();
        let root = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let encoding = oci_client::client::CertificateEncoding::Der;
        let tls_certs_only = vec![oci_client::client::Certificate { encoding, data: root.der().to_vec() }];
        Self::with(
            listed,
            ClientConfig { protocol: oci_client::client::ClientProtocol::Http, tls_certs_only, ..ClientConfig::default() },
        )
        .unwrap()
    }

    fn client(&self, registry: &str) -> Option<&oci_client::Client> {
        self.client.as_ref().filter(|_| self.listed.iter().any(|listed| listed == registry))
    }
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
    #[error("upstream registry: {0}")]
    Upstream(#[from] OciDistributionError),
    #[error("image store: {0}")]
    Store(#[from] io::Error),
}

impl IntoResponse for MirrorError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::Upstream(_) => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
            Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        };
        let body = serde_json::json!({"errors": [{"code": code, "message": self.to_string()}]});
        (status, axum::Json(body)).into_response()
    }
}

pub(super) struct Mirror {
    store: Arc<dyn MirrorStore>,
    upstreams: Upstreams,
    /// One fetch at a time for each thing: whoever comes later finds it here.
    turns: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

#[derive(Deserialize)]
struct Namespace {
    ns: Option<String>,
}

/// What a request path names.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Manifest { repository: &'a str, reference: &'a str },
    Blob { repository: &'a str, digest: &'a str },
}

/// The mirror's HTTP API.
pub fn router(store: Arc<dyn MirrorStore>, upstreams: Upstreams) -> Router {
    let mirror = Arc::new(Mirror::new(store, upstreams));
    Router::new()
        .route("/v2/", axum::routing::get(|| async { axum::Json(serde_json::json!({})) }))
        .route("/v2/{*path}", axum::routing::get(answer))
        .with_state(mirror)
}

/// Serves `router` over TLS until `listener` fails for good.
pub async fn serve(mut listener: impl Listen, tls: Arc<rustls::ServerConfig>, router: Router) -> io::Result<()> {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => return Err(error),
        };
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let _permit = permit;
            match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%peer, %error, "registry mirror: connection");
                    }
                }
                Ok(Err(error)) => tracing::warn!(%peer, %error, "registry mirror: TLS handshake"),
                Err(_) => tracing::warn!(%peer, "registry mirror: the TLS handshake took too long"),
            }
        });
    }
}

/// Whether an accept failed because its peer went away already.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn wanted(path: &str) -> Option<Wanted<'_>> {
    if let Some((repository, reference)) = path.rsplit_once("/manifests/") {
        return (is_repository(repository) && !reference.contains('/')).then_some(Wanted::Manifest { repository, reference });
    }
    let (repository, digest) = path.rsplit_once("/blobs/")?;
    (is_repository(repository) && is_digest(digest)).then_some(Wanted::Blob { repository, digest })
}

fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    name.len() <= 255 && name.split('/').all(is_part)
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

async fn answer(
    State(mirror): State<Arc<Mirror>>,
    UrlPath(path): UrlPath<String>,
    Query(namespace): Query<Namespace>,
    headers: HeaderMap,
) -> Result<Response, MirrorError> {
    let registry = namespace.ns.as_deref().unwrap_or("docker.io");
    match wanted(&path).ok_or(MirrorError::NameUnknown)? {
        Wanted::Manifest { repository, reference } => {
            let manifest = mirror.manifest(registry, repository, reference).await?;
            let file = mirror.store.blob_path(&manifest.digest).ok_or(MirrorError::ManifestUnknown)?;
            file_response(&file, &manifest.digest, &manifest.media_type, &HeaderMap::new()).await
        }
        Wanted::Blob { repository, digest } => {
            let file = mirror.blob(registry, repository, digest).await?;
            file_response(&file, digest, "application/octet-stream", &headers).await
        }
    }
}

impl Mirror {
    pub(super) fn new(store: Arc<dyn MirrorStore>, upstreams: Upstreams) -> Self {
        Self { store, upstreams, turns: Mutex::default() }
    }

    /// The manifest that the store has, else the upstream registry's, which is kept.
    pub(super) async fn manifest(
        &self,
        registry: &str,
        repository: &str,
        reference: &str,
    ) -> Result<StoredManifest, MirrorError> {
        if let Some(manifest) = self.store.resolve(registry, repository, reference) {
            return Ok(manifest);
        }
        let turn = self.turn(&format!("{registry}/{repository}:{reference}"));
        let _turn = turn.lock().await;
        if let Some(manifest) = self.store.resolve(registry, repository, reference) {
            return Ok(manifest);
        }
        let manifest = self.fetch_manifest(registry, repository, reference).await?;
        self.keep_name(registry, repository, reference, &manifest)?;
        Ok(manifest)
    }

    /// Records which manifest a reference stands for.
    pub(super) fn keep_name(
        &self,
        registry: &str,
        repository: &str,
        reference: &str,
        manifest: &StoredManifest,
    ) -> Result<(), MirrorError> {
        Ok(self.store.keep_reference(registry, repository, reference, manifest)?)
    }

    /// The manifest that the upstream registry has now; kept as a blob, its name is not recorded.
    pub(super) async fn fetch_manifest(
        &self,
        registry: &str,
        repository: &str,
        reference: &str,
    ) -> Result<StoredManifest, MirrorError> {
        let client = self.upstreams.client(registry).ok_or(MirrorError::ManifestUnknown)?;
        let image = image(registry, repository, reference);
        let pulled = client.pull_manifest_raw(&image, &RegistryAuth::Anonymous, &MANIFEST_TYPES).await;
        let (bytes, _) = pulled.map_err(|error| unknown(error, MirrorError::ManifestUnknown))?;
        let digest = digest_of(&bytes);
        if is_digest(reference) && reference != digest {
            return Err(io::Error::other(format!("manifest {reference} came from upstream with digest {digest}")).into());
        }
        let manifest = StoredManifest { media_type: media_type(&bytes), digest };
        let mut file = self.store.incoming()?;
        io::Write::write_all(&mut file, &bytes)?;
        self.store.keep_blob(&manifest.digest, file)?;
        Ok(manifest)
    }

    pub(super) async fn blob(&self, registry: &str, repository: &str, digest: &str) -> Result<PathBuf, MirrorError> {
        if let Some(file) = self.store.blob_path(digest) {
            return Ok(file);
        }
        let client = self.upstreams.client(registry).ok_or(MirrorError::BlobUnknown)?;
        let turn = self.turn(digest);
        let _turn = turn.lock().await;
        if let Some(file) = self.store.blob_path(digest) {
            return Ok(file);
        }
        let image = image(registry, repository, digest);
        client.store_auth_if_needed(image.resolve_registry(), &RegistryAuth::Anonymous).await;
        let file = self.store.incoming()?;
        let writer = tokio::fs::File::from_std(file.reopen()?);
        let descriptor = OciDescriptor { digest: digest.to_owned(), ..OciDescriptor::default() };
        // `pull_blob` verifies the digest.
        client.pull_blob(&image, &descriptor, writer).await.map_err(|error| unknown(error, MirrorError::BlobUnknown))?;
        self.store.keep_blob(digest, file)?;
        self.store.blob_path(digest).ok_or(MirrorError::BlobUnknown)
    }

    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

fn image(registry: &str, repository: &str, reference: &str) -> oci_client::Reference {
    let (registry, repository, reference) = (registry.to_owned(), repository.to_owned(), reference.to_owned());
    if is_digest(&reference) {
        return oci_client::Reference::with_digest(registry, repository, reference);
    }
    oci_client::Reference::with_tag(registry, repository, reference)
}

/// An upstream that says "there is none" is believed. So is one that wants a login: anonymously there is none.
fn unknown(error: OciDistributionError, instead: MirrorError) -> MirrorError {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. }
        | OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => instead,
        OciDistributionError::RegistryError { ref envelope, .. }
            if envelope.errors.iter().any(|error| {
                use OciErrorCode::{BlobUnknown, Denied, ManifestUnknown, NameUnknown, NotFound, Unauthorized};
                matches!(error.code, BlobUnknown | ManifestUnknown | NameUnknown | NotFound | Unauthorized | Denied)
            }) =>
        {
            instead
        }
        other => MirrorError::Upstream(other),
    }
}

/// A manifest's own `mediaType`, else what its shape says.
fn media_type(bytes: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let shape = if value.get("manifests").is_some() { MANIFEST_TYPES[1] } else { MANIFEST_TYPES[0] };
    value.get("mediaType").and_then(|kind| kind.as_str()).unwrap_or(shape).to_owned()
}

fn digest_of(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

async fn file_response(path: &Path, digest: &str, media_type: &str, request: &HeaderMap) -> Result<Response, MirrorError> {
    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let response = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header("docker-content-digest", digest)
        .header("docker-distribution-api-version", "registry/2.0")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, format!("\"{digest}\""));
    let range = request.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (response, length) = match range.map(|range| byte_range(range, size)) {
        None => (response, size),
        Some(None) => {
            let refused = response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            let refused = refused.header(header::CONTENT_RANGE, format!("bytes */{size}")).body(Body::empty());
            return refused.map_err(|error| io::Error::other(error).into());
        }
        Some(Some((first, last))) => {
            file.seek(io::SeekFrom::Start(first)).await?;
            let part = response.status(StatusCode::PARTIAL_CONTENT);
            (part.header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}")), last - first + 1)
        }
    };
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), 64 * 1024));
    let response = response.header(header::CONTENT_LENGTH, length).body(body);
    response.map_err(|error| io::Error::other(error).into())
}

/// First and last byte of a `Range` of one part; `None` when it cannot be satisfied.
fn byte_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = size.checked_sub(1)?;
    let (first, last) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok().filter(|count| *count > 0)?), end),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(end)),
    };
    (first <= last).then_some((first, last))
}

/// A directory of blobs by digest and of references: `blobs/sha256/<hex>`, `references/<hash>.json`.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: PathBuf,
}

impl DirectoryStore {
    /// Opens or makes the directory.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        for part in ["blobs/sha256", "references", "incoming"] {
            std::fs::create_dir_all(root.join(part))?;
        }
        Ok(Self { root })
    }

    fn reference_file(&self, registry: &str, repository: &str, reference: &str) -> PathBuf {
        let name = digest_of(format!("{registry}/{repository}:{reference}").as_bytes());
        self.root.join("references").join(format!("{}.json", &name["sha256:".len()..]))
    }
}

impl MirrorStore for DirectoryStore {
    fn resolve(&self, registry: &str, repository: &str, reference: &str) -> Option<StoredManifest> {
        let bytes = std::fs::read(self.reference_file(registry, repository, reference)).ok()?;
        let (digest, media_type): (String, String) = serde_json::from_slice(&bytes).ok()?;
        self.blob_path(&digest).is_some().then_some(StoredManifest { digest, media_type })
    }

    fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:").filter(|_| is_digest(digest))?;
        Some(self.root.join("blobs/sha256").join(hex)).filter(|path| path.is_file())
    }

    fn incoming(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::NamedTempFile::new_in(self.root.join("incoming"))
    }

    fn keep_blob(&self, digest: &str, file: tempfile::NamedTempFile) -> io::Result<()> {
        let hex = digest.strip_prefix("sha256:").filter(|_| is_digest(digest));
        let hex = hex.ok_or_else(|| io::Error::other(format!("`{digest}` is not a sha256 digest")))?;
        file.persist(self.root.join("blobs/sha256").join(hex))?;
        Ok(())
    }

    fn keep_reference(&self, registry: &str, repository: &str, reference: &str, manifest: &StoredManifest) -> io::Result<()> {
        let mut file = self.incoming()?;
        serde_json::to_writer(&mut file, &(&manifest.digest, &manifest.media_type))?;
        file.persist(self.reference_file(registry, repository, reference))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tower::ServiceExt;

    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        for (text, expected) in [
            ("bytes=0-3", Some((0, 3))),
            ("bytes=4-", Some((4, 9))),
            ("bytes=-3", Some((7, 9))),
            ("bytes=5-99", Some((5, 9))),
            ("bytes=-99", Some((0, 9))),
            ("bytes=10-", None),
            ("bytes=3-2", None),
            ("bytes=-0", None),
            ("bytes=x-", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(byte_range(text, 10), expected, "{text}");
        }
        assert_eq!(byte_range("bytes=0-", 0), None);
    }

    #[test]
    fn paths_name_manifests_and_blobs() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let blob = format!("a/b/blobs/{digest}");
        assert_eq!(wanted("a/b/manifests/v1"), Some(Wanted::Manifest { repository: "a/b", reference: "v1" }));
        assert_eq!(wanted(&blob), Some(Wanted::Blob { repository: "a/b", digest: &digest }));
        for wrong in ["a/b", "manifests/v1", "../x/manifests/v1", "a/blobs/sha256:12", "A/manifests/v1", "a/manifests/x/y"] {
            assert_eq!(wanted(wrong), None, "{wrong}");
        }
    }

    async fn get(router: &Router, path: &str, range: Option<&str>) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = http::Request::get(path);
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec())
    }

    /// Upstream on loopback: knows `good:v1`, answers `locked` with a challenge nobody meets, sends wrong bytes for a blob.
    async fn upstream(asked: Arc<AtomicUsize>, manifest: Vec<u8>, blob: Vec<u8>, corrupt: String) -> String {
        let (blob_path, corrupt_path) = (format!("/v2/good/blobs/{}", digest_of(&blob)), format!("/v2/good/blobs/{corrupt}"));
        let fallback = move |uri: http::Uri| {
            asked.fetch_add(1, Ordering::Relaxed);
            let path = uri.path();
            let response = if path == "/v2/good/manifests/v1" {
                ([(header::CONTENT_TYPE, MANIFEST_TYPES[0])], manifest.clone()).into_response()
            } else if path == blob_path {
                blob.clone().into_response()
            } else if path == corrupt_path {
                b"other bytes".to_vec().into_response()
            } else if path.starts_with("/v2/locked/") {
                StatusCode::UNAUTHORIZED.into_response()
            } else {
                let body = serde_json::json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "none"}]});
                (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
            };
            std::future::ready(response)
        };
        let router = Router::new().route("/v2/", axum::routing::get(|| async {})).fallback(fallback);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum_serve(listener, router).await });
        address
    }

    async fn axum_serve(mut listener: tokio::net::TcpListener, router: Router) {
        while let Ok((stream, _)) = Listen::accept(&mut listener).await {
            let service = TowerToHyperService::new(router.clone());
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), service).await.map_err(drop) });
        }
    }

    #[tokio::test]
    async fn a_miss_is_fetched_once_verified_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = br#"{"schemaVersion":2,"layers":[]}"#.to_vec();
        let blob = b"0123456789".to_vec();
        let corrupt = digest_of(b"what was meant");
        let asked = Arc::new(AtomicUsize::new(0));
        let host = upstream(Arc::clone(&asked), manifest.clone(), blob.clone(), corrupt.clone()).await;
        let store = Arc::new(DirectoryStore::open(directory.path()).unwrap());
        let router = router(store, Upstreams::plain_http(vec![host.clone()]));

        let (status, headers, body) = get(&router, &format!("/v2/good/manifests/v1?ns={host}"), None).await;
        assert_eq!((status, &body), (StatusCode::OK, &manifest));
        assert_eq!(headers["docker-content-digest"], digest_of(&manifest));
        assert_eq!(headers[header::CONTENT_TYPE], MANIFEST_TYPES[0]);
        let blob_url = format!("/v2/good/blobs/{}?ns={host}", digest_of(&blob));
        assert_eq!(get(&router, &blob_url, None).await.2, blob);
        let before = asked.load(Ordering::Relaxed);
        let (status, headers, body) = get(&router, &blob_url, Some("bytes=2-4")).await;
        assert_eq!((status, &*body), (StatusCode::PARTIAL_CONTENT, &b"234"[..]));
        assert_eq!(headers[header::CONTENT_RANGE], "bytes 2-4/10");
        assert_eq!(get(&router, &format!("/v2/good/manifests/v1?ns={host}"), None).await.0, StatusCode::OK);
        assert_eq!(asked.load(Ordering::Relaxed), before, "a kept blob is not fetched again");

        // Wrong bytes are neither served nor kept.
        let (status, _, body) = get(&router, &format!("/v2/good/blobs/{corrupt}?ns={host}"), None).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{}", String::from_utf8_lossy(&body));
        assert_eq!(std::fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(directory.path().join("incoming")).unwrap().count(), 0);

        for (path, code) in [
            (format!("/v2/good/manifests/v2?ns={host}"), "MANIFEST_UNKNOWN"),
            (format!("/v2/locked/manifests/v1?ns={host}"), "MANIFEST_UNKNOWN"),
            ("/v2/good/manifests/v1?ns=unlisted.example".to_owned(), "MANIFEST_UNKNOWN"),
            (format!("/v2/good/blobs/{}?ns=unlisted.example", digest_of(b"none")), "BLOB_UNKNOWN"),
            ("/v2/NOT-A-NAME".to_owned(), "NAME_UNKNOWN"),
        ] {
            let (status, _, body) = get(&router, &path, None).await;
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((status, body["errors"][0]["code"].as_str()), (StatusCode::NOT_FOUND, Some(code)), "{path}");
        }
    }
}
