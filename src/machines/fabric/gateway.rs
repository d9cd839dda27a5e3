//! The gateway: the host's own connections into the cluster, through a TCP/IP stack in user space.
//!
//! One task, the [`Driver`], moves frames between the switch and the stack and runs the stack's timers. Streams work on their
//! sockets' buffers under the stack's lock, never for longer than a copy, and wake the driver when there is something to send.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use smoltcp::wire::Ipv4Cidr;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stack::{Abandon, Identity, Stack};
use super::stream::GatewayStream;
use crate::model::addresses;
use crate::transport::{BoxStream, Dial, Listen};

/// Frames taken from the switch at a time.
const BATCH_FRAMES: usize = 256;
/// Routes the stack has room for: a pod network for each node.
const MAX_ROUTES: usize = 256;

/// Where the stack's frames go.
pub(super) type Emit = Box<dyn Fn(&Bytes) + Send>;

/// Why routes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    /// The network is not a CIDR.
    #[error("`{0}` is not an IPv4 network such as `10.78.1.0/24`")]
    Network(String),
    /// There are too many.
    #[error("the gateway holds at most {MAX_ROUTES} routes")]
    TooMany,
}

/// Dials into the cluster and listens in it, as 10.77.0.1. Clones are handles on one stack.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// What streams, listeners and the driver share.
pub(super) struct Shared {
    stack: Mutex<Stack>,
    work: Notify,
    epoch: Instant,
}

impl Shared {
    pub(super) fn stack(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().expect("the stack does not panic")
    }

    /// Tells the driver that the stack has something to do.
    pub(super) fn wake_driver(&self) {
        self.work.notify_one();
    }

    pub(super) fn abandon(&self, handle: SocketHandle, how: Abandon) {
        self.stack().abandon(handle, how, self.now());
        self.wake_driver();
    }

    fn now(&self) -> smoltcp::time::Instant {
        let micros = self.epoch.elapsed().as_micros();
        smoltcp::time::Instant::from_micros(
            i64::try_from(micros).expect("the fabric does not run for 292,000 years"),
        )
    }
}

/// Makes a gateway and the task that drives it: frames arrive through `frames` and leave through `emit`.
pub(super) fn new(
    identity: Identity,
    frames: mpsc::Receiver<Bytes>,
    emit: Emit,
) -> (Gateway, Driver) {
    let shared = Arc::new(Shared {
        stack: Mutex::new(Stack::new(identity)),
        work: Notify::new(),
        epoch: Instant::now(),
    });
    (
        Gateway {
            shared: Arc::clone(&shared),
        },
        Driver {
            shared,
            frames,
            emit,
        },
    )
}

impl Gateway {
    /// Replaces the routes to networks behind nodes, for instance `("10.78.1.0/24", 10.77.0.12)`.
    ///
    /// # Errors
    /// When a network is malformed or there are too many; nothing has changed then.
    pub fn set_routes(&self, routes: &[(String, Ipv4Addr)]) -> Result<(), InvalidRoute> {
        if routes.len() > MAX_ROUTES {
            return Err(InvalidRoute::TooMany);
        }
        let parse = |(network, via): &(String, Ipv4Addr)| {
            network
                .parse::<Ipv4Cidr>()
                .map(|cidr| (cidr, *via))
                .map_err(|()| InvalidRoute::Network(network.clone()))
        };
        let routes = routes.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        self.shared.stack().set_routes(&routes);
        Ok(())
    }

    /// Listens on a port of 10.77.0.1. Dropping the listener stops it.
    ///
    /// # Errors
    /// When the port is taken, or one that dials use (32768 to 60999).
    pub fn listen(&self, port: u16) -> io::Result<GatewayListener> {
        self.shared.stack().listen(port)?;
        Ok(GatewayListener {
            shared: Arc::clone(&self.shared),
            port,
        })
    }
}

impl Dial for Gateway {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let SocketAddr::V4(to) = to else {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the fabric speaks IPv4 only",
                ));
            };
            let handle = self.shared.stack().connect(to)?;
            let attempt = Attempt {
                shared: Arc::clone(&self.shared),
                handle: Some(handle),
            };
            self.shared.wake_driver();
            Ok(Box::new(attempt.await?) as BoxStream)
        })
    }
}

/// A connection that is being opened. Dropped early, it is aborted.
struct Attempt {
    shared: Arc<Shared>,
    handle: Option<SocketHandle>,
}

impl Future for Attempt {
    type Output = io::Result<GatewayStream>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handle = self.handle.expect("a finished attempt is not polled");
        let mut stack = self.shared.stack();
        let socket = stack.socket(handle);
        match socket.state() {
            State::SynSent | State::SynReceived => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            State::Closed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
            _ => {
                stack.established(handle);
                drop(stack);
                self.handle = None;
                Poll::Ready(Ok(GatewayStream::new(Arc::clone(&self.shared), handle)))
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(handle) = self.handle {
            self.shared.abandon(handle, Abandon::Reset);
        }
    }
}

/// A listening port of the gateway.
pub struct GatewayListener {
    shared: Arc<Shared>,
    port: u16,
}

impl std::fmt::Debug for GatewayListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayListener")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl GatewayListener {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        (addresses::GATEWAY, self.port).into()
    }
}

impl Listen for GatewayListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let accept =
                |cx: &mut Context<'_>| match self.shared.stack().accept(self.port, cx.waker()) {
                    Err(error) => Poll::Ready(Err(error)),
                    Ok(Some(accepted)) => Poll::Ready(Ok(accepted)),
                    Ok(None) => Poll::Pending,
                };
            let (handle, peer) = std::future::poll_fn(accept).await?;
            self.shared.wake_driver();
            Ok((
                Box::new(GatewayStream::new(Arc::clone(&self.shared), handle)) as BoxStream,
                peer,
            ))
        })
    }
}

impl Drop for GatewayListener {
    fn drop(&mut self) {
        let now = self.shared.now();
        self.shared.stack().unlisten(self.port, now);
        self.shared.wake_driver();
    }
}

/// Moves frames and time into the stack. However it ends, it leaves the stack shut down.
pub(super) struct Driver {
    shared: Arc<Shared>,
    frames: mpsc::Receiver<Bytes>,
    emit: Emit,
}

impl Driver {
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_FRAMES);
        loop {
            let polled = {
                let mut stack = self.shared.stack();
                batch.drain(..).for_each(|frame| stack.push(frame));
                stack.poll(self.shared.now())
            };
            for frame in &polled.frames {
                (self.emit)(frame);
            }
            let timer = async {
                match polled.again {
                    Some(delay) if delay.is_zero() => tokio::task::yield_now().await,
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = self.frames.recv_many(&mut batch, BATCH_FRAMES) => {}
                () = self.shared.work.notified() => {}
                () = timer => {}
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.stack().shut_down();
    }
}
