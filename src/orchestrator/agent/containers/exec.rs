//! Runs a command in a container that runs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::super::runtime::{ExecOutput, RuntimeError};
use super::open::Request;
use super::{RealRuntime, START_LIMIT, UNKNOWN_EXIT, doing, failed};

/// What `exec` gives back of each stream.
const EXEC_OUTPUT_BYTES: usize = 1024 * 1024;

impl RealRuntime {
    pub(super) async fn run_command(
        &self,
        pod_uid: &str,
        container: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let instance = self.newest(pod_uid, container);
        let instance = instance.filter(|instance| instance.state.is_running());
        let instance = instance.ok_or_else(|| {
            failed(format!(
                "container `{container}` of pod {pod_uid} does not run"
            ))
        })?;
        let request = Request::write(&instance, command, false)?;
        let result = self.exec_helper(&instance.directory, &request, limit).await;
        match request.error() {
            Some(reason) => Err(failed(format!(
                "run a command in container `{container}`: {reason}"
            ))),
            None => result,
        }
    }

    async fn exec_helper(
        &self,
        directory: &Path,
        request: &Request,
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let limit_ms = limit.as_millis().to_string();
        let mut child = self.spawn_exec(directory, request, &limit_ms, Stdio::null(), None)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let all = async { tokio::join!(child.wait(), bounded(stdout), bounded(stderr)) };
        // The helper keeps the limit itself; this is for a child of the command that holds its output open.
        let outcome = timeout(limit + START_LIMIT, all).await;
        let (exit, stdout, stderr) =
            outcome.map_err(|_| failed("the command's output stayed open after its time-out"))?;
        let exit = exit.map_err(doing("wait for the command's helper"))?;
        Ok(ExecOutput {
            exit_code: exit.code().unwrap_or(UNKNOWN_EXIT),
            stdout,
            stderr,
        })
    }
}

/// Reads to the end, keeping the first [`EXEC_OUTPUT_BYTES`].
async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let mut buffer = [0u8; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = EXEC_OUTPUT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}
