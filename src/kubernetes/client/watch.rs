//! Watches: the changes to a collection, one JSON object a line.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::failure;
use super::list::RawList;
use super::{Client, ClientError, ListParams};
use crate::model::json;

/// After so long the server ends a watch, and it is opened again.
const WATCH_SECONDS: u32 = 300;
/// No event is larger: etcd's limit is 1.5 MiB, doubled for escapes and the envelope.
pub(super) const EVENT_BYTES_MAX: usize = 4 << 20;

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

impl Client {
    pub(super) async fn watch_at<K: DeserializeOwned + Send + 'static>(
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
        let response = self.http.open(Method::GET, path, &query).await?;
        let lines = Lines {
            request: format!("WATCH {path}"),
            buffer: BytesMut::new(),
            scanned: 0,
            ended: false,
        };
        let state = (response.bytes_stream().boxed(), lines);
        Ok(
            futures::stream::unfold(state, |(mut bytes, mut lines)| async move {
                let event = lines.next_event(&mut bytes).await?;
                lines.ended |= event.is_err();
                Some((event, (bytes, lines)))
            })
            .boxed(),
        )
    }
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
                return Some(Err(ClientError::TooLarge {
                    request: self.request.clone(),
                }));
            }
            match bytes.next().await? {
                Ok(more) => self.buffer.extend_from_slice(&more),
                Err(source) => {
                    return Some(Err(ClientError::Transport {
                        request: self.request.clone(),
                        source,
                    }));
                }
            }
        }
    }

    /// The next line that is not blank.
    fn take_line(&mut self) -> Option<BytesMut> {
        while let Some(end) = self.buffer[self.scanned..]
            .iter()
            .position(|byte| *byte == b'\n')
        {
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

fn parse_event<K: DeserializeOwned>(
    request: &str,
    line: &[u8],
) -> Result<WatchEvent<K>, ClientError> {
    let decode = |source| ClientError::Decode {
        request: request.to_owned(),
        source,
    };
    let event: RawEvent = serde_json::from_slice(line).map_err(decode)?;
    let object = || json::from_value(&event.object).map_err(decode);
    Ok(match event.kind.as_str() {
        "ADDED" => WatchEvent::Added(object()?),
        "MODIFIED" => WatchEvent::Modified(object()?),
        "DELETED" => WatchEvent::Deleted(object()?),
        "BOOKMARK" => {
            let bookmark: RawList<Value> = json::from_value(&event.object).map_err(decode)?;
            WatchEvent::Bookmark {
                revision: bookmark.metadata.resource_version,
            }
        }
        _ => return Err(failure(500, event.object.to_string().as_bytes())),
    })
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}
