//! Containers run for real: pulled over mTLS from the registry mirror on loopback, in namespaces of the test's own.
//!
//! Needs root and a static busybox, which `FLIGHTCAGE_BUSYBOX` names (default `/bin/busybox`: Debian's `busybox-static`). The test starts itself again in new mount
//! and network namespaces; nothing of the host's network is touched. Limits are tested where the cgroup v2 tree has their
//! controllers.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flightcage::images::mirror::{self, Upstreams};
use flightcage::images::{ImageStore, Resolved};
use flightcage::orchestrator::agent::containers::{RealRuntime, RuntimeConfig};
use flightcage::orchestrator::agent::runtime::{
    ContainerSpec, ContainerState, Image, LogQuery, Mount, OpenCommand, PullError, PullPolicy,
    Runtime, SandboxSpec,
};
use flightcage::orchestrator::config::IdentityFiles;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const UID: &str = "0b7c7a52-1111-4222-8333-444455556666";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const OTHER: &str = "1c8d8b63-1111-4222-8333-444455556666";

fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold("sha256:".to_owned(), |text, byte| {
            format!("{text}{byte:02x}")
        })
}

/// An image of busybox with two layers, the upper of which hides a file of the lower.
fn fill(store: &ImageStore, busybox: &[u8]) {
    let mut lower = tar::Builder::new(Vec::new());
    let mut file = |path: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        lower.append_data(&mut header, path, bytes).unwrap();
    };
    file("bin/busybox", 0o755, busybox);
    file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n",
    );
    file("etc/hidden", 0o644, b"x");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    lower.append_link(&mut header, "bin/sh", "busybox").unwrap();
    let lower = lower.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&lower).unwrap();
    let lower = gzip.finish().unwrap();

    let mut upper = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    upper
        .append_data(&mut header, "etc/.wh.hidden", &b""[..])
        .unwrap();
    let upper = zstd::encode_all(&upper.into_inner().unwrap()[..], 1).unwrap();

    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo default"], "Env": ["FROM=image"], "StopSignal": "SIGUSR1"},
    }))
    .unwrap();
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"digest": digest(&config), "size": config.len()},
        "layers": [{"digest": digest(&lower)}, {"digest": digest(&upper)}],
    }))
    .unwrap();
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "manifests": [
            {"digest": digest(b"other"), "platform": {"architecture": "arm64", "os": "linux"}},
            {"digest": digest(&manifest), "platform": {"architecture": "amd64", "os": "linux"}},
        ],
    }))
    .unwrap();
    let lying = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": {"digest": digest(&config)},
        "layers": [{"digest": digest(b"not what comes")}],
    }))
    .unwrap();
    for bytes in [&lower, &upper, &config, &manifest, &index, &lying] {
        store.put_blob(bytes).unwrap();
    }
    // A store gone bad: the node has to notice.
    std::fs::write(store.blob_path(&digest(b"not what comes")).unwrap(), &upper).unwrap();
    for (tag, bytes) in [("latest", &index), ("lying", &lying)] {
        let resolved = Resolved {
            digest: digest(bytes),
            media_type: MANIFEST_TYPE.to_owned(),
        };
        store
            .tag(&format!("docker.io/user/box:{tag}"), &resolved)
            .unwrap();
    }
}

/// The mirror on loopback; returns its port.
async fn registry(directory: &Path, busybox: &[u8]) -> (u16, IdentityFiles) {
    let store = ImageStore::open(directory.join("store")).unwrap();
    fill(&store, busybox);
    let issued = test_identity(directory);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(mirror::serve(
        listener,
        issued.server,
        mirror::router(store, Upstreams::none()),
    ));
    (port, issued.client)
}

struct Issued {
    server: Arc<rustls::ServerConfig>,
    client: IdentityFiles,
}

