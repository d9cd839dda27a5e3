//! Asking the cluster's registry mirror.

use std::fs;
use std::path::Path;

use futures::TryStreamExt;

use super::helper::chain;
use crate::orchestrator::config::IdentityFiles;

/// Longest manifest or image configuration.
const DOCUMENT_BYTES: usize = 4 * 1024 * 1024;
/// Longest reason of a refusal that is read.
const REFUSAL_BYTES: usize = 4096;
/// A mirror that sends nothing for so long has failed.
const SILENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// Asks the mirror, with the node's own certificate.
pub(super) fn client(identity: &IdentityFiles) -> Result<reqwest::Client, String> {
    let read =
        |path: &Path| fs::read(path).map_err(|error| format!("read `{}`: {error}", path.display()));
    let authorities =
        reqwest::Certificate::from_pem_bundle(&read(&identity.ca)?).map_err(|error| {
            format!(
                "read authority `{}`: {}",
                identity.ca.display(),
                chain(&error)
            )
        })?;
    let mut pem = read(&identity.certificate)?;
    pem.extend(read(&identity.key)?);
    let own = reqwest::Identity::from_pem(&pem).map_err(|error| {
        format!(
            "read identity `{}`: {}",
            identity.certificate.display(),
            chain(&error)
        )
    })?;
    let builder = reqwest::Client::builder()
        .tls_certs_only(authorities)
        .identity(own)
        .no_proxy()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(std::time::Duration::from_secs(10))
        .read_timeout(SILENCE);
    builder
        .build()
        .map_err(|error| format!("make the registry client: {}", chain(&error)))
}

/// Why the mirror refuses, in its own words.
pub(super) async fn refusal(response: reqwest::Response) -> String {
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = body.try_next().await {
        bytes.extend_from_slice(&chunk[..chunk.len().min(REFUSAL_BYTES - bytes.len())]);
        if bytes.len() == REFUSAL_BYTES {
            break;
        }
    }
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    said.pointer("/errors/0/message")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("the mirror refuses to serve it")
        .to_owned()
}

/// Reads an answer to its end, which is bounded.
pub(super) async fn document(response: reqwest::Response, what: &str) -> Result<Vec<u8>, String> {
    let response = response
        .error_for_status()
        .map_err(|error| format!("{what}: {}", chain(&error)))?;
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = body
        .try_next()
        .await
        .map_err(|error| format!("{what}: {}", chain(&error)))?
    {
        if bytes.len() + chunk.len() > DOCUMENT_BYTES {
            return Err(format!("{what}: longer than {DOCUMENT_BYTES} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
