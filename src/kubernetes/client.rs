//! A Kubernetes API client: typed by `k8s_openapi`, or on plain JSON.
//!
//! Nothing is retried behind the caller's back, and every request but a watch or a followed log has a deadline. A dead server is
//! noticed within about five seconds by HTTP/2 pings (TCP keepalive on HTTP/1.1). `namespace` is empty for kinds without one, and
//! for lists and watches over all namespaces.

mod change;
mod error;
mod http;
mod list;
mod logs;
mod table;
mod values;
mod watch;

use std::path::Path;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use reqwest::{Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::change::{DeleteParams, Patch, Propagation};
pub use self::error::ClientError;
use self::http::{Body, Http};
pub use self::list::{ListParams, Listed};
pub use self::logs::{ByteStream, LogParams};
pub use self::table::{Row, Table};
pub use self::watch::{WatchEvent, WatchStream};
pub use super::client_config::{ClientConfig, ClientConfigError};
pub use super::reflector::{ObjectKey, ObjectMap, Progress, Reflector};
pub use super::resources::{RESOURCES, ResourceKind, resource_for, resource_named};

/// A typed object that the client can handle.
pub trait Object:
    Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
}
impl<K: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static>
    Object for K
{
}

/// Speaks to one API server as one identity. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    namespace: String,
}

impl Client {
    /// Makes a client. Nothing is sent yet.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        let namespace = config.namespace.clone();
        Ok(Self {
            http: Http::new(config)?,
            namespace,
        })
    }

    /// A client with an identity from files.
    pub fn from_identity_files(
        server: &str,
        ca: &Path,
        certificate: &Path,
        key: &Path,
    ) -> Result<Self, ClientError> {
        Self::new(ClientConfig::from_files(server, ca, certificate, key)?)
    }

    /// A client for the current context of a kubeconfig file.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ClientError> {
        Self::new(ClientConfig::from_kubeconfig(path)?)
    }

    /// The same client, whose writes the server refuses when they hold a field it does not know. Else it drops the field.
    #[must_use]
    pub fn refusing_unknown_fields(&self) -> Self {
        Self {
            http: self.http.refusing_unknown_fields(),
            namespace: self.namespace.clone(),
        }
    }

    /// URL of the server.
    pub fn server(&self) -> &str {
        &self.http.server
    }

    /// The namespace of the configuration, `default` if it names none.
    pub fn default_namespace(&self) -> &str {
        if self.namespace.is_empty() {
            "default"
        } else {
            &self.namespace
        }
    }

    /// Reads one object.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K, ClientError> {
        self.http
            .call(
                Method::GET,
                &ResourceKind::of::<K>().object_path(namespace, name, None),
                &[],
                None,
            )
            .await
    }

    /// Reads one object, or `None` if there is none.
    pub async fn get_optional<K: Object>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, ClientError> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists objects.
    pub async fn list<K: Object>(
        &self,
        namespace: &str,
        params: &ListParams,
    ) -> Result<Listed<K>, ClientError> {
        self.list_at(&ResourceKind::of::<K>().collection_path(namespace), params)
            .await
    }

    /// Creates an object.
    pub async fn create<K: Object>(&self, namespace: &str, object: &K) -> Result<K, ClientError> {
        let path = ResourceKind::of::<K>().collection_path(namespace);
        self.http
            .call(Method::POST, &path, &[], Some(Body::json(object)))
            .await
    }

    /// Replaces an object; its `resourceVersion`, if set, must be the current one.
    pub async fn replace<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        object: &K,
    ) -> Result<K, ClientError> {
        let path = ResourceKind::of::<K>().object_path(namespace, name, None);
        self.http
            .call(Method::PUT, &path, &[], Some(Body::json(object)))
            .await
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
        self.http
            .call(Method::PUT, &path, &[], Some(Body::json(object)))
            .await
    }

    /// Changes an object, or a subresource of it.
    pub async fn patch<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
        subresource: Option<&str>,
    ) -> Result<K, ClientError> {
        let path = ResourceKind::of::<K>().object_path(namespace, name, subresource);
        self.http
            .call(Method::PATCH, &path, &[], Some(patch.body()))
            .await
    }

    /// Deletes an object. Returns what the server sent: the object while it terminates, or a Status.
    pub async fn delete<K: Resource>(
        &self,
        namespace: &str,
        name: &str,
        params: &DeleteParams,
    ) -> Result<Value, ClientError> {
        self.delete_value(&ResourceKind::of::<K>(), namespace, name, params)
            .await
    }

    /// Sees every change strictly after `from_revision` (from the current state if it is empty).
    pub async fn watch<K: Object>(
        &self,
        namespace: &str,
        params: &ListParams,
        from_revision: &str,
    ) -> Result<WatchStream<K>, ClientError> {
        self.watch_at(
            &ResourceKind::of::<K>().collection_path(namespace),
            params,
            from_revision,
        )
        .await
    }

    /// Keeps a copy of all objects in the background until the [`Reflector`] is dropped.
    pub fn reflect<K: Object>(&self, namespace: &str, params: ListParams) -> Reflector<K> {
        Reflector::start(self.clone(), namespace.to_owned(), params)
    }

    /// Sends any request with a JSON body and reads the answer; for paths this client has no method for.
    pub async fn raw(
        &self,
        method: Method,
        path_and_query: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, ClientError> {
        self.http
            .answer(method, path_and_query, &[], body.map(Body::json))
            .await
    }

    /// Opens a streamed answer; for paths this client has no method for.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Response, ClientError> {
        self.http.open(method, path, query).await
    }
}
