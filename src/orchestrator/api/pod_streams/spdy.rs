//! The server's side of SPDY/3.1, as far as Kubernetes' clients speak it (source: draft-mbelshe-httpbis-spdy-00 and the SPDY/3.1 draft).
//!
//! Clients open streams, the server answers them; neither side of theirs keeps flow-control windows, so TCP's own stops a writer. Server
//! push, credentials and priorities are not there.

pub(super) mod frame;
pub(super) mod headers;
pub(super) mod remote;
pub(super) mod session;
