//! Where a frame goes: destinations by MAC, link rules, bounded queues.

use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::capture::Taps;
use super::counters::{Count, Counters};
use super::delay::Delayed;
use super::probe::Probe;
use super::rules::{Fate, Link, RuleTable};
use crate::model::addresses;

/// Index of the gateway's port. Node `i` has port `i + 1`.
pub(super) const HOST: usize = 0;
/// Frames that may wait for one receiver.
pub(super) const QUEUE_FRAMES: usize = 2048;
/// Frames that may wait on delayed links, all together.
const DELAYED_FRAMES: usize = 16_384;
/// Destination and source MAC, and the type.
const HEADER_BYTES: usize = 14;

/// The port of the node with this index.
pub(super) const fn node_port(index: usize) -> usize {
    index + 1
}

/// What travels on a link: a machine's frame, or a probe of our own that nobody but its sender sees.
#[derive(Debug, Clone)]
pub(super) enum Parcel {
    Frame(Bytes),
    Probe(Probe),
}

impl Parcel {
    fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.len(),
            Self::Probe(probe) => probe.bytes,
        }
    }
}

/// The switch's shared part: every port's task forwards through it.
#[derive(Debug)]
pub(super) struct Switch {
    pub(super) rules: RwLock<RuleTable>,
    pub(super) counters: Counters,
    pub(super) taps: Taps,
    receivers: Vec<Mutex<Option<mpsc::Sender<Bytes>>>>,
    delayed: mpsc::Sender<Delayed>,
}

impl Switch {
    /// A switch of `nodes` nodes and the gateway, with the gateway's frames and the delayed ones.
    pub(super) fn new(nodes: usize) -> (Arc<Self>, mpsc::Receiver<Bytes>, mpsc::Receiver<Delayed>) {
        let (host, host_frames) = mpsc::channel(QUEUE_FRAMES);
        let (delayed, delay_line) = mpsc::channel(DELAYED_FRAMES);
        let ports = nodes + 1;
        let mut receivers: Vec<_> = (0..ports).map(|_| Mutex::new(None)).collect();
        receivers[HOST] = Mutex::new(Some(host));
        let switch = Self {
            rules: RwLock::default(),
            counters: Counters::new(ports),
            taps: Taps::default(),
            receivers,
            delayed,
        };
        (Arc::new(switch), host_frames, delay_line)
    }

    /// Makes a new queue the port's receiver; frames that waited in the old one are lost.
    pub(super) fn attach(&self, port: usize) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(QUEUE_FRAMES);
        *self.receivers[port]
            .lock()
            .expect("no holder of a port panics") = Some(sender);
        receiver
    }

    /// Leaves the port without a receiver.
    pub(super) fn detach(&self, port: usize) {
        *self.receivers[port]
            .lock()
            .expect("no holder of a port panics") = None;
    }

    /// Whether somebody receives at the port.
    pub(super) fn connected(&self, port: usize) -> bool {
        self.receivers[port]
            .lock()
            .expect("no holder of a port panics")
            .is_some()
    }

    /// Takes a frame that came in at port `from` to wherever its destination says.
    pub(super) fn forward(&self, from: usize, frame: &Bytes) {
        if frame.len() < HEADER_BYTES || frame[6..12] != mac_of(from) {
            return;
        }
        self.taps.sent(from, frame);
        if frame[0] & 1 == 1 {
            for to in (0..self.receivers.len()).filter(|&to| to != from) {
                self.pass((from, to), Parcel::Frame(frame.clone()));
            }
        } else if let Some(to) = port_of(&frame[..6], self.receivers.len()).filter(|&to| to != from)
        {
            self.pass((from, to), Parcel::Frame(frame.clone()));
        }
    }

    /// Puts something on a link, whose rules decide about it.
    pub(super) fn pass(&self, link: Link, parcel: Parcel) {
        let fate = self
            .rules
            .read()
            .expect("no holder of the rules panics")
            .fate(link, parcel.len(), Instant::now);
        let count = |what| {
            // Probes are no traffic.
            if let Parcel::Frame(_) = parcel {
                self.counters.add(link, what);
            }
        };
        match fate {
            Fate::Pass => self.deliver(link, parcel),
            Fate::Lose => count(Count::DroppedByRule),
            Fate::Overflow => count(Count::DroppedByRate),
            Fate::Later {
                due,
                twice,
                reordered,
            } => {
                if twice {
                    count(Count::Duplicated);
                    self.delay(Delayed {
                        due,
                        link,
                        parcel: parcel.clone(),
                    });
                }
                if reordered {
                    count(Count::Reordered);
                }
                self.delay(Delayed { due, link, parcel });
            }
        }
    }

    fn delay(&self, delayed: Delayed) {
        let link = delayed.link;
        if self.delayed.try_send(delayed).is_err() {
            self.counters.add(link, Count::DroppedUndeliverable);
        }
    }

    /// Hands over at the end of `link` without regard to rules.
    pub(super) fn deliver(&self, link: Link, parcel: Parcel) {
        let frame = match parcel {
            Parcel::Frame(frame) => frame,
            Parcel::Probe(probe) => return probe.arrived(),
        };
        self.taps.arrived(link, &frame);
        let bytes = frame.len() as u64;
        let receiver = self.receivers[link.1]
            .lock()
            .expect("no holder of a port panics");
        if receiver
            .as_ref()
            .is_some_and(|sender| sender.try_send(frame).is_ok())
        {
            self.counters.add(link, Count::Passed);
            self.counters.add_many(link, Count::PassedBytes, bytes);
        } else {
            self.counters.add(link, Count::DroppedUndeliverable);
        }
    }
}

