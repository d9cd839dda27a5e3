//! mTLS: the server's certificate, and the identity in the client's.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authorize::Identity;
use crate::orchestrator::config::IdentityFiles;

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not readable PEM.
    #[error("read the PEM file `{path}`: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// rustls refused the certificates.
    #[error("use the server's certificates: {0}")]
    Refused(String),
}

/// Who may finish a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Only who has a certificate of the cluster's authority.
    Certified,
    /// Who has none, too: it has to show a token.
    ByToken,
}

/// Accepts these clients, and nobody with another authority's certificate; offers HTTP/2 and HTTP/1.1.
pub fn acceptor(files: &IdentityFiles, clients: Clients) -> Result<TlsAcceptor, TlsError> {
    let file = |path: &std::path::Path, error: rustls::pki_types::pem::Error| TlsError::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    };
    let refused = |error: &dyn std::fmt::Display| TlsError::Refused(error.to_string());
    let certificates = |path: &std::path::Path| -> Result<Vec<CertificateDer<'static>>, TlsError> {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| file(path, error))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|error| refused(&error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = match clients {
        Clients::Certified => verifier,
        Clients::ByToken => verifier.allow_unauthenticated(),
    };
    let verifier = verifier.build().map_err(|error| refused(&error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| file(&files.key, error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|error| refused(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The cluster's certificate authority, as it stands in its file.
pub fn authority(files: &IdentityFiles) -> Result<String, TlsError> {
    std::fs::read_to_string(&files.ca).map_err(|error| TlsError::File {
        path: files.ca.display().to_string(),
        reason: error.to_string(),
    })
}

/// The identity in a verified certificate. `None` when it has no CN.
#[must_use]
pub fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some(Identity { user, groups })
}
