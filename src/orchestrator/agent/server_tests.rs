//! The whole agent, over a fake runtime, against the real API server and its controllers on loopback.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Endpoints, Event, Node, Pod, ReplicationController, Secret, Service,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::tests::FakeRuntime;
use crate::balancer::stream::{self, ControlPlane};
use crate::balancer::{Balancer, ServicePortKey, ServiceTable};
use crate::kubernetes::client::{
    Client, DeleteParams, ListParams, LogParams, Object, ObjectMap, Patch,
};
use crate::orchestrator::api;
use crate::orchestrator::config::{AgentConfig, IdentityFiles, ServerConfig};
use crate::transport::HostNetwork;

/// Far longer than this takes; only a hang gets there.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn certificates(directory: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    std::fs::write(
        directory.join("ca.pem"),
        params.self_signed(&key).unwrap().pem(),
    )
    .unwrap();
    let issuer = Issuer::new(params, key);
    for (file, user, group) in [
        ("server", "kube-apiserver", "kubernetes"),
        ("admin", "admin", "system:masters"),
        ("node", "system:node:w1", "system:nodes"),
        (
            "balancer",
            "system:flightcage:load-balancer",
            "system:flightcage:load-balancers",
        ),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
    std::fs::write(directory.join("secrets.key"), [7; 32]).unwrap();
}

pub(super) fn identity(directory: &Path, name: &str) -> IdentityFiles {
    IdentityFiles {
        ca: directory.join("ca.pem"),
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
    }
}

pub(super) async fn until<K: Object>(
    client: &Client,
    namespace: &str,
    what: &str,
    wanted: impl Fn(&ObjectMap<K>) -> bool,
) -> ObjectMap<K> {
    let all = client.reflect::<K>(namespace, ListParams::all());
    all.wait_synced().await;
    let mut objects = all.subscribe();
    let found = tokio::time::timeout(PATIENCE, objects.wait_for(|objects| wanted(objects)))
        .await
        .map(|objects| {
            let objects = objects.unwrap();
            ObjectMap::clone(&objects)
        });
    found.unwrap_or_else(|_| panic!("waited for {what}"))
}

pub(super) fn ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[tokio::test]
async fn an_agent_serves_a_real_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    certificates(path);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let listen = listener.local_addr().unwrap();
    let server = ServerConfig {
        listen,
        address: std::net::Ipv4Addr::LOCALHOST,
        data_dir: path.join("store"),
        identity: identity(path, "server"),
        secrets_key: path.join("secrets.key"),
        eviction_brake_percent: 55,
        accept_unenforced: false,
        tokens: false,
        images: crate::model::image_policy::ImagePolicy::default(),
        granted_labels: std::collections::BTreeMap::new(),
    };
    let _server = AbortOnDropHandle::new(tokio::spawn(api::serve(
        server,
        listener,
        CancellationToken::new(),
    )));
    let config = AgentConfig {
        node: "w1".into(),
        address: Ipv4Addr::LOCALHOST,
        server: format!("https://{listen}"),
        registry: String::new(),
        identity: identity(path, "node"),
        // The fake runtime's pods have it, so that probes reach them.
        pod_network: "127.0.0.1/32".into(),
        routes: BTreeMap::new(),
        data_dir: path.join("data"),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        taints: Vec::new(),
    };
    let runtime = Arc::new(FakeRuntime::default());
    let volatile = path.join("run");
    let agent_runtime = runtime.clone();
    let _agent = AbortOnDropHandle::new(tokio::spawn(async move {
        super::run_with(config, agent_runtime, &volatile).await
    }));

    let admin = identity(path, "admin");
    let client = Client::from_identity_files(
        &format!("https://{listen}"),
        &admin.ca,
        &admin.certificate,
        &admin.key,
    )
    .unwrap();
    let is_ready = |node: &Node| {
        let conditions = node
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let nodes = until::<Node>(&client, "", "the node", |nodes| {
        nodes.values().any(|node| is_ready(node))
    })
    .await;
    let labels = nodes
        .values()
        .next()
        .unwrap()
        .metadata
        .labels
        .clone()
        .unwrap();
    assert_eq!(
        (
            labels["zone"].as_str(),
            labels["kubernetes.io/hostname"].as_str()
        ),
        ("a", "w1")
    );
    until::<Lease>(&client, "kube-node-lease", "the Lease", |leases| {
        !leases.is_empty()
    })
    .await;

    let secret: Secret =
        serde_json::from_value(json!({"metadata":{"name":"s"},"data":{"k":"dg=="}})).unwrap();
    client.create("default", &secret).await.unwrap();
    let template = json!({"metadata":{"labels":{"app":"web"}},"spec":{"terminationGracePeriodSeconds":1,
        "containers":[{"name":"c","image":"image","volumeMounts":[{"name":"v","mountPath":"/v"}]}],
        "volumes":[{"name":"v","secret":{"secretName":"s"}}]}});
    let rc = json!({"metadata":{"name":"web"},"spec":{"replicas":2,"selector":{"app":"web"},"template":template}});
    let rc: ReplicationController = serde_json::from_value(rc).unwrap();
    client.create("default", &rc).await.unwrap();
    let both = |pods: &ObjectMap<Pod>| pods.len() == 2 && pods.values().all(|pod| ready(pod));
    let pods = until::<Pod>(&client, "default", "two ready pods", both).await;
    let started = runtime.started.lock().unwrap()[0].clone();
    assert!(
        started
            .env
            .iter()
            .any(|(name, value)| name == "KUBERNETES_SERVICE_HOST" && value == "10.79.0.1")
    );
    let volume = started
        .mounts
        .iter()
        .find(|mount| mount.target == Path::new("/v"))
        .unwrap();
    assert_eq!(
        std::fs::read_to_string(volume.source.join("k")).unwrap(),
        "v",
        "in {}",
        volume.source.display()
    );

    let first = pods.values().next().unwrap().metadata.name.clone().unwrap();
    let log = client
        .logs("default", &first, &LogParams::default())
        .await
        .unwrap();
    let log: Vec<_> = futures::StreamExt::collect(log).await;
    assert_eq!(
        log.into_iter()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
            .concat(),
        b"line\n"
    );

    a_pod_is_stopped_after_its_connections(&client, path, &format!("https://{listen}"), &runtime)
        .await;

    client
        .delete::<Pod>("default", &first, &DeleteParams::default())
        .await
        .unwrap();
    let replaced = |pods: &ObjectMap<Pod>| {
        both(pods)
            && !pods
                .values()
                .any(|pod| pod.metadata.name.as_deref() == Some(&first))
    };
    until::<Pod>(&client, "default", "a replacement", replaced).await;
    let scale = Patch::Merge(json!({"spec":{"replicas":0}}));
    client
        .patch::<ReplicationController>("default", "web", &scale, None)
        .await
        .unwrap();
    until::<Pod>(&client, "default", "no pods", ObjectMap::is_empty).await;
    let killed = |events: &ObjectMap<Event>| {
        events
            .values()
            .any(|event| event.reason.as_deref() == Some("Killing"))
    };
    until::<Event>(&client, "default", "an event", killed).await;
    assert!(runtime.sandboxes.lock().unwrap().is_empty());
}

