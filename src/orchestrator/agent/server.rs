//! The API server as the pod logic uses it, with watches of the Secrets and ConfigMaps that pods name.
//!
//! A node may watch such an object only by its name, so there is one watch an object, shared by the pods that name it, as in the
//! kubelet (`pkg/kubelet/util/manager/watch_based_manager.go`). It ends with the last of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::objects::{self, Patched, PodApi, key};
use super::tokens::{self, Token, Wanted};
use crate::kubernetes::client::{
    Client, ClientError, DeleteParams, ListParams, Object, Patch, Reflector,
};

/// Namespace and name.
type Key = (String, String);

/// The API server.
pub(crate) struct Server {
    client: Client,
    secrets: Shared<Secret>,
    config_maps: Shared<ConfigMap>,
}

/// Watches by object, as long as a pod needs them.
struct Shared<K>(Mutex<HashMap<Key, Weak<Reflector<K>>>>);

impl<K: Object> Shared<K> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn watch(&self, client: &Client, namespace: &str, name: &str) -> Arc<Reflector<K>> {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, watch| watch.strong_count() > 0);
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(watch) = watches.get(&key).and_then(Weak::upgrade) {
            return watch;
        }
        let watch = Arc::new(client.reflect::<K>(
            namespace,
            ListParams::fields(format!("metadata.name={name}")),
        ));
        watches.insert(key, Arc::downgrade(&watch));
        watch
    }
}

impl Server {
    /// Over this client.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            secrets: Shared::new(),
            config_maps: Shared::new(),
        }
    }
}

/// Tells `changed` of every publication of the object.
fn tell<K: Object>(watch: Arc<Reflector<K>>, changed: Arc<Notify>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut objects = watch.subscribe();
        while objects.changed().await.is_ok() {
            changed.notify_one();
        }
    }))
}

impl PodApi for Server {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, String> {
        self.client
            .get_optional(namespace, name)
            .await
            .map_err(|error| text(&error))
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, String> {
        self.client
            .get_optional(namespace, name)
            .await
            .map_err(|error| text(&error))
    }

    async fn token(&self, pod: &Pod, wanted: &Wanted) -> Result<Token, String> {
        let (namespace, name, uid) = key(pod);
        let account = tokens::account(pod);
        let mut body = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {
            "expirationSeconds": wanted.seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid},
        }});
        if !wanted.audience.is_empty() {
            body["spec"]["audiences"] = json!([wanted.audience]);
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let asked = tokens::now();
        let answer = self.client.raw(Method::POST, &path, Some(&body)).await;
        let answer = answer.map_err(|error| text(&error))?;
        let answer: Option<Value> = serde_json::from_slice(&answer).ok();
        let token = answer.as_ref().and_then(|answer| {
            let ends = answer["status"]["expirationTimestamp"].as_str()?;
            Some(Token {
                text: answer["status"]["token"].as_str()?.to_owned(),
                asked,
                ends: ends.parse::<jiff::Timestamp>().ok()?.as_second(),
            })
        });
        token.ok_or_else(|| "the answer to a TokenRequest holds no token".to_owned())
    }

    fn watch_objects(&self, pod: &Pod, changed: &Arc<Notify>) -> Vec<AbortOnDropHandle<()>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (secrets, config_maps) = objects::names(pod);
        let secrets = secrets.iter().map(|name| {
            tell(
                self.secrets.watch(&self.client, namespace, name),
                changed.clone(),
            )
        });
        let config_maps = config_maps.iter();
        let config_maps = config_maps.map(|name| {
            tell(
                self.config_maps.watch(&self.client, namespace, name),
                changed.clone(),
            )
        });
        secrets.chain(config_maps).collect()
    }

    async fn patch_status(&self, pod: &Pod, status: &PodStatus) -> Result<Patched, String> {
        let (namespace, name, uid) = key(pod);
        let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": status}));
        match self
            .client
            .patch::<Pod>(namespace, name, &patch, Some("status"))
            .await
        {
            Ok(pod) if pod.metadata.uid.as_deref() == Some(uid) => Ok(Patched::Done(Box::new(pod))),
            Ok(_) => Ok(Patched::Gone),
            Err(error) if error.is_not_found() || error.is_conflict() => {
                // A conflict of UIDs and one of writers look the same; who is there now tells them apart.
                match self
                    .client
                    .get_optional::<Pod>(namespace, name)
                    .await
                    .map_err(|error| text(&error))?
                {
                    Some(there) if there.metadata.uid.as_deref() == Some(uid) => Err(text(&error)),
                    _ => Ok(Patched::Gone),
                }
            }
            Err(error) => Err(text(&error)),
        }
    }

    async fn delete(&self, pod: &Pod) -> Result<(), String> {
        let (namespace, name, uid) = key(pod);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            propagation: None,
            uid: Some(uid.to_owned()),
        };
        match self.client.delete::<Pod>(namespace, name, &params).await {
            // Gone, or another pod of this name is there: ours is deleted.
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(text(&error)),
            _ => Ok(()),
        }
    }
}

fn text(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
