//! The balancer over a network of endpoints that accept, refuse or stay silent.

use std::collections::BTreeMap;
use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::transport::BoxStream;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Accept(Duration),
    Refuse,
    Silent,
}

const AT_ONCE: Manner = Manner::Accept(Duration::ZERO);

/// A network that keeps the endpoints' ends of the accepted connections.
#[derive(Default)]
struct Network {
    manners: Mutex<BTreeMap<SocketAddr, Manner>>,
    accepted: Mutex<Vec<(SocketAddr, DuplexStream)>>,
    dials: Mutex<Vec<SocketAddr>>,
}

impl Dial for Network {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            self.dials.lock().unwrap().push(to);
            let manner = *self
                .manners
                .lock()
                .unwrap()
                .get(&to)
                .unwrap_or(&Manner::Silent);
            match manner {
                Manner::Accept(after) => tokio::time::sleep(after).await,
                Manner::Refuse => return Err(io::ErrorKind::ConnectionRefused.into()),
                Manner::Silent => std::future::pending().await,
            }
            let (ours, theirs) = tokio::io::duplex(1024);
            self.accepted.lock().unwrap().push((to, theirs));
            Ok(Box::new(ours) as BoxStream)
        })
    }
}

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 78, 0, last], 80))
}

fn key() -> ServicePortKey {
    ServicePortKey {
        namespace: "default".into(),
        name: "web".into(),
        port: 80,
    }
}

/// A balancer whose endpoints 1, 2, … have these manners and were all confirmed.
async fn balancer(manners: &[Manner]) -> (Balancer, Arc<Network>) {
    let network = Arc::new(Network::default());
    let balancer = Balancer::new(Arc::clone(&network) as Arc<dyn Dial>);
    let endpoints: Vec<_> = (1..)
        .zip(manners)
        .map(|(n, _)| Endpoint {
            addr: addr(n),
            node: Some(format!("w{n}")),
        })
        .collect();
    network
        .manners
        .lock()
        .unwrap()
        .extend(endpoints.iter().map(|endpoint| (endpoint.addr, AT_ONCE)));
    balancer.set_endpoints(&key(), &endpoints);
    for endpoint in &endpoints {
        wait_confirmed(&balancer, endpoint.addr).await;
    }
    network.manners.lock().unwrap().extend(
        endpoints
            .iter()
            .map(|endpoint| endpoint.addr)
            .zip(manners.iter().copied()),
    );
    (balancer, network)
}

async fn wait_confirmed(balancer: &Balancer, addr: SocketAddr) {
    while !balancer.confirmed(&key(), addr) {
        tokio::task::yield_now().await;
    }
}

async fn connects_to(balancer: &Balancer, last: u8) {
    assert_eq!(
        balancer.connect(&key()).await.unwrap().open.addr(),
        addr(last)
    );
}

#[tokio::test]
async fn refused_connects_move_on_at_once_and_silent_ones_after_the_hedge() {
    for bad in [Manner::Refuse, Manner::Silent] {
        let (balancer, network) = balancer(&[bad, AT_ONCE]).await;
        let start = Instant::now();
        connects_to(&balancer, 2).await;
        assert_eq!(
            start.elapsed() >= HEDGE_AFTER,
            bad == Manner::Silent,
            "{bad:?}"
        );
        // It is in the penalty box now, so that nobody waits for it again.
        network.dials.lock().unwrap().clear();
        for _ in 0..4 {
            connects_to(&balancer, 2).await;
        }
        assert_eq!(*network.dials.lock().unwrap(), [addr(2); 4]);
    }
}

#[tokio::test]
async fn the_first_to_connect_wins_even_when_it_was_hedged() {
    let slow = Manner::Accept(HEDGE_AFTER + Duration::from_millis(20));
    let (balancer, _) = balancer(&[slow, Manner::Silent]).await;
    connects_to(&balancer, 1).await;
}

#[tokio::test]
async fn failures_are_told_apart() {
    let (refusing, _) = balancer(&[Manner::Refuse, Manner::Refuse]).await;
    assert_eq!(
        refusing.connect(&key()).await.unwrap_err(),
        ConnectError::AllRefused
    );
    refusing.set_endpoints(&key(), &[]);
    assert_eq!(
        refusing.connect(&key()).await.unwrap_err(),
        ConnectError::NoEndpoints
    );
}

#[tokio::test]
async fn a_new_endpoint_waits_until_it_accepts() {
    let (balancer, network) = balancer(&[AT_ONCE]).await;
    network
        .manners
        .lock()
        .unwrap()
        .insert(addr(2), Manner::Refuse);
    balancer.set_endpoints(
        &key(),
        &[1, 2].map(|n| Endpoint {
            addr: addr(n),
            node: None,
        }),
    );
    for _ in 0..5 {
        connects_to(&balancer, 1).await;
    }
    network.manners.lock().unwrap().insert(addr(2), AT_ONCE);
    wait_confirmed(&balancer, addr(2)).await;
    let mut seen = [0; 2];
    for _ in 0..4 {
        seen[usize::from(balancer.connect(&key()).await.unwrap().open.addr() == addr(2))] += 1;
    }
    assert_eq!(seen, [2, 2]);
}

#[tokio::test]
async fn an_endpoint_that_left_drains_and_a_dead_node_is_reset() {
    let (balancer, network) = balancer(&[AT_ONCE, AT_ONCE]).await;
    network.accepted.lock().unwrap().clear();
    let first = balancer.connect(&key()).await.unwrap();
    let leaving = first.open.addr();
    let staying = if leaving == addr(1) { addr(2) } else { addr(1) };
    balancer.set_endpoints(
        &key(),
        &[Endpoint {
            addr: staying,
            node: Some("other".into()),
        }],
    );
    let (_, mut pod) = network.accepted.lock().unwrap().pop().unwrap();
    let (mut client, mut ours) = tokio::io::duplex(1024);
    let relayed = tokio::spawn(async move { relay(&mut ours, first).await });
    // The connection goes on, each direction for itself.
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut asked = String::new();
    pod.read_to_string(&mut asked).await.unwrap();
    assert_eq!(
        (asked.as_str(), balancer.open_connections(&key(), leaving)),
        ("ping", 1)
    );
    pod.write_all(b"pong").await.unwrap();
    drop(pod);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "pong");
    assert_eq!(relayed.await.unwrap().unwrap(), (4, 4));
    assert_eq!(balancer.open_connections(&key(), leaving), 0);

    let doomed = balancer.connect(&key()).await.unwrap();
    let (_client, mut ours) = tokio::io::duplex(1024);
    balancer.abort_node("w9");
    balancer.abort_node("other");
    assert!(matches!(
        relay(&mut ours, doomed).await,
        Err(ForwardError::Aborted)
    ));
    assert!(balancer.all_open_connections().is_empty());
}

#[tokio::test]
async fn a_client_of_a_service_without_endpoints_is_reset() {
    let balancer = Balancer::new(Arc::new(Network::default()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    assert!(matches!(
        forward(accepted, &balancer, &key()).await,
        Err(ForwardError::Connect(ConnectError::NoEndpoints))
    ));
    assert_eq!(
        client.read_u8().await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
}
