//! Asking a container: one HTTP GET, one TCP connection, or one command. For probes and for preStop hooks.
//!
//! Its own small HTTP/1.1 client: nothing is read beyond the status line, redirects are not followed, the connection is closed.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::grpc;
use super::probe::{Action, Prober};
use super::runtime::Runtime;
use crate::kubernetes::version::{KUBERNETES_MAJOR, KUBERNETES_MINOR};

/// A status line is not longer than this.
const STATUS_LINE_LIMIT: usize = 1024;
/// So much of a failed command's output is shown.
const OUTPUT_SHOWN: usize = 512;

/// Asks the containers of one pod through the runtime and the node's network.
pub(crate) struct PodProber<R> {
    /// Runs commands.
    pub(crate) runtime: Arc<R>,
    /// The pod.
    pub(crate) pod_uid: String,
}

/// Pressure stall information (the kernel's `Documentation/accounting/psi.rst`).
const PROCESSOR_PRESSURE: &str = "/proc/pressure/cpu";

impl<R: Runtime> Prober for PodProber<R> {
    fn processor_waited(&self) -> Option<Duration> {
        waited(&std::fs::read_to_string(PROCESSOR_PRESSURE).ok()?)
    }

    async fn ask(
        &self,
        action: &Action,
        address: Ipv4Addr,
        container: &str,
        timeout: Duration,
    ) -> Result<(), String> {
        match action {
            Action::Impossible { why } => Err(why.clone()),
            Action::Tcp { host, port } => connect(host.unwrap_or(address), *port).await.map(drop),
            Action::Http {
                tls,
                host,
                port,
                path,
                headers,
            } => {
                let address = host.unwrap_or(address);
                let stream = connect(address, *port).await?;
                let code = if *tls {
                    let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(address)));
                    let connector = tokio_rustls::TlsConnector::from(unverified());
                    let stream = connector
                        .connect(name, stream)
                        .await
                        .map_err(|error| format!("TLS handshake failed: {error}"))?;
                    get(stream, address, *port, path, headers).await?
                } else {
                    get(stream, address, *port, path, headers).await?
                };
                if (200..400).contains(&code) {
                    Ok(())
                } else {
                    Err(format!("HTTP probe failed with statuscode: {code}"))
                }
            }
            Action::Grpc { tls, port, service } => {
                let stream = connect(address, *port).await?;
                let authority = format!("{address}:{port}");
                if !*tls {
                    return grpc::check(stream, &authority, service).await;
                }
                let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(address)));
                let mut config = (*unverified()).clone();
                config.alpn_protocols = vec![b"h2".to_vec()];
                let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
                    .connect(name, stream)
                    .await
                    .map_err(|error| format!("TLS handshake failed: {error}"))?;
                grpc::check(stream, &authority, service).await
            }
            Action::Exec { command } => {
                let output = self
                    .runtime
                    .exec(&self.pod_uid, container, command, timeout)
                    .await
                    .map_err(|error| format!("command could not be run: {error}"))?;
                if output.exit_code == 0 {
                    return Ok(());
                }
                let mut shown = output.stdout;
                shown.extend(output.stderr);
                shown.truncate(OUTPUT_SHOWN);
                Err(format!(
                    "command ended with exit code {}: {}",
                    output.exit_code,
                    String::from_utf8_lossy(&shown).trim()
                ))
            }
        }
    }
}

/// Of `some avg10=1.00 avg60=… total=MICROSECONDS`: how long at least one task has waited.
fn waited(pressure: &str) -> Option<Duration> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    let total = some
        .split(' ')
        .find_map(|word| word.strip_prefix("total="))?;
    Some(Duration::from_micros(total.parse().ok()?))
}

async fn connect(address: Ipv4Addr, port: u16) -> Result<TcpStream, String> {
    let to = SocketAddr::from((address, port));
    TcpStream::connect(to)
        .await
        .map_err(|error| format!("connect to {to}: {error}"))
}

