//! How the host's other programs reach the cluster: loopback ports for the API server and for every LoadBalancer Service.
//!
//! A port is handed out once and recorded, so that it does not move when the daemon restarts. The prober does not come this way
//! (a loopback listener accepts before the cluster does, which hides outages): it uses the dial socket.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Endpoints, Service};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::control::{Served, ServedPort};
use super::gate::Gate;
use crate::balancer::{Balancer, ServicePort, ServicePortKey, ServiceTable, forward};
use crate::kubernetes::client::{Client, ListParams, Patch};
use crate::kubernetes::load_balancer::{LOAD_BALANCER, announcement};
use crate::model::addresses;
use crate::transport::Dial;

/// Recorded loopback ports by what they serve.
pub(super) struct Ports {
    file: PathBuf,
    recorded: BTreeMap<String, u16>,
}

impl Ports {
    /// Reads the record; an absent or broken one is an empty one.
    pub(super) fn open(file: PathBuf) -> Self {
        let recorded = super::read_json(&file).unwrap_or_default();
        Self { file, recorded }
    }

    /// A listener for `what`: on its recorded port, else on `wanted`, else on any that is free.
    async fn listen(&mut self, what: &str, wanted: u16) -> io::Result<TcpListener> {
        let recorded = self.recorded.get(what).copied();
        for port in recorded.into_iter().chain([wanted]) {
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                return self.record(what, listener);
            }
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        self.record(what, listener)
    }

    fn record(&mut self, what: &str, listener: TcpListener) -> io::Result<TcpListener> {
        let port = listener.local_addr()?.port();
        if self.recorded.insert(what.to_owned(), port) != Some(port) {
            crate::cluster::home::write_private(&self.file, &serde_json::to_vec(&self.recorded)?)?;
        }
        Ok(listener)
    }
}

/// The host's side of the ingress: which ports it listens on, and whether anybody is let in.
pub(super) struct Host {
    pub(super) ports: Ports,
    pub(super) gate: Gate,
}

/// Relays a loopback port to the API server, byte by byte: TLS is between the client and the server.
pub(super) async fn serve_api(
    ports: &mut Ports,
    (dial, address): (Arc<dyn Dial>, Ipv4Addr),
    gate: Gate,
    tasks: &mut JoinSet<()>,
) -> io::Result<u16> {
    let listener = ports.listen("api", 36443).await?;
    let port = listener.local_addr()?.port();
    let server = SocketAddr::from((address, addresses::API_PORT));
    tasks.spawn(async move {
        accept(listener, gate, move |mut client| {
            let dial = dial.clone();
            async move {
                match dial.dial(server).await {
                    Ok(mut stream) => {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
                    }
                    Err(_) => reset(client),
                }
            }
        })
        .await;
    });
    Ok(port)
}

/// The host's load balancer: follows Services and Endpoints, keeps one listener a LoadBalancer port.
pub(super) struct Ingress {
    api_port: u16,
    synced: Arc<AtomicBool>,
    served: Arc<Mutex<BTreeMap<ServicePortKey, ServedEntry>>>,
}

struct ServedEntry {
    name: String,
    host: SocketAddr,
    task: AbortHandle,
}

impl Drop for ServedEntry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ingress {
    pub(super) fn start(
        client: Client,
        balancer: Balancer,
        host: Host,
        api_port: u16,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let served = Arc::new(Mutex::new(BTreeMap::new()));
        let synced = Arc::new(AtomicBool::new(false));
        tasks.spawn(follow(
            client,
            balancer,
            host,
            served.clone(),
            synced.clone(),
        ));
        Self {
            api_port,
            synced,
            served,
        }
    }

    /// Whether everything that is to be served has been listened for once.
    pub(super) fn synced(&self) -> bool {
        self.synced.load(Ordering::SeqCst)
    }

    pub(super) fn api_port(&self) -> u16 {
        self.api_port
    }

    /// What is served now, by Service.
    pub(super) fn served(&self) -> Vec<Served> {
        let served = self
            .served
            .lock()
            .expect("nobody panics while holding the lock");
        let mut services: BTreeMap<(&str, &str), Vec<ServedPort>> = BTreeMap::new();
        for (key, entry) in served.iter() {
            let port = ServedPort {
                name: entry.name.clone(),
                port: key.port,
                host: entry.host,
            };
            services
                .entry((&key.namespace, &key.name))
                .or_default()
                .push(port);
        }
        let service = |((namespace, name), ports): ((&str, &str), Vec<ServedPort>)| Served {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ports,
        };
        services.into_iter().map(service).collect()
    }
}