fn test_identity(directory: &Path) -> Issued {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.clone().self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &issuer).unwrap(), key)
    };
    let (server, server_key) = issue("127.0.0.1");
    let (client, client_key) = issue("node");
    let files = IdentityFiles {
        ca: directory.join("ca.pem"),
        certificate: directory.join("node.pem"),
        key: directory.join("node.key"),
    };
    std::fs::write(&files.ca, authority.pem()).unwrap();
    std::fs::write(&files.certificate, client.pem()).unwrap();
    std::fs::write(&files.key, client_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots))
        .build()
        .unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
    Issued {
        server: Arc::new(
            config
                .with_single_cert(vec![server.der().clone()], key)
                .unwrap(),
        ),
        client: files,
    }
}

fn container(image: &Image, name: &str, restart_count: u32, script: &str) -> ContainerSpec {
    ContainerSpec {
        pod_uid: UID.to_owned(),
        name: name.to_owned(),
        restart_count,
        image: image.clone(),
        command: Vec::new(),
        args: vec![script.to_owned()],
        env: vec![("GREETING".to_owned(), "hello".to_owned())],
        working_dir: None,
        mounts: Vec::new(),
        cpu_limit_millis: Some(500),
        cpu_request_millis: Some(100),
        memory_limit_bytes: Some(32 * 1024 * 1024),
        oom_score_adjust: 500,
        run_as: None,
        read_only_root: false,
        privileged: false,
        groups: Vec::new(),
        capabilities_added: Vec::new(),
        capabilities_dropped: Vec::new(),
        no_new_privileges: false,
        stop_signal: None,
        sysctls: Vec::new(),
        stdin: false,
        stdin_once: false,
        tty: false,
    }
}

fn sandbox(uid: &str) -> SandboxSpec {
    SandboxSpec {
        pod_uid: uid.to_owned(),
        namespace: "default".to_owned(),
        name: format!("pod-{}", &uid[..4]),
        hostname: "cage".to_owned(),
        resolv_conf: "nameserver 10.79.0.10\n".to_owned(),
        host_network: false,
    }
}

async fn exited(runtime: &RealRuntime, name: &str) -> (i32, bool) {
    loop {
        let pods = runtime.list().await.unwrap();
        let state = pods
            .iter()
            .find(|pod| pod.pod_uid == UID)
            .unwrap()
            .containers[name]
            .state
            .clone();
        if let ContainerState::Exited {
            exit_code,
            oom_killed,
            ..
        } = state
        {
            return (exit_code, oom_killed);
        }
        runtime.changed().await;
    }
}

async fn log(runtime: &RealRuntime, name: &str, previous: bool) -> String {
    let query = LogQuery {
        follow: true,
        tail_lines: None,
        since: None,
        limit_bytes: None,
        previous,
        timestamps: false,
    };
    let mut chunks = runtime.logs(UID, name, query).await.unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        all.extend(chunk);
    }
    String::from_utf8(all).unwrap()
}

fn mounts_below(directory: &Path) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .filter(|line| {
            line.split(' ')
                .nth(1)
                .is_some_and(|path| Path::new(path).starts_with(directory))
        })
        .count()
}

#[test]
fn containers_live_and_die_for_real() {
    let busybox = std::env::var_os("FLIGHTCAGE_BUSYBOX")
        .map_or_else(|| PathBuf::from("/bin/busybox"), PathBuf::from);
    assert!(
        busybox.is_file(),
        "`{}` is not there: apt-get install busybox-static",
        busybox.display()
    );
    if std::env::var_os("FLIGHTCAGE_INSIDE").is_none() {
        // On a host with both cgroup versions, the v2 tree takes the usual place.
        let script = "ip link set lo up; u=/sys/fs/cgroup/unified; [ ! -d $u ] || mount --bind $u /sys/fs/cgroup; exec \"$0\" --nocapture";
        let status = std::process::Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--propagation",
                "private",
                "sh",
                "-ec",
                script,
            ])
            .arg(std::env::current_exe().unwrap())
            .env("FLIGHTCAGE_INSIDE", "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(live_and_die(&busybox));
}

