//! Where an API server is and how to prove who we are: from identity files, or from a kubeconfig.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Everything a [`super::client::Client`] needs. Its `Debug` output holds no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// URL of the API server, without a path: `https://10.77.0.11:6443`.
    pub server: String,
    /// PEM of the authorities that may sign the server's certificate.
    pub ca_pem: String,
    /// PEM of the client's certificate; empty if a token is used.
    pub certificate_pem: String,
    /// PEM of the client's private key; empty if a token is used.
    pub key_pem: String,
    /// Bearer token of foreign clusters.
    pub token: Option<String>,
    /// Namespace to use if none is asked for.
    pub namespace: String,
}

/// Why no client configuration came out.
#[derive(Debug, thiserror::Error)]
pub enum ClientConfigError {
    /// A file could not be read.
    #[error("read `{}`: check that the file exists and is yours", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kubeconfig is not one.
    #[error("parse kubeconfig `{}`", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// The kubeconfig lacks something or asks for something that is not supported.
    #[error("kubeconfig `{}`: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientConfig")
            .field("server", &self.server)
            .field("namespace", &self.namespace)
            .field("token", &self.token.is_some())
            .field("certificate", &!self.certificate_pem.is_empty())
            .finish_non_exhaustive()
    }
}

impl ClientConfig {
    /// Reads the three PEM files of an identity.
    pub fn from_files(
        server: impl Into<String>,
        ca: impl AsRef<Path>,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, ClientConfigError> {
        Ok(Self {
            server: server.into(),
            ca_pem: read(ca.as_ref())?,
            certificate_pem: read(certificate.as_ref())?,
            key_pem: read(key.as_ref())?,
            token: None,
            namespace: "default".to_owned(),
        })
    }

    /// Reads the current context of a kubeconfig file.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ClientConfigError> {
        let text = read(path)?;
        let kubeconfig: Kubeconfig =
            serde_saphyr::from_str(&text).map_err(|source| ClientConfigError::Parse {
                path: path.to_owned(),
                source: Box::new(source),
            })?;
        Reader { path }.read(kubeconfig)
    }
}

fn read(path: &Path) -> Result<String, ClientConfigError> {
    std::fs::read_to_string(path).map_err(|source| ClientConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn read(&self, kubeconfig: Kubeconfig) -> Result<ClientConfig, ClientConfigError> {
        let wanted = kubeconfig.current_context.unwrap_or_default();
        let context = kubeconfig
            .contexts
            .into_iter()
            .find(|named| named.name == wanted)
            .ok_or_else(|| {
                self.problem(format!(
                    "no context is called `{wanted}`: set current-context"
                ))
            })?
            .context;
        let cluster = kubeconfig
            .clusters
            .into_iter()
            .find(|named| named.name == context.cluster)
            .ok_or_else(|| self.problem(format!("no cluster is called `{}`", context.cluster)))?
            .cluster;
        let user = kubeconfig
            .users
            .into_iter()
            .find(|named| named.name == context.user)
            .ok_or_else(|| self.problem(format!("no user is called `{}`", context.user)))?
            .user;
        if cluster.insecure_skip_tls_verify {
            return Err(self.problem(
                "insecure-skip-tls-verify is refused: set certificate-authority".to_owned(),
            ));
        }
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Err(self.problem(
                "exec and auth-provider users are not supported: use a token or a certificate"
                    .to_owned(),
            ));
        }
        let token = match (user.token, user.token_file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => Some(read(&self.relative(&file))?.trim().to_owned()),
            (None, None) => None,
        };
        Ok(ClientConfig {
            server: cluster.server.trim_end_matches('/').to_owned(),
            ca_pem: self.pem(
                "certificate-authority",
                cluster.certificate_authority_data,
                cluster.certificate_authority,
            )?,
            certificate_pem: self.pem(
                "client-certificate",
                user.client_certificate_data,
                user.client_certificate,
            )?,
            key_pem: self.pem("client-key", user.client_key_data, user.client_key)?,
            token,
            namespace: context.namespace.unwrap_or_else(|| "default".to_owned()),
        })
    }

    /// Inline data win over a file, as in kubectl.
    fn pem(
        &self,
        field: &str,
        data: Option<String>,
        file: Option<PathBuf>,
    ) -> Result<String, ClientConfigError> {
        match (data, file) {
            (Some(data), _) => STANDARD
                .decode(data.split_ascii_whitespace().collect::<String>())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| self.problem(format!("{field}-data is not PEM in base64"))),
            (None, Some(file)) => read(&self.relative(&file)),
            (None, None) => Ok(String::new()),
        }
    }

    fn relative(&self, file: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }

    fn problem(&self, problem: String) -> ClientConfigError {
        ClientConfigError::Content {
            path: self.path.to_owned(),
            problem,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: Option<String>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<ClientConfig, ClientConfigError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("ca.pem"), "CA").expect("written");
        let path = directory.path().join("config");
        std::fs::write(&path, text).expect("written");
        ClientConfig::from_kubeconfig(&path)
    }

    const GOOD: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {cluster: k, user: u, namespace: n}\n\
        clusters:\n- name: k\n  cluster: {server: 'https://127.0.0.1:6443/', certificate-authority: ca.pem}\n\
        users:\n- name: u\n  user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ}\n";

    #[test]
    fn the_current_context_is_read() {
        let config = load(GOOD).expect("a good file");
        assert_eq!(config.server, "https://127.0.0.1:6443");
        assert_eq!(
            (
                config.ca_pem.as_str(),
                config.certificate_pem.as_str(),
                config.key_pem.as_str()
            ),
            ("CA", "CERT", "KEY")
        );
        assert_eq!(config.namespace, "n");
        assert!(!format!("{config:?}").contains("KEY"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (from, to, message) in [
            (
                "current-context: c",
                "current-context: d",
                "no context is called `d`",
            ),
            ("- name: k", "- name: other", "no cluster is called `k`"),
            ("S0VZ", "'***'", "client-key-data is not PEM in base64"),
            (
                "certificate-authority: ca.pem",
                "insecure-skip-tls-verify: true",
                "insecure-skip-tls-verify is refused",
            ),
        ] {
            let error = load(&GOOD.replace(from, to)).expect_err(to);
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn any_text_is_a_configuration_or_an_error() {
        let token = GOOD.replace("client-certificate", "token");
        crate::model::spoiled::spoiled(&[GOOD.as_bytes(), token.as_bytes()], 600, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Err(error) = load(&text) {
                assert!(error.to_string().len() <= 256 << 10);
            }
        });
    }
}
