//! `provider = "vagrant"` with the real vagrant-libvirt: a scenario on machines that Vagrant made, and what people do by hand.
//!
//! Needs root, Vagrant and a libvirtd that may be filled and emptied: `tests/run` runs it in the world of `tests/libvirt-world`. Set
//! `FLIGHTCAGE_HOME` and `VAGRANT_HOME` to directories of the tests' own.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const NAME: &str = "vagrant";

fn run(program: &str, arguments: &[&str]) -> Output {
    let ran = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    ran.unwrap_or_else(|error| panic!("`{program}` does not start: {error}"))
}

/// Runs a command that must succeed, and returns its output.
fn ok(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "`{program} {}` failed ({}):\n{stdout}\n{stderr}",
        arguments.join(" "),
        output.status
    );
    stdout.trim().to_owned()
}

fn flightcage(arguments: &[&str]) -> String {
    ok(
        env!("CARGO_BIN_EXE_flightcage"),
        &[&["--name", NAME], arguments].concat(),
    )
}

fn virsh(arguments: &[&str]) -> String {
    ok(
        "virsh",
        &[&["--quiet", "--connect", "qemu:///system"], arguments].concat(),
    )
}

fn status() -> Value {
    serde_json::from_str(&flightcage(&["status", "--json"])).expect("it is JSON")
}

fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().expect("a list");
    nodes
        .iter()
        .find(|node| node["name"] == name)
        .expect("it is there")
}

