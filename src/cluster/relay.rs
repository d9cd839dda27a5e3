//! The network of a cluster without a fabric: the host speaks with it through SSH.
//!
//! ```text
//!   daemon ══ssh══ `flightcage relay` on w1 ──connect──► c1's API server, pods on c1 and w2
//!   registry mirror ◄══ssh══ `flightcage relay --listen 127.0.0.1:5000` on w1 ◄── agent of w1
//! ```
//! An address is dialled from a machine that it is *not* on, so that the connection crosses the machines' own network: what is cut
//! off there is cut off for the host as well, as it would be for any other client. All machines that are reached are tried, the
//! next one [`NEXT_VANTAGE`] after the last, since the first may itself be cut off. Only when no other machine is reached is an
//! address dialled from its own machine.
//!
//! Connecting happens in our own binary on the machine, not in its SSH server: it keeps a refusal apart from silence, one silent
//! address holds up no other, and an SSH server that forbids forwarding is fine. The registry's TLS runs from the agent to the mirror.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::machines::provider::Provider;
use crate::model::addresses;
use crate::model::cluster::ClusterSpec;
use crate::model::names::NodeName;
use crate::shell::quote;
use crate::shell::ssh::{SshTarget, session_argv};
use crate::transport::relay::{self, Opener};
use crate::transport::{BoxStream, Dial, Listen};

/// How long the first machine may take before another is asked to dial as well.
const NEXT_VANTAGE: Duration = Duration::from_millis(300);
/// Longest from the start of SSH to the relay's first byte: two logins, one through the other, on emulated machines that boot.
const LOGIN_LIMIT: Duration = Duration::from_mins(1);
/// Pause before a machine is logged in to again: doubles from the first to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LAST: Duration = Duration::from_secs(8);
/// Connections to the mirror that wait to be taken.
const WAITING: usize = 64;
/// Bytes under way between a relay and the mirror.
const PIPE_BYTES: usize = 128 << 10;

/// One machine from which the host dials.
struct Vantage {
    address: Ipv4Addr,
    pods: (Ipv4Addr, u8),
    opener: watch::Receiver<Option<Opener>>,
    /// Told when the machine has just been installed: no need to wait for the next attempt.
    installed: Arc<Notify>,
    node: NodeName,
}

impl Vantage {
    /// Whether an address is on this machine.
    fn holds(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else {
            return false;
        };
        let (network, prefix) = self.pods;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        address == self.address || address.to_bits() & mask == network.to_bits() & mask
    }
}

/// The machines' network as the host reaches it. Clones are handles.
#[derive(Clone)]
pub(super) struct RelayNetwork {
    vantages: Arc<Vec<Vantage>>,
}

/// Where the relays of one cluster find what they need.
pub(super) struct RelayConfig {
    /// The provider knows how machines are logged in to.
    pub(super) provider: Arc<dyn Provider>,
    /// Directory for the known host keys.
    pub(super) directory: PathBuf,
    /// Our binary on the machines.
    pub(super) binary: PathBuf,
    /// Whether it is there already; if not, [`RelayNetwork::installed`] tells when it has come.
    pub(super) is_installed: bool,
}

impl RelayNetwork {
    /// Keeps two relays to every machine, one a direction, in `tasks`. The second value accepts what agents send to the mirror.
    pub(super) fn start(
        spec: &ClusterSpec,
        config: RelayConfig,
        tasks: &mut JoinSet<()>,
    ) -> (Self, MirrorListener) {
        let config = Arc::new(config);
        let (queue, accepted) = mpsc::channel(WAITING);
        let mut vantages = Vec::new();
        for (index, machine) in spec.machines.iter().enumerate() {
            let (reached, opener) = watch::channel(None);
            let vantage = Vantage {
                address: spec.address(index),
                pods: addresses::pod_network(index),
                opener,
                installed: Arc::default(),
                node: machine.name.clone(),
            };
            let peer = SocketAddr::from((vantage.address, 0));
            let (node, installed) = (machine.name.clone(), vantage.installed.clone());
            tasks.spawn(keep_dialling(
                config.clone(),
                node.clone(),
                reached,
                installed.clone(),
            ));
            tasks.spawn(keep_listening(
                config.clone(),
                node,
                Mirror {
                    queue: queue.clone(),
                    peer,
                },
                installed,
            ));
            vantages.push(vantage);
        }
        (
            Self {
                vantages: Arc::new(vantages),
            },
            MirrorListener { accepted },
        )
    }

    /// Tells that our binary is on a machine now.
    pub(super) fn installed(&self, node: &NodeName) {
        if let Some(vantage) = self.vantages.iter().find(|vantage| vantage.node == *node) {
            vantage.installed.notify_waiters();
        }
    }

    /// The machines to dial from, best first.
    fn candidates(&self, to: IpAddr) -> Vec<Opener> {
        let opener = |vantage: &Vantage| vantage.opener.borrow().clone();
        let others: Vec<Opener> = self
            .vantages
            .iter()
            .filter(|vantage| !vantage.holds(to))
            .filter_map(opener)
            .collect();
        if others.is_empty() {
            self.vantages.iter().filter_map(opener).collect()
        } else {
            others
        }
    }
}

