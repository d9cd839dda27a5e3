//! UDP ports that lead to pods, of Services and of nodes: each client has a flow of its own to one endpoint, for as long as datagrams come.
//!
//! Nothing says when a flow is over: those that were silent for [`IDLE`] are forgotten when another begins, and the oldest when there
//! are too many. A flow whose endpoint has left, or refuses, goes on with another. A flow that waits holds a socket, and no memory for
//! an answer: all of a port share that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// A flow without a datagram for so long is over.
const IDLE: Duration = Duration::from_mins(2);
/// Flows of one port at a time.
const FLOWS_MAX: usize = 1024;
/// The longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Pause after a failed receive.
const RECEIVE_RETRY: Duration = Duration::from_millis(100);

/// Where this node listens, and the endpoints that each port leads to. An answer comes from the address that was asked: none of them
/// is the unspecified one, for which the kernel would choose.
pub(super) type Wanted = BTreeMap<SocketAddrV4, Vec<SocketAddr>>;

/// The UDP listeners, kept in line with what is wanted.
#[derive(Default)]
pub(super) struct Datagrams {
    wanted: Wanted,
    running: BTreeMap<SocketAddrV4, Listener>,
    /// Those that could not be opened: told once.
    refused: BTreeSet<SocketAddrV4>,
}

struct Listener {
    endpoints: watch::Sender<Vec<SocketAddr>>,
    _serving: AbortOnDropHandle<()>,
}

impl Datagrams {
    /// Opens listeners for new ports, closes those that are gone, and tells the others their endpoints.
    pub(super) fn apply(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        let wanted = &self.wanted;
        self.running.retain(|addr, _| wanted.contains_key(addr));
        self.refused.retain(|addr| wanted.contains_key(addr));
        for (addr, listener) in &self.running {
            listener.endpoints.send_if_modified(|known| {
                let next = &wanted[addr];
                let is_new = known != next;
                if is_new {
                    known.clone_from(next);
                }
                is_new
            });
        }
        self.retry();
    }

    /// Opens the listeners that could not be opened before.
    pub(super) fn retry(&mut self) {
        for (addr, endpoints) in &self.wanted {
            if self.running.contains_key(addr) {
                continue;
            }
            match bind(*addr) {
                Ok(socket) => {
                    let (endpoints, known) = watch::channel(endpoints.clone());
                    let serving = tokio::spawn(serve(Arc::new(socket), known));
                    let listener = Listener {
                        endpoints,
                        _serving: AbortOnDropHandle::new(serving),
                    };
                    self.running.insert(*addr, listener);
                    self.refused.remove(addr);
                }
                Err(error) if self.refused.insert(*addr) => {
                    tracing::warn!(%addr, %error, "listen for datagrams");
                }
                Err(_) => {}
            }
        }
    }

    /// Where it listens.
    #[cfg(test)]
    pub(super) fn listening(&self) -> Vec<SocketAddrV4> {
        self.running.keys().copied().collect()
    }
}

fn bind(addr: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(addr)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn serve(listener: Arc<UdpSocket>, endpoints: watch::Receiver<Vec<SocketAddr>>) {
    let mut flows = Flows::default();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        match listener.recv_from(&mut datagram).await {
            Ok((length, client)) => {
                let known = endpoints.borrow().clone();
                let passed = flows.pass(&listener, client, &datagram[..length], &known);
                if let Err(error) = passed.await {
                    tracing::debug!(%client, %error, "a datagram is dropped");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "receive a datagram");
                tokio::time::sleep(RECEIVE_RETRY).await;
            }
        }
    }
}

/// The flows of one port, by client.
#[derive(Default)]
struct Flows {
    flows: HashMap<SocketAddr, Flow>,
    turn: usize,
    answer: Arc<Mutex<Answer>>,
}

/// Room for the longest datagram.
struct Answer(Box<[u8]>);

impl Default for Answer {
    fn default() -> Self {
        Self(vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice())
    }
}

struct Flow {
    endpoint: SocketAddr,
    socket: Arc<UdpSocket>,
    used: Arc<Mutex<Instant>>,
    _answers: AbortOnDropHandle<()>,
}

impl Flow {
    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flows {
    /// Sends a client's datagram on; where its endpoint refuses, to each of the others in turn.
    async fn pass(
        &mut self,
        listener: &Arc<UdpSocket>,
        client: SocketAddr,
        datagram: &[u8],
        endpoints: &[SocketAddr],
    ) -> io::Result<()> {
        let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
        for _ in 0..=endpoints.len() {
            let known = self.flows.get(&client);
            let is_right = known.is_some_and(|flow| {
                endpoints.contains(&flow.endpoint) && flow.used().elapsed() < IDLE
            });
            if !is_right {
                self.flows.remove(&client);
                if endpoints.is_empty() {
                    break;
                }
                let endpoint = endpoints[self.turn % endpoints.len()];
                self.turn = self.turn.wrapping_add(1);
                self.make_room(FLOWS_MAX);
                let flow = begin(listener, client, endpoint, &self.answer).await?;
                self.flows.insert(client, flow);
            }
            let Some(flow) = self.flows.get(&client) else {
                break;
            };
            *flow.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            match flow.socket.send(datagram).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    last = error;
                    self.flows.remove(&client);
                }
            }
        }
        Err(last)
    }

    /// For one more, of at most so many.
    fn make_room(&mut self, most: usize) {
        self.flows.retain(|_, flow| flow.used().elapsed() < IDLE);
        if self.flows.len() < most {
            return;
        }
        let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used());
        if let Some(client) = oldest.map(|(client, _)| *client) {
            self.flows.remove(&client);
        }
    }
}