/// Commands with open streams, with a terminal, and that nobody wants any more; a port of the pod's loopback address.
async fn streams_of_a_container(runtime: &RealRuntime) {
    let script = |script: &str, stdin: bool, tty: bool| OpenCommand {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        stdin,
        tty,
    };
    let piped = script("busybox cat; echo no >&2; exit 4", true, false);
    let mut running = runtime.open(UID, "main", piped).await.unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(b"piped in").await.unwrap();
    drop(stdin);
    let (mut out, mut errors) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (running.stdout, running.stderr.unwrap());
    stdout.read_to_string(&mut out).await.unwrap();
    stderr.read_to_string(&mut errors).await.unwrap();
    assert_eq!((&*out, &*errors), ("piped in", "no\n"));
    assert_eq!(running.end.await.unwrap(), 4);

    let on_terminal = "read line; busybox stty size; echo got $line; exit 5";
    let on_terminal = script(on_terminal, true, true);
    let mut running = runtime.open(UID, "main", on_terminal).await.unwrap();
    running.resize.as_ref().unwrap()(101, 33);
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    let mut out = String::new();
    running.stdout.read_to_string(&mut out).await.unwrap();
    assert!(
        out.contains("33 101\r\n") && out.contains("got typed\r\n"),
        "{out:?}"
    );
    assert_eq!(running.end.await.unwrap(), 5);

    // One that is over at once, perhaps before its terminal was taken.
    for _ in 0..20 {
        let short = script("echo x; exit 7", false, true);
        let mut running = runtime.open(UID, "main", short).await.unwrap();
        let mut out = String::new();
        running.stdout.read_to_string(&mut out).await.unwrap();
        assert_eq!((&*out, running.end.await.unwrap()), ("x\r\n", 7));
    }

    // Control-C reaches the command: the terminal is its controlling one.
    let waiting = script(
        // A shell that was told just before it began to wait would wait on.
        "trap 'echo told; exit 6' INT; echo up; while true; do busybox sleep 0.1; done",
        true,
        true,
    );
    let mut running = runtime.open(UID, "main", waiting).await.unwrap();
    let mut heard = [0; 4];
    running.stdout.read_exact(&mut heard).await.unwrap();
    let stdin = running.stdin.as_mut().unwrap();
    stdin.write_all(b"\x03").await.unwrap();
    let ended = tokio::time::timeout(Duration::from_mins(1), running.end).await;
    let ended = ended.expect("Control-C ends it, unless this test was started with it ignored");
    assert_eq!(ended.unwrap(), 6);

    for tty in [false, true] {
        let absent = OpenCommand {
            command: vec!["/bin/absent".to_owned()],
            stdin: false,
            tty,
        };
        let absent = runtime.open(UID, "main", absent).await.unwrap();
        assert!(absent.end.await.is_err());

        // Whoever drops it ends it, and what it waits for.
        let endless = script("echo up; busybox sleep 4321; echo over", false, tty);
        let mut running = runtime.open(UID, "main", endless).await.unwrap();
        let mut heard = [0; 3];
        running.stdout.read_exact(&mut heard).await.unwrap();
        drop(running);
        let left = [
            "/bin/sh",
            "-c",
            "busybox ps | busybox grep -c '[s]leep 4321'",
        ];
        let left = left.map(str::to_owned);
        let gone = async {
            loop {
                let limit = Duration::from_secs(20);
                let found = runtime.exec(UID, "main", &left, limit).await.unwrap();
                if found.stdout == b"0\n" {
                    return;
                }
            }
        };
        let patience = Duration::from_mins(1);
        tokio::time::timeout(patience, gone)
            .await
            .expect("the command ends");
    }

    let serve = ["/bin/sh", "-c", "busybox httpd -p 127.0.0.1:8080 -h /etc"];
    let serve = serve.map(str::to_owned);
    let limit = Duration::from_secs(20);
    assert_eq!(
        runtime
            .exec(UID, "main", &serve, limit)
            .await
            .unwrap()
            .exit_code,
        0
    );
    let mut connection = runtime.dial(UID, 8080).await.unwrap();
    connection
        .write_all(b"GET /passwd HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("web:x:33:33"), "{answer}");
    let closed = runtime.dial(UID, 8081).await.unwrap_err();
    assert!(closed.what.contains("refused"), "{}", closed.what);
    assert!(runtime.dial("no-such-pod", 80).await.is_err());
}

/// A container with a standard input, and one with a terminal; both outlive the runtime that started them.
async fn inputs_of_containers(runtime: &RealRuntime, config: &RuntimeConfig, image: &Image) {
    let script = "while read line; do echo got $line; done; echo over >&2; exit 4";
    let mut piped = container(image, "piped", 0, script);
    (piped.stdin, piped.stdin_once) = (true, true);
    runtime.start(&piped).await.unwrap();
    let mut attached = runtime.attach(UID, "piped", true).await.unwrap().unwrap();
    let mut stdin = attached.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    let mut heard = [0; 8];
    attached.stdout.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"got one\n");
    drop(stdin);
    let (mut out, mut errors) = (String::new(), String::new());
    attached.stdout.read_to_string(&mut out).await.unwrap();
    let mut stderr = attached.stderr.unwrap();
    stderr.read_to_string(&mut errors).await.unwrap();
    assert_eq!((&*out, &*errors), ("", "over\n"));
    assert_eq!(attached.end.await.unwrap(), 0);
    assert_eq!(exited(runtime, "piped").await, (4, false));
    assert_eq!(log(runtime, "piped", false).await, "got one\nover\n");

    let script = "read line; busybox stty size; printf 'more? '; read line; exit 5";
    let mut typed = container(image, "typed", 0, script);
    (typed.stdin, typed.tty) = (true, true);
    runtime.start(&typed).await.unwrap();
    let attached = runtime.attach(UID, "typed", true).await.unwrap().unwrap();
    attached.resize.as_ref().unwrap()(101, 33);
    drop(attached);
    // Another agent.
    let next = RealRuntime::open(config.clone()).await.unwrap();
    let mut attached = next.attach(UID, "typed", true).await.unwrap().unwrap();
    let mut stdin = attached.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    // What is asked has no end of line yet.
    let mut out = Vec::new();
    while !out.ends_with(b"33 101\r\nmore? ") {
        out.push(attached.stdout.read_u8().await.unwrap());
    }
    stdin.write_all(b"\x04").await.unwrap();
    assert_eq!(attached.end.await.unwrap(), 0);
    assert_eq!(exited(runtime, "typed").await, (5, false));
    let plain = container(image, "plain", 0, "busybox sleep 1000");
    runtime.start(&plain).await.unwrap();
    assert!(
        runtime.attach(UID, "plain", true).await.unwrap().is_none(),
        "its log has all it says"
    );
    runtime
        .stop(UID, "plain", Duration::from_secs(1))
        .await
        .unwrap();
}

