//! The command line: the only place that prints. One file per family of commands; `failure` turns errors into exit codes.

mod agenda;
mod artefacts;
mod bench;
mod board;
mod boots;
mod case;
mod cluster;
mod cockpit;
mod demo;
mod diff;
mod doctor;
mod environment;
mod failure;
mod figures;
mod init;
mod interruption;
mod inventory;
mod journal;
mod judge;
mod kubernetes;
mod loopback;
mod machine_logs;
mod machines;
mod manifests;
mod net;
mod new;
mod planted;
mod report;
mod roles;
mod scenario_files;
mod scenarios;
mod series;
mod shrink;
mod snapshot_files;
mod snapshots;
mod standstill;
mod store;
mod terminal;
mod vagrant;
mod watch;
mod with;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::model::names::ClusterName;
use failure::Failure;

const AFTER_HELP: &str = "\
Start here:
  flightcage demo --yes                  the whole thing: boot, deploy, break, verify, take down
  flightcage up                          a cluster of one controller and two workers that stays
  flightcage run scenarios/failover.toml run a scenario on a cluster of its own

Exit codes: 0 pass or done, 2 wrong input or usage, 3 FAIL, 4 INCONCLUSIVE, 5 SKIPPED, 1 any other error.
State lives under $FLIGHTCAGE_HOME (default: the XDG data directory).";

/// Boot a small cluster of virtual machines, deploy a stack, keep load on it, break things, and say whether it survived.
#[derive(Debug, Parser)]
#[command(name = "flightcage", version, after_help = AFTER_HELP, max_term_width = 110)]
struct Cli {
    /// Name of the cluster; several live side by side.
    #[arg(
        long,
        global = true,
        default_value = "flightcage",
        env = "FLIGHTCAGE_NAME"
    )]
    name: ClusterName,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set this host up, boot three machines, run the failover and rolling-update scenarios, and take everything down.
    Demo(demo::Demo),
    /// Bring a cluster up, building whatever box and image is missing.
    Up(cluster::Up),
    /// Take a cluster down and remove it. Always works, also on what a crash left.
    Down,
    /// List everything that exists on this host: clusters, their processes, disk use, and what a crash left.
    Ls(inventory::Ls),
    /// Clear what is dead: half-made clusters, processes, sockets, locks and unfinished builds that a crash left.
    Prune(inventory::Prune),
    /// Show a cluster's machines and the services reachable from this host.
    Status(cluster::Status),
    /// Show a cluster in a browser, and break and heal it by hand there.
    Watch(cockpit::WatchCommand),
    /// Let all machines of a cluster stand still, in memory, until `resume`.
    #[command(after_help = standstill::PAUSE_HELP)]
    Pause,
    /// Let a paused cluster go on where it was.
    #[command(after_help = standstill::RESUME_HELP)]
    Resume,
    /// Run scenario files on a cluster of their own (or any Kubernetes) and print their verdicts.
    Run(scenarios::Run),
    /// Show what a scenario would do, without doing it.
    Plan(scenarios::Plan),
    /// Check scenario files: every problem at once, with line and column.
    Lint(scenarios::Lint),
    /// Make the page of a run that is over again, from its files.
    Report(report::ReportCommand),
    /// Tell the story of a verdict in a few plain sentences.
    Explain(report::Explain),
    /// Judge a stored run again, from its files alone.
    Judge(judge::Judge),
    /// Find the smallest set of a failing scenario's faults, and their shortest durations, that still fail.
    Shrink(shrink::Shrink),
    /// Heal whatever an interrupted run left broken.
    Undo,
    /// Print a kubeconfig that any client on this host can use.
    Kubeconfig,
    /// Create or change the objects of manifest files.
    Apply(kubernetes::Apply),
    /// List objects.
    Get(kubernetes::Get),
    /// Print a pod's log, or a machine's journal.
    Logs(kubernetes::Logs),
    /// Run a command in a pod's container; its exit code is returned.
    Exec(kubernetes::Exec),
    /// Replace a ReplicationController's pods one by one, as kubectl's old rolling-update did.
    RollingUpdate(kubernetes::RollingUpdate),
    /// Undo a rolling update that has not finished.
    Rollback(kubernetes::Rollback),
    /// Log in to a machine, or run a command on it.
    Ssh(machines::SshCommand),
    /// Print a machine's console.
    Console(machines::Console),
    /// Power machines off and on, reset, freeze and thaw them.
    Node(machines::NodeCommand),
    /// Cut, shape, heal and capture the links between machines.
    Net(net::Net),
    /// Measure parts of Flightcage on this host.
    Bench(bench::Bench),
    /// Save a whole running cluster, and bring it back in seconds.
    Snapshot(snapshots::SnapshotCommand),
    /// Write the cluster's objects into one file, and create them from one.
    Store(store::StoreCommand),
    /// Run a command against a pristine cluster of its own; its exit code is returned, 125 for our own errors.
    With(with::With),
    /// Boxes: machine images.
    Box(artefacts::BoxCommand),
    /// What Vagrant is given.
    Vagrant(vagrant::VagrantCommand),
    /// OCI images of the cluster's registry mirror.
    Image(artefacts::ImageCommand),
    /// Write a commented cluster file or scenario to begin with.
    Init(init::Init),
    /// Make a folder with a scenario, a cluster file and manifests that run as they stand.
    New(new::New),
    /// Is this host able? With --fix, make it so.
    Doctor(doctor::Doctor),
    /// Hold a cluster's machines, fabric and registry (started by `up`).
    #[command(hide = true)]
    Daemon(roles::Daemon),
    /// The control plane (runs in a machine).
    #[command(hide = true)]
    Server(roles::Role),
    /// The node agent (runs in every machine).
    #[command(hide = true)]
    Agent(roles::Role),
    /// Service proxy and DNS (runs in every machine).
    #[command(hide = true)]
    Proxy(roles::Role),
    /// Dial or listen for the host, on standard input and output (runs in a machine without a fabric).
    #[command(hide = true)]
    Relay(roles::Relay),
    /// Note how this machine is, put it back, or break it for a while (runs in a machine that is not ours).
    #[command(hide = true)]
    Machine(roles::Machine),
}

