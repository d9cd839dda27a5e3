//! The binary's other roles: daemon, server, agent, proxy, and the hidden verbs that run before any thread exists.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use super::cluster::open_home;
use super::failure::{self, Failure};
use super::{Command, File};
use crate::cluster::daemon::{self, Ownership};
use crate::cluster::machine::{Order, before, fault, leave};
use crate::machines::qemu;
use crate::model::names::ClusterName;
use crate::orchestrator::agent::containers;
use crate::orchestrator::{agent, api, proxy};
use crate::transport::HostNetwork;
use crate::transport::relay::{self, Opener};

/// Verbs that our own processes are started with. They are dispatched before tokio, since they change the process itself.
pub(super) fn hidden_verb() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? == qemu::VM_VERB {
        // Returns only when it could not become the machine.
        return Some(failure::print(&Failure::from(qemu::exec_vm(arguments))));
    }
    containers::dispatch()
}

/// Roles log to standard error (the journal, or the daemon's log); commands only what `RUST_LOG` asks for.
pub(super) fn start_logging(command: &Command) {
    let default = match command {
        Command::Daemon(_) | Command::Server(_) | Command::Agent(_) | Command::Proxy(_) => "info",
        _ => "off",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
}

/// Guests have one virtual CPU and little memory: their roles run on one thread.
pub(super) fn runtime(command: &Command) -> io::Result<Runtime> {
    match command {
        Command::Agent(_)
        | Command::Proxy(_)
        | Command::Server(_)
        | Command::Relay(_)
        | Command::Machine(_) => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build(),
    }
}

/// Arguments of `daemon`.
#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// Take the cluster down when standard input ends.
    #[arg(long)]
    owned: bool,
    /// The same while the cluster is being brought up, until the daemon is disowned.
    #[arg(long, conflicts_with = "owned")]
    begun: bool,
}

impl Daemon {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let home = open_home()?;
        let paths = home.cluster(&name);
        let ownership = match (self.owned, self.begun) {
            (true, _) => Ownership::Owned,
            (_, true) => Ownership::Begun,
            _ => Ownership::Detached,
        };
        daemon::run(&home, paths, ownership).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `server`, `agent` and `proxy`.
#[derive(Debug, Args)]
pub(super) struct Role {
    /// Configuration file of the role.
    #[arg(long, value_name = "FILE")]
    config: File,
}

impl Role {
    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        let file = self.config.display();
        let text = std::fs::read_to_string(&self.config).map_err(|error| {
            Failure::new(format!("read `{file}`"))
                .because(error)
                .invalid()
        })?;
        toml::from_str(&text).map_err(|error| {
            Failure::new(format!("understand `{file}`"))
                .because(error)
                .invalid()
        })
    }

    pub(super) async fn server(self) -> Result<ExitCode, Failure> {
        api::run(self.read()?).await?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) async fn agent(self) -> Result<ExitCode, Failure> {
        agent::run(self.read()?).await?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) async fn proxy(self) -> Result<ExitCode, Failure> {
        proxy::run(self.read()?).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `relay`.
#[derive(Debug, Args)]
pub(super) struct Relay {
    /// Pass connections to this address on; without it: dial for the other side.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl Relay {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let stdio = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
        match self.listen {
            None => relay::serve(stdio, std::sync::Arc::new(HostNetwork)).await?,
            Some(address) => {
                let listener = tokio::net::TcpListener::bind(address).await?;
                let (opener, driver) = Opener::start(stdio).await?;
                tokio::select! {
                    ended = driver => ended?,
                    () = relay::pass_on(listener, opener, address) => {}
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `machine`.
#[derive(Debug, Args)]
pub(super) struct Machine {
    #[command(subcommand)]
    verb: MachineVerb,
}

#[derive(Debug, Subcommand)]
enum MachineVerb {
    /// Note how the machine is, and that it belongs to a cluster now.
    Arrive { cluster: String },
    /// Put the machine back as it was.
    Leave {
        /// Only if it belongs to this cluster.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Let the machine's links do what standard input orders.
    Links {
        /// From where we are spoken to.
        #[arg(long)]
        client: Option<IpAddr>,
    },
    /// Let everything pass again.
    HealLinks,
    /// Measure round trips to a peer.
    Probe {
        peer: Ipv4Addr,
        count: u32,
        limit_ms: u64,
    },
    /// Freeze our units and pods.
    Freeze { seconds: u64 },
    /// Let them go on.
    Thaw,
    /// Carry out an order of a scenario's fault.
    Fault {
        /// The order, if it is not on standard input.
        #[arg(long)]
        order: Option<String>,
    },
}

impl Machine {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self.verb {
            MachineVerb::Arrive { cluster } => before::arrive(&cluster)?,
            MachineVerb::Leave { cluster } => leave::leave(cluster.as_deref()).await?,
            MachineVerb::Links { client } => {
                fault::set_links(&serde_json::from_reader(io::stdin())?, client)?
            }
            MachineVerb::HealLinks => fault::heal_links()?,
            MachineVerb::Probe {
                peer,
                count,
                limit_ms,
            } => {
                let measured = fault::probe(peer, count, Duration::from_millis(limit_ms)).await;
                super::terminal::say(&serde_json::to_string(&measured)?);
            }
            MachineVerb::Freeze { seconds } => fault::freeze(seconds).await?,
            MachineVerb::Thaw => fault::thaw().await?,
            MachineVerb::Fault { order } => {
                let order: Order = match order {
                    Some(text) => serde_json::from_str(&text)?,
                    None => serde_json::from_reader(io::stdin())?,
                };
                super::terminal::say(&serde_json::to_string(&order.obey().await?)?);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
