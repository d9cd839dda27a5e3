//! Lists: what to ask for, and what comes.

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Client, ClientError};

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
        Self {
            label_selector: Some(selector.into()),
            field_selector: None,
        }
    }

    /// Objects with these fields.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self {
            label_selector: None,
            field_selector: Some(selector.into()),
        }
    }

    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(
            self.label_selector
                .clone()
                .map(|selector| ("labelSelector", selector)),
        );
        query.extend(
            self.field_selector
                .clone()
                .map(|selector| ("fieldSelector", selector)),
        );
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

impl Client {
    pub(super) async fn list_at<K: DeserializeOwned>(
        &self,
        path: &str,
        params: &ListParams,
    ) -> Result<Listed<K>, ClientError> {
        let list: RawList<K> = self
            .http
            .call(Method::GET, path, &params.query(), None)
            .await?;
        Ok(Listed {
            revision: list.metadata.resource_version,
            items: list.items.unwrap_or_default(),
        })
    }
}

#[derive(Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
pub(super) struct RawList<K> {
    #[serde(default)]
    pub(super) metadata: RawMetadata,
    items: Option<Vec<K>>,
}

#[derive(Deserialize, Default)]
pub(super) struct RawMetadata {
    #[serde(rename = "resourceVersion", default)]
    pub(super) resource_version: String,
}
