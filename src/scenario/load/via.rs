//! A foreign cluster's own way in: an address that stands for a Service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::scenario::fault::DialService;
use crate::transport::{BoxStream, Dial as _, HostNetwork};

/// The way through this address, whatever the Service.
#[must_use]
pub fn through(address: SocketAddr) -> Arc<dyn DialService> {
    Arc::new(Via(address))
}

struct Via(SocketAddr);

impl DialService for Via {
    fn dial(&self, _: &str, _: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        let address = self.0;
        Box::pin(async move { HostNetwork.dial(address).await })
    }
}
