//! Ctrl-C and SIGTERM as one token for a whole command.
//!
//! Once a handler is installed, a signal no longer ends the process by itself: whatever a command does from then on must look at the
//! token, or nobody does.

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::interrupted;

/// Watches for signals from its making to its end. The first one cancels the token, for good.
pub(super) struct Interruption {
    token: CancellationToken,
    _watch: AbortOnDropHandle<()>,
}

impl Interruption {
    pub(super) fn watch() -> Self {
        let token = CancellationToken::new();
        let seen = token.clone();
        let watch = tokio::spawn(async move {
            interrupted().await;
            seen.cancel();
        });
        Self {
            token,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }
}
