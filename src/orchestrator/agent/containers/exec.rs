//! Runs a command in a container that runs.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::super::runtime::{ExecOutput, RuntimeError};
use super::files::write_private;
use super::helper::{self, VERB};
use super::{RealRuntime, START_LIMIT, UNKNOWN_EXIT, doing, failed, records};

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
        let config: serde_json::Value = records::read(&instance.directory.join("config.json"))
            .ok_or_else(|| failed(format!("container `{container}` lost its configuration")))?;
        let mut process = config["process"].clone();
        process["args"] = serde_json::json!(command);
        let file = instance
            .directory
            .join(format!("exec-{}.json", uuid::Uuid::new_v4()));
        write_private(&file, &process)?;
        let result = self.exec_helper(&instance.directory, &file, limit).await;
        let reason = fs::read_to_string(helper::error_file(&file)).ok();
        let _ = fs::remove_file(&file);
        let _ = fs::remove_file(helper::error_file(&file));
        match reason {
            Some(reason) => Err(failed(format!(
                "run a command in container `{container}`: {reason}"
            ))),
            None => result,
        }
    }

    async fn exec_helper(
        &self,
        directory: &Path,
        file: &Path,
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let mut child = Command::new(&self.helper)
            .args([
                VERB.as_ref(),
                "exec".as_ref(),
                directory.as_os_str(),
                file.as_os_str(),
            ])
            .arg(limit.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .spawn()
            .map_err(doing("start the command's helper"))?;
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
