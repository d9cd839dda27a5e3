//! Containers' logs.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;

use super::{Client, ClientError};

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
    /// Only what was written in the last so many seconds.
    pub since_seconds: Option<u64>,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
}

/// A stream of bytes; after an error it ends.
pub type ByteStream = BoxStream<'static, Result<Bytes, ClientError>>;

impl Client {
    /// A container's log.
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        params: &LogParams,
    ) -> Result<ByteStream, ClientError> {
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(
            params
                .container
                .clone()
                .map(|container| ("container", container)),
        );
        query.extend(
            params
                .tail_lines
                .map(|lines| ("tailLines", lines.to_string())),
        );
        query.extend(
            params
                .since_seconds
                .map(|seconds| ("sinceSeconds", seconds.to_string())),
        );
        for (name, set) in [
            ("follow", params.follow),
            ("previous", params.previous),
            ("timestamps", params.timestamps),
        ] {
            if set {
                query.push((name, "true".to_owned()));
            }
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log");
        let response = self.http.open(Method::GET, &path, &query).await?;
        let request = format!("GET {path}");
        Ok(response
            .bytes_stream()
            .map_err(move |source| ClientError::Transport {
                request: request.clone(),
                source,
            })
            .boxed())
    }
}
