//! No frame makes the switch or the gateway's stack panic, nor answer with more than it got.

use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::Bytes;
use smoltcp::time::Instant;

use super::stack::{Identity, Stack};
use super::switch::Switch;
use crate::model::addresses;
use crate::model::spoiled::spoiled;

/// Frames that the gateway may answer one with: an answer, and what its own timers send.
const ANSWERS: usize = 8;

/// What a machine sends when it dials the gateway.
fn frames_of_a_dial() -> Vec<Bytes> {
    let mut machine = Stack::new(Identity {
        mac: addresses::node_mac(0),
        address: addresses::node_address(0),
        neighbours: vec![(addresses::GATEWAY, addresses::GATEWAY_MAC)],
    });
    machine
        .connect(SocketAddrV4::new(addresses::GATEWAY, 80))
        .expect("it may dial");
    (0..3)
        .flat_map(|seconds| machine.poll(Instant::from_secs(seconds)).frames)
        .collect()
}

#[tokio::test]
async fn any_frame_is_carried_or_dropped() {
    let mut seeds: Vec<Vec<u8>> = frames_of_a_dial()
        .iter()
        .map(|frame| frame.to_vec())
        .collect();
    assert!(
        seeds.iter().any(|frame| frame[12..14] == [8, 0]),
        "a SYN is among them"
    );
    let mut ping = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0];
    ping.extend(addresses::node_address(0).octets());
    ping.extend(addresses::GATEWAY.octets());
    ping.extend([8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);
    seeds.push(
        [
            &addresses::GATEWAY_MAC[..],
            &addresses::node_mac(0),
            &[8, 0],
            &ping,
        ]
        .concat(),
    );
    seeds.push(
        [
            &[0xff; 6][..],
            &addresses::node_mac(0),
            &[0x86, 0xdd],
            &[0x60; 40],
        ]
        .concat(),
    );
    seeds.push(
        [
            &[0xff; 6][..],
            &addresses::node_mac(0),
            &[0x81, 0, 0, 1, 8, 0],
            &[0x4f; 60],
        ]
        .concat(),
    );
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let nodes: Vec<Ipv4Addr> = (0..2).map(addresses::node_address).collect();
    let mut gateway = Stack::new(Identity::gateway(&nodes));
    gateway.listen(80).expect("the port is free");
    let (switch, _host, _late) = Switch::new(2);
    let mut at = Instant::from_secs(10);
    spoiled(&seeds, 8_000, |frame| {
        let frame = Bytes::copy_from_slice(frame);
        switch.forward(1, &frame);
        gateway.push(frame);
        at += smoltcp::time::Duration::from_millis(1);
        let answers = gateway.poll(at).frames.len();
        assert!(answers <= ANSWERS, "{answers} frames in answer to one");
    });
}
