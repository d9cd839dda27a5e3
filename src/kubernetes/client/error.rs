//! Why a request failed, and what can be concluded from that.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use super::ClientConfigError;
use super::watch::EVENT_BYTES_MAX;
use crate::model::json;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a failure.
    #[error("{}", status_text(.0))]
    Status(Box<Status>),
    /// The server could not be reached, or the answer broke off.
    #[error("{request}: no answer from the API server")]
    Transport {
        /// Method and path.
        request: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The server was silent for too long.
    #[error("{request}: the API server was silent for {} s", after.as_secs())]
    TimedOut {
        /// Method and path.
        request: String,
        /// For how long we waited.
        after: Duration,
    },
    /// The answer is not what the API promises.
    #[error("{request}: the answer is not the expected object")]
    Decode {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// An event is larger than any that Kubernetes stores.
    #[error("{request}: an event is larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge {
        /// Method and path.
        request: String,
    },
    /// No client can be made from the configuration.
    #[error("API client for `{server}`: {problem}")]
    Configuration {
        /// The server's URL.
        server: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The configuration could not be read.
    #[error(transparent)]
    ConfigurationFile(#[from] ClientConfigError),
}

impl ClientError {
    /// The HTTP code the server answered with.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Status(status) => status.code,
            _ => None,
        }
    }

    /// The machine-readable reason, for instance `AlreadyExists`.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Status(status) => status.reason.as_deref(),
            _ => None,
        }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object was changed by somebody else, or a precondition failed.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409) && self.reason() != Some("AlreadyExists")
    }

    /// An object of that name exists already.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some("AlreadyExists")
    }

    /// The revision has been compacted: list again.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    /// What was sent is wrong: it cannot be read, its place does not exist, it is too large or not valid. Sent again, it is refused again.
    pub fn is_wrong_input(&self) -> bool {
        matches!(self.code(), Some(400 | 404 | 413 | 422))
    }

    /// The server did not decide: it could not be reached or is not able to answer now.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::TimedOut { .. } => true,
            Self::Status(status) => matches!(status.code, Some(429 | 500 | 502 | 503 | 504)),
            _ => false,
        }
    }
}

/// A failed answer as Kubernetes' Status, made up if a proxy in between answered something else.
pub(super) fn failure(code: u16, body: &[u8]) -> ClientError {
    let mut status: Status = json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body[..body.len().min(300)])
            .trim()
            .to_owned();
        Status {
            message: (!text.is_empty()).then(|| format!("the API server answered {code}: {text}")),
            ..Status::default()
        }
    });
    status.code = Some(
        status
            .code
            .filter(|code| *code != 0)
            .unwrap_or_else(|| i32::from(code)),
    );
    ClientError::Status(Box::new(status))
}

fn status_text(status: &Status) -> String {
    let code = status.code.unwrap_or_default();
    match (&status.message, &status.reason) {
        (Some(message), _) if !message.is_empty() => message.clone(),
        (_, Some(reason)) => format!("the API server answered {code} {reason}"),
        _ => format!("the API server answered {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_can_be_wrong_input() {
        let wrong = [400, 401, 403, 404, 409, 410, 413, 422, 429, 500, 503]
            .into_iter()
            .filter(|code| failure(*code, b"").is_wrong_input());
        assert_eq!(wrong.collect::<Vec<u16>>(), [400, 404, 413, 422]);
    }
}
