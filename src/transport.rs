//! The seam between a connection and the network that carries it.
//!
//! The host reaches a cluster through the fabric's userspace gateway; inside a machine, and for the `hosts` and `vagrant`
//! providers, the operating system dials. Whoever needs a connection takes a [`Dial`], whoever serves takes a [`Listen`],
//! and neither knows which network it is on.

use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

pub mod dialler;
pub mod relay;

/// A connected byte stream, whatever carries it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A [`Stream`] whose type does not matter to its user.
pub type BoxStream = Box<dyn Stream>;

/// Opens TCP connections. A dial has no time-out of its own: its caller drops the future.
/// Errors keep the peer's answer: a reset on connect is `ConnectionRefused`, silence stays pending.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `to`. Dropping the future abandons the attempt and leaves nothing behind.
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// Accepts TCP connections.
pub trait Listen: Send + 'static {
    /// The next connection and its peer. Cancel-safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>>;
}

impl<L: Listen + ?Sized> Listen for Box<L> {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        (**self).accept()
    }
}

/// The operating system's own network.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostNetwork;

impl Dial for HostNetwork {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

impl Listen for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = TcpListener::accept(self).await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxStream, peer))
        })
    }
}