/// A flow from a client to an endpoint, whose answers come from the address that the client asked.
async fn begin(
    listener: &Arc<UdpSocket>,
    client: SocketAddr,
    endpoint: SocketAddr,
    answer: &Arc<Mutex<Answer>>,
) -> io::Result<Flow> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(endpoint).await?;
    let socket = Arc::new(socket);
    let used = Arc::new(Mutex::new(Instant::now()));
    let answers = {
        let (listener, socket, used) =
            (Arc::clone(listener), Arc::clone(&socket), Arc::clone(&used));
        let answer = Arc::clone(answer);
        async move {
            // An endpoint that refuses is noticed by the next datagram to it.
            while socket.readable().await.is_ok() {
                let received = {
                    let room = &mut answer.lock().unwrap_or_else(PoisonError::into_inner).0;
                    let received = socket.try_recv(room);
                    received.map(|length| room[..length].to_vec())
                };
                let datagram = match received {
                    Ok(datagram) => datagram,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(_) => break,
                };
                *used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                if let Err(error) = listener.send_to(&datagram, client).await {
                    tracing::debug!(%client, %error, "an answer is dropped");
                }
            }
        }
    };
    Ok(Flow {
        endpoint,
        socket,
        used,
        _answers: AbortOnDropHandle::new(tokio::spawn(answers)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod that answers each datagram with its own port.
    async fn pod() -> (u16, AbortOnDropHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let answering = tokio::spawn(async move {
            let mut datagram = [0; 16];
            while let Ok((_, from)) = socket.recv_from(&mut datagram).await {
                socket
                    .send_to(port.to_string().as_bytes(), from)
                    .await
                    .unwrap();
            }
        });
        (port, AbortOnDropHandle::new(answering))
    }

    fn wanted(port: u16, pods: &[u16]) -> Wanted {
        let endpoints = pods
            .iter()
            .map(|pod| SocketAddr::from((Ipv4Addr::LOCALHOST, *pod)))
            .collect();
        Wanted::from([(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), endpoints)])
    }

    async fn ask(client: &UdpSocket, port: u16) -> u16 {
        client.send_to(b"hello", ("127.0.0.1", port)).await.unwrap();
        let mut answer = [0; 16];
        let (length, from) = client.recv_from(&mut answer).await.unwrap();
        assert_eq!(
            from.port(),
            port,
            "it comes from the address that was asked"
        );
        String::from_utf8_lossy(&answer[..length]).parse().unwrap()
    }

    #[tokio::test]
    async fn a_client_keeps_its_endpoint_until_that_leaves() {
        let ((first, _first), (second, _second)) = (pod().await, pod().await);
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        let mut datagrams = Datagrams::default();
        datagrams.apply(wanted(port, &[first, second]));
        assert!(datagrams.listening().is_empty(), "its address is taken");
        assert_eq!(datagrams.refused.len(), 1);
        drop(free);
        datagrams.retry();
        assert!(datagrams.refused.is_empty());
        let clients = [
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        ];
        let mut had = Vec::new();
        for client in &clients {
            let pod = ask(client, port).await;
            assert_eq!(ask(client, port).await, pod);
            had.push(pod);
        }
        had.sort_unstable();
        let mut both = [first, second];
        both.sort_unstable();
        assert_eq!(had, both, "clients take turns");
        datagrams.apply(wanted(port, &[second]));
        for client in &clients {
            assert_eq!(ask(client, port).await, second);
        }
        datagrams.apply(Wanted::new());
        assert!(datagrams.listening().is_empty());
    }

    #[tokio::test]
    async fn silent_flows_are_forgotten_when_another_begins_and_their_number_is_bounded() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let endpoints = [silent.local_addr().unwrap()];
        let listener = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let client = |number: u16| SocketAddr::from(([127, 0, 0, 1], number));
        let mut flows = Flows::default();
        for number in 1..=3 {
            flows
                .pass(&listener, client(number), b"x", &endpoints)
                .await
                .unwrap();
        }
        tokio::time::pause();
        tokio::time::advance(IDLE).await;
        flows
            .pass(&listener, client(4), b"x", &endpoints)
            .await
            .unwrap();
        assert_eq!(flows.flows.keys().collect::<Vec<_>>(), [&client(4)]);
        for number in 5..=21 {
            tokio::time::advance(Duration::from_millis(1)).await;
            flows.make_room(16);
            let flow = begin(&listener, client(number), endpoints[0], &flows.answer)
                .await
                .unwrap();
            flows.flows.insert(client(number), flow);
        }
        assert_eq!(flows.flows.len(), 16);
        assert!(
            !flows.flows.contains_key(&client(4)),
            "the oldest went first"
        );
    }
}
