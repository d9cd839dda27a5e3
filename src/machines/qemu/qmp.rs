//! QEMU's machine protocol, as much as we need: one client, one command at a time (QEMU's `docs/interop/qmp-spec.txt`).
//!
//! Events that nobody asked for are skipped, unknown ones too.

use std::path::Path;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

/// How long QEMU may take for an answer; the commands we use take milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Longest line we take.
const MAX_LINE_BYTES: usize = 4 << 20;

/// Why a QMP conversation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    #[error("QEMU's monitor cannot be reached: {0}")]
    Connect(std::io::Error),
    #[error("QEMU's monitor hung up while {0} was awaited")]
    Closed(String),
    #[error("QEMU's monitor gave no answer to {0} within {ANSWER_LIMIT:?}")]
    Silent(String),
    #[error("QEMU's monitor sent something that is no QMP: {0}")]
    Malformed(String),
    #[error("QEMU refused `{command}`: {reason}")]
    Refused { command: String, reason: String },
}

/// A conversation with one QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    lines: Framed<UnixStream, LinesCodec>,
}

impl Qmp {
    /// Connects and leaves negotiation mode.
    pub(super) async fn connect(socket: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(QmpError::Connect)?;
        let mut qmp = Self {
            lines: Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE_BYTES)),
        };
        qmp.await_message("the greeting", |message| message.get("QMP").is_some())
            .await?;
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Executes a command and returns what it returned.
    pub(super) async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        let request = json!({ "execute": command, "arguments": arguments }).to_string();
        self.lines
            .send(request)
            .await
            .map_err(|_| QmpError::Closed(format!("`{command}`")))?;
        let answer =
            |message: &Value| message.get("return").is_some() || message.get("error").is_some();
        let mut message = self.await_message(&format!("`{command}`"), answer).await?;
        match message.get("error") {
            Some(error) => {
                let reason = error["desc"]
                    .as_str()
                    .unwrap_or("it gave no reason")
                    .to_owned();
                Err(QmpError::Refused {
                    command: command.to_owned(),
                    reason,
                })
            }
            None => Ok(message["return"].take()),
        }
    }

    /// Executes a command of the human monitor, for what has no command of its own.
    pub(super) async fn human(&mut self, command: &str) -> Result<String, QmpError> {
        let text = self
            .execute("human-monitor-command", json!({ "command-line": command }))
            .await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits for an event that happens after this call.
    pub(super) async fn event(&mut self, name: &str) -> Result<(), QmpError> {
        self.await_message(&format!("event {name}"), |message| message["event"] == name)
            .await
            .map(|_| ())
    }

    async fn await_message(
        &mut self,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, QmpError> {
        let search = async {
            while let Some(line) = self.lines.next().await {
                let malformed =
                    |error: &dyn std::fmt::Display| QmpError::Malformed(error.to_string());
                let line = line.map_err(|error| match error {
                    // A QEMU that is killed resets the connection.
                    LinesCodecError::Io(_) => QmpError::Closed(what.to_owned()),
                    LinesCodecError::MaxLineLengthExceeded => malformed(&error),
                })?;
                let message: Value =
                    serde_json::from_str(&line).map_err(|error| malformed(&error))?;
                if wanted(&message) {
                    return Ok(message);
                }
            }
            Err(QmpError::Closed(what.to_owned()))
        };
        timeout(ANSWER_LIMIT, search)
            .await
            .unwrap_or_else(|_| Err(QmpError::Silent(what.to_owned())))
    }
}

/// The host's port in the answer to `info usernet` that leads to the guest's port `guest_port`.
pub(super) fn forwarded_port(usernet: &str, guest_port: u16) -> Option<u16> {
    usernet.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [protocol, _fd, _host, port, _guest, to, ..] = words[..] else {
            return None;
        };
        (protocol == "TCP[HOST_FORWARD]" && to.parse() == Ok(guest_port))
            .then(|| port.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    #[test]
    fn the_forwarded_port_is_found() {
        let text = "Hub -1 (ssh):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    TCP[ESTABLISHED]   21       127.0.0.1 41000       10.0.2.15    22     0     0\r\n  \
                    TCP[HOST_FORWARD]  12       127.0.0.1 34567       10.0.2.15    22     0     0\r\n";
        assert_eq!(forwarded_port(text, 22), Some(34567));
        assert_eq!(forwarded_port(text, 80), None);
        assert_eq!(forwarded_port("", 22), None);
    }

    #[tokio::test]
    async fn events_between_question_and_answer_are_skipped() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).expect("it can be bound");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("we connect");
            let script = "{\"QMP\":{}}\n{\"event\":\"NEW_IN_QEMU_99\"}\n{\"return\":{}}\n{\"event\":\"STOP\"}\n\
                          {\"return\":\"text\"}\n{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}\n";
            stream.write_all(script.as_bytes()).await.expect("we read");
            stream
        });
        let mut qmp = Qmp::connect(&path).await.expect("the greeting comes");
        assert_eq!(qmp.human("info usernet").await.expect("it answers"), "text");
        let error = qmp
            .execute("quit", json!({}))
            .await
            .expect_err("it refuses");
        assert_eq!(error.to_string(), "QEMU refused `quit`: no");
        drop(server.await);
        assert!(matches!(qmp.event("RESET").await, Err(QmpError::Closed(_))));
    }

    #[tokio::test]
    async fn whatever_the_monitor_says_ends_in_an_answer_or_an_error() {
        let seeds: &[&[u8]] = &[
            b"{\"QMP\": {\"version\": {}}}\r\n{\"event\": \"STOP\"}\r\n{\"return\": {\"status\": \"running\"}}\r\n",
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n",
        ];
        let mut inputs = Vec::new();
        crate::model::spoiled::spoiled(seeds, 500, |bytes| inputs.push(bytes.to_vec()));
        for input in inputs {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            theirs.write_all(&input).await.expect("it fits the socket");
            drop(theirs);
            let mut qmp = Qmp {
                lines: Framed::new(ours, LinesCodec::new_with_max_length(MAX_LINE_BYTES)),
            };
            while let Ok(message) = qmp.await_message("a message", |_| true).await {
                assert!(message.to_string().len() <= MAX_LINE_BYTES);
            }
            let text = String::from_utf8_lossy(&input);
            forwarded_port(&text, 22);
        }
    }
}