/// The failover scenario, on a cluster that Vagrant makes. What it expects of timings is reported, not asserted: of its load, only
/// that most of it was answered.
fn scenario(folder: &Path) -> String {
    let flappy = folder.join("flappy");
    std::fs::create_dir(&flappy).expect("it can be made");
    for file in ["silex.yml", "nginx.yml"] {
        std::fs::copy(Path::new("scenarios/flappy").join(file), flappy.join(file))
            .expect("it is there");
    }
    let text = std::fs::read_to_string("scenarios/failover.toml").expect("it is there");
    let on_vagrant = text.replacen("[cluster]\n", "[cluster]\nprovider = \"vagrant\"\n", 1);
    assert_ne!(on_vagrant, text, "the scenario has a [cluster] table");
    // Machines of libvirt's are no children of ours: a rate found by their answers alone may be too small to say anything.
    let automatic = on_vagrant
        .lines()
        .find(|line| line.starts_with("rate = "))
        .expect("its load has a rate");
    let on_vagrant = on_vagrant.replacen(automatic, "rate = \"2/s\"", 1);
    let is_timed = |line: &str| line.starts_with("web.") && !line.starts_with("web.final_version");
    let untimed: String = on_vagrant
        .lines()
        .filter(|line| !is_timed(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let untimed = untimed.replacen("[expect]\n", "[expect]\nweb.failed = \"<= 50%\"\n", 1);
    assert!(
        untimed.contains("\nreplicas.")
            && untimed.contains("\nweb.failed")
            && untimed.len() < on_vagrant.len(),
        "it expects timings, and other things"
    );
    let file = folder.join("failover.toml");
    std::fs::write(&file, untimed).expect("it can be written");
    file.to_str().expect("temporary paths are UTF-8").to_owned()
}

#[test]
fn a_scenario_runs_on_machines_that_vagrant_made() {
    let folder = tempfile::tempdir().expect("it can be made");
    let report = folder.path().join("report");
    let report = report.to_str().expect("temporary paths are UTF-8");

    let begun = std::time::Instant::now();
    let file = scenario(folder.path());
    let line = ["--name", NAME, "run", &file, "--report", report, "--keep"];
    let ran = run(env!("CARGO_BIN_EXE_flightcage"), &line);
    // 4 is INCONCLUSIVE: a host that is too busy to measure anything says nothing about Vagrant.
    assert!(
        matches!(ran.status.code(), Some(0 | 4)),
        "{}:\n{}\n{}",
        ran.status,
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    eprintln!(
        "the failover scenario on Vagrant's machines, boot included: {:?}",
        begun.elapsed()
    );
    let text = std::fs::read_to_string(Path::new(report).join("failover/report.json"))
        .expect("it was written");
    let run: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(
        (
            run["target"]["provider"].as_str(),
            &run["faults"][0]["verified"]
        ),
        (Some("vagrant"), &Value::Bool(true)),
        "{text}"
    );
    let replicas = run["expectations"].as_array().expect("a list");
    let mut replicas = replicas.iter().filter(|row| {
        row["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("replicas."))
    });
    assert!(replicas.all(|row| row["ok"] == true), "{text}");

    let kept = status();
    assert_eq!(kept["provider"], "vagrant");
    for name in ["c1", "w1", "w2"] {
        assert_eq!(
            (&node(&kept, name)["ready"], &node(&kept, name)["power"]),
            (&Value::from(true), &Value::from("on")),
            "{kept}"
        );
        assert_eq!(
            virsh(&["domstate", &format!("flightcage-{NAME}-{name}")]),
            "running"
        );
    }

    // By hand: what libvirt says of a machine is what was asked for.
    flightcage(&["node", "freeze", "w2"]);
    assert_eq!(
        virsh(&["domstate", &format!("flightcage-{NAME}-w2")]),
        "paused"
    );
    assert_eq!(node(&status(), "w2")["power"], "frozen");
    flightcage(&["node", "thaw", "w2"]);
    assert_eq!(
        virsh(&["domstate", &format!("flightcage-{NAME}-w2")]),
        "running"
    );
    assert_eq!(flightcage(&["ssh", "w2", "--", "hostname"]), "w2");

    // The folder is an ordinary one of Vagrant's.
    let home = std::env::var("FLIGHTCAGE_HOME").expect("the tests' own home");
    let vagrant = Path::new(&home).join("clusters").join(NAME).join("vagrant");
    let said = Command::new("vagrant")
        .args(["status", "--machine-readable"])
        .current_dir(&vagrant)
        .output();
    let said = String::from_utf8_lossy(&said.expect("vagrant is there").stdout).into_owned();
    assert_eq!(said.matches(",state,running").count(), 3, "{said}");

    flightcage(&["down"]);
    assert_eq!(
        (virsh(&["list", "--all"]), virsh(&["net-list", "--all"])),
        (String::new(), String::new())
    );
    let disks = virsh(&["vol-list", "default"]);
    assert!(
        !disks.contains(&format!("flightcage-{NAME}-")),
        "disks are left:\n{disks}"
    );
    assert!(!vagrant.exists(), "the cluster's folder is left");
}

#[test]
fn vagrant_takes_the_packaged_box() {
    let folder = tempfile::tempdir().expect("it can be made");
    let file = folder.path().join("probe.box");
    let file = file.to_str().expect("temporary paths are UTF-8");
    assert_eq!(flightcage(&["box", "package", "--output", file]), file);
    ok(
        "vagrant",
        &["box", "add", "--name", "flightcage-probe", file],
    );
    assert!(ok("vagrant", &["box", "list"]).contains("flightcage-probe"));
    ok("vagrant", &["box", "remove", "--force", "flightcage-probe"]);
}

#[test]
fn a_rendered_vagrantfile_is_valid() {
    let folder = tempfile::tempdir().expect("it can be made");
    let cluster = folder.path().join("virtualbox.toml");
    let text = "[cluster]\nprovider = \"vagrant\"\n[cluster.vagrant]\nprovider = \"virtualbox\"\nbox = \"debian/bookworm64\"\n";
    std::fs::write(&cluster, text).expect("it can be written");
    let virtualbox = flightcage(&[
        "vagrant",
        "render",
        "-f",
        cluster.to_str().expect("temporary paths are UTF-8"),
    ]);
    for rendered in [flightcage(&["vagrant", "render"]), virtualbox] {
        std::fs::write(folder.path().join("Vagrantfile"), &rendered).expect("it can be written");
        // VirtualBox is not here: its settings are checked where it is.
        let checked = Command::new("vagrant")
            .args(["validate", "--ignore-provider"])
            .current_dir(folder.path())
            .output();
        let checked = checked.expect("vagrant is there");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{said}\n{rendered}");
    }
}