async fn get<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    address: Ipv4Addr,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<u16, String> {
    let has = |name: &str| {
        headers
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(name))
    };
    let mut request = format!("GET {} HTTP/1.1\r\n", path.replace(['\r', '\n', ' '], ""));
    if !has("host") {
        let _ = write!(request, "Host: {address}:{port}\r\n");
    }
    if !has("user-agent") {
        let _ = write!(
            request,
            "User-Agent: kube-probe/{KUBERNETES_MAJOR}.{KUBERNETES_MINOR}\r\n"
        );
    }
    if !has("accept") {
        request.push_str("Accept: */*\r\n");
    }
    for (name, value) in headers {
        let _ = write!(
            request,
            "{}: {}\r\n",
            name.replace(['\r', '\n'], ""),
            value.replace(['\r', '\n'], "")
        );
    }
    request.push_str("Connection: close\r\n\r\n");
    let failed = |error: std::io::Error| format!("GET http://{address}:{port}{path}: {error}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut head = Vec::with_capacity(256);
    while !head.contains(&b'\n') {
        let mut chunk = [0; 256];
        let read = stream.read(&mut chunk).await.map_err(failed)?;
        if read == 0 || head.len() > STATUS_LINE_LIMIT {
            return Err(format!(
                "GET http://{address}:{port}{path}: the answer is not HTTP"
            ));
        }
        head.extend_from_slice(&chunk[..read]);
    }
    // An orderly end where the peer waits for one; what it says is of no interest.
    drop(stream.shutdown().await);
    let line = String::from_utf8_lossy(&head);
    let mut words = line.split_ascii_whitespace();
    let code = words
        .next()
        .filter(|word| word.starts_with("HTTP/1."))
        .and_then(|_| words.next())
        .and_then(|code| code.parse().ok());
    code.ok_or_else(|| format!("GET http://{address}:{port}{path}: the answer is not HTTP"))
}

/// Kubernetes' HTTPS probes verify nothing: a pod's certificate is its own affair.
#[derive(Debug)]
struct Unverified(rustls::crypto::CryptoProvider);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn unverified() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = rustls::crypto::ring::default_provider();
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
                .with_safe_default_protocol_versions()
                .expect("ring has the default protocol versions")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
                .with_no_client_auth();
            Arc::new(config)
        })
        .clone()
}

#[cfg(test)]
mod tests {
    #[test]
    fn how_long_something_waited_for_a_processor() {
        let pressure = "some avg10=0.00 avg60=0.12 avg300=0.05 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(
            super::waited(pressure),
            Some(std::time::Duration::from_millis(1500))
        );
        assert_eq!(super::waited("full total=7"), None);
    }

    use super::*;

    async fn check(answer: &'static str) -> (Result<u16, String>, String) {
        let (near, mut far) = tokio::io::duplex(4096);
        let server = async move {
            let mut request = vec![0; 4096];
            let read = far.read(&mut request).await.unwrap();
            far.write_all(answer.as_bytes()).await.unwrap();
            drop(far);
            String::from_utf8(request[..read].to_vec()).unwrap()
        };
        let headers = [("Host".to_owned(), "web".to_owned())];
        tokio::join!(get(near, Ipv4Addr::LOCALHOST, 80, "/x", &headers), server)
    }

    #[tokio::test]
    async fn a_status_line_is_enough() {
        let (code, request) = check("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n").await;
        assert_eq!(code, Ok(302));
        assert!(
            request.starts_with("GET /x HTTP/1.1\r\n")
                && request.contains("Host: web\r\n")
                && !request.contains("127.0.0.1")
        );
        assert_eq!(check("HTTP/1.0 500\n").await.0, Ok(500));
        assert!(
            check("SSH-2.0-x\n")
                .await
                .0
                .unwrap_err()
                .contains("not HTTP")
        );
        assert!(check("").await.0.unwrap_err().contains("not HTTP"));
    }

    /// A TLS server with a certificate that nobody vouches for; it answers every request with `answer`.
    async fn https(answer: &'static str) -> u16 {
        let made = rcgen::generate_simple_self_signed(vec!["somebody-else".to_owned()]).unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        port
    }

    #[tokio::test]
    async fn an_https_probe_verifies_no_certificate_and_speaks_no_plain_http() {
        let ask = async |port: u16, tls: bool| {
            let stream = connect(Ipv4Addr::LOCALHOST, port).await?;
            if !tls {
                return get(stream, Ipv4Addr::LOCALHOST, port, "/", &[]).await;
            }
            let name =
                ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST)));
            let stream = tokio_rustls::TlsConnector::from(unverified())
                .connect(name, stream)
                .await
                .map_err(|e| e.to_string())?;
            get(stream, Ipv4Addr::LOCALHOST, port, "/", &[]).await
        };
        let port = https("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        assert_eq!(ask(port, true).await, Ok(204));
        assert!(ask(port, false).await.unwrap_err().contains("not HTTP"));
        assert_eq!(
            ask(https("HTTP/1.1 503 No\r\n\r\n").await, true).await,
            Ok(503)
        );
    }
}
