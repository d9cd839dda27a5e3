//! The whole fabric with peers that are stacks of their own behind real sockets, as a machine is.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::gateway::{self, Gateway};
use super::stack::Identity;
use super::*;
use crate::transport::{BoxStream, Dial, Listen};

/// Only against a hang: nothing here takes a tenth of it.
const PATIENCE: Duration = Duration::from_mins(1);

fn name(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn node(text: &str) -> Port {
    Port::Node(name(text))
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("the fabric hangs")
}

async fn fabric() -> (Fabric, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = FabricConfig {
        socket_dir: dir.path().to_owned(),
        nodes: vec![name("c1"), name("w1")],
        addresses: (0..2).map(addresses::node_address).collect(),
    };
    (Fabric::start(config).await.unwrap(), dir)
}

/// A machine on the fabric. Dropped, its NIC is unplugged.
struct Machine {
    stack: Gateway,
    _unplug: DropGuard,
}

async fn boot(fabric: &Fabric, index: usize) -> Machine {
    let nodes = &fabric.shared.config.nodes;
    let mut neighbours = vec![(addresses::GATEWAY, addresses::GATEWAY_MAC)];
    neighbours.extend(
        (0..nodes.len()).map(|other| (addresses::node_address(other), addresses::node_mac(other))),
    );
    let identity = Identity {
        mac: addresses::node_mac(index),
        address: addresses::node_address(index),
        neighbours,
    };
    let nic = UnixStream::connect(fabric.socket(&nodes[index]))
        .await
        .unwrap();
    let (mut out, mut into) = Framed::new(nic, LengthDelimitedCodec::new()).split::<Bytes>();
    let (sender, mut leaving) = mpsc::channel::<Bytes>(4096);
    let (arriving, frames) = mpsc::channel(4096);
    let cancel = CancellationToken::new();
    let (stack, driver) = gateway::new(
        identity,
        frames,
        Box::new(move |frame| drop(sender.try_send(frame.clone()))),
    );
    let stop = cancel.clone();
    tokio::spawn(async move {
        let send = async {
            while let Some(frame) = leaving.recv().await {
                if out.send(frame).await.is_err() {
                    break;
                }
            }
        };
        let receive = async {
            while let Some(Ok(frame)) = into.next().await {
                let _ = arriving.try_send(BytesMut::freeze(frame));
            }
        };
        tokio::select! { () = stop.cancelled() => {}, () = send => {}, () = receive => {}, () = driver.run(stop.clone()) => {} }
    });
    Machine {
        stack,
        _unplug: cancel.drop_guard(),
    }
}

/// Echoes each connection until its peer ends its direction, then says goodbye.
fn echo(machine: &Machine, port: u16) {
    let mut listener = machine.stack.listen(port).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.write_all(b"bye").await;
                let _ = write.shutdown().await;
            });
        }
    });
}

fn at(index: usize, port: u16) -> SocketAddr {
    (addresses::node_address(index), port).into()
}

async fn round_trip(mut stream: BoxStream) {
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "hellobye");
}

#[tokio::test]
async fn connects_refuses_and_ends_each_direction_for_itself() {
    let (fabric, _dir) = fabric().await;
    let machine = boot(&fabric, 1).await;
    echo(&machine, 80);
    round_trip(soon(fabric.gateway().dial(at(1, 80))).await.unwrap()).await;
    let refused = soon(fabric.gateway().dial(at(1, 81))).await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let nowhere = soon(fabric.gateway().dial("192.0.2.1:80".parse().unwrap()))
        .await
        .err()
        .unwrap();
    assert_eq!(nowhere.kind(), io::ErrorKind::NetworkUnreachable);
}

