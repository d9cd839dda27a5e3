//! A Kubernetes API client: typed by `k8s_openapi`, or on plain JSON.
//!
//! Nothing is retried behind the caller's back, and every request but a watch or a followed log has a deadline. A dead server is
//! noticed within about five seconds by HTTP/2 pings (TCP keepalive on HTTP/1.1). `namespace` is empty for kinds without one, and
//! for lists and watches over all namespaces.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use k8s_openapi::{Metadata, Resource};
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::json;

pub use super::client_config::{ClientConfig, ClientConfigError};
pub use super::reflector::{ObjectKey, ObjectMap, Progress, Reflector};
pub use super::resources::{RESOURCES, ResourceKind, resource_for, resource_named};

/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request that is not a watch may take altogether.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the head of a streamed answer may take.
const STREAM_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After how much silence a connection is asked whether it lives, and how long it has to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// After so long the server ends a watch, and it is opened again.
const WATCH_SECONDS: u32 = 300;
/// No event is larger: etcd's limit is 1.5 MiB, doubled for escapes and the envelope.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// A typed object that the client can handle.
pub trait Object: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}
impl<K: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Object for K {}

/// Speaks to one API server as one identity. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    server: String,
    namespace: String,
    token: Option<String>,
    refuses_unknown_fields: bool,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a failure.
    #[error("{}", status_text(.0))]
    Status(Box<Status>),
    /// The server could not be reached, or the answer broke off.
    #[error("{request}: no answer from the API server")]
    Transport {
        /// Method and path.
        request: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The server was silent for too long.
    #[error("{request}: the API server was silent for {} s", after.as_secs())]
    TimedOut {
        /// Method and path.
        request: String,
        /// For how long we waited.
        after: Duration,
    },
    /// The answer is not what the API promises.
    #[error("{request}: the answer is not the expected object")]
    Decode {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// An event is larger than any that Kubernetes stores.
    #[error("{request}: an event is larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge {
        /// Method and path.
        request: String,
    },
    /// No client can be made from the configuration.
    #[error("API client for `{server}`: {problem}")]
    Configuration {
        /// The server's URL.
        server: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The configuration could not be read.
    #[error(transparent)]
    ConfigurationFile(#[from] ClientConfigError),
}

impl ClientError {
    /// The HTTP code the server answered with.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Status(status) => status.code,
            _ => None,
        }
    }

    /// The machine-readable reason, for instance `AlreadyExists`.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Status(status) => status.reason.as_deref(),
            _ => None,
        }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object was changed by somebody else, or a precondition failed.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409) && self.reason() != Some("AlreadyExists")
    }

    /// An object of that name exists already.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some("AlreadyExists")
    }

    /// The revision has been compacted: list again.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    /// What was sent is wrong: it cannot be read, its place does not exist, it is too large or not valid. Sent again, it is refused again.
    pub fn is_wrong_input(&self) -> bool {
        matches!(self.code(), Some(400 | 404 | 413 | 422))
    }

    /// The server did not decide: it could not be reached or is not able to answer now.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::TimedOut { .. } => true,
            Self::Status(status) => matches!(status.code, Some(429 | 500 | 502 | 503 | 504)),
            _ => false,
        }
    }
}

fn status_text(status: &Status) -> String {
    let code = status.code.unwrap_or_default();
    match (&status.message, &status.reason) {
        (Some(message), _) if !message.is_empty() => message.clone(),
        (_, Some(reason)) => format!("the API server answered {code} {reason}"),
        _ => format!("the API server answered {code}"),
    }
}

/// What to list or watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListParams {
    /// For instance `app=web,tier!=db`.
    pub label_selector: Option<String>,
    /// For instance `spec.nodeName=w1`.
    pub field_selector: Option<String>,
}

impl ListParams {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Objects with these labels.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: Some(selector.into()), field_selector: None }
    }

    /// Objects with these fields.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { label_selector: None, field_selector: Some(selector.into()) }
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(self.label_selector.clone().map(|selector| ("labelSelector", selector)));
        query.extend(self.field_selector.clone().map(|selector| ("fieldSelector", selector)));
        query
    }
}

