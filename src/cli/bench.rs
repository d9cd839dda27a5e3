//! `bench`: figures of our own parts, of a cluster's life and of shipped scenarios, on this host.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::boots::Up;
use super::failure::Failure;
use super::figures::Repeated;
use super::planted::Verdicts;
use super::terminal::say;
use crate::balancer::bench;
use crate::machines::fabric;
use crate::model::names::ClusterName;

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
    /// The balancer of the service proxies beside haproxy in TCP mode (if installed): throughput and connect latency on loopback.
    Proxy {
        /// As one JSON object, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Serve one endpoint through the balancer: what `proxy` measures.
    #[command(hide = true)]
    Relay {
        /// Where to listen.
        listen: SocketAddr,
        /// Where to connect.
        endpoint: SocketAddr,
    },
    /// Three machines, bare, booted, restored and reset: how long each takes, and how much of the host's memory. On a cluster `NAME-bench`.
    Up(Up),
    /// A worker loses its power under load: failed requests, outages and times from the onset; least, median, most of several runs.
    Failover(Repeated),
    /// v1 becomes v2 under load, and then v1 again: failed requests, outages and how long it takes; least, median, most of several runs.
    RollingUpdate(Repeated),
    /// Four pods are killed under load, one after the other, without a stop signal: failed requests and outages; least, median, most of
    /// several runs.
    PodsKilled(Repeated),
    /// Stacks with one planted defect each, and their sound twins: how many verdicts are right, unhelpful (INCONCLUSIVE) and wrong.
    Verdicts(Verdicts),
}

impl Bench {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        match self.what {
            What::Fabric { json } => Self::fabric(json).await,
            What::Proxy { json } => Self::proxy(json).await,
            What::Relay { listen, endpoint } => Self::relay(listen, endpoint).await,
            What::Up(up) => up.run(name).await,
            What::Failover(repeated) => repeated.run(name, "failover").await,
            What::RollingUpdate(repeated) => repeated.run(name, "update-and-back").await,
            What::PodsKilled(repeated) => repeated.run(name, "pods-killed").await,
            What::Verdicts(verdicts) => verdicts.run(name).await,
        }
    }

    async fn proxy(json: bool) -> Result<ExitCode, Failure> {
        let measure = || -> Result<bench::Comparison, Failure> {
            let failed =
                |error: std::io::Error| Failure::new("prepare the measurement").because(error);
            let directory = tempfile::tempdir().map_err(failed)?;
            let binary = std::env::current_exe().map_err(failed)?;
            bench::compare(&binary, directory.path())
                .map_err(|error| Failure::new("measure the balancer").because(error))
        };
        let measured = tokio::task::spawn_blocking(measure).await;
        let comparison =
            measured.map_err(|error| Failure::new("measure the balancer").because(error))??;
        if json {
            say(&serde_json::to_string_pretty(&comparison)?);
            return Ok(ExitCode::SUCCESS);
        }
        let row = |name: &str, figures: &bench::Figures| {
            let bench::Figures {
                megabytes_per_second,
                connect_p50_ms,
                connect_p99_ms,
            } = figures;
            say(&format!(
                "{name:<12} {megabytes_per_second:>7.0} MB/s   connect to first byte p50 {connect_p50_ms:.3} ms, p99 {connect_p99_ms:.3} ms"
            ));
        };
        row("direct", &comparison.direct);
        row("flightcage", &comparison.flightcage);
        match &comparison.haproxy {
            Some(haproxy) => {
                row("haproxy", haproxy);
                let throughput =
                    comparison.flightcage.megabytes_per_second / haproxy.megabytes_per_second;
                let latency = comparison.flightcage.connect_p50_ms / haproxy.connect_p50_ms;
                say(&format!(
                    "throughput {throughput:.2} x haproxy's (goal >= 0.9), connect latency {latency:.2} x (goal <= 1.1)"
                ));
            }
            None => say("haproxy is not installed: nothing to compare with"),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// In a runtime like that of a node's proxy.
    async fn relay(listen: SocketAddr, endpoint: SocketAddr) -> Result<ExitCode, Failure> {
        let serve = move || -> std::io::Result<()> {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(bench::relay(listen, endpoint))
        };
        let failed = || Failure::new(format!("relay from {listen} to {endpoint}"));
        let served = tokio::task::spawn_blocking(serve)
            .await
            .map_err(|error| failed().because(error))?;
        served.map_err(|error| failed().because(error))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Runs in a runtime of its own with one thread, so that the switch and both ports share one core.
    async fn fabric(json: bool) -> Result<ExitCode, Failure> {
        let measure = || -> Result<fabric::FabricFigures, Failure> {
            let failed =
                |error: std::io::Error| Failure::new("prepare the measurement").because(error);
            let directory = tempfile::tempdir().map_err(failed)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(failed)?;
            Ok(runtime.block_on(fabric::bench(directory.path()))?)
        };
        let figures = tokio::task::spawn_blocking(measure)
            .await
            .map_err(|error| Failure::new("measure the fabric").because(error))??;
        if json {
            say(&serde_json::to_string_pretty(&figures)?);
            return Ok(ExitCode::SUCCESS);
        }
        let row = |what: &str, value: String, goal: &str| {
            say(&format!("{what:<44} {value:>14}   goal {goal}"))
        };
        row(
            "1514-byte frames, one core",
            format!("{:.0} Mbit/s", figures.large_mbit_per_second),
            ">= 1000 Mbit/s",
        );
        row(
            "1514-byte frames, one core",
            format!("{:.0} /s", figures.large_frames_per_second),
            ">= 60000 /s",
        );
        row(
            "60-byte frames, one core",
            format!("{:.0} /s", figures.small_frames_per_second),
            ">= 60000 /s",
        );
        row(
            "latency added to a bare socket, each way, p50",
            format!("{:.3} ms", figures.added_latency_p50_ms),
            "-",
        );
        row(
            "latency added to a bare socket, each way, p99",
            format!("{:.3} ms", figures.added_latency_p99_ms),
            "<= 0.3 ms",
        );
        row(
            "delay rule 50 ms ± 5 ms, mean",
            format!("{:.2} ms", figures.delay_50_5_mean_ms),
            "48 to 52 ms",
        );
        row(
            "delay rule 50 ms ± 5 ms, p50",
            format!("{:.2} ms", figures.delay_50_5_p50_ms),
            "48 to 52 ms",
        );
        row(
            "loss rule 1 %, 100,000 frames",
            format!("{:.3} %", 100.0 * figures.loss_of_1_percent),
            "0.9 to 1.1 %",
        );
        let waited = 100.0 * figures.waited_for_core;
        row(
            "time this thread waited for its core",
            format!("{waited:.0} %"),
            "taken out above, but not of the delay rule",
        );
        Ok(ExitCode::SUCCESS)
    }
}
