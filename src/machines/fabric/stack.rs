//! The gateway's TCP/IP stack: smoltcp's interface and sockets with what smoltcp leaves to its user, which is ports, backlogs,
//! and the end of connections whose owner has gone. No I/O here: frames come in and go out as values, time comes in as an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use smoltcp::iface::{Config, Interface, Route, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, HardwareAddress, IpAddress, IpCidr, Ipv4Cidr,
};

use crate::model::addresses;

/// Connections, counting half-closed ones, that may exist at a time.
pub(super) const MAX_CONNECTIONS: usize = 4096;
/// Sockets that wait for a SYN on each listening port, and connections that wait there to be accepted.
pub(super) const BACKLOG: usize = 64;
/// What a connection buffers on its way to the cluster. Images travel this way.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// What a connection buffers on its way from the cluster.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// A connection whose peer acknowledges nothing for so long is dead.
const PEER_TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(120);
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(15);
/// How long a connection without an owner may take to end in peace.
const ORPHAN_GRACE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(15);
/// smoltcp forgets a neighbour after 60 s, and asks for only one unknown one a second.
const ANNOUNCE_EVERY: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(20);
const EPHEMERAL_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// Frames one poll may emit before they are handed on.
const BURST_FRAMES: usize = 512;
/// Ethernet header and 1500 bytes: an MSS of 1460.
const FRAME_BYTES: usize = 1514;

/// What one poll has brought forth.
pub(super) struct Polled {
    /// Frames for the switch.
    pub(super) frames: Vec<Bytes>,
    /// When to poll again if nothing happens before; `None`: never.
    pub(super) again: Option<Duration>,
}

/// Who a stack is and whom it knows.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) mac: [u8; 6],
    pub(super) address: Ipv4Addr,
    pub(super) neighbours: Vec<(Ipv4Addr, [u8; 6])>,
}

impl Identity {
    /// The gateway of a fabric whose nodes have these addresses.
    pub(super) fn gateway(nodes: &[Ipv4Addr]) -> Self {
        let neighbours = nodes
            .iter()
            .enumerate()
            .map(|(index, address)| (*address, addresses::node_mac(index)))
            .collect();
        Self {
            mac: addresses::GATEWAY_MAC,
            address: addresses::GATEWAY,
            neighbours,
        }
    }
}

/// See the module's text.
pub(super) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    device: FrameDevice,
    identity: Identity,
    networks: Vec<Ipv4Cidr>,
    ports: BTreeSet<u16>,
    next_port: u16,
    connections: usize,
    orphans: Vec<(SocketHandle, Instant)>,
    listening: BTreeMap<u16, Listening>,
    announce_at: Instant,
    down: bool,
}

#[derive(Default)]
struct Listening {
    waiting: Vec<SocketHandle>,
    ready: VecDeque<SocketHandle>,
    waker: Option<Waker>,
}