/// A manifest, cluster or scenario file named on the command line.
type File = PathBuf;

/// Runs the command line; returns the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = roles::hidden_verb() {
        return code;
    }
    let cli = Cli::parse();
    roles::start_logging(&cli.command);
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("no other TLS provider was installed before");
    let runtime = match roles::runtime(&cli.command) {
        Ok(runtime) => runtime,
        Err(error) => {
            return failure::print(&Failure::new("start the async runtime").because(error));
        }
    };
    let result = runtime.block_on(run(cli));
    // Blocking reads (standard input) must not hold the process.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => failure::print(&failure),
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let name = cli.name;
    match cli.command {
        Command::Demo(command) => command.run(name).await,
        Command::Up(command) => command.run(name).await,
        Command::Down => cluster::down(name).await,
        Command::Ls(command) => command.run(),
        Command::Prune(command) => command.run().await,
        Command::Status(command) => command.run(name).await,
        Command::Watch(command) => command.run(name).await,
        Command::Pause => standstill::pause(name).await,
        Command::Resume => standstill::resume(name).await,
        Command::Run(command) => command.run(name).await,
        Command::Plan(command) => command.run(name).await,
        Command::Lint(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Judge(command) => command.run(),
        Command::Shrink(command) => command.run(name).await,
        Command::Undo => scenarios::undo(name).await,
        Command::Kubeconfig => kubernetes::kubeconfig(name),
        Command::Apply(command) => command.run(name).await,
        Command::Get(command) => command.run(name).await,
        Command::Logs(command) => command.run(name).await,
        Command::Exec(command) => command.run(name).await,
        Command::RollingUpdate(command) => command.run(name).await,
        Command::Rollback(command) => command.run(name).await,
        Command::Ssh(command) => command.run(name).await,
        Command::Console(command) => command.run(name),
        Command::Node(command) => command.run(name).await,
        Command::Net(command) => command.run(name).await,
        Command::Bench(command) => command.run(name).await,
        Command::Snapshot(command) => command.run(name).await,
        Command::Store(command) => command.run(name).await,
        Command::With(command) => command.run(name).await,
        Command::Box(command) => command.run().await,
        Command::Vagrant(command) => command.run(&name),
        Command::Image(command) => command.run().await,
        Command::Init(command) => command.run(),
        Command::New(command) => command.run(),
        Command::Doctor(command) => command.run(&name).await,
        Command::Daemon(command) => command.run(name).await,
        Command::Server(role) => role.server().await,
        Command::Agent(role) => role.agent().await,
        Command::Proxy(role) => role.proxy().await,
        Command::Relay(command) => command.run().await,
        Command::Machine(command) => command.run().await,
    }
}
