//! `bench`: figures of our own parts, on this host.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::terminal::say;
use crate::machines::fabric;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The switch between two synthetic ports: throughput, added latency, the delay and loss rules.
    Fabric {
        /// As one JSON object, for programs.
        #[arg(long)]
        json: bool,
    },
}

impl Bench {
    /// Runs in a runtime of its own with one thread, so that the switch and both ports share one core.
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let What::Fabric { json } = self.what;
        let measure = || -> Result<fabric::FabricFigures, Failure> {
            let failed = |error: std::io::Error| Failure::new("prepare the measurement").because(error);
            let directory = tempfile::tempdir().map_err(failed)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
            Ok(runtime.block_on(fabric::bench(directory.path()))?)
        };
        let figures =
            tokio::task::spawn_blocking(measure).await.map_err(|error| Failure::new("measure the fabric").because(error))??;
        if json {
            say(&serde_json::to_string_pretty(&figures)?);
            return Ok(ExitCode::SUCCESS);
        }
        let row = |what: &str, value: String, goal: &str| say(&format!("{what:<44} {value:>14}   goal {goal}"));
        row("1514-byte frames, one core", format!("{:.0} Mbit/s", figures.large_mbit_per_second), ">= 1000 Mbit/s");
        row("1514-byte frames, one core", format!("{:.0} /s", figures.large_frames_per_second), ">= 60000 /s");
        row("60-byte frames, one core", format!("{:.0} /s", figures.small_frames_per_second), ">= 60000 /s");
        row("latency added to a bare socket, each way, p50", format!("{:.3} ms", figures.added_latency_p50_ms), "-");
        row("latency added to a bare socket, each way, p99", format!("{:.3} ms", figures.added_latency_p99_ms), "<= 0.3 ms");
        row("delay rule 50 ms ± 5 ms, mean", format!("{:.2} ms", figures.delay_50_5_mean_ms), "48 to 52 ms");
        row("delay rule 50 ms ± 5 ms, p50", format!("{:.2} ms", figures.delay_50_5_p50_ms), "48 to 52 ms");
        row("loss rule 1 %, 100,000 frames", format!("{:.3} %", 100.0 * figures.loss_of_1_percent), "0.9 to 1.1 %");
        let waited = 100.0 * figures.waited_for_core;
        row("time this thread waited for its core", format!("{waited:.0} %"), "taken out above, but not of the delay rule");
        Ok(ExitCode::SUCCESS)
    }
}
