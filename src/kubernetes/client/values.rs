//! Objects of any kind, as plain JSON.

use reqwest::Method;
use serde_json::{Value, json};

use super::http::Body;
use super::{
    Client, ClientError, DeleteParams, ListParams, Listed, Patch, ResourceKind, WatchStream,
};

impl Client {
    /// Reads one object of any kind.
    pub async fn get_value(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        name: &str,
    ) -> Result<Value, ClientError> {
        self.http
            .call(
                Method::GET,
                &kind.object_path(namespace, name, None),
                &[],
                None,
            )
            .await
    }

    /// Lists objects of any kind. Items of typed lists carry no `kind`; it is filled in.
    pub async fn list_values(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        params: &ListParams,
    ) -> Result<Listed<Value>, ClientError> {
        let mut listed: Listed<Value> = self
            .list_at(&kind.collection_path(namespace), params)
            .await?;
        for item in &mut listed.items {
            item["apiVersion"] = json!(kind.api_version());
            item["kind"] = json!(kind.kind);
        }
        Ok(listed)
    }

    /// Creates an object of any kind.
    pub async fn create_value(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        object: &Value,
    ) -> Result<Value, ClientError> {
        self.http
            .call(
                Method::POST,
                &kind.collection_path(namespace),
                &[],
                Some(Body::json(object)),
            )
            .await
    }

    /// Replaces an object of any kind.
    pub async fn replace_value(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<Value, ClientError> {
        self.http
            .call(
                Method::PUT,
                &kind.object_path(namespace, name, None),
                &[],
                Some(Body::json(object)),
            )
            .await
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
        let path = kind.object_path(namespace, name, subresource);
        self.http
            .call(Method::PATCH, &path, &[], Some(patch.body()))
            .await
    }

    /// Deletes an object of any kind.
    pub async fn delete_value(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        name: &str,
        params: &DeleteParams,
    ) -> Result<Value, ClientError> {
        self.http
            .call(
                Method::DELETE,
                &kind.object_path(namespace, name, None),
                &[],
                Some(params.body()),
            )
            .await
    }

    /// Sees every change to objects of any kind strictly after `from_revision`.
    pub async fn watch_values(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        params: &ListParams,
        from_revision: &str,
    ) -> Result<WatchStream<Value>, ClientError> {
        self.watch_at(&kind.collection_path(namespace), params, from_revision)
            .await
    }
}
