//! A command's streams, or a container's output, between a client and a node.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::limits::STREAM_PIECES;
use super::super::status::Status;
use super::node::{FromPod, NodeStream, Said, ToPod};
use super::options::Options;
use super::switch::Client;
use super::{channels, spdy};
use crate::orchestrator::tunnel::{StreamEnd, TerminalSize, channel};

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Stdin(Bytes),
    CloseStdin,
    Size(TerminalSize),
}

/// What a client is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last: a `Status`.
    End(Value),
}

/// The client's ends of the queues between it and the node. It drops `inputs` when it is gone.
pub(super) struct Ends {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) outputs: mpsc::Receiver<Output>,
}

/// Serves a client to the end.
pub(super) async fn serve(client: Client, node: NodeStream, options: Options) {
    let (inputs, from_client) = mpsc::channel(STREAM_PIECES);
    let (to_client, outputs) = mpsc::channel(STREAM_PIECES);
    let ends = Ends { inputs, outputs };
    let relaying = relay(node, from_client, to_client, &options);
    match client {
        Client::WebSocket(socket, protocol) => {
            let half_close = protocol == super::switch::V5;
            tokio::join!(relaying, channels::serve(*socket, half_close, ends));
        }
        Client::Spdy(connection) => {
            tokio::join!(relaying, spdy::remote::serve(connection, &options, ends));
        }
    }
}

/// Carries everything both ways until the node has said the end, or the client is gone.
async fn relay(
    node: NodeStream,
    inputs: mpsc::Receiver<Input>,
    outputs: mpsc::Sender<Output>,
    options: &Options,
) {
    let (to_pod, from_pod) = node.split();
    let forth = carry_input(to_pod, inputs);
    let back = carry_output(from_pod, &outputs, options);
    // The last: the client may be gone while the node takes nothing.
    let end = tokio::select! {
        end = back => end,
        () = forth => return,
        () = outputs.closed() => return,
    };
    if let Some(end) = end {
        // A client that is gone needs no end.
        let _ = outputs
            .send(Output::End(status(&end, &options.command)))
            .await;
    }
}

/// Ends when the client is gone.
async fn carry_input(mut pod: ToPod, mut inputs: mpsc::Receiver<Input>) {
    let mut connected = true;
    while let Some(input) = inputs.recv().await {
        // The node's end is told on the other way.
        if connected {
            connected = match input {
                Input::Stdin(bytes) => pod.send(channel::STDIN, &bytes).await,
                Input::CloseStdin => pod.close().await,
                Input::Size(size) => {
                    let size = serde_json::to_vec(&size).expect("two numbers are JSON");
                    pod.send(channel::RESIZE, &size).await
                }
            };
        }
    }
}

/// `None` when the client takes nothing any more.
async fn carry_output(
    mut pod: FromPod,
    outputs: &mpsc::Sender<Output>,
    options: &Options,
) -> Option<StreamEnd> {
    loop {
        let output = match pod.next().await {
            Said::Stdout(bytes) if options.stdout => Output::Stdout(bytes),
            Said::Stderr(bytes) if options.stderr => Output::Stderr(bytes),
            Said::Stdout(_) | Said::Stderr(_) | Said::Closed => continue,
            Said::End(end) => return Some(end),
        };
        outputs.send(output).await.ok()?;
    }
}

/// What the error stream says at the end (kubelet's `remotecommand.ServeExec`; clients read the exit code from the cause).
fn status(end: &StreamEnd, command: &[String]) -> Value {
    match end {
        StreamEnd {
            error: Some(error), ..
        } => Status::internal(format!(
            "Internal error occurred: error executing command in container: {error}"
        ))
        .to_value(),
        StreamEnd {
            exit_code: Some(code @ (1.. | ..=-1)),
            ..
        } => json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!(
                "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                command.join(" ")
            ),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        StreamEnd { .. } => {
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_clients_read_it() {
        let command = ["sh", "-c", "exit 3"].map(str::to_owned);
        let of = |exit_code, error: Option<&str>| {
            let error = error.map(str::to_owned);
            status(&StreamEnd { error, exit_code }, &command)
        };
        assert_eq!(of(Some(0), None)["status"], "Success");
        assert_eq!(of(None, None)["status"], "Success");
        let three = of(Some(3), None);
        assert_eq!(three["reason"], "NonZeroExitCode");
        assert_eq!(
            three["details"]["causes"],
            json!([{"reason": "ExitCode", "message": "3"}])
        );
        let failed = of(None, Some("no such program"));
        assert_eq!(failed["reason"], "InternalError");
        assert!(
            failed["message"]
                .as_str()
                .unwrap()
                .contains("no such program")
        );
    }
}
