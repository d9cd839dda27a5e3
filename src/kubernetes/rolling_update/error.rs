//! Why an update did not end.

use std::time::Duration;

use crate::kubernetes::client::ClientError;

/// Why the update did not end.
#[derive(Debug, thiserror::Error)]
pub enum RollingUpdateError {
    /// The API server refused, or is away. The update can be resumed by running it again.
    #[error("rolling update of `{controller}`: {doing}")]
    Client {
        /// The old controller.
        controller: String,
        /// What was being done.
        doing: &'static str,
        /// What the server said.
        #[source]
        source: Box<ClientError>,
    },
    /// The two controllers cannot replace each other.
    #[error("rolling update of `{controller}`: {problem}")]
    Invalid {
        /// The old controller.
        controller: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Nothing moved for too long.
    #[error(
        "rolling update of `{controller}`: no progress for {} s: `{new}` has {new_replicas} replicas of which {new_available} are \
         available, `{controller}` has {old_replicas}{seen}; run it again to resume, or roll back",
        timeout.as_secs()
    )]
    NoProgress {
        /// The old controller.
        controller: String,
        /// The new one.
        new: String,
        /// Replicas asked of the new one.
        new_replicas: i32,
        /// Those that are available.
        new_available: i32,
        /// Replicas asked of the old one.
        old_replicas: i32,
        /// For how long nothing moved.
        timeout: Duration,
        /// What was seen of the new pods last.
        seen: String,
    },
}

pub(super) fn invalid(controller: &str, problem: String) -> RollingUpdateError {
    RollingUpdateError::Invalid {
        controller: controller.to_owned(),
        problem,
    }
}

pub(super) fn failed(
    controller: &str,
    doing: &'static str,
) -> impl FnOnce(ClientError) -> RollingUpdateError {
    let controller = controller.to_owned();
    move |source| RollingUpdateError::Client {
        controller,
        doing,
        source: Box::new(source),
    }
}