/// A list, and the revision at which it was true.
#[derive(Debug, Clone)]
pub struct Listed<K> {
    /// A watch continues strictly after this revision.
    pub revision: String,
    /// The objects.
    pub items: Vec<K>,
}

/// A change to one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge patch.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
}

impl Patch {
    fn parts(&self) -> (&'static str, &Value) {
        match self {
            Self::Merge(body) => ("application/merge-patch+json", body),
            Self::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Self::Json(body) => ("application/json-patch+json", body),
        }
    }
}

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteParams {
    /// Seconds a pod gets to stop; the pod's own if `None`, at once if 0.
    pub grace_period_seconds: Option<i64>,
    /// The server's default if `None`.
    pub propagation: Option<Propagation>,
    /// Delete only the object with this UID.
    pub uid: Option<String>,
}

impl DeleteParams {
    fn body(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = json!(format!("{propagation:?}"));
        }
        if let Some(uid) = &self.uid {
            body["preconditions"] = json!({"uid": uid});
        }
        body
    }
}

/// Which part of a container's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogParams {
    /// The only container if `None`.
    pub container: Option<String>,
    /// Keep sending as more is written.
    pub follow: bool,
    /// The instance before the current one.
    pub previous: bool,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
}

/// One change seen by a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent<K> {
    /// The object appeared, or matches the selector now.
    Added(K),
    /// The object changed.
    Modified(K),
    /// The object is gone, or matches the selector no longer.
    Deleted(K),
    /// Nothing changed up to this revision.
    Bookmark {
        /// The watch may be resumed from here.
        revision: String,
    },
}

/// A stream of events; after an error it ends.
pub type WatchStream<K> = BoxStream<'static, Result<WatchEvent<K>, ClientError>>;
/// A stream of bytes; after an error it ends.
pub type ByteStream = BoxStream<'static, Result<Bytes, ClientError>>;

