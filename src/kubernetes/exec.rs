//! Running a command in a container, through our own API server (`POST /flightcage/v1/…/exec`): one JSON object a line.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use futures::StreamExt;
use reqwest::Method;
use serde::Deserialize;

use super::client::{Client, ClientError};
use crate::model::json;

/// The longest line: a piece of output is 32 KiB, and base64 is a third longer.
const LINE_BYTES_MAX: usize = 256 << 10;

/// Which container of which pod.
#[derive(Debug, Clone)]
pub struct ExecTarget {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container; may be absent when the pod has one.
    pub container: Option<String>,
}

/// A piece of a command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
}

/// Why a command has no exit code.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The API server refused, or could not be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The node could not run it.
    #[error("run the command in pod `{pod}`: {what}")]
    Node {
        /// The pod.
        pod: String,
        /// What the node says.
        what: String,
    },
    /// The answer ended or was not understood.
    #[error(
        "run the command in pod `{0}`: the answer broke off; whether the command ended is not known"
    )]
    Broken(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line {
    stream: u8,
    data: String,
    error: Option<String>,
    exit_code: Option<i32>,
}

/// Runs a command to its end, hands on its output as it comes, and returns its exit code.
///
/// # Errors
/// See [`ExecError`].
pub async fn exec(
    client: &Client,
    target: &ExecTarget,
    command: &[String],
    mut output: impl FnMut(ExecOutput),
) -> Result<i32, ExecError> {
    let path = format!(
        "/flightcage/v1/namespaces/{}/pods/{}/exec",
        target.namespace, target.pod
    );
    let mut query: Vec<(&str, String)> = command
        .iter()
        .map(|word| ("command", word.clone()))
        .collect();
    query.extend(
        target
            .container
            .clone()
            .map(|container| ("container", container)),
    );
    let mut chunks = client
        .open(Method::POST, &path, &query)
        .await?
        .bytes_stream();
    let broken = || ExecError::Broken(target.pod.clone());
    let mut buffer = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        buffer.extend_from_slice(&chunk.map_err(|_| broken())?);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Line = json::from_slice(&buffer.split_to(end + 1)).map_err(|_| broken())?;
            match line {
                Line {
                    error: Some(what), ..
                } => {
                    return Err(ExecError::Node {
                        pod: target.pod.clone(),
                        what,
                    });
                }
                Line {
                    exit_code: Some(code),
                    ..
                } => return Ok(code),
                Line { stream, data, .. } => {
                    let data = STANDARD.decode(data).map_err(|_| broken())?;
                    output(if stream == 2 {
                        ExecOutput::Stderr(data)
                    } else {
                        ExecOutput::Stdout(data)
                    });
                }
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            return Err(broken());
        }
    }
    Err(broken())
}
