//! Many connections over one byte stream, such as the standard input and output of a command on a machine.
//!
//! HTTP/2 with `CONNECT`: the side that opens connections is the client, the side that dials is the server. The server's answer
//! keeps the class of what its dial met, so that an opener can tell a refusal from silence; giving up an attempt resets its
//! stream, which drops the dial on the other side.
//!
//! ```text
//!   Opener::open(to) ──CONNECT to──► serve ──Dial::dial(to)──► the network that the other side is on
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{BoxStream, Dial, Stream};

/// How often a quiet stream is asked whether its other side lives.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the other side may take to answer: an emulated machine under load takes seconds.
const ASK_LIMIT: Duration = Duration::from_secs(8);
/// Bytes that may be under way on one connection.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes that may be under way altogether.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Connections at a time.
const CONNECTIONS: u32 = 1024;

/// What a failed dial is called on the way.
const ANSWERS: [(StatusCode, io::ErrorKind); 4] = [
    (StatusCode::BAD_GATEWAY, io::ErrorKind::ConnectionRefused),
    (StatusCode::GATEWAY_TIMEOUT, io::ErrorKind::TimedOut),
    (
        StatusCode::SERVICE_UNAVAILABLE,
        io::ErrorKind::HostUnreachable,
    ),
    (StatusCode::BAD_REQUEST, io::ErrorKind::InvalidInput),
];

/// Dials for the other side of `io` until that ends.
///
/// # Errors
/// When the stream breaks or does not speak our protocol.
pub async fn serve(io: impl Stream, dial: Arc<dyn Dial>) -> io::Result<()> {
    let service = service_fn(move |request| {
        let dial = dial.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request, &*dial).await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(ASK_INTERVAL)
        .keep_alive_timeout(ASK_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CONNECTIONS)
        // An opener that gives up resets its stream, and a prober gives up often: that is no attack.
        .max_pending_accept_reset_streams(CONNECTIONS as usize)
        .max_local_error_reset_streams(None);
    builder
        .serve_connection(TokioIo::new(io), service)
        .await
        .map_err(io::Error::other)
}

async fn answer(
    mut request: Request<hyper::body::Incoming>,
    dial: &dyn Dial,
) -> Response<Empty<Bytes>> {
    let target = request
        .uri()
        .authority()
        .and_then(|authority| authority.as_str().parse::<SocketAddr>().ok());
    let dialled = match target {
        Some(target) if request.method() == Method::CONNECT => dial.dial(target).await,
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut response = Response::new(Empty::new());
    match dialled {
        Ok(mut stream) => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrade.await {
                    // Either side's end is the other's; nobody is left to tell about an error.
                    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream)
                        .await;
                }
            });
        }
        Err(error) => *response.status_mut() = status_of(error.kind()),
    }
    response
}

fn status_of(kind: io::ErrorKind) -> StatusCode {
    let unreachable = matches!(
        kind,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable
    );
    let kind = if unreachable {
        io::ErrorKind::HostUnreachable
    } else {
        kind
    };
    ANSWERS
        .iter()
        .find(|(_, known)| *known == kind)
        .map_or(StatusCode::INTERNAL_SERVER_ERROR, |(status, _)| *status)
}

fn kind_of(status: StatusCode) -> io::ErrorKind {
    ANSWERS
        .iter()
        .find(|(known, _)| *known == status)
        .map_or(io::ErrorKind::Other, |(_, kind)| *kind)
}

/// Opens connections from the other side of a stream.
#[derive(Debug, Clone)]
pub struct Opener {
    requests: SendRequest<Empty<Bytes>>,
}

impl Opener {
    /// Speaks with a [`serve`] at the other end of `io`. The second value drives the stream; it ends with it.
    ///
    /// # Errors
    /// When the other side does not speak our protocol.
    pub async fn start(
        io: impl Stream,
    ) -> io::Result<(Self, impl Future<Output = io::Result<()>> + Send + 'static)> {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(ASK_INTERVAL)
            .keep_alive_timeout(ASK_LIMIT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let (requests, connection) = builder
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)?;
        Ok((Self { requests }, async move {
            connection.await.map_err(io::Error::other)
        }))
    }