async fn follow(
    client: Client,
    balancer: Balancer,
    mut host: Host,
    served: Arc<Mutex<BTreeMap<ServicePortKey, ServedEntry>>>,
    synced: Arc<AtomicBool>,
) {
    let services = client.reflect::<Service>("", ListParams::default());
    let endpoints = client.reflect::<Endpoints>("", ListParams::default());
    let (mut services_changed, mut endpoints_progress) =
        (services.subscribe(), endpoints.progress());
    loop {
        if services.synced() && endpoints.synced() {
            // In this order: the objects are then at least as new as the revision.
            let revision = endpoints_progress
                .borrow_and_update()
                .revision
                .parse()
                .unwrap_or(0);
            let (services, endpoints) = (
                services_changed.borrow_and_update().clone(),
                endpoints.objects(),
            );
            let table = ServiceTable::build(
                services.values().map(Arc::as_ref),
                endpoints.values().map(Arc::as_ref),
            );
            balancer.apply(&table, revision);
            listen_for(&table, &balancer, &mut host, &served).await;
            synced.store(true, Ordering::SeqCst);
            for service in services.values() {
                announce(&client, service, &host_ports(service, &served)).await;
            }
        }
        let changed = tokio::select! {
            changed = services_changed.changed() => changed,
            changed = endpoints_progress.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Opens and closes loopback listeners so that they match the table's LoadBalancer ports.
async fn listen_for(
    table: &ServiceTable,
    balancer: &Balancer,
    Host { ports, gate }: &mut Host,
    served: &Mutex<BTreeMap<ServicePortKey, ServedEntry>>,
) {
    let wanted: BTreeMap<&ServicePortKey, &ServicePort> = table
        .ports
        .iter()
        .filter(|(_, port)| port.service_type == LOAD_BALANCER)
        .collect();
    served
        .lock()
        .expect("nobody panics while holding the lock")
        .retain(|key, _| wanted.contains_key(key));
    for (key, port) in wanted {
        if served
            .lock()
            .expect("nobody panics while holding the lock")
            .contains_key(key)
        {
            continue;
        }
        let what = format!("{}/{}:{}", key.namespace, key.name, key.port);
        let listener = match ports.listen(&what, host_port(key.port)).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(service = what, %error, "no loopback port for a LoadBalancer Service");
                continue;
            }
        };
        let Ok(host) = listener.local_addr() else {
            continue;
        };
        let (balancer, target) = (balancer.clone(), key.clone());
        let task = tokio::spawn(accept(listener, gate.clone(), move |client| {
            let (balancer, target) = (balancer.clone(), target.clone());
            async move {
                if let Err(error) = forward(client, &balancer, &target).await {
                    tracing::debug!(service = %target, %error, "a client was reset");
                }
            }
        }));
        let entry = ServedEntry {
            name: port.port_name.clone().unwrap_or_default(),
            host,
            task: task.abort_handle(),
        };
        served
            .lock()
            .expect("nobody panics while holding the lock")
            .insert(key.clone(), entry);
    }
}

/// 443 is served on 40443 when that is free: a port one can remember.
fn host_port(port: u16) -> u16 {
    if port < 20_000 { 40_000 + port } else { 0 }
}

/// The loopback ports of a Service, by its own.
fn host_ports(
    service: &Service,
    served: &Mutex<BTreeMap<ServicePortKey, ServedEntry>>,
) -> BTreeMap<u16, u16> {
    let (namespace, name) = (
        service.metadata.namespace.as_deref(),
        service.metadata.name.as_deref(),
    );
    let served = served.lock().expect("nobody panics while holding the lock");
    let own = served.iter().filter(|(key, _)| {
        Some(key.namespace.as_str()) == namespace && Some(key.name.as_str()) == name
    });
    own.map(|(key, entry)| (key.port, entry.host.port()))
        .collect()
}

/// Tells a LoadBalancer Service where it is reached, as a cloud's load balancer does, unless it knows.
async fn announce(client: &Client, service: &Service, ports: &BTreeMap<u16, u16>) {
    let Some(status) = announcement(service, Ipv4Addr::LOCALHOST.into(), ports) else {
        return;
    };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    if let Err(error) = client
        .patch::<Service>(namespace, name, &Patch::Merge(status), Some("status"))
        .await
    {
        tracing::warn!(service = format!("{namespace}/{name}"), %error, "its ingress address could not be announced");
    }
}

/// Accepts for ever; each connection is served in its own task. One that comes while the gate is closed is reset.
async fn accept<F, Served>(listener: TcpListener, gate: Gate, serve: F)
where
    F: Fn(TcpStream) -> Served,
    Served: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if gate.is_closed() => reset(client),
                Ok((client, _)) => {
                    let _ = client.set_nodelay(true);
                    connections.spawn(serve(client));
                }
                Err(error) => {
                    // Out of file descriptors: the ones that end make room.
                    tracing::warn!(%error, "accept on loopback");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Closes with a reset: the cluster refused, and the client must not take this for an orderly end.
fn reset(client: TcpStream) {
    let _ = client.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn whoever_comes_while_the_gate_is_closed_is_reset_and_who_came_before_stays() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let gate = Gate::default();
        let serving = tokio::spawn(accept(listener, gate.clone(), |mut client| async move {
            let (mut reader, mut writer) = client.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }));
        let connect = || async {
            let mut client = TcpStream::connect(address).await?;
            client.write_all(b"?").await?;
            Ok::<_, io::Error>(client)
        };
        let mut answer = [0];
        let mut early = connect().await.expect("the gate is open");
        early.read_exact(&mut answer).await.expect("it is let in");
        gate.close();
        // The reset may come before or after what is written.
        let refused = match connect().await {
            Ok(mut late) => late.read_exact(&mut answer).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(refused.is_err(), "nobody serves it");
        early.write_all(b"!").await.expect("it goes on");
        early.read_exact(&mut answer).await.expect("it goes on");
        assert_eq!(&answer, b"!");
        gate.open();
        let mut later = connect().await.expect("the gate is open again");
        later.read_exact(&mut answer).await.expect("it is let in");
        serving.abort();
    }
}