impl Client {
    /// Makes a client. Nothing is sent yet.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        // The provider may be installed already; then this one is the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let refuse = |problem: String| ClientError::Configuration { server: config.server.clone(), problem };
        let url = reqwest::Url::parse(&config.server).map_err(|error| refuse(format!("not a URL: {error}")))?;
        let loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(refuse("only https is spoken beyond this machine: use an https:// URL".to_owned()));
        }
        let authorities = reqwest::Certificate::from_pem_bundle(config.ca_pem.as_bytes())
            .map_err(|error| refuse(format!("the certificate authority is not PEM: {error}")))?;
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only(authorities)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .tcp_keepalive(KEEPALIVE_INTERVAL)
            .tcp_keepalive_interval(Duration::from_secs(1))
            .tcp_keepalive_retries(3)
            .pool_idle_timeout(Duration::from_secs(30));
        if !config.certificate_pem.is_empty() {
            let pem = format!("{}\n{}", config.certificate_pem, config.key_pem);
            let identity = reqwest::Identity::from_pem(pem.as_bytes())
                .map_err(|error| refuse(format!("client certificate and key are not PEM: {error}")))?;
            builder = builder.identity(identity);
        }
        let http = builder.build().map_err(|error| refuse(format!("TLS cannot be set up: {error}")))?;
        Ok(Self { http, server: config.server, namespace: config.namespace, token: config.token, refuses_unknown_fields: false })
    }

    /// A client with an identity from files.
    pub fn from_identity_files(
        server: &str,
        ca: &std::path::Path,
        certificate: &std::path::Path,
        key: &std::path::Path,
    ) -> Result<Self, ClientError> {
        Self::new(ClientConfig::from_files(server, ca, certificate, key)?)
    }

    /// A client for the current context of a kubeconfig file.
    pub fn from_kubeconfig(path: &std::path::Path) -> Result<Self, ClientError> {
        Self::new(ClientConfig::from_kubeconfig(path)?)
    }

    /// The same client, whose writes the server refuses when they hold a field it does not know. Else it drops the field.
    #[must_use]
    pub fn refusing_unknown_fields(&self) -> Self {
        Self { refuses_unknown_fields: true, ..self.clone() }
    }

    /// URL of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The namespace of the configuration, `default` if it names none.
    pub fn default_namespace(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    /// Reads one object.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K, ClientError> {
        self.call(Method::GET, &ResourceKind::of::<K>().object_path(namespace, name, None), &[], None).await
    }

    /// Reads one object, or `None` if there is none.
    pub async fn get_optional<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<K>, ClientError> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists objects.
    pub async fn list<K: Object>(&self, namespace: &str, params: &ListParams) -> Result<Listed<K>, ClientError> {
        self.list_at(&ResourceKind::of::<K>().collection_path(namespace), params).await
    }

    /// Creates an object.
    pub async fn create<K: Object>(&self, namespace: &str, object: &K) -> Result<K, ClientError> {
        let path = ResourceKind::of::<K>().collection_path(namespace);
        self.call(Method::POST, &path, &[], Some(("application/json", encode(object)))).await
    }

    /// Replaces an object; its `resourceVersion`, if set, must be the current one.
    pub async fn replace<K: Object>(&self, namespace: &str, name: &str, object: &K) -> Result<K, ClientError> {
        let path = ResourceKind::of::<K>().object_path(namespace, name, None);
        self.call(Method::PUT, &path, &[], Some(("application/json", encode(object)))).await
    }

    /// Replaces a subresource, for instance `status`.
    pub async fn replace_subresource<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &K,
    ) -> Result<K, ClientError> {
        let path = ResourceKind::of::<K>().object_path(namespace, name, Some(subresource));
        self.call(Method::PUT, &path, &[], Some(("application/json", encode(object)))).await
    }

    /// Changes an object, or a subresource of it.
    pub async fn patch<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
        subresource: Option<&str>,
    ) -> Result<K, ClientError> {
        let (content_type, body) = patch.parts();
        let path = ResourceKind::of::<K>().object_path(namespace, name, subresource);
        self.call(Method::PATCH, &path, &[], Some((content_type, encode(body)))).await
    }

    /// Deletes an object. Returns what the server sent: the object while it terminates, or a Status.
    pub async fn delete<K: Resource>(&self, namespace: &str, name: &str, params: &DeleteParams) -> Result<Value, ClientError> {
        self.delete_value(&ResourceKind::of::<K>(), namespace, name, params).await
    }

    /// Sees every change strictly after `from_revision` (from the current state if it is empty).
    pub async fn watch<K: Object>(
        &self,
        namespace: &str,
        params: &ListParams,
        from_revision: &str,
    ) -> Result<WatchStream<K>, ClientError> {
        self.watch_at(&ResourceKind::of::<K>().collection_path(namespace), params, from_revision).await
    }

    /// Keeps a copy of all objects in the background until the [`Reflector`] is dropped.
    pub fn reflect<K: Object>(&self, namespace: &str, params: ListParams) -> Reflector<K> {
        Reflector::start(self.clone(), namespace.to_owned(), params)
    }

    /// Reads one object of any kind.
    pub async fn get_value(&self, kind: &ResourceKind, namespace: &str, name: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, &kind.object_path(namespace, name, None), &[], None).await
    }

    /// Lists objects of any kind. Items of typed lists carry no `kind`; it is filled in.
    pub async fn list_values(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        params: &ListParams,
    ) -> Result<Listed<Value>, ClientError> {
        let mut listed: Listed<Value> = self.list_at(&kind.collection_path(namespace), params).await?;
        for item in &mut listed.items {
            item["apiVersion"] = json!(kind.api_version());
            item["kind"] = json!(kind.kind);
        }
        Ok(listed)
    }

    /// Creates an object of any kind.
    pub async fn create_value(&self, kind: &ResourceKind, namespace: &str, object: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, &kind.collection_path(namespace), &[], Some(("application/json", encode(object)))).await
    }

    /// Replaces an object of any kind.
    pub async fn replace_value(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<Value, ClientError> {
        self.call(Method::PUT, &kind.object_path(namespace, name, None), &[], Some(("application/json", encode(object)))).await
    }

    /// Changes an object of any kind, or a subresource of it.
    pub async fn patch_value(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        name: &str,
        patch: &Patch,
        subresource: Option<&str>,
    ) -> Result<Value, ClientError> {
        let (content_type, body) = patch.parts();
        let path = kind.object_path(namespace, name, subresource);
        self.call(Method::PATCH, &path, &[], Some((content_type, encode(body)))).await
    }

    /// Deletes an object of any kind.
    pub async fn delete_value(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        name: &str,
        params: &DeleteParams,
    ) -> Result<Value, ClientError> {
        let body = Some(("application/json", encode(&params.body())));
        self.call(Method::DELETE, &kind.object_path(namespace, name, None), &[], body).await
    }

    /// Sees every change to objects of any kind strictly after `from_revision`.
    pub async fn watch_values(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        params: &ListParams,
        from_revision: &str,
    ) -> Result<WatchStream<Value>, ClientError> {
        self.watch_at(&kind.collection_path(namespace), params, from_revision).await
    }

    /// A container's log.
    pub async fn logs(&self, namespace: &str, pod: &str, params: &LogParams) -> Result<ByteStream, ClientError> {
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(params.container.clone().map(|container| ("container", container)));
        query.extend(params.tail_lines.map(|lines| ("tailLines", lines.to_string())));
        for (name, set) in [("follow", params.follow), ("previous", params.previous), ("timestamps", params.timestamps)] {
            if set {
                query.push((name, "true".to_owned()));
            }
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log");
        let response = self.open(&path, &query).await?;
        let request = format!("GET {path}");
        Ok(response.bytes_stream().map_err(move |source| ClientError::Transport { request: request.clone(), source }).boxed())
    }

    /// Sends any request with a JSON body and reads the answer; for paths this client has no method for.
    pub async fn raw(&self, method: Method, path_and_query: &str, body: Option<&Value>) -> Result<Bytes, ClientError> {
        let body = body.map(|body| ("application/json", encode(body)));
        self.answer(method, path_and_query, &[], body).await
    }

    async fn list_at<K: DeserializeOwned>(&self, path: &str, params: &ListParams) -> Result<Listed<K>, ClientError> {
        let list: RawList<K> = self.call(Method::GET, path, &params.query(), None).await?;
        Ok(Listed { revision: list.metadata.resource_version, items: list.items.unwrap_or_default() })
    }

    async fn watch_at<K: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        params: &ListParams,
        from_revision: &str,
    ) -> Result<WatchStream<K>, ClientError> {
        let mut query = params.query();
        query.push(("watch", "true".to_owned()));
        query.push(("allowWatchBookmarks", "true".to_owned()));
        query.push(("timeoutSeconds", WATCH_SECONDS.to_string()));
        if !from_revision.is_empty() {
            query.push(("resourceVersion", from_revision.to_owned()));
        }
        let response = self.open(path, &query).await?;
        let lines = Lines { request: format!("WATCH {path}"), buffer: BytesMut::new(), scanned: 0, ended: false };
        let state = (response.bytes_stream().boxed(), lines);
        Ok(futures::stream::unfold(state, |(mut bytes, mut lines)| async move {
            let event = lines.next_event(&mut bytes).await?;
            lines.ended |= event.is_err();
            Some((event, (bytes, lines)))
        })
        .boxed())
    }

    /// Opens a streamed answer: only its head has a deadline.
    async fn open(&self, path: &str, query: &[(&str, String)]) -> Result<Response, ClientError> {
        self.open_as(Method::GET, path, query).await
    }

    /// Opens a streamed answer to a request of any method without a body.
    pub(super) async fn open_as(&self, method: Method, path: &str, query: &[(&str, String)]) -> Result<Response, ClientError> {
        let request = || format!("{method} {path}");
        let sent = self.request(method.clone(), path, query).send();
        let response = tokio::time::timeout(STREAM_HEAD_TIMEOUT, sent)
            .await
            .map_err(|_| ClientError::TimedOut { request: request(), after: STREAM_HEAD_TIMEOUT })?
            .map_err(|source| ClientError::Transport { request: request(), source })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = tokio::time::timeout(STREAM_HEAD_TIMEOUT, response.bytes()).await;
        Err(failure(code, &body.ok().and_then(Result::ok).unwrap_or_default()))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<T, ClientError> {
        let request = format!("{method} {path}");
        let bytes = self.answer(method, path, query, body).await?;
        json::from_slice(&bytes).map_err(|source| ClientError::Decode { request, source })
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Bytes, ClientError> {
        let request = format!("{method} {path}");
        let mut builder = self.request(method, path, query).timeout(REQUEST_TIMEOUT);
        if let Some((content_type, bytes)) = body {
            builder = builder.header(http::header::CONTENT_TYPE, content_type).body(bytes);
        }
        let transport = |source| ClientError::Transport { request: request.clone(), source };
        let response = builder.send().await.map_err(transport)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(transport)?;
        if status.is_success() { Ok(bytes) } else { Err(failure(status.as_u16(), &bytes)) }
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> RequestBuilder {
        let mut url = format!("{}{path}", self.server);
        let writes = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
        let strict = (self.refuses_unknown_fields && writes).then(|| ("fieldValidation", "Strict".to_owned()));
        for (index, (name, value)) in query.iter().chain(&strict).enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(percent(value));
        }
        let builder = self.http.request(method, url).header(http::header::ACCEPT, "application/json");
        match &self.token {
            Some(token) => builder.bearer_auth(token),
            None => builder,
        }
    }
}

fn percent(value: &str) -> impl Iterator<Item = char> + '_ {
    value.bytes().flat_map(|byte| {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let text = if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.chars().collect::<Vec<_>>()
    })
}

fn encode(object: &impl Serialize) -> Vec<u8> {
    json::to_vec(object).expect("Kubernetes objects and JSON values have string keys only")
}

/// A failed answer as Kubernetes' Status, made up if a proxy in between answered something else.
fn failure(code: u16, body: &[u8]) -> ClientError {
    let mut status: Status = json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body[..body.len().min(300)]).trim().to_owned();
        Status { message: (!text.is_empty()).then(|| format!("the API server answered {code}: {text}")), ..Status::default() }
    });
    status.code = Some(status.code.filter(|code| *code != 0).unwrap_or_else(|| i32::from(code)));
    ClientError::Status(Box::new(status))
}