impl Stack {
    pub(super) fn new(identity: Identity) -> Self {
        let mut device = FrameDevice::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(identity.mac)));
        config.random_seed = rand::random();
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        let network = Ipv4Cidr::new(identity.address, addresses::NODE_PREFIX);
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::Ipv4(network))
                .expect("the list has room for one address")
        });
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            device,
            identity,
            networks: vec![network],
            ports: BTreeSet::new(),
            // Not always the same first port: a peer may remember the last fabric's connections.
            next_port: EPHEMERAL_PORTS.start() + rand::random::<u16>() % 16_384,
            connections: 0,
            orphans: Vec::new(),
            listening: BTreeMap::new(),
            announce_at: Instant::ZERO,
            down: false,
        }
    }

    /// Replaces the routes beyond the node network.
    pub(super) fn set_routes(&mut self, routes: &[(Ipv4Cidr, Ipv4Addr)]) {
        self.networks.truncate(1);
        self.networks
            .extend(routes.iter().map(|(network, _)| *network));
        self.interface.routes_mut().update(|table| {
            table.clear();
            for (network, via) in routes {
                let route = Route {
                    cidr: IpCidr::Ipv4(*network),
                    via_router: IpAddress::Ipv4(*via),
                    preferred_until: None,
                    expires_at: None,
                };
                table
                    .push(route)
                    .expect("the caller has checked the number of routes");
            }
        });
    }

    /// Takes in a frame from the switch.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.device.incoming.push_back(frame);
    }

    /// Lets the stack work.
    pub(super) fn poll(&mut self, now: Instant) -> Polled {
        if now >= self.announce_at {
            self.announce_neighbours();
            self.announce_at = now + ANNOUNCE_EVERY;
        }
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        self.replenish();
        self.reap(now);
        let mut again = self.interface.poll_delay(now, &self.sockets);
        if !self.orphans.is_empty() {
            let grace = ORPHAN_GRACE / 8;
            again = Some(again.map_or(grace, |delay| delay.min(grace)));
        }
        // Neighbours are only renewed while somebody needs them, so that an idle fabric sleeps.
        if self.connections > 0 {
            let announce = self.announce_at - now;
            again = Some(again.map_or(announce, |delay| delay.min(announce)));
        }
        Polled {
            frames: std::mem::take(&mut self.device.outgoing),
            again: again.map(Into::into),
        }
    }

    /// Starts a connection; `socket` tells how it goes.
    pub(super) fn connect(&mut self, to: SocketAddrV4) -> io::Result<SocketHandle> {
        if self.down {
            return Err(io::Error::new(
                io::ErrorKind::NetworkDown,
                "the fabric has ended",
            ));
        }
        if !self
            .networks
            .iter()
            .any(|network| network.contains_addr(to.ip()))
            || *to.ip() == self.identity.address
        {
            return Err(io::Error::new(
                io::ErrorKind::NetworkUnreachable,
                format!("the fabric has no route to {to}"),
            ));
        }
        if self.connections >= MAX_CONNECTIONS {
            return Err(io::Error::other(format!(
                "the gateway's {MAX_CONNECTIONS} connections are all in use"
            )));
        }
        let port = self
            .free_port()
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))?;
        let mut socket = new_socket();
        socket
            .connect(
                self.interface.context(),
                (IpAddress::Ipv4(*to.ip()), to.port()),
                (self.identity.address, port),
            )
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        self.ports.insert(port);
        self.connections += 1;
        Ok(self.sockets.add(socket))
    }

    /// Starts to listen on a port.
    pub(super) fn listen(&mut self, port: u16) -> io::Result<()> {
        if self.down {
            return Err(io::Error::new(
                io::ErrorKind::NetworkDown,
                "the fabric has ended",
            ));
        }
        if port == 0 || EPHEMERAL_PORTS.contains(&port) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("port {port} is not one to listen on"),
            ));
        }
        if self.listening.contains_key(&port) {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("gateway port {port} has a listener"),
            ));
        }
        self.listening.insert(port, Listening::default());
        self.replenish();
        Ok(())
    }

    /// Stops listening; connections that nobody has accepted are reset.
    pub(super) fn unlisten(&mut self, port: u16, now: Instant) {
        let Some(listening) = self.listening.remove(&port) else {
            return;
        };
        for handle in listening.waiting {
            self.sockets.remove(handle);
        }
        for handle in listening.ready {
            self.abandon(handle, Abandon::Reset, now);
        }
    }

    /// The next connection on a listening port, or `None` after registering the waker.
    pub(super) fn accept(
        &mut self,
        port: u16,
        waker: &Waker,
    ) -> io::Result<Option<(SocketHandle, SocketAddr)>> {
        if self.down {
            return Err(io::Error::new(
                io::ErrorKind::NetworkDown,
                "the fabric has ended",
            ));
        }
        let listening = self
            .listening
            .get_mut(&port)
            .expect("a listener's port listens until the listener is dropped");
        let Some(handle) = listening.ready.pop_front() else {
            listening.waker = Some(waker.clone());
            return Ok(None);
        };
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let peer = self
            .socket(handle)
            .remote_endpoint()
            .map_or(unknown, SocketAddr::from);
        Ok(Some((handle, peer)))
    }

    /// The socket of a connection.
    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Makes a connection that has just been established last.
    pub(super) fn established(&mut self, handle: SocketHandle) {
        let socket = self.socket(handle);
        socket.set_timeout(Some(PEER_TIMEOUT));
        socket.set_keep_alive(Some(KEEP_ALIVE));
    }

    /// Takes a connection back from its owner. It is gone after a later poll.
    pub(super) fn abandon(&mut self, handle: SocketHandle, how: Abandon, now: Instant) {
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        // As an operating system does: unread data cannot be acknowledged and thrown away in silence.
        if how == Abandon::Reset || socket.can_recv() {
            socket.abort();
        } else {
            socket.close();
        }
        self.orphans.push((handle, now + ORPHAN_GRACE));
    }

    /// Ends everything; every waiting task is woken and finds its connection reset.
    pub(super) fn shut_down(&mut self) {
        self.down = true;
        for (_, socket) in self.sockets.iter_mut() {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            socket.abort();
        }
        for listening in self.listening.values_mut() {
            if let Some(waker) = listening.waker.take() {
                waker.wake();
            }
        }
    }

    /// Moves established connections to their listener's queue and puts fresh sockets in their place.
    fn replenish(&mut self) {
        for (port, listening) in &mut self.listening {
            let mut established = Vec::new();
            listening.waiting.retain(|handle| {
                match self.sockets.get::<Socket<'_>>(*handle).state() {
                    State::Listen | State::SynReceived => true,
                    _ => {
                        established.push(*handle);
                        false
                    }
                }
            });
            for handle in established {
                let socket = self.sockets.get_mut::<Socket<'_>>(handle);
                if socket.remote_endpoint().is_none() {
                    self.sockets.remove(handle);
                    continue;
                }
                socket.set_timeout(Some(PEER_TIMEOUT));
                socket.set_keep_alive(Some(KEEP_ALIVE));
                self.connections += 1;
                listening.ready.push_back(handle);
                if let Some(waker) = listening.waker.take() {
                    waker.wake();
                }
            }
            while listening.waiting.len() + listening.ready.len() < BACKLOG
                && self.connections < MAX_CONNECTIONS
            {
                let mut socket = new_socket();
                socket
                    .listen(*port)
                    .expect("a new socket can listen on a port that is not zero");
                listening.waiting.push(self.sockets.add(socket));
            }
        }
    }

    /// Removes connections without an owner that have ended, and resets those that take too long.
    fn reap(&mut self, now: Instant) {
        let mut orphans = std::mem::take(&mut self.orphans);
        orphans.retain(|(handle, until)| {
            let socket = self.sockets.get_mut::<Socket<'_>>(*handle);
            match socket.state() {
                // A socket that still knows its peer has a reset to send, at the next poll.
                State::Closed if socket.remote_endpoint().is_some() && now < *until => true,
                // TIME-WAIT guards a port against old segments; ports come round only after thousands of connections.
                State::Closed | State::TimeWait => {
                    if let Some(local) = socket.local_endpoint() {
                        self.ports.remove(&local.port);
                    }
                    self.sockets.remove(*handle);
                    self.connections -= 1;
                    false
                }
                _ => {
                    if now >= *until {
                        socket.abort();
                    }
                    true
                }
            }
        });
        self.orphans = orphans;
    }

    fn free_port(&mut self) -> Option<u16> {
        for _ in 0..EPHEMERAL_PORTS.len() {
            let port = self.next_port;
            self.next_port = if port == *EPHEMERAL_PORTS.end() {
                *EPHEMERAL_PORTS.start()
            } else {
                port + 1
            };
            if !self.ports.contains(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Tells the neighbour cache every neighbour's MAC, which is known, so that no connection ever waits for an ARP answer.
    fn announce_neighbours(&mut self) {
        for neighbour in &self.identity.neighbours {
            self.device
                .incoming
                .push_back(announcement(&self.identity, *neighbour));
        }
    }
}

/// How an owner leaves its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abandon {
    /// What is buffered is sent, then the connection ends.
    Close,
    /// The peer gets a reset.
    Reset,
}

fn new_socket() -> Socket<'static> {
    // Large zeroed buffers come from the kernel page by page, so an idle connection costs little.
    let mut socket = Socket::new(
        SocketBuffer::new(vec![0; RECEIVE_BUFFER_BYTES]),
        SocketBuffer::new(vec![0; SEND_BUFFER_BYTES]),
    );
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

/// The ARP reply by which a neighbour would tell its MAC.
fn announcement(us: &Identity, (address, mac): (Ipv4Addr, [u8; 6])) -> Bytes {
    let (from, to) = (EthernetAddress(mac), EthernetAddress(us.mac));
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: from,
        source_protocol_addr: address,
        target_hardware_addr: to,
        target_protocol_addr: us.address,
    };
    let ethernet = EthernetRepr {
        src_addr: from,
        dst_addr: to,
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes.into()
}

/// Frames in, frames out.
#[derive(Default)]
struct FrameDevice {
    incoming: VecDeque<Bytes>,
    outgoing: Vec<Bytes>,
}

struct RxToken(Bytes);
struct TxToken<'a>(&'a mut Vec<Bytes>);

impl Device for FrameDevice {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((RxToken(frame), TxToken(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        (self.outgoing.len() < BURST_FRAMES).then_some(TxToken(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES;
        // What arrives has come through memory only; what leaves is checked by guests.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

impl smoltcp::phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl smoltcp::phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push(frame.into());
        result
    }
}
