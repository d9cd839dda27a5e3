//! What an update watches meanwhile.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use tokio::time::Instant;

use crate::kubernetes::client::{Client, ListParams, Reflector};

/// A change that was published just before it was waited for is looked at after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Copies of a namespace's controllers and pods.
pub(super) struct Watched {
    pub(super) controllers: Reflector<ReplicationController>,
    pub(super) pods: Reflector<Pod>,
}

impl Watched {
    /// Returns when both copies are complete.
    pub(super) async fn start(client: &Client, namespace: &str) -> Self {
        let watched = Self {
            controllers: client.reflect(namespace, ListParams::all()),
            pods: client.reflect(namespace, ListParams::all()),
        };
        watched.controllers.wait_synced().await;
        watched.pods.wait_synced().await;
        watched
    }

    /// Waits for any change, at most for [`LOOK_AGAIN`] and until `deadline`.
    pub(super) async fn changed(&self, deadline: Instant) {
        let (mut controllers, mut pods) = (self.controllers.subscribe(), self.pods.subscribe());
        // A new receiver takes what is there already for a change.
        controllers.mark_unchanged();
        pods.mark_unchanged();
        let soon = (Instant::now() + LOOK_AGAIN).min(deadline);
        tokio::select! {
            _ = controllers.changed() => {}
            _ = pods.changed() => {}
            () = tokio::time::sleep_until(soon) => {}
        }
    }
}
