//! A TCP connection through the gateway, with the semantics of an operating system's: a write is done when it is buffered, each
//! direction ends for itself, a drop sends what is buffered, and a reset is an error on both halves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::RecvError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::gateway::Shared;
use super::stack::Abandon;

/// See the module's text.
pub(super) struct GatewayStream {
    shared: Arc<Shared>,
    handle: SocketHandle,
    write_ended: bool,
}

impl GatewayStream {
    pub(super) fn new(shared: Arc<Shared>, handle: SocketHandle) -> Self {
        Self {
            shared,
            handle,
            write_ended: false,
        }
    }
}

impl AsyncRead for GatewayStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stack = self.shared.stack();
        let socket = stack.socket(self.handle);
        match socket.recv_slice(buffer.initialize_unfilled()) {
            Ok(0) if buffer.remaining() > 0 => {
                socket.register_recv_waker(cx.waker());
                Poll::Pending
            }
            Ok(count) => {
                buffer.advance(count);
                // The window has opened, and the peer has to hear of it.
                self.shared.wake_driver();
                Poll::Ready(Ok(()))
            }
            Err(RecvError::Finished) => Poll::Ready(Ok(())),
            Err(RecvError::InvalidState) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for GatewayStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut stack = self.shared.stack();
        let socket = stack.socket(self.handle);
        match socket.send_slice(data) {
            Ok(0) if !data.is_empty() => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            Ok(count) => {
                self.shared.wake_driver();
                Poll::Ready(Ok(count))
            }
            Err(_) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_ended {
            self.write_ended = true;
            self.shared.stack().socket(self.handle).close();
            self.shared.wake_driver();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for GatewayStream {
    fn drop(&mut self) {
        self.shared.abandon(self.handle, Abandon::Close);
    }
}
