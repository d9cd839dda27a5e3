//! The simulated network: machines, directed links, TCP as far as it matters here (order, retransmission, refusal, silence).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::messages::Message;
use crate::transport::{BoxStream, Dial};

/// A machine: 0 is the one outside that the host's load balancer runs on, 1 the controller, then the workers.
pub(super) type Host = usize;

pub(super) const OUTSIDE: Host = 0;
pub(super) const SERVER: Host = 1;

/// A lost SYN is sent again after so long.
const SYN_AGAIN: Duration = Duration::from_secs(1);
/// A lost segment is sent again after so long, which doubles up to the last.
pub(super) const RESEND_FIRST_MS: u64 = 200;
pub(super) const RESEND_LAST_MS: u64 = 1600;

/// One direction between two machines.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Link {
    pub(super) cut: bool,
    pub(super) loss: f64,
    pub(super) delay_ms: u64,
}

/// A pod's address, as the network sees it.
#[derive(Debug, Clone)]
pub(super) struct PodAddress {
    pub(super) host: Host,
    pub(super) uid: String,
    pub(super) listening: bool,
}

/// What no balancer may dial any more, and who is excused.
#[derive(Debug, Clone)]
pub(super) struct Stopped {
    pub(super) uid: String,
    pub(super) excused: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Network {
    rng: StdRng,
    pub(super) off: Vec<bool>,
    pub(super) frozen: Vec<bool>,
    pub(super) fenced: Vec<bool>,
    pub(super) links: Vec<Vec<Link>>,
    pub(super) pods: BTreeMap<Ipv4Addr, PodAddress>,
    pub(super) stopped: BTreeMap<Ipv4Addr, Stopped>,
    pub(super) violation: Option<String>,
    pub(super) connects: [usize; 2],
}

enum Syn {
    Silent,
    Refused(u64),
    Accepted(u64),
}

impl Network {
    pub(super) fn new(seed: u64, hosts: usize) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed ^ 0x006e_6574),
            off: vec![false; hosts],
            frozen: vec![false; hosts],
            fenced: vec![false; hosts],
            links: vec![
                vec![
                    Link {
                        delay_ms: 1,
                        ..Link::default()
                    };
                    hosts
                ];
                hosts
            ],
            pods: BTreeMap::new(),
            stopped: BTreeMap::new(),
            violation: None,
            connects: [0; 2],
        }
    }

    /// Whether a packet that is sent now arrives, and after how many milliseconds.
    pub(super) fn passes(&mut self, from: Host, to: Host) -> Option<u64> {
        if self.off[from] || self.off[to] {
            return None;
        }
        if from == to {
            return Some(0);
        }
        let link = self.links[from][to];
        if link.cut || (link.loss > 0.0 && self.rng.random_bool(link.loss)) {
            return None;
        }
        Some(link.delay_ms + self.rng.random_range(0..=link.delay_ms / 4))
    }

    /// Whether both directions are open, losses aside.
    pub(super) fn connected(&self, one: Host, other: Host) -> bool {
        !self.off[one]
            && !self.off[other]
            && !self.links[one][other].cut
            && !self.links[other][one].cut
    }

    /// A round trip of a packet and its answer.
    pub(super) fn round_trip(&mut self, from: Host, to: Host) -> Option<u64> {
        let there = self.passes(from, to)?;
        Some(there + self.passes(to, from)?)
    }

    fn syn(&mut self, from: Host, to: Ipv4Addr) -> Syn {
        let pod = self.pods.get(&to).cloned();
        let host = pod.as_ref().map_or_else(|| host_of(to), |pod| pod.host);
        if self.frozen[from] || self.frozen[host] {
            return Syn::Silent;
        }
        let Some(after) = self.round_trip(from, host) else {
            return Syn::Silent;
        };
        let fenced = self.fenced[host] && from != host;
        if pod.is_some_and(|pod| pod.listening) && !fenced {
            Syn::Accepted(after)
        } else {
            Syn::Refused(after)
        }
    }

    fn dialled(&mut self, balancer: &str, to: Ipv4Addr) {
        let Some(stopped) = self
            .stopped
            .get(&to)
            .filter(|stopped| !stopped.excused.contains(balancer))
        else {
            return;
        };
        if self.pods.get(&to).is_none_or(|pod| pod.uid == stopped.uid) {
            self.violation.get_or_insert(format!(
                "{balancer} dials {to} of {}, which was drained and stopped",
                stopped.uid
            ));
        }
    }
}

/// The machine whose pod network an address is in.
fn host_of(address: Ipv4Addr) -> Host {
    usize::from(address.octets()[2])
}

/// How a balancer dials.
pub(super) struct SimulatedDial {
    pub(super) network: Arc<Mutex<Network>>,
    pub(super) from: Host,
    pub(super) balancer: String,
}

impl SimulatedDial {
    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for SimulatedDial {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        let IpAddr::V4(address) = to.ip() else {
            unreachable!("pods have IPv4 addresses here")
        };
        Box::pin(async move {
            self.network().dialled(&self.balancer, address);
            loop {
                let syn = self.network().syn(self.from, address);
                match syn {
                    Syn::Silent => tokio::time::sleep(SYN_AGAIN).await,
                    Syn::Refused(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    Syn::Accepted(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        return Ok(Box::new(tokio::io::duplex(1).0) as BoxStream);
                    }
                }
            }
        })
    }
}

/// Who dialled the server, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An agent's tunnel.
    Tunnel,
    /// An agent's watch of its own pods.
    Pods,
    /// A balancer's reports and orders; of the process with this index.
    Reports(usize),
    /// A balancer's watch of Services and Endpoints.
    Endpoints(usize),
}

/// A connection to the server.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) purpose: Purpose,
    pub(super) client: Host,
    /// Whether the client's, and the server's end are open.
    pub(super) open: [bool; 2],
    /// What is on its way to the client, and to the server.
    pub(super) pipes: [Pipe; 2],
    /// When the client, and the server heard the other last.
    pub(super) heard_ms: [u64; 2],
    /// Which Endpoints were sent last: their revision, and how many Services.
    pub(super) pushed: Option<(u64, u64)>,
}

/// One direction of a connection. What was sent first arrives first.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub(super) queue: VecDeque<(u64, Message)>,
    pub(super) pumping: bool,
    pub(super) resend_ms: u64,
}

/// An end of a connection, as the index of its arrays.
pub(super) const CLIENT_END: usize = 0;
pub(super) const SERVER_END: usize = 1;