async fn live_and_die(busybox: &Path) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (port, identity) = registry(directory.path(), &std::fs::read(busybox).unwrap()).await;
    let config = RuntimeConfig {
        data_dir: directory.path().join("data"),
        run_dir: directory.path().join("run"),
        registry_url: format!("https://127.0.0.1:{port}"),
        identity,
        node_address: Ipv4Addr::new(10, 77, 0, 12),
        pod_network: "10.78.1.0/24".to_owned(),
        routes: BTreeMap::new(),
        helper: PathBuf::from(env!("CARGO_BIN_EXE_flightcage")),
    };
    let runtime = RealRuntime::open(config.clone()).await.unwrap();

    // Pulling.
    assert!(matches!(
        runtime.pull("user/box:none", PullPolicy::Always).await,
        Err(PullError::NotFound(_))
    ));
    assert!(matches!(
        runtime.pull("user/box", PullPolicy::Never).await,
        Err(PullError::NeverPull(_))
    ));
    let error = runtime
        .pull("user/box:lying", PullPolicy::Always)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("what came has digest"),
        "{error}"
    );
    let both = tokio::join!(
        runtime.pull("user/box", PullPolicy::IfNotPresent),
        runtime.pull("docker.io/user/box:latest", PullPolicy::IfNotPresent)
    );
    let image = both.0.unwrap();
    assert_eq!(image, both.1.unwrap());
    assert_eq!(image.reference, "docker.io/user/box:latest");

    // Two pods reach each other; names, files, user and environment are right.
    let address = runtime.create_sandbox(&sandbox(UID)).await.unwrap();
    assert_eq!(
        runtime.create_sandbox(&sandbox(UID)).await.unwrap(),
        address
    );
    let other = runtime.create_sandbox(&sandbox(OTHER)).await.unwrap();
    assert_ne!(address, other);
    // Were the gateway's hardware address that of a pod's link, others would lose packets when that pod goes.
    let bridge = std::process::Command::new("ip")
        .args(["-brief", "link", "show", "fc0"])
        .output()
        .unwrap();
    let bridge = String::from_utf8_lossy(&bridge.stdout).into_owned();
    assert!(bridge.contains("02:fc:0a:4e:01:01"), "{bridge}");
    let mut web = container(
        &image,
        "web",
        0,
        "echo served | busybox nc -l -p 80; busybox sleep 1000",
    );
    web.pod_uid = OTHER.to_owned();
    web.run_as = Some((33, 33));
    web.command = vec!["/bin/sh".to_owned(), "-c".to_owned()];
    runtime.start(&web).await.unwrap();
    let script = format!(
        "echo $GREETING $FROM $HOME $$; busybox hostname; busybox tail -n1 /etc/hosts; busybox ls /etc; busybox cat /etc/resolv.conf; \
         until busybox nc -w 3 {other} 80 </dev/null; do busybox sleep 0.1; done; busybox cat /volume/file; \
         busybox ip route; (echo x > /volume/file) 2>/dev/null || echo read-only; busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
         echo it is over > /dev/termination-log; echo to stderr >&2; exit 7"
    );
    let volume = directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "from the node\n").unwrap();
    let mut spec = container(&image, "main", 0, &script);
    spec.mounts.push(Mount {
        source: volume,
        target: PathBuf::from("/volume"),
        read_only: true,
    });
    // A file of its own in /dev, and a setting of the pod's network.
    let message = directory.path().join("message");
    std::fs::write(&message, "").unwrap();
    spec.mounts.push(Mount {
        source: message.clone(),
        target: PathBuf::from("/dev/termination-log"),
        read_only: false,
    });
    let sysctl = "net.ipv4.ip_unprivileged_port_start".to_owned();
    spec.sysctls.push((sysctl, "81".to_owned()));
    runtime.start(&spec).await.unwrap();
    assert_eq!(exited(&runtime, "main").await, (7, false));
    assert_eq!(std::fs::read_to_string(&message).unwrap(), "it is over\n");
    let text = log(&runtime, "main", false).await;
    println!("{text}");
    for expected in [
        "hello image /root 1\n",
        "cage\n",
        &format!("{address}\tcage\n"),
        "nameserver 10.79.0.10\n",
        "served\n",
        "from the node\n",
        "default via 10.78.1.1 dev eth0",
        "read-only\n81\n",
        "to stderr\n",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in:\n{text}");
    }
    assert!(!text.contains("hidden"), "{text}");

    // A restart, stopped by the image's own signal; the log of the one before stays.
    let mut again = container(
        &image,
        "main",
        1,
        "trap 'echo told; exit 3' USR1; echo up; while true; do busybox sleep 0.1; done",
    );
    again.run_as = Some((33, 33));
    runtime.start(&again).await.unwrap();
    let command = |script: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let asked = command("echo $GREETING; busybox id -u; echo no >&2; exit 9");
    let output = runtime
        .exec(UID, "main", &asked, Duration::from_secs(20))
        .await
        .unwrap();
    assert_eq!(
        (output.exit_code, &*output.stdout, &*output.stderr),
        (9, &b"hello\n33\n"[..], &b"no\n"[..])
    );
    let endless = runtime
        .exec(
            UID,
            "main",
            &command("busybox sleep 1000"),
            Duration::from_millis(300),
        )
        .await;
    assert!(endless.unwrap_err().what.contains("killed after 300 ms"));
    let absent = runtime
        .exec(
            UID,
            "main",
            &["/bin/absent".to_owned()],
            Duration::from_secs(20),
        )
        .await;
    assert!(absent.is_err(), "{absent:?}");

    streams_of_a_container(&runtime).await;
    inputs_of_containers(&runtime, &config, &image).await;

    // The agent goes and comes back: everything is found again.
    drop(runtime);
    let runtime = RealRuntime::open(config.clone()).await.unwrap();
    let pods = runtime.list().await.unwrap();
    assert_eq!(pods.len(), 2);
    assert!(matches!(
        pods[0].containers["main"].state,
        ContainerState::Running { .. }
    ));
    assert_eq!(pods[0].containers["main"].restart_count, 1);
    runtime
        .stop(UID, "main", Duration::from_secs(20))
        .await
        .unwrap();
    assert_eq!(exited(&runtime, "main").await, (3, false));
    assert_eq!(log(&runtime, "main", false).await, "up\ntold\n");
    assert!(log(&runtime, "main", true).await.contains("to stderr"));

    // Grace is bounded; a start that cannot be says why and leaves nothing.
    runtime
        .start(&container(
            &image,
            "main",
            2,
            "trap '' USR1; while true; do busybox sleep 0.1; done",
        ))
        .await
        .unwrap();
    runtime
        .stop(UID, "main", Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(exited(&runtime, "main").await, (137, false));
    let mut wrong = container(&image, "wrong", 0, "");
    wrong.command = vec!["/no/such/file".to_owned()];
    let error = runtime.start(&wrong).await.unwrap_err();
    assert!(error.what.contains("no/such/file"), "{error}");
    println!("{error}");

    // A dead helper is noticed and its container goes with it.
    runtime
        .start(&container(&image, "main", 3, "busybox sleep 1000"))
        .await
        .unwrap();
    let state = config
        .data_dir
        .join("pods")
        .join(UID)
        .join("containers/main_3/state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    let pid = |who: &str| {
        Pid::from_raw(i32::try_from(state["Running"][who]["pid"].as_i64().unwrap()).unwrap())
            .unwrap()
    };
    let (helper, init) = (pid("helper"), pid("init"));
    let memory =
        std::fs::read_to_string(format!("/proc/{}/status", helper.as_raw_nonzero())).unwrap();
    println!(
        "{}",
        memory
            .lines()
            .filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS"))
            .collect::<Vec<_>>()
            .join("; ")
    );
    kill_process(helper, Signal::KILL).unwrap();
    assert_eq!(exited(&runtime, "main").await, (255, false));
    while test_kill_process(init).is_ok() {
        tokio::task::yield_now().await;
    }

    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    if controllers.split_whitespace().any(|name| name == "memory") {
        runtime
            .start(&container(
                &image,
                "main",
                4,
                "a=x; while true; do a=$a$a; done",
            ))
            .await
            .unwrap();
        assert_eq!(exited(&runtime, "main").await, (137, true));
    }

    // Nothing is left.
    runtime.remove(UID).await.unwrap();
    runtime.remove(OTHER).await.unwrap();
    runtime.remove(OTHER).await.unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);
    assert_eq!(mounts_below(directory.path()), 0);
    assert_eq!(
        std::fs::read_dir(config.run_dir.join("oci"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        std::fs::read_dir(config.run_dir.join("netns"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        std::fs::read_dir(config.data_dir.join("pods"))
            .unwrap()
            .count(),
        0
    );
    for uid in [UID, OTHER] {
        assert!(
            !Path::new("/sys/fs/cgroup/flightcage")
                .join(format!("pod{uid}"))
                .exists(),
            "{uid}"
        );
    }
    let links = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    assert!(
        links
            .map(|link| link.file_name())
            .all(|name| !name.to_string_lossy().starts_with("fcv"))
    );
}