    /// Connects to `to` from the other side. Dropping the future abandons the attempt there, too.
    ///
    /// # Errors
    /// With the kind of error that the other side's dial met; `BrokenPipe` when the stream itself is gone.
    pub async fn open(&self, to: SocketAddr) -> io::Result<BoxStream> {
        let gone = |error: hyper::Error| io::Error::new(io::ErrorKind::BrokenPipe, error);
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = to.to_string().parse().expect("an address is an authority");
        let mut requests = self.requests.clone();
        requests.ready().await.map_err(gone)?;
        let response = requests.send_request(request).await.map_err(gone)?;
        if response.status() != StatusCode::OK {
            return Err(kind_of(response.status()).into());
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(gone)?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }
}

/// Passes every connection to `listener` on, as one to `to`. One that the other side refuses is closed.
pub async fn pass_on(listener: TcpListener, opener: Opener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((mut client, _)) => {
                    let opener = opener.clone();
                    connections.spawn(async move {
                        if let Ok(mut stream) = opener.open(to).await {
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
                        }
                    });
                }
                // Out of file descriptors: the ones that end make room.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::*;

    /// Answers by port: 1 refuses, 2 is silent until dropped, others echo.
    struct Network {
        abandoned: mpsc::UnboundedSender<()>,
    }

    struct Tell(mpsc::UnboundedSender<()>);

    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    impl Dial for Network {
        fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
            Box::pin(async move {
                match to.port() {
                    1 => Err(io::ErrorKind::ConnectionRefused.into()),
                    2 => {
                        let _tell = Tell(self.abandoned.clone());
                        std::future::pending().await
                    }
                    _ => {
                        let (near, far) = tokio::io::duplex(1 << 10);
                        tokio::spawn(async move {
                            let (mut read, mut write) = tokio::io::split(far);
                            let _ = tokio::io::copy(&mut read, &mut write).await;
                            let _ = write.shutdown().await;
                        });
                        Ok(Box::new(near) as BoxStream)
                    }
                }
            })
        }
    }

    async fn pair() -> (Opener, mpsc::UnboundedReceiver<()>) {
        let (near, far) = tokio::io::duplex(1 << 14);
        let (abandoned, told) = mpsc::unbounded_channel();
        tokio::spawn(serve(far, Arc::new(Network { abandoned })));
        let (opener, driver) = Opener::start(near).await.unwrap();
        tokio::spawn(driver);
        (opener, told)
    }

    fn port(port: u16) -> SocketAddr {
        ([10, 78, 1, 2], port).into()
    }

    #[tokio::test]
    async fn connections_carry_bytes_and_ends_side_by_side() {
        let (opener, _told) = pair().await;
        let send = |byte: u8| {
            let opener = opener.clone();
            async move {
                // More than any window, so that both directions have to move.
                let bytes = vec![byte; 3 << 20];
                let (mut read, mut write) = tokio::io::split(opener.open(port(80)).await.unwrap());
                let mut back = Vec::new();
                let write = async {
                    write.write_all(&bytes).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let (read, ()) = tokio::join!(read.read_to_end(&mut back), write);
                read.unwrap();
                assert!(back == bytes);
            }
        };
        tokio::join!(send(1), send(2), send(3));
    }

    #[tokio::test]
    async fn a_refusal_stays_a_refusal() {
        let (opener, _told) = pair().await;
        assert_eq!(
            opener.open(port(1)).await.err().map(|error| error.kind()),
            Some(io::ErrorKind::ConnectionRefused)
        );
    }

    #[tokio::test]
    async fn giving_up_ends_the_dial_of_the_other_side() {
        let (opener, mut told) = pair().await;
        let mut attempt = Box::pin(opener.open(port(2)));
        // Another connection is answered after the silent one has been asked for.
        tokio::select! {
            _ = &mut attempt => panic!("nobody answers"),
            opened = opener.open(port(80)) => drop(opened.unwrap()),
        }
        drop(attempt);
        told.recv().await.expect("the dial was dropped");
    }

    #[tokio::test]
    async fn a_stream_that_is_gone_is_told_from_a_refusal() {
        let (near, far) = tokio::io::duplex(1 << 14);
        let (abandoned, _told) = mpsc::unbounded_channel();
        let server = tokio::spawn(serve(far, Arc::new(Network { abandoned })));
        let (opener, driver) = Opener::start(near).await.unwrap();
        tokio::spawn(driver);
        opener.open(port(80)).await.unwrap();
        server.abort();
        let _ = server.await;
        assert_eq!(
            opener.open(port(80)).await.err().map(|error| error.kind()),
            Some(io::ErrorKind::BrokenPipe)
        );
    }
}
