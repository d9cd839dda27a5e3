//! The registries behind the mirror.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use super::{MirrorError, Registry};

/// Clients with a login that are kept: each has its own tokens.
const LOGINS_MAX: usize = 8;

/// The upstream registries that the cluster file lists.
#[derive(Clone)]
pub struct Upstreams {
    listed: Vec<String>,
    client: Option<oci_client::Client>,
    /// What clients are made of.
    roots: Vec<Certificate>,
    protocol: ClientProtocol,
    /// A client remembers the first login for a registry: every login has one of its own. The oldest goes first.
    logins: Arc<Mutex<Vec<(String, RegistryAuth, oci_client::Client)>>>,
}

impl Upstreams {
    /// No upstream: what the store has not is not found.
    #[must_use]
    pub fn none() -> Self {
        Self {
            listed: Vec::new(),
            client: None,
            roots: Vec::new(),
            protocol: ClientProtocol::Https,
            logins: Arc::default(),
        }
    }

    /// Asks the registries in `listed` anonymously over HTTPS, trusting the authorities in `roots_pem`: a bundle such as
    /// `/etc/ssl/certs/ca-certificates.crt` of the host.
    pub fn https(listed: Vec<String>, roots_pem: &[u8]) -> Result<Self, OciDistributionError> {
        Self::with_roots(listed, roots_pem, ClientProtocol::Https)
    }

    /// The one registry that a person asks for: over HTTPS, or plain HTTP on loopback, as Docker does.
    pub fn only(registry: &str, roots_pem: &[u8]) -> Result<Self, OciDistributionError> {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let is_local = host == "localhost"
            || host
                .parse::<std::net::Ipv4Addr>()
                .is_ok_and(|address| address.is_loopback());
        let protocol = if is_local {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        Self::with_roots(vec![registry.to_owned()], roots_pem, protocol)
    }

    fn with_roots(
        listed: Vec<String>,
        roots_pem: &[u8],
        protocol: ClientProtocol,
    ) -> Result<Self, OciDistributionError> {
        let mut tls_certs_only = Vec::new();
        for block in String::from_utf8_lossy(roots_pem).split_inclusive("-----END CERTIFICATE-----")
        {
            if let Some(start) = block.find("-----BEGIN CERTIFICATE-----") {
                let encoding = CertificateEncoding::Pem;
                tls_certs_only.push(Certificate {
                    encoding,
                    data: block.as_bytes()[start..].to_vec(),
                });
            }
        }
        Self::with(listed, tls_certs_only, protocol)
    }

    fn with(
        listed: Vec<String>,
        roots: Vec<Certificate>,
        protocol: ClientProtocol,
    ) -> Result<Self, OciDistributionError> {
        Ok(Self {
            listed,
            client: Some(new_client(roots.clone(), protocol.clone())?),
            roots,
            protocol,
            logins: Arc::default(),
        })
    }

    #[cfg(test)]
    pub(in crate::images) fn plain_http(listed: Vec<String>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Without roots the client would look for the machine's own, which a test may not have.
        let key = rcgen::KeyPair::generate().unwrap();
        let root = rcgen::CertificateParams::new(Vec::new())
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let encoding = CertificateEncoding::Der;
        let tls_certs_only = vec![Certificate {
            encoding,
            data: root.der().to_vec(),
        }];
        Self::with(listed, tls_certs_only, ClientProtocol::Http).unwrap()
    }

    /// How to ask this registry, if it is listed.
    pub(super) fn client(
        &self,
        registry: Registry<'_>,
    ) -> Result<Option<oci_client::Client>, OciDistributionError> {
        let listed = self.listed.iter().any(|listed| listed == registry.name);
        if !listed || self.client.is_none() || !registry.has_login() {
            return Ok(self.client.clone().filter(|_| listed));
        }
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        let known = logins
            .iter()
            .find(|(name, auth, _)| name == registry.name && auth == registry.auth);
        if let Some((_, _, client)) = known {
            return Ok(Some(client.clone()));
        }
        let client = new_client(self.roots.clone(), self.protocol.clone())?;
        if logins.len() >= LOGINS_MAX {
            logins.remove(0);
        }
        let (name, auth) = (registry.name.to_owned(), registry.auth.clone());
        logins.push((name, auth, client.clone()));
        Ok(Some(client))
    }
}

fn new_client(
    tls_certs_only: Vec<Certificate>,
    protocol: ClientProtocol,
) -> Result<oci_client::Client, OciDistributionError> {
    ClientConfig {
        tls_certs_only,
        protocol,
        platform_resolver: None,
        connect_timeout: Some(Duration::from_secs(20)),
        read_timeout: Some(Duration::from_mins(1)),
        ..ClientConfig::default()
    }
    .try_into()
}

/// Whether a registry refuses who asks.
fn is_of_login(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::ServerError {
            code: 401 | 403, ..
        } => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|one| matches!(one.code, OciErrorCode::Unauthorized | OciErrorCode::Denied)),
        _ => false,
    }
}

/// An upstream that says "there is none" is believed. So is one that wants a login: anonymously there is none.
pub(super) fn unknown(
    error: OciDistributionError,
    registry: Registry<'_>,
    instead: MirrorError,
) -> MirrorError {
    if registry.has_login() && is_of_login(&error) {
        return MirrorError::Login(registry.name.to_owned());
    }
    match error {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. }
        | OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => instead,
        OciDistributionError::RegistryError { ref envelope, .. }
            if envelope.errors.iter().any(|error| {
                use OciErrorCode::{
                    BlobUnknown, Denied, ManifestUnknown, NameUnknown, NotFound, Unauthorized,
                };
                matches!(
                    error.code,
                    BlobUnknown | ManifestUnknown | NameUnknown | NotFound | Unauthorized | Denied
                )
            }) =>
        {
            instead
        }
        other => MirrorError::Upstream(other),
    }
}