#[derive(Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
struct RawList<K> {
    #[serde(default)]
    metadata: RawMetadata,
    items: Option<Vec<K>>,
}

#[derive(Deserialize, Default)]
struct RawMetadata {
    #[serde(rename = "resourceVersion", default)]
    resource_version: String,
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// Cuts a stream of bytes into lines, one event a line.
struct Lines {
    request: String,
    buffer: BytesMut,
    /// So much of the buffer is known to hold no line end.
    scanned: usize,
    ended: bool,
}

impl Lines {
    async fn next_event<K: DeserializeOwned>(
        &mut self,
        bytes: &mut BoxStream<'static, Result<Bytes, reqwest::Error>>,
    ) -> Option<Result<WatchEvent<K>, ClientError>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(line) = self.take_line() {
                return Some(parse_event(&self.request, &line));
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Some(Err(ClientError::TooLarge { request: self.request.clone() }));
            }
            match bytes.next().await? {
                Ok(more) => self.buffer.extend_from_slice(&more),
                Err(source) => return Some(Err(ClientError::Transport { request: self.request.clone(), source })),
            }
        }
    }

    /// The next line that is not blank.
    fn take_line(&mut self) -> Option<BytesMut> {
        while let Some(end) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(self.scanned + end + 1);
            self.scanned = 0;
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
        self.scanned = self.buffer.len();
        None
    }
}

fn parse_event<K: DeserializeOwned>(request: &str, line: &[u8]) -> Result<WatchEvent<K>, ClientError> {
    let decode = |source| ClientError::Decode { request: request.to_owned(), source };
    let event: RawEvent = serde_json::from_slice(line).map_err(decode)?;
    let object = || json::from_value(&event.object).map_err(decode);
    Ok(match event.kind.as_str() {
        "ADDED" => WatchEvent::Added(object()?),
        "MODIFIED" => WatchEvent::Modified(object()?),
        "DELETED" => WatchEvent::Deleted(object()?),
        "BOOKMARK" => {
            let bookmark: RawList<Value> = json::from_value(&event.object).map_err(decode)?;
            WatchEvent::Bookmark { revision: bookmark.metadata.resource_version }
        }
        _ => return Err(failure(500, event.object.to_string().as_bytes())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_can_be_wrong_input() {
        let wrong = [400, 401, 403, 404, 409, 410, 413, 422, 429, 500, 503]
            .into_iter()
            .filter(|code| failure(*code, b"").is_wrong_input());
        assert_eq!(wrong.collect::<Vec<u16>>(), [400, 404, 413, 422]);
    }
}