#[tokio::test]
async fn megabytes_arrive_whole_both_ways_at_once() {
    let (fabric, _dir) = fabric().await;
    let machine = boot(&fabric, 0).await;
    echo(&machine, 80);
    let (mut read, mut write) =
        tokio::io::split(soon(fabric.gateway().dial(at(0, 80))).await.unwrap());
    let sent: Vec<u8> = (0..4_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    soon(read.read_to_end(&mut received)).await.unwrap();
    writer.await.unwrap();
    assert!(
        received.strip_suffix(b"bye").unwrap() == expected,
        "the echo differs"
    );
}

#[tokio::test]
async fn machines_reach_the_gateways_listeners_in_numbers() {
    let (fabric, _dir) = fabric().await;
    let machine = boot(&fabric, 1).await;
    let mut listener = fabric.gateway().listen(5000).unwrap();
    assert_eq!(
        fabric.gateway().listen(5000).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    let to = SocketAddr::from((addresses::GATEWAY, 5000));
    let dials = futures::future::join_all((0..48).map(|_| machine.stack.dial(to)));
    let streams: Vec<_> = soon(dials).await.into_iter().map(Result::unwrap).collect();
    for _ in &streams {
        let (_, peer) = soon(listener.accept()).await.unwrap();
        assert_eq!(peer.ip(), addresses::node_address(1));
    }
    drop(listener);
    let refused = soon(machine.stack.dial(to)).await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_cut_link_leaves_a_dial_pending_and_healing_lets_it_through() {
    let (fabric, _dir) = fabric().await;
    let machine = boot(&fabric, 1).await;
    echo(&machine, 80);
    fabric
        .set_rule(
            &Port::Host,
            &node("w1"),
            LinkRule::cut(),
            &Layer::tagged("test"),
        )
        .unwrap();
    let gateway = fabric.gateway();
    let mut dial = gateway.dial(at(1, 80));
    let dropped = || {
        fabric
            .counters(&Port::Host, &node("w1"))
            .unwrap()
            .dropped_by_rule
    };
    while dropped() == 0 {
        assert!(futures::poll!(&mut dial).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(
        fabric.rules(),
        [(Port::Host, node("w1"), "test".to_owned(), LinkRule::cut())]
    );
    fabric.heal(None, None).unwrap();
    round_trip(soon(dial).await.unwrap()).await;
    assert!(fabric.counters(&Port::Host, &node("w1")).unwrap().passed > 0);
    let unknown = fabric.set_rule(
        &node("w9"),
        &Port::Host,
        LinkRule::cut(),
        &Layer::tagged("test"),
    );
    assert_eq!(unknown, Err(FabricError::UnknownPort(node("w9"))));
}

#[tokio::test]
async fn delay_and_loss_let_tcp_through() {
    let (fabric, _dir) = fabric().await;
    let machine = boot(&fabric, 1).await;
    echo(&machine, 80);
    let rule = LinkRule {
        delay: Duration::from_millis(20),
        loss: 0.02,
        ..LinkRule::default()
    };
    fabric
        .set_rule(&node("w1"), &Port::Host, rule, &Layer::tagged("test"))
        .unwrap();
    let before = tokio::time::Instant::now();
    round_trip(soon(fabric.gateway().dial(at(1, 80))).await.unwrap()).await;
    assert!(
        before.elapsed() >= Duration::from_millis(40),
        "a handshake and an answer are both delayed"
    );
}

#[tokio::test]
async fn a_machine_that_comes_back_gets_its_port_again() {
    let (fabric, _dir) = fabric().await;
    let first = boot(&fabric, 1).await;
    echo(&first, 80);
    let mut old = soon(fabric.gateway().dial(at(1, 80))).await.unwrap();
    // The old connection still stands: the new one replaces it, as after a reset whose end nobody saw.
    let second = boot(&fabric, 1).await;
    echo(&second, 80);
    round_trip(soon(fabric.gateway().dial(at(1, 80))).await.unwrap()).await;
    // The machine knows nothing of the connection of its former life.
    let ask = async {
        old.write_all(b"still there?").await?;
        old.read_u8().await
    };
    let gone = soon(ask).await.unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::ConnectionReset);
    drop(first);
    round_trip(soon(fabric.gateway().dial(at(1, 80))).await.unwrap()).await;
}

#[tokio::test]
async fn machines_speak_with_each_other_and_a_silent_one_blocks_nobody() {
    let (fabric, _dir) = fabric().await;
    let (first, second) = (boot(&fabric, 0).await, boot(&fabric, 1).await);
    echo(&second, 80);
    round_trip(soon(first.stack.dial(at(1, 80))).await.unwrap()).await;
    drop(first);
    let gateway = fabric.gateway();
    let mut silent = gateway.dial(at(0, 80));
    assert!(futures::poll!(&mut silent).is_pending());
    for _ in 0..20 {
        round_trip(soon(gateway.dial(at(1, 80))).await.unwrap()).await;
    }
    assert!(futures::poll!(&mut silent).is_pending());
}

#[tokio::test]
async fn shutdown_resets_and_cleans_up() {
    let (fabric, _dir) = fabric().await;
    let machine = boot(&fabric, 1).await;
    echo(&machine, 80);
    let gateway = fabric.gateway();
    let mut stream = soon(gateway.dial(at(1, 80))).await.unwrap();
    fabric.shutdown().await;
    assert_eq!(
        soon(stream.read_u8()).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        soon(gateway.dial(at(1, 80))).await.err().unwrap().kind(),
        io::ErrorKind::NetworkDown
    );
    assert!(!fabric.socket(&name("w1")).exists());
}
