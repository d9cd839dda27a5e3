//! `hostPort`: ports of this node, each of which leads to a port of one pod here.
//!
//! The agent listens and relays: TCP on every address or the one that is asked for, UDP instead of every address on loopback and the
//! node's own, from which its answers come. A connection that is open ends with its pod, or with the agent; the agent's next start
//! listens again.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::orchestrator::datagrams::Wanted;

/// Connections relayed at a time, over all ports; more wait in the listeners' backlogs.
const MAX_CONNECTIONS: usize = 1024;
const BACKLOG: u32 = 128;
/// A pod that does not accept for so long is not reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where this node listens, and where in its pods that leads.
pub(super) type Leads = BTreeMap<SocketAddrV4, SocketAddrV4>;

/// The two protocols that are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What a pod at this address asks for. A pod on the node's own network listens there itself.
pub(super) fn asked(pod: &Pod, address: Ipv4Addr, protocol: Protocol) -> Leads {
    let Some(spec) = &pod.spec else {
        return Leads::new();
    };
    if spec.host_network == Some(true) {
        return Leads::new();
    }
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|port| protocol_of(port) == Some(protocol))
        .filter_map(|port| lead(port, address))
        .collect()
}

fn protocol_of(port: &ContainerPort) -> Option<Protocol> {
    match port.protocol.as_deref() {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn lead(port: &ContainerPort, address: Ipv4Addr) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
    let ip = match port.host_ip.as_deref() {
        None | Some("") => Ipv4Addr::UNSPECIFIED,
        Some(ip) => ip.parse().ok()?,
    };
    Some((
        SocketAddrV4::new(ip, number(port.host_port?)?),
        SocketAddrV4::new(address, number(port.container_port)?),
    ))
}

/// Where a node with this address listens for the datagrams that its pods ask for.
pub(super) fn datagrams(asked: &Leads, node: Ipv4Addr) -> Wanted {
    let mut wanted = Wanted::new();
    for (listen, to) in asked {
        let on = if listen.ip().is_unspecified() {
            vec![Ipv4Addr::LOCALHOST, node]
        } else {
            vec![*listen.ip()]
        };
        for ip in on {
            wanted.insert(SocketAddrV4::new(ip, listen.port()), vec![(*to).into()]);
        }
    }
    wanted
}

/// The TCP listeners, kept in line with what this node's pods ask for.
pub(super) struct HostPorts {
    permits: Arc<Semaphore>,
    running: BTreeMap<SocketAddrV4, (SocketAddrV4, AbortOnDropHandle<()>)>,
    /// Those that could not be opened: told once.
    refused: Leads,
}

impl HostPorts {
    pub(super) fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            running: BTreeMap::new(),
            refused: Leads::new(),
        }
    }

    /// Closes what is not asked for any more, with its connections, and opens what is new or could not be opened before.
    pub(super) fn apply(&mut self, asked: &Leads) {
        self.running
            .retain(|listen, (to, _)| asked.get(listen) == Some(to));
        self.refused
            .retain(|listen, to| asked.get(listen) == Some(to));
        for (&listen, &to) in asked {
            if self.running.contains_key(&listen) {
                continue;
            }
            match bind(listen) {
                Ok(listener) => {
                    let relaying = tokio::spawn(accept(listener, to, self.permits.clone()));
                    self.running
                        .insert(listen, (to, AbortOnDropHandle::new(relaying)));
                    self.refused.remove(&listen);
                }
                Err(error) if self.refused.insert(listen, to).is_none() => {
                    tracing::warn!(%listen, pod = %to, %error, "listen on a pod's host port");
                }
                Err(_) => {}
            }
        }
    }
}

fn bind(listen: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // A pod that replaces another one need not wait for that one's connections.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::V4(listen))?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, to: SocketAddrV4, permits: Arc<Semaphore>) {
    // Ends with this future.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = permits
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((client, peer)) => {
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = relay(client, to).await {
                        tracing::debug!(%peer, pod = %to, %error, "a connection to a host port ends");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(pod = %to, %error, "accept a connection to a host port");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn relay(mut client: TcpStream, to: SocketAddrV4) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut pod = timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await??;
    pod.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut pod).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 7);

    #[test]
    fn ports_of_pods_with_an_address_of_their_own() {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "sidecar", "restartPolicy": "Always", "ports": [{"containerPort": 15000, "hostPort": 15001}]}],
            "containers": [{"name": "a", "ports": [
                {"containerPort": 80, "hostPort": 8080},
                {"containerPort": 443, "hostPort": 8443, "hostIP": "127.0.0.1", "protocol": "TCP"},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP"},
                {"containerPort": 9090},
                {"containerPort": 9091, "hostPort": 0},
            ]}],
        }}))
        .expect("a pod");
        let told: Vec<String> = asked(&pod, POD, Protocol::Tcp)
            .into_iter()
            .map(|(listen, to)| format!("{listen} {to}"))
            .collect();
        assert_eq!(
            told,
            [
                "0.0.0.0:8080 10.78.1.7:80",
                "0.0.0.0:15001 10.78.1.7:15000",
                "127.0.0.1:8443 10.78.1.7:443",
            ]
        );
        let udp = asked(&pod, POD, Protocol::Udp);
        let node = Ipv4Addr::new(10, 77, 0, 12);
        let to: SocketAddr = SocketAddrV4::new(POD, 53).into();
        assert_eq!(
            datagrams(&udp, node),
            Wanted::from([
                (SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53), vec![to]),
                (SocketAddrV4::new(node, 53), vec![to]),
            ])
        );
        pod.spec.as_mut().expect("a spec").host_network = Some(true);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(asked(&pod, POD, protocol), Leads::new());
        }
    }

    /// A server that answers each connection with a letter, and keeps it open.
    async fn server(letter: u8) -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let SocketAddr::V4(address) = listener.local_addr().expect("an address") else {
            unreachable!("it was bound to an address of version 4");
        };
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(&[letter]).await;
                open.push(stream);
            }
        });
        address
    }

    async fn letter(stream: &mut TcpStream) -> io::Result<u8> {
        stream.read_u8().await
    }

    #[tokio::test]
    async fn a_port_leads_to_the_pod_that_asks_for_it_now() {
        let (first, second) = (server(b'a').await, server(b'b').await);
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let SocketAddr::V4(listen) = free.local_addr().expect("an address") else {
            unreachable!("it was bound to an address of version 4");
        };
        let mut ports = HostPorts::new();
        // Somebody else's until it is dropped.
        ports.apply(&Leads::from([(listen, first)]));
        assert!(ports.running.is_empty() && ports.refused.len() == 1);
        drop(free);
        ports.apply(&Leads::from([(listen, first)]));
        assert!(ports.refused.is_empty());

        let mut open = TcpStream::connect(listen).await.expect("it listens");
        assert_eq!(letter(&mut open).await.expect("an answer"), b'a');
        ports.apply(&Leads::from([(listen, first)]));
        let mut another = TcpStream::connect(listen).await.expect("it listens");
        assert_eq!(letter(&mut another).await.expect("an answer"), b'a');

        ports.apply(&Leads::new());
        assert!(letter(&mut open).await.is_err(), "it ends with its pod");
        ports.apply(&Leads::from([(listen, second)]));
        let mut next = TcpStream::connect(listen).await.expect("it listens");
        assert_eq!(letter(&mut next).await.expect("an answer"), b'b');
    }
}
