//! The QEMU provider and SSH on real machines.
//!
//! Needs QEMU; the box is built unless the cache below `FLIGHTCAGE_HOME` holds it. `tests/run` runs it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flightcage::cluster::home::Home;
use flightcage::machines::boxes::FirstBootChannel;
use flightcage::machines::boxes::ignition::{FirstBoot, NetworkCard, render};
use flightcage::machines::boxes::{self, BoxDefinition};
use flightcage::machines::provider::{
    Acceleration, BoxFiles, MachineRequest, Power, PowerAction, Provider,
};
use flightcage::machines::qemu::{QemuConfig, QemuProvider, sweep};
use flightcage::model::addresses::{node_address, node_mac, ssh_mac};
use flightcage::model::cluster::ClusterSpec;
use flightcage::shell::keys::{SshKeyPair, generate_ed25519};
use flightcage::shell::ssh::{Ssh, SshTarget};
use tokio::net::UnixListener;

const LIMIT: Duration = Duration::from_mins(2);
const OWNER: &str = "FLIGHTCAGE_TEST_OWNER";

async fn box_files() -> BoxFiles {
    let home = Home::open().expect("FLIGHTCAGE_HOME can be written");
    let definition = BoxDefinition::load("flightcage-os").expect("the binary carries it");
    boxes::build(&definition, &home.boxes(), &|line| eprintln!("{line}"))
        .await
        .expect("it is built")
}

