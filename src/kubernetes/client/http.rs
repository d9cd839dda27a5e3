//! One API server over HTTP: paths and bodies go out, answers come back. What a path means is not known here.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::failure;
use super::{ClientConfig, ClientError};
use crate::model::json;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request that is not a watch may take altogether.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the head of a streamed answer may take.
const STREAM_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After how much silence a connection is asked whether it lives, and how long it has to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The connections to a server, and who asks. Clones share the connections.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    pub(super) server: String,
    token: Option<String>,
    refuses_unknown_fields: bool,
}

/// What is sent with a request.
pub(super) struct Body {
    content_type: &'static str,
    bytes: Vec<u8>,
}

impl Body {
    pub(super) fn json(object: &impl Serialize) -> Self {
        Self::new("application/json", object)
    }

    pub(super) fn new(content_type: &'static str, object: &impl Serialize) -> Self {
        let bytes =
            json::to_vec(object).expect("Kubernetes objects and JSON values have string keys only");
        Self {
            content_type,
            bytes,
        }
    }
}

impl Http {
    /// Nothing is sent yet.
    pub(super) fn new(config: ClientConfig) -> Result<Self, ClientError> {
        // The provider may be installed already; then this one is the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let refuse = |problem: String| ClientError::Configuration {
            server: config.server.clone(),
            problem,
        };
        let url = reqwest::Url::parse(&config.server)
            .map_err(|error| refuse(format!("not a URL: {error}")))?;
        let loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(refuse(
                "only https is spoken beyond this machine: use an https:// URL".to_owned(),
            ));
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
            let identity = reqwest::Identity::from_pem(pem.as_bytes()).map_err(|error| {
                refuse(format!("client certificate and key are not PEM: {error}"))
            })?;
            builder = builder.identity(identity);
        }
        let client = builder
            .build()
            .map_err(|error| refuse(format!("TLS cannot be set up: {error}")))?;
        Ok(Self {
            client,
            server: config.server,
            token: config.token,
            refuses_unknown_fields: false,
        })
    }

    pub(super) fn refusing_unknown_fields(&self) -> Self {
        Self {
            refuses_unknown_fields: true,
            ..self.clone()
        }
    }

    /// Opens a streamed answer to a request without a body: only its head has a deadline.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Response, ClientError> {
        let request = || format!("{method} {path}");
        let sent = self.request(method.clone(), path, query).send();
        let response = tokio::time::timeout(STREAM_HEAD_TIMEOUT, sent)
            .await
            .map_err(|_| ClientError::TimedOut {
                request: request(),
                after: STREAM_HEAD_TIMEOUT,
            })?
            .map_err(|source| ClientError::Transport {
                request: request(),
                source,
            })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = tokio::time::timeout(STREAM_HEAD_TIMEOUT, response.bytes()).await;
        Err(failure(
            code,
            &body.ok().and_then(Result::ok).unwrap_or_default(),
        ))
    }

    /// Sends a request and reads the object that is answered.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Body>,
    ) -> Result<T, ClientError> {
        let request = format!("{method} {path}");
        let bytes = self.answer(method, path, query, body).await?;
        json::from_slice(&bytes).map_err(|source| ClientError::Decode { request, source })
    }

    /// Sends a request and takes the answer as it is.
    pub(super) async fn answer(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Body>,
    ) -> Result<Bytes, ClientError> {
        let request = format!("{method} {path}");
        let builder = self.request(method, path, query);
        self.finish(request, builder, body).await
    }

    /// Reads what is answered in the form that `accept` names.
    pub(super) async fn call_as<T: DeserializeOwned>(
        &self,
        accept: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, ClientError> {
        let request = format!("GET {path}");
        let headers = [(header::ACCEPT, HeaderValue::from_static(accept))];
        // `headers` replaces what `request` says.
        let builder = self
            .request(Method::GET, path, query)
            .headers(HeaderMap::from_iter(headers));
        let bytes = self.finish(request.clone(), builder, None).await?;
        json::from_slice(&bytes).map_err(|source| ClientError::Decode { request, source })
    }

    async fn finish(
        &self,
        request: String,
        builder: RequestBuilder,
        body: Option<Body>,
    ) -> Result<Bytes, ClientError> {
        let mut builder = builder.timeout(REQUEST_TIMEOUT);
        if let Some(body) = body {
            builder = builder
                .header(header::CONTENT_TYPE, body.content_type)
                .body(body.bytes);
        }
        let transport = |source| ClientError::Transport {
            request: request.clone(),
            source,
        };
        let response = builder.send().await.map_err(transport)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(transport)?;
        if status.is_success() {
            Ok(bytes)
        } else {
            Err(failure(status.as_u16(), &bytes))
        }
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> RequestBuilder {
        let mut url = format!("{}{path}", self.server);
        let writes = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
        let strict = (self.refuses_unknown_fields && writes)
            .then(|| ("fieldValidation", "Strict".to_owned()));
        for (index, (name, value)) in query.iter().chain(&strict).enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(percent(value));
        }
        let builder = self
            .client
            .request(method, url)
            .header(header::ACCEPT, "application/json");
        match &self.token {
            Some(token) => builder.bearer_auth(token),
            None => builder,
        }
    }
}

fn percent(value: &str) -> impl Iterator<Item = char> + '_ {
    value.bytes().flat_map(|byte| {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let text = if plain {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        };
        text.chars().collect::<Vec<_>>()
    })
}
