//! gRPC's health check (`grpc.health.v1`, `doc/health-checking.md` of gRPC), for probes.
//!
//! One message of one field each way, so that they are written and read here by hand. Source of what is said of failures:
//! `pkg/probe/grpc/grpc.go`.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use crate::kubernetes::version::{KUBERNETES_MAJOR, KUBERNETES_MINOR};

/// An answer is a few bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// gRPC's status for what a server does not know.
const UNIMPLEMENTED: &str = "12";

/// Asks over this connection whether a service is well; the empty name means the server.
pub(super) async fn check<S>(stream: S, authority: &str, service: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("health rpc failed: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(
            "user-agent",
            format!("kube-probe/{KUBERNETES_MAJOR}.{KUBERNETES_MINOR}"),
        )
        .body(Full::new(question(service)))
        .map_err(|error| format!("health rpc failed: {error}"))?;
    let (head, body) = sender
        .send_request(request)
        .await
        .map_err(failed)?
        .into_parts();
    let answer = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| format!("health rpc failed: {error}"))?;
    let trailers = answer.trailers().cloned().unwrap_or_default();
    judge(&head.headers, &trailers, &answer.to_bytes())
}

/// A frame with `HealthCheckRequest { service: 1 }`.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or_default();
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// A server that cannot answer says so in the head, one that answers at the end.
fn judge(head: &HeaderMap, trailers: &HeaderMap, frame: &[u8]) -> Result<(), String> {
    let said = |name: &str| {
        let value = trailers.get(name).or_else(|| head.get(name));
        value.and_then(|value| value.to_str().ok())
    };
    match said("grpc-status") {
        Some("0") => {}
        Some(UNIMPLEMENTED) => {
            return Err(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .to_owned(),
            );
        }
        Some(code) => {
            let message = said("grpc-message").unwrap_or_default();
            return Err(format!("health rpc failed with status {code}: {message}"));
        }
        None => return Err("health rpc failed: the answer is not gRPC".to_owned()),
    }
    // `HealthCheckResponse { status: 1 }`; a status of 0 is left out.
    let status = match frame.get(5..).unwrap_or_default() {
        [0x08, status, ..] => *status,
        _ => 0,
    };
    let word = match status {
        1 => return Ok(()),
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Err(format!("service unhealthy (responded with \"{word}\")"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use hyper::service::service_fn;

    use super::*;

    /// Asks a server that answers with this frame and this status at the end, and returns what it was asked.
    async fn ask(
        service: &str,
        frame: &'static [u8],
        status: &'static str,
    ) -> (Result<(), String>, Bytes) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (asked, mut asked_of) = tokio::sync::mpsc::channel(1);
        let serve = service_fn(move |request: Request<hyper::body::Incoming>| {
            let asked = asked.clone();
            async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let body = request
                    .into_body()
                    .collect()
                    .await
                    .expect("a body")
                    .to_bytes();
                asked.send(body).await.expect("somebody listens");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().expect("a number"));
                let parts = [
                    Ok::<_, Infallible>(Frame::data(Bytes::from(frame))),
                    Ok(Frame::trailers(trailers)),
                ];
                let body = StreamBody::new(futures::stream::iter(parts));
                Ok::<_, Infallible>(
                    http::Response::builder()
                        .header("content-type", "application/grpc")
                        .body(body)
                        .expect("right"),
                )
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _served = AbortOnDropHandle::new(tokio::spawn(
            server.serve_connection(TokioIo::new(far), serve),
        ));
        let answer = check(near, "10.78.1.2:50051", service).await;
        (answer, asked_of.recv().await.expect("it was asked"))
    }

    #[tokio::test]
    async fn a_service_that_serves_is_well() {
        let (answer, asked) = ask("web", &[0, 0, 0, 0, 2, 8, 1], "0").await;
        assert_eq!(answer, Ok(()));
        assert_eq!(&asked[..], [0, 0, 0, 0, 5, 0x0a, 3, b'w', b'e', b'b']);
        let (answer, asked) = ask("", &[0, 0, 0, 0, 2, 8, 2], "0").await;
        assert!(answer.unwrap_err().contains("NOT_SERVING"));
        assert_eq!(&asked[..], [0, 0, 0, 0, 0]);
        let (answer, _) = ask("", &[0, 0, 0, 0, 0], "0").await;
        assert!(answer.unwrap_err().contains("UNKNOWN"));
        let (answer, _) = ask("", &[], "12").await;
        assert!(answer.unwrap_err().contains("does not implement"));
        let (answer, _) = ask("", &[], "5").await;
        assert!(answer.unwrap_err().contains("status 5"));
    }

    #[tokio::test]
    async fn what_speaks_no_grpc_is_not_well() {
        let (near, far) = tokio::io::duplex(1024);
        drop(far);
        assert!(check(near, "10.78.1.2:80", "").await.is_err());
        let empty = HeaderMap::new();
        assert!(judge(&empty, &empty, &[]).unwrap_err().contains("not gRPC"));
    }
}