/// A load balancer like the host's, which learns of endpoints from the server and reports to it.
async fn balance(path: &Path, server: &str, balancer: Balancer) {
    let files = identity(path, "balancer");
    let client =
        Client::from_identity_files(server, &files.ca, &files.certificate, &files.key).unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let control_plane = ControlPlane::new(
        server,
        &read(&files.ca),
        &read(&files.certificate),
        &read(&files.key),
    )
    .unwrap();
    let follow = async {
        let services = client.reflect::<Service>("", ListParams::all());
        let endpoints = client.reflect::<Endpoints>("", ListParams::all());
        services.wait_synced().await;
        let mut progress = endpoints.progress();
        loop {
            let revision = progress.borrow_and_update().revision.parse().unwrap_or(0);
            let (services, endpoints) = (services.objects(), endpoints.objects());
            let table = ServiceTable::build(
                services.values().map(AsRef::as_ref),
                endpoints.values().map(AsRef::as_ref),
            );
            balancer.apply(&table, revision);
            progress.changed().await.unwrap();
        }
    };
    tokio::join!(stream::keep(control_plane, balancer.clone()), follow);
}

/// The drain barrier, end to end: a pod that is deleted leaves the balancer, and is told to stop when its last connection has ended.
async fn a_pod_is_stopped_after_its_connections(
    client: &Client,
    path: &Path,
    server: &str,
    runtime: &FakeRuntime,
) {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let service = json!({"metadata":{"name":"solo"},"spec":{"selector":{"app":"solo"},"ports":[{"port":80,"targetPort":addr.port()}]}});
    client
        .create::<Service>("default", &serde_json::from_value(service).unwrap())
        .await
        .unwrap();
    let pod = json!({"metadata":{"name":"solo","labels":{"app":"solo"}},"spec":{"containers":[{"name":"c","image":"image"}]}});
    let pod = client
        .create::<Pod>("default", &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let balancer = Balancer::new(Arc::new(HostNetwork));
    let _balancing = AbortOnDropHandle::new(tokio::spawn({
        let (path, server, balancer) = (path.to_owned(), server.to_owned(), balancer.clone());
        async move { balance(&path, &server, balancer).await }
    }));
    let key = ServicePortKey {
        namespace: "default".into(),
        name: "solo".into(),
        port: 80,
    };
    let stopped = || {
        runtime
            .said()
            .contains(&format!("stop {} c", pod.metadata.uid.as_deref().unwrap()))
    };
    let draining = async {
        while !balancer.confirmed(&key, addr) {
            tokio::task::yield_now().await;
        }
        let connection = balancer.connect(&key).await.unwrap();
        client
            .delete::<Pod>("default", "solo", &DeleteParams::default())
            .await
            .unwrap();
        while balancer.connect(&key).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!stopped(), "a connection is open");
        drop(connection);
        while !stopped() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, draining)
        .await
        .expect("the pod drains and is stopped");
}