fn mac_of(port: usize) -> [u8; 6] {
    port.checked_sub(node_port(0))
        .map_or(addresses::GATEWAY_MAC, addresses::node_mac)
}

fn port_of(mac: &[u8], ports: usize) -> Option<usize> {
    let last = usize::from(mac[5]);
    let first_node = usize::from(addresses::node_mac(0)[5]);
    let port = if mac == addresses::GATEWAY_MAC {
        HOST
    } else {
        node_port(last.checked_sub(first_node)?)
    };
    (port < ports && mac == mac_of(port)).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::fabric::{Layer, LinkRule};

    fn frame(to: [u8; 6], from: usize) -> Bytes {
        let mut frame = vec![0; 60];
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&mac_of(from));
        frame.into()
    }

    #[tokio::test]
    async fn frames_go_by_destination() {
        let (switch, mut host, _late) = Switch::new(2);
        let mut first = switch.attach(1);
        let mut second = switch.attach(2);
        switch.forward(1, &frame(mac_of(2), 1));
        assert!(second.try_recv().is_ok() && host.try_recv().is_err() && first.try_recv().is_err());
        switch.forward(1, &frame([0xff; 6], 1));
        assert!(second.try_recv().is_ok() && host.try_recv().is_ok() && first.try_recv().is_err());
        switch.forward(1, &frame(mac_of(HOST), 1));
        assert!(host.try_recv().is_ok());
        // A MAC nobody has, a forged sender, and a runt.
        switch.forward(1, &frame(addresses::node_mac(77), 1));
        switch.forward(1, &frame(mac_of(2), 0));
        switch.forward(1, &Bytes::from_static(b"short"));
        assert!(second.try_recv().is_err() && host.try_recv().is_err());
    }

    #[tokio::test]
    async fn queues_are_bounded_and_counted() {
        let (switch, _host, _late) = Switch::new(2);
        let _first = switch.attach(1);
        for _ in 0..=QUEUE_FRAMES {
            switch.forward(2, &frame(mac_of(1), 2));
        }
        let counters = switch.counters.read((2, 1));
        assert_eq!(
            (counters.passed, counters.dropped_undeliverable),
            (QUEUE_FRAMES as u64, 1)
        );
        switch
            .rules
            .write()
            .unwrap()
            .set(
                (2, 1),
                LinkRule::cut(),
                &Layer::tagged("test"),
                Instant::now(),
            )
            .unwrap();
        switch.forward(2, &frame(mac_of(1), 2));
        assert_eq!(switch.counters.read((2, 1)).dropped_by_rule, 1);
    }
}