impl Dial for RelayNetwork {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let mut waiting = self.candidates(to.ip()).into_iter();
            let mut attempts = FuturesUnordered::new();
            let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
            loop {
                if let Some(opener) = waiting.next() {
                    attempts.push(async move { opener.open(to).await });
                }
                let next = async {
                    if waiting.len() == 0 {
                        std::future::pending().await
                    } else {
                        tokio::time::sleep(NEXT_VANTAGE).await
                    }
                };
                tokio::select! {
                    answer = attempts.next() => match answer {
                        Some(Ok(stream)) => return Ok(stream),
                        // The address itself answered: others would hear the same.
                        Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
                        Some(Err(error)) => last = error,
                        None => return Err(last),
                    },
                    () = next => {}
                }
            }
        })
    }
}

/// Keeps the relay that dials for us.
async fn keep_dialling(
    config: Arc<RelayConfig>,
    node: NodeName,
    reached: watch::Sender<Option<Opener>>,
    installed: Arc<Notify>,
) {
    config.wait_until_installed(&installed).await;
    let mut pause = BACKOFF_FIRST;
    loop {
        let dialling = async {
            let (_child, stream) = config.connect(&node, "dial", "").await?;
            let (opener, driver) = Opener::start(stream).await?;
            tracing::info!(%node, "reached");
            let _ = reached.send(Some(opener));
            driver.await
        };
        let began = tokio::time::Instant::now();
        let ended = dialling.await;
        if reached.send_replace(None).is_some() {
            tracing::warn!(%node, error = ?ended.err(), "no longer reached");
        } else if let Err(error) = ended {
            tracing::info!(%node, %error, "not reached yet");
        }
        pause = next_pause(pause, began);
        wait(pause, &installed).await;
    }
}

/// Keeps the relay that listens for us.
async fn keep_listening(
    config: Arc<RelayConfig>,
    node: NodeName,
    mirror: Mirror,
    installed: Arc<Notify>,
) {
    let mirror: Arc<dyn Dial> = Arc::new(mirror);
    let arguments = format!(
        "--listen {}",
        SocketAddr::from((Ipv4Addr::LOCALHOST, addresses::REGISTRY_PORT))
    );
    config.wait_until_installed(&installed).await;
    let mut pause = BACKOFF_FIRST;
    loop {
        let began = tokio::time::Instant::now();
        let serving = async {
            let (_child, stream) = config.connect(&node, "listen", &arguments).await?;
            relay::serve(stream, mirror.clone()).await
        };
        if let Err(error) = serving.await {
            tracing::info!(%node, %error, "the mirror's listener on the node ended");
        }
        pause = next_pause(pause, began);
        wait(pause, &installed).await;
    }
}

/// What lasted is tried again soon.
fn next_pause(pause: Duration, began: tokio::time::Instant) -> Duration {
    if began.elapsed() > BACKOFF_LAST * 2 {
        BACKOFF_FIRST
    } else {
        (pause * 2).min(BACKOFF_LAST)
    }
}

async fn wait(pause: Duration, installed: &Notify) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = installed.notified() => {}
    }
}

impl RelayConfig {
    /// Logging in costs a small machine a second: not before there is something to start.
    async fn wait_until_installed(&self, installed: &Notify) {
        if !self.is_installed {
            installed.notified().await;
        }
    }

    /// Starts our binary on a machine; the stream is its input and output. It ends when the returned child is dropped.
    ///
    /// Returns when it has spoken, as either side of a relay does at once: until then SSH logs in, and nobody answers whether he lives.
    async fn connect(
        &self,
        node: &NodeName,
        what: &str,
        arguments: &str,
    ) -> io::Result<(Child, BoxStream)> {
        let target = self.provider.login(node).await.map_err(io::Error::other)?;
        let target =
            target.ok_or_else(|| io::Error::other("the provider's machines are on the fabric"))?;
        let known_hosts = self.directory.join(format!("known_hosts_{node}_{what}"));
        let (child, stream) = start(
            &target,
            &known_hosts,
            &format!(
                "exec {} relay {arguments}",
                quote(&self.binary.display().to_string())
            ),
        )?;
        let mut stream = BufReader::new(stream);
        let spoken = timeout(LOGIN_LIMIT, stream.fill_buf())
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?;
        if spoken?.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ended before it spoke",
            ));
        }
        Ok((child, Box::new(stream)))
    }
}

fn start(target: &SshTarget, known_hosts: &Path, command: &str) -> io::Result<(Child, BoxStream)> {
    let argv = session_argv(target, known_hosts, command)?;
    let (program, arguments) = argv
        .split_first()
        .expect("an argument vector begins with its program");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What SSH or the relay complains of is in the daemon's log.
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    let pipes = child.stdout.take().zip(child.stdin.take());
    let (stdout, stdin) = pipes.expect("both were asked for");
    Ok((child, Box::new(tokio::io::join(stdout, stdin))))
}

/// "Dials" the registry mirror by handing it the connection.
struct Mirror {
    queue: mpsc::Sender<(BoxStream, SocketAddr)>,
    peer: SocketAddr,
}

impl Dial for Mirror {
    fn dial(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let gone = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            self.queue
                .send((Box::new(far), self.peer))
                .await
                .map_err(gone)?;
            Ok(Box::new(near) as BoxStream)
        })
    }
}

/// What the relays accepted for the mirror.
pub(super) struct MirrorListener {
    accepted: mpsc::Receiver<(BoxStream, SocketAddr)>,
}

impl Listen for MirrorListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            match self.accepted.recv().await {
                Some(accepted) => Ok(accepted),
                None => std::future::pending().await,
            }
        })
    }
}