/// A switch that swallows every frame: these tests need no cluster network.
async fn serve_fabric(socket: PathBuf) {
    let listener = UnixListener::bind(socket).expect("the socket can be bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
}

fn provider(directory: &Path) -> QemuProvider {
    QemuProvider::new(QemuConfig {
        cluster: "test".parse().expect("a name"),
        state_dir: directory.to_owned(),
        runtime_dir: directory.to_owned(),
        acceleration: Acceleration::Tcg,
        wrapper: env!("CARGO_BIN_EXE_flightcage").into(),
    })
    .expect("a thread can be started")
}

async fn request(
    directory: &Path,
    box_files: BoxFiles,
    user: &SshKeyPair,
    host: &SshKeyPair,
) -> MachineRequest {
    let cluster = ClusterSpec::with_workers("test".parse().expect("a name"), 1);
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let first_boot = FirstBoot {
        hostname: "w1".into(),
        authorized_keys: vec![user.public_openssh.clone()],
        host_key_private: host.private_openssh_pem.clone(),
        host_key_public: host.public_openssh.clone(),
        network: vec![
            NetworkCard::cluster(&mac(node_mac(1)), node_address(1)),
            NetworkCard::ssh(&mac(ssh_mac(1))),
        ],
        hosts: vec![(node_address(1), "w1".into())],
        kernel_arguments: Vec::new(),
        fragments: Vec::new(),
    };
    let ignition =
        render(&first_boot, &FirstBootChannel::flightcage()).expect("there is no fragment");
    let fabric_socket = directory.join("fabric.sock");
    serve_fabric(fabric_socket.clone()).await;
    MachineRequest {
        spec: cluster.machines[1].clone(),
        index: 1,
        box_files,
        ignition,
        fabric_socket,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_obeys_and_goes() {
    let box_files = box_files().await;
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (user, host) = (generate_ed25519("user"), generate_ed25519("host"));
    let key = directory.path().join("user");
    std::fs::write(&key, &user.private_openssh_pem).expect("it can be written");
    let request = request(directory.path(), box_files, &user, &host).await;
    let node = request.spec.name.clone();
    let provider = provider(directory.path());
    assert_eq!(
        provider
            .preflight(std::slice::from_ref(&request.spec))
            .await,
        []
    );

    let made = provider.create(request.clone()).await.expect("QEMU starts");
    assert_eq!(
        provider
            .create(request)
            .await
            .expect("it is idempotent")
            .pid,
        made.pid
    );
    let begun = tokio::time::Instant::now();
    let address = provider.wait_for_boot(&node).await.expect("it boots");
    eprintln!("SSH banner after {:?}", begun.elapsed());
    let target = SshTarget {
        address,
        user: "core".into(),
        private_key: key,
        host_key: host.public_openssh,
        jump: None,
    };
    let ssh = Ssh::connect(&target, LIMIT).await.expect("it lets us in");
    eprintln!("SSH session after {:?}", begun.elapsed());
    assert_eq!(
        ssh.run("hostname", None).await.expect("it runs").text(),
        "w1"
    );
    ssh.upload(b"kept".to_vec(), "/etc/flightcage/test", 0o600)
        .await
        .expect("it is written");
    let size = 8 << 20;
    let begun = tokio::time::Instant::now();
    ssh.upload(vec![0x55; size], "/opt/flightcage/big", 0o755)
        .await
        .expect("it is written");
    eprintln!("8 MiB uploaded in {:?}", begun.elapsed());
    assert_eq!(
        ssh.run("stat -c %s-%a-%U /opt/flightcage/big", None)
            .await
            .expect("it runs")
            .text(),
        format!("{size}-755-root")
    );
    ssh.run("sync", None).await.expect("it runs");

    provider
        .power(&node, PowerAction::Freeze)
        .await
        .expect("it freezes");
    assert_eq!(
        provider.list().await.expect("it lists")[0].power,
        Power::Frozen
    );
    assert!(
        ssh.run_within("true", None, Duration::from_secs(2))
            .await
            .is_err(),
        "a frozen machine answers nothing"
    );
    provider
        .power(&node, PowerAction::Thaw)
        .await
        .expect("it thaws");
    ssh.run("true", None).await.expect("it answers again");

    provider
        .power(&node, PowerAction::PowerOff)
        .await
        .expect("it is off");
    provider
        .power(&node, PowerAction::PowerOff)
        .await
        .expect("it is off already");
    assert_eq!(
        provider.list().await.expect("it lists")[0].power,
        Power::Off
    );
    provider
        .power(&node, PowerAction::PowerOn)
        .await
        .expect("it is on");
    assert_eq!(
        provider.wait_for_boot(&node).await.expect("it boots again"),
        address,
        "its SSH port has moved"
    );
    let kept = ssh
        .run_within("sudo cat /etc/flightcage/test", None, LIMIT)
        .await
        .expect("a new session is opened");
    assert_eq!(kept.text(), "kept");

    provider
        .power(&node, PowerAction::Reset)
        .await
        .expect("it resets");
    provider.wait_for_boot(&node).await.expect("it boots again");
    let mode = |path: PathBuf| {
        std::fs::metadata(path)
            .expect("it exists")
            .permissions()
            .mode()
            & 0o777
    };
    let machine = directory.path().join("machines/w1");
    for file in [
        "disk.raw",
        "console.log",
        "ignition.json",
        "machine.json",
        "qemu.log",
    ] {
        assert_eq!(mode(machine.join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(machine.clone()), 0o700);
    provider.destroy(&node).await.expect("it goes");
    provider
        .destroy(&node)
        .await
        .expect("an absent one is fine");
    assert!(!machine.exists() && provider.list().await.expect("it lists").is_empty());
}

/// What [`a_machine_dies_with_an_owner_that_is_killed`] starts and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "not a test of its own"]
async fn owner() {
    let directory =
        PathBuf::from(std::env::var_os(OWNER).expect("the test that starts this says where"));
    let box_files = box_files().await;
    let request = request(
        &directory,
        box_files,
        &generate_ed25519("user"),
        &generate_ed25519("host"),
    )
    .await;
    let provider = provider(&directory);
    let machine = provider.create(request).await.expect("QEMU starts");
    std::fs::write(
        directory.join("started"),
        machine.pid.expect("it runs").to_string(),
    )
    .expect("it can be written");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_dies_with_an_owner_that_is_killed() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut owner = Command::new(std::env::current_exe().expect("we run"))
        .args(["--ignored", "--exact", "owner"])
        .env(OWNER, directory.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("we can start ourselves");
    let pid: u32 = loop {
        if let Ok(text) = std::fs::read_to_string(directory.path().join("started"))
            && let Ok(pid) = text.parse()
        {
            break pid;
        }
        assert!(
            owner.try_wait().expect("it is ours").is_none(),
            "the owner has ended"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let qemu = format!("/proc/{pid}/cmdline");
    assert!(
        std::fs::read_to_string(&qemu)
            .expect("QEMU runs")
            .starts_with("qemu-system")
    );
    // Frozen, so that it could not end by itself.
    provider(directory.path())
        .power(&"w1".parse().expect("a name"), PowerAction::Freeze)
        .await
        .expect("it freezes");
    owner.kill().expect("SIGKILL is sent");
    owner.wait().expect("it ends");
    tokio::time::timeout(LIMIT, async {
        while std::fs::read_to_string(&qemu).is_ok_and(|line| line.starts_with("qemu-system")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("QEMU dies with its owner");
    assert_eq!(
        sweep(directory.path()).await.expect("it sweeps"),
        [],
        "nothing is left over"
    );
}
