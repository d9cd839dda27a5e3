//! One cluster of real machines, booted once, serves every test of this file. `tests/run` runs it; it takes minutes.
//!
//! Needs a host that `flightcage doctor` calls able, and `kubectl` on PATH. `FLIGHTCAGE_HOME` should be a directory of the tests' own.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

const NAME: &str = "tests";
/// The default cluster, but for what one worker has besides.
const UP: [&str; 3] = ["up", "-f", CLUSTER_FILE];
const CLUSTER_FILE: &str = "tests/fixtures/cluster.toml";

/// Bounds a wait for progress; not an expectation of speed.
const PATIENCE: Duration = Duration::from_secs(240);
const USUAL_API_PORT: u16 = 36443;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

fn flightcage(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flightcage"))
        .args(["--name", NAME])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary runs")
}

/// Runs a command that must succeed, and returns its output.
fn ok(arguments: &[&str]) -> String {
    let output = flightcage(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`flightcage {}` failed ({}):\n{stderr}",
        arguments.join(" "),
        output.status
    );
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

/// The kubeconfig of the cluster, which the first caller boots.
fn cluster() -> &'static Path {
    static KUBECONFIG: OnceLock<tempfile::TempPath> = OnceLock::new();
    KUBECONFIG.get_or_init(|| {
        // The API server's usual port is in use, by us or by another: the cluster takes another one. Held until the tests end.
        std::mem::forget(std::net::TcpListener::bind((
            std::net::Ipv4Addr::LOCALHOST,
            USUAL_API_PORT,
        )));
        ok(&UP);
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let kubeconfig = ok(&["kubeconfig"]);
        assert!(
            !kubeconfig.contains(&format!("127.0.0.1:{USUAL_API_PORT}\"")),
            "the port is in use: {kubeconfig}"
        );
        std::fs::write(file.path(), kubeconfig).expect("a temporary file can be written");
        file.into_temp_path()
    })
}

fn kubectl(arguments: &[&str]) -> Output {
    Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(cluster())
        .args(arguments)
        .output()
        .expect("kubectl is on PATH")
}

fn kubectl_ok(arguments: &[&str]) -> String {
    let output = kubectl(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`kubectl {}` failed:\n{stderr}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}):\n{text}"))
}

fn get(arguments: &[&str]) -> Value {
    json(&kubectl_ok(&[&["get", "-o", "json"], arguments].concat()))
}

/// Waits until `look` finds what it looks for; fails with what was seen last.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() > PATIENCE => {
                panic!("waited {PATIENCE:?} for {what}; last seen: {seen}")
            }
            // Bounded by PATIENCE; there is no event to wait for across kubectl's processes.
            Err(_) => std::thread::park_timeout(LOOK_AGAIN),
        }
    }
}

fn wait_for_replicas(controller: &str, count: i64) {
    wait_for(&format!("{count} ready replicas of `{controller}`"), || {
        let ready = get(&["rc", controller])["status"]["readyReplicas"]
            .as_i64()
            .unwrap_or(0);
        if ready == count {
            Ok(())
        } else {
            Err(format!(
                "{ready} ready\n{}",
                kubectl_ok(&["get", "pods,events"])
            ))
        }
    });
}

fn status() -> Value {
    json(&ok(&["status", "--json"]))
}

/// Deploys the stack unless it is there: a scenario that a test runs empties the cluster.
fn deploy_flappy() {
    if kubectl(&["get", "rc", "flappy-nginx-v0"]).status.success() {
        return;
    }
    let key = rcgen::generate_simple_self_signed(vec!["flappy-nginx".to_owned()])
        .expect("a certificate can be made");
    let secret = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "ssl-certs" },
        "stringData": {
            "purplebooth-co-uk.crt": key.cert.pem(),
            "purplebooth-co-uk.key": key.signing_key.serialize_pem(),
        },
    });
    let file = tempfile::Builder::new()
        .suffix(".json")
        .tempfile()
        .expect("a temporary file can be made");
    std::fs::write(file.path(), secret.to_string()).expect("a temporary file can be written");
    ok(&[
        "apply",
        "-f",
        file.path().to_str().expect("the path is UTF-8"),
    ]);
    kubectl_ok(&[
        "apply",
        "-f",
        "scenarios/flappy/silex.yml",
        "-f",
        "scenarios/flappy/nginx.yml",
    ]);
    wait_for_replicas("flappy-silex-v1", 2);
    wait_for_replicas("flappy-nginx-v0", 2);
}

/// Asks the stack over a loopback port that `status` prints; returns the answer with its headers.
fn ask(path: &str) -> Result<String, String> {
    let status = status();
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let service = services
        .iter()
        .find(|service| service["name"] == "flappy-nginx")
        .ok_or("no service in status")?;
    let ports = service["ports"].as_array().cloned().unwrap_or_default();
    let https = ports
        .iter()
        .find(|port| port["name"] == "https")
        .ok_or("no https port in status")?;
    let url = format!(
        "https://{}{path}",
        https["host"].as_str().unwrap_or_default()
    );
    let output = Command::new("curl")
        .args(["-ksi", "--noproxy", "*", "--max-time", "10", &url])
        .output()
        .expect("curl runs");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(answer)
    } else {
        Err(format!("curl {}: {answer}", output.status))
    }
}

fn on(node: &str, command: &[&str]) -> String {
    ok(&[&["ssh", node, "--"], command].concat())
}

/// `tests/fixtures/cluster.toml` gives w2 an address, a label, kernel arguments and an Ignition fragment, and c1 a taint: one on a
/// worker would keep the other tests' pods away.
#[test]
fn what_the_cluster_file_says_reaches_the_machine() {
    let taints = get(&["node", "c1"])["spec"]["taints"].clone();
    let taint =
        serde_json::json!({"key": "example.org/test", "value": "taint", "effect": "NoSchedule"});
    assert!(
        taints
            .as_array()
            .is_some_and(|taints| taints.contains(&taint)),
        "{taints}"
    );
    let node = get(&["node", "w2"]);
    assert_eq!(node["metadata"]["labels"]["example.org/disk"], "fast");
    assert_eq!(node["status"]["addresses"][0]["address"], "10.77.0.50");
    let machine = status()["nodes"].as_array().cloned().unwrap_or_default();
    assert!(
        machine
            .iter()
            .any(|node| node["name"] == "w2" && node["address"] == "10.77.0.50"),
        "{machine:?}"
    );
    let ask = "grep -ow flightcage.test=1 /proc/cmdline; cat /etc/fragment /etc/fragment-link; echo; sudo systemctl is-active fragment; \
               ip -4 -o address show cluster0";
    let said = ok(&["ssh", "w2", "--", ask]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..3],
        ["flightcage.test=1", "mergedmerged", "active"],
        "{said}"
    );
    assert!(lines[3].contains("10.77.0.50/24"), "{said}");
    assert!(!ok(&["ssh", "w1", "--", "cat /proc/cmdline"]).contains("flightcage.test"));
}

#[test]
fn a_status_follows_the_contract() {
    cluster();
    let status = status();
    assert_eq!(status["name"], NAME);
    assert_eq!(status["provider"], "qemu");
    let nodes = status["nodes"].as_array().expect("nodes is a list");
    let names: Vec<_> = nodes
        .iter()
        .map(|node| node["name"].as_str().expect("a node has a name"))
        .collect();
    assert_eq!(names, ["c1", "w1", "w2"]);
    for node in nodes {
        assert_eq!(
            (&node["ready"], &node["power"]),
            (&Value::Bool(true), &Value::from("on")),
            "{node}"
        );
    }
    assert_eq!(nodes[0]["role"], "controller");
    assert_eq!(nodes[1]["role"], "worker");
}

#[test]
fn b_flappy_deploys_as_the_slides_wrote_it_and_answers() {
    deploy_flappy();
    let answer = wait_for("an answer over TLS", || {
        ask("/").and_then(|answer| {
            if answer.contains(" 200") {
                Ok(answer)
            } else {
                Err(answer)
            }
        })
    });
    assert!(
        answer.to_lowercase().contains("x-flappy-version: v1"),
        "{answer}"
    );
    assert!(
        ask("/v2").expect("an answer").contains(" 404"),
        "v1 does not know /v2"
    );
    let pods = get(&["pods", "-l", "type=silex"]);
    let nodes: std::collections::BTreeSet<_> = pods["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|pod| pod["spec"]["nodeName"].to_string())
        .collect();
    assert_eq!(
        nodes.len(),
        2,
        "replicas are spread over both workers: {nodes:?}"
    );
    let name = pods["items"][0]["metadata"]["name"]
        .as_str()
        .expect("a pod has a name");
    wait_for("an access line in the pod's log", || {
        let log = ok(&["logs", name]);
        if log.contains("GET /") {
            Ok(())
        } else {
            Err(log)
        }
    });
}

#[test]
fn c_an_image_that_does_not_exist_is_said_so() {
    cluster();
    kubectl_ok(&["apply", "-f", "tests/fixtures/manifests/missing-image.yml"]);
    wait_for("ErrImagePull or its back-off", || {
        let pod = get(&["pod", "missing-image"]);
        let reason = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            .as_str()
            .unwrap_or("")
            .to_owned();
        if ["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()) {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
    wait_for("an event that says why", || {
        let events = get(&["events"]).to_string();
        if events.contains("no-such-image") {
            Ok(())
        } else {
            Err(events)
        }
    });
    kubectl_ok(&["delete", "pod", "missing-image"]);
}

#[test]
fn d_a_manifest_that_kubernetes_would_refuse_is_refused_with_every_cause() {
    cluster();
    let output = flightcage(&["apply", "-f", "tests/fixtures/manifests/refused.yml"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("selector"), "{stderr}");
    assert!(stderr.contains("containerPort"), "{stderr}");
    assert!(
        !kubectl(&["get", "rc", "refused"]).status.success(),
        "nothing was created"
    );
}

#[test]
fn e_killing_the_agent_stops_no_container_and_a_new_one_adopts_them() {
    deploy_flappy();
    let facts = || -> Vec<String> {
        let pods = get(&["pods", "-l", "service=flappy"]);
        let fact = |pod: &Value| {
            format!(
                "{} {}",
                pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["containerID"]
            )
        };
        let mut facts: Vec<_> = pods["items"]
            .as_array()
            .expect("a list")
            .iter()
            .map(fact)
            .collect();
        facts.sort();
        facts
    };
    let before = facts();
    on(
        "w1",
        &[
            "sudo",
            "systemctl",
            "kill",
            "--signal=KILL",
            "flightcage-agent",
        ],
    );
    wait_for("the agent to run again", || {
        let state = on(
            "w1",
            &[
                "sudo",
                "systemctl",
                "show",
                "-p",
                "NRestarts",
                "--value",
                "flightcage-agent",
            ],
        );
        if state.trim() == "0" {
            Err(state)
        } else {
            Ok(())
        }
    });
    wait_for("w1 Ready", || {
        if status()["nodes"][1]["ready"] == true {
            Ok(())
        } else {
            Err(status().to_string())
        }
    });
    assert_eq!(facts(), before, "the same containers run");
}

#[test]
fn f_memory_of_the_roles_is_bounded() {
    deploy_flappy();
    let resident_mib = |node: &str, pattern: &str| -> Vec<f64> {
        let listing = on(node, &["ps", "-eo", "rss=,args="]);
        let lines = listing
            .lines()
            .filter(|line| line.contains(pattern) && !line.contains("ps -eo"));
        lines
            .filter_map(|line| Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0))
            .collect()
    };
    // The bar is the aim and is printed with what was measured; the limit is what a change must not exceed.
    for (what, node, pattern, bar, limit) in [
        ("agent", "w1", " agent --config", 40.0, 40.0),
        ("proxy", "w1", " proxy --config", 20.0, 27.0),
        ("server", "c1", " server --config", 60.0, 60.0),
        // Nearly all of it is the binary's own pages, which the agent has in memory anyway; it grows with the binary.
        ("pod helper", "w1", "__pod watch", 5.0, 7.0),
    ] {
        let found = resident_mib(node, pattern);
        println!("memory: {what}: {found:.1?} MiB resident (bar {bar})");
        assert!(
            !found.is_empty(),
            "no process matches `{pattern}` on {node}"
        );
        assert!(
            found.iter().all(|mib| *mib <= limit),
            "{what} on {node}: {found:?} MiB, at most {limit}"
        );
    }
}

#[test]
fn g_a_machine_that_lost_its_power_comes_back_with_its_disk() {
    deploy_flappy();
    on("w2", &["sudo", "touch", "/etc/kept-over-a-reboot"]);
    on("w2", &["sync"]);
    ok(&["node", "power-off", "w2"]);
    assert_eq!(status()["nodes"][2]["power"], "off");
    wait_for("both replicas on w1", || {
        let pods = get(&["pods", "-l", "type=silex"]);
        let on_w1 =
            |pod: &&Value| pod["spec"]["nodeName"] == "w1" && pod["status"]["phase"] == "Running";
        let count = pods["items"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(on_w1)
            .count();
        if count == 2 {
            Ok(())
        } else {
            Err(kubectl_ok(&["get", "pods", "-o", "wide"]))
        }
    });
    ok(&["node", "power-on", "w2"]);
    wait_for("w2 Ready", || {
        if status()["nodes"][2]["ready"] == true {
            Ok(())
        } else {
            Err(status().to_string())
        }
    });
    wait_for(
        "the file on w2, which may be Ready before its SSH server",
        || {
            let looked = flightcage(&["ssh", "w2", "--", "test", "-e", "/etc/kept-over-a-reboot"]);
            if looked.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&looked.stderr).into_owned())
            }
        },
    );
    wait_for("w2 to run only its own pods", || {
        let pods = get(&["pods", "-A", "--field-selector", "spec.nodeName=w2"]);
        let wanted = pods["items"].as_array().expect("a list").len();
        let helpers = on("w2", &["pgrep -fc '[_]_pod watch' || true"]);
        if helpers.trim() == wanted.to_string() {
            Ok(())
        } else {
            Err(format!("{wanted} pods, {helpers} helpers"))
        }
    });
}

#[test]
fn h_a_rolling_update_by_hand_ends_with_v2() {
    deploy_flappy();
    ok(&[
        "rolling-update",
        "flappy-silex-v1",
        "-f",
        "scenarios/flappy/silex-v2.yml",
        "--update-period",
        "1s",
    ]);
    wait_for("/v2", || {
        ask("/v2").and_then(|answer| {
            if answer.contains(" 200") {
                Ok(())
            } else {
                Err(answer)
            }
        })
    });
    assert!(
        !kubectl(&["get", "rc", "flappy-silex-v1"]).status.success(),
        "v1 is gone"
    );
}

/// A report of a scenario that was run on this cluster, with its exit code and what it printed.
fn run_scenario(file: &str) -> (Value, Option<i32>, String) {
    cluster();
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let output = flightcage(&[
        "run",
        file,
        "--cluster",
        CLUSTER_FILE,
        "--report",
        &folder.path().display().to_string(),
    ]);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let stem = Path::new(file).file_stem().expect("a file has a stem");
    let report = std::fs::read_to_string(folder.path().join(stem).join("report.json"));
    (
        json(&report.unwrap_or_else(|error| panic!("no report ({error}):\n{said}"))),
        output.status.code(),
        said,
    )
}

#[test]
fn i_every_kind_of_fault_is_seen_to_act_and_none_is_left() {
    let (report, code, said) = run_scenario("tests/fixtures/scenarios/every-fault.toml");
    let faults = report["faults"].as_array().expect("faults is a list");
    for fault in faults {
        assert_eq!(fault["verified"], true, "{fault}\n{said}");
        assert!(fault["healed_ms"].is_number(), "{fault}");
    }
    assert_eq!((faults.len(), code), (10, Some(0)), "{said}");
    for node in status()["nodes"].as_array().expect("nodes is a list") {
        assert_eq!(node["power"], "on", "{node}");
    }
}

#[test]
fn i_faults_inside_machines_are_seen_to_act_and_none_is_left() {
    let (report, code, said) = run_scenario("tests/fixtures/scenarios/guest-faults.toml");
    let faults = report["faults"].as_array().expect("faults is a list");
    for fault in faults {
        assert_eq!(fault["verified"], true, "{fault}\n{said}");
        assert!(fault["healed_ms"].is_number(), "{fault}");
    }
    assert_eq!((faults.len(), code), (5, Some(0)), "{said}");
}

#[test]
fn i_what_was_away_for_a_moment_is_told_and_judged_again() {
    cluster();
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    for (name, code) in [("guarded", 0), ("unguarded", 3)] {
        let file = format!("tests/fixtures/scenarios/{name}.toml");
        let kept = folder.path().display().to_string();
        let ran = flightcage(&["run", &file, "--cluster", CLUSTER_FILE, "--report", &kept]);
        let said = String::from_utf8_lossy(&ran.stderr);
        let folder = folder.path().join(name);
        let report = std::fs::read_to_string(folder.join("report.json"));
        let report = json(&report.unwrap_or_else(|error| panic!("no report ({error}):\n{said}")));
        let rows = &report["expectations"];
        assert_eq!(ran.status.code(), Some(code), "{said}\n{rows}");
        // What is kept needs no other file.
        let again = flightcage(&["judge", &folder.display().to_string(), "--json"]);
        assert_eq!(again.status.code(), Some(code), "{name}");
        let again = json(&String::from_utf8_lossy(&again.stdout));
        assert_eq!(again["expectations"], *rows, "{name}");
    }
}

#[test]
fn j_links_are_shaped_captured_and_healed_by_hand() {
    cluster();
    let shaped = ok(&[
        "net", "shape", "w1", "w2", "--delay", "30ms", "--loss", "10%", "--for", "60s",
    ]);
    assert_eq!(shaped.lines().count(), 2, "both directions:\n{shaped}");
    let acting = |links: &Value| {
        let links = links.as_array().expect("a list").clone();
        links
            .iter()
            .filter(|link| {
                link["rules"]
                    .as_array()
                    .is_some_and(|rules| !rules.is_empty())
            })
            .count()
    };
    assert_eq!(acting(&json(&ok(&["net", "show", "--json"]))), 2);
    ok(&["net", "heal", "w1", "w2"]);
    assert_eq!(acting(&json(&ok(&["net", "show", "--json"]))), 0);
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let said = ok(&[
        "net",
        "capture",
        "--node",
        "c1",
        "-o",
        &file.path().display().to_string(),
        "--for",
        "2s",
    ]);
    // Nodes speak with the controller several times a second.
    assert!(!said.starts_with("0 frames"), "{said}");
    let bytes = std::fs::read(file.path()).expect("it was written");
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a], "pcapng");
    for (arguments, wanted) in [
        (
            vec!["net", "shape", "w1", "--loss", "1"],
            "`1` is not a share",
        ),
        (vec!["net", "shape", "w1"], "nothing special"),
        (
            vec!["net", "shape", "w1", "--delay", "5ms", "--jitter", "6ms"],
            "jitter must not be larger",
        ),
    ] {
        let refused = flightcage(&arguments);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(
            refused.status.code() == Some(2) && stderr.contains(wanted),
            "{arguments:?}: {stderr}"
        );
    }
}

#[test]
fn k_a_machines_journal_is_on_the_host_and_trouble_is_noticed() {
    cluster();
    on(
        "w1",
        &[
            "sudo",
            "systemd-run",
            "--unit",
            "doomed",
            "--quiet",
            "sh",
            "-c",
            "'echo farewell; exit 7'",
        ],
    );
    wait_for("the unit's words in the journal on the host", || {
        let log = ok(&["logs", "--node", "w1", "--unit", "doomed", "--since", "10m"]);
        if log.contains("farewell") && log.contains("Failed with result") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(
        ok(&[
            "logs",
            "--node",
            "w1",
            "--unit",
            "doomed",
            "--grep",
            "^fare.*l$"
        ])
        .lines()
        .count(),
        1
    );
    wait_for("the failed unit among the troubles", || {
        let troubles = status()["troubles"].clone();
        let seen = |trouble: &Value| {
            trouble["node"] == "w1"
                && trouble["trouble"] == "unit_failed"
                && trouble["line"]
                    .as_str()
                    .is_some_and(|line| line.contains("doomed.service"))
        };
        if troubles
            .as_array()
            .is_some_and(|list| list.iter().any(seen))
        {
            Ok(())
        } else {
            Err(troubles.to_string())
        }
    });
}

#[test]
fn l_undo_heals_what_a_killed_run_has_left() {
    cluster();
    let mut run = Command::new(env!("CARGO_BIN_EXE_flightcage"))
        .args([
            "--name",
            NAME,
            "run",
            "tests/fixtures/scenarios/left-frozen.toml",
            "--cluster",
            CLUSTER_FILE,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary runs");
    wait_for("w1 to be frozen", || {
        if status()["nodes"][1]["power"] == "frozen" {
            Ok(())
        } else {
            Err(status().to_string())
        }
    });
    run.kill().expect("it runs");
    run.wait().expect("it has ended");
    assert_eq!(
        status()["nodes"][1]["power"],
        "frozen",
        "nobody is left who could thaw it"
    );
    assert!(ok(&["undo"]).contains("node.freeze of `w1`"));
    assert_eq!(status()["nodes"][1]["power"], "on");
    assert!(ok(&["undo"]).contains("nothing was left"));
}

/// Nanoseconds by which a machine's clock may differ from the host's and be called right: the bound of 10 ms, and what a login adds.
fn clock_is_right(node: &str) {
    let wall = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("it is after 1970")
            .as_nanos()
    };
    let before = wall();
    let there: u128 = on(node, &["date", "+%s%N"])
        .trim()
        .parse()
        .expect("date prints a number");
    let after = wall();
    let slack = Duration::from_millis(10).as_nanos();
    assert!(
        before - slack <= there && there <= after + slack,
        "{node}: {before} <= {there} <= {after}"
    );
}

#[test]
fn m_a_snapshot_brings_the_whole_cluster_back_with_what_runs_in_it() {
    deploy_flappy();
    wait_for_replicas("flappy-nginx-v0", 2);
    ok(&["snapshot", "save", "flappy-runs"]);
    let again = flightcage(&["snapshot", "save", "flappy-runs"]);
    assert_eq!(again.status.code(), Some(1), "a name is not taken twice");
    kubectl_ok(&["create", "-f", "tests/fixtures/manifests/missing-image.yml"]);
    on(
        "w1",
        &["sudo", "touch", "/var/lib/flightcage/after-the-snapshot"],
    );

    ok(&["snapshot", "restore", "flappy-runs"]);
    assert_eq!(status()["restored_from"], "flappy-runs");
    for node in ["c1", "w1", "w2"] {
        clock_is_right(node);
    }
    wait_for("an answer over TLS", || {
        ask("/").and_then(|answer| {
            if answer.contains(" 200") {
                Ok(())
            } else {
                Err(answer)
            }
        })
    });
    let nodes = get(&["nodes"]);
    for node in nodes["items"].as_array().expect("a list") {
        let ready = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Ready");
        assert_eq!(ready.expect("a condition")["status"], "True", "{node}");
    }
    let taken = kubectl(&["get", "pod", "missing-image"]);
    assert!(
        !taken.status.success(),
        "what came after the snapshot is not there"
    );
    let marker = flightcage(&[
        "ssh",
        "w1",
        "--",
        "test ! -e /var/lib/flightcage/after-the-snapshot",
    ]);
    assert!(
        marker.status.success(),
        "what was written to a disk after the snapshot is not there"
    );
    wait_for_replicas("flappy-silex-v1", 2);
}

#[test]
fn m_b_a_snapshot_travels_in_a_file() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("flappy.fcs");
    let file = file.to_str().expect("it is UTF-8");
    let printed = ok(&["snapshot", "export", "flappy-runs", file]);
    let digest = printed.split_whitespace().next().expect("a digest");
    let again = flightcage(&["snapshot", "export", "flappy-runs", file]);
    assert_eq!(again.status.code(), Some(2), "nothing is overwritten");
    let taken = flightcage(&["snapshot", "import", file]);
    assert_eq!(taken.status.code(), Some(2), "the name is taken");
    ok(&[
        "snapshot", "import", file, "--as", "carried", "--sha256", digest,
    ]);
    ok(&["snapshot", "restore", "carried"]);
    assert_eq!(status()["restored_from"], "carried");
    wait_for_replicas("flappy-silex-v1", 2);
    ok(&["snapshot", "rm", "carried"]);
}

#[test]
fn m_c_a_paused_cluster_stands_still_and_goes_on_where_it_was() {
    deploy_flappy();
    wait_for_replicas("flappy-nginx-v0", 2);
    let pods = || {
        let listed = get(&["pods"]);
        let uid = |pod: &Value| pod["metadata"]["uid"].to_string();
        let pods = listed["items"].as_array().expect("a list");
        pods.iter()
            .map(uid)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let before = pods();
    ok(&["pause"]);
    assert!(ok(&["pause"]).contains("already"));
    assert_eq!(status()["paused"], true);
    assert!(ask("/").is_err(), "the host's load balancer refuses");
    for refused in [
        &["get", "pods"][..],
        &UP,
        &["node", "reset", "w1"],
        &["snapshot", "save", "paused"],
    ] {
        let output = flightcage(refused);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{refused:?}");
        assert!(
            stderr.contains("flightcage resume"),
            "{refused:?}: {stderr}"
        );
    }
    // Longer than any silence that is forgiven: without a standstill the workers would be replaced.
    std::thread::park_timeout(Duration::from_secs(20));
    ok(&["resume"]);
    assert!(ok(&["resume"]).contains("was not paused"));
    assert_eq!(status()["paused"], false);
    for node in ["c1", "w1", "w2"] {
        clock_is_right(node);
    }
    wait_for("an answer over TLS", || ask("/").map(drop));
    assert_eq!(pods(), before, "no pod was replaced");
    assert!(
        status()["nodes"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|node| node["ready"] == true)
    );
}

#[test]
fn m_d_objects_travel_in_a_file_with_their_owners() {
    deploy_flappy();
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = |name: &str| {
        let path = folder.path().join(name);
        path.to_str().expect("it is UTF-8").to_owned()
    };
    let uid = || get(&["configmap", "owner", "-n", "carried"])["metadata"]["uid"].clone();
    kubectl_ok(&["create", "namespace", "carried"]);
    kubectl_ok(&["create", "configmap", "owner", "-n", "carried"]);
    let old = uid();
    let child = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "child", "namespace": "carried", "ownerReferences": [
            { "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": old },
        ] },
    });
    std::fs::write(path("child.json"), child.to_string()).expect("it is ours");
    kubectl_ok(&["create", "-f", &path("child.json")]);

    let whole = path("objects.jsonl");
    ok(&["store", "export", &whole]);
    let text = std::fs::read_to_string(&whole).expect("it was written");
    assert!(!text.contains("\"kind\":\"Secret\""), "{text}");
    assert!(text.contains("\"flappy-nginx-v0\""), "{text}");
    let refused = flightcage(&["store", "import", &whole]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("exists already"), "{stderr}");
    assert!(
        !text.contains("rbac-defaults"),
        "every cluster has those: {text}"
    );

    let carried: String = text
        .lines()
        .filter(|line| line.contains("\"carried\""))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(path("carried.jsonl"), carried).expect("it is ours");
    kubectl_ok(&["delete", "namespace", "carried"]);
    kubectl_ok(&["wait", "--for=delete", "namespace/carried", "--timeout=60s"]);
    let left = kubectl_ok(&["get", "configmaps", "-n", "carried", "-o", "name"]);
    assert_eq!(left, "", "a namespace goes with what is in it");
    ok(&["store", "import", &path("carried.jsonl")]);
    let new = uid();
    assert_ne!(new, old);
    let child = get(&["configmap", "child", "-n", "carried"]);
    assert_eq!(child["metadata"]["ownerReferences"][0]["uid"], new);
    kubectl_ok(&["delete", "namespace", "carried"]);
}

#[test]
fn n_a_torn_or_foreign_snapshot_is_refused_and_nothing_changes() {
    let home =
        std::env::var("FLIGHTCAGE_HOME").expect("tests/run gives the tests a home of their own");
    let shelf = Path::new(&home).join("snapshots");
    let copy = |to: &Path| {
        let from = shelf.join(NAME).join("flappy-runs");
        std::fs::create_dir_all(to.parent().expect("it has a parent")).expect("it is ours");
        assert!(
            Command::new("cp")
                .arg("-a")
                .arg(from)
                .arg(to)
                .status()
                .expect("cp runs")
                .success()
        );
    };
    let refused = |name: &str, snapshot: &str, reason: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_flightcage"))
            .args(["--name", name, "snapshot", "restore", snapshot])
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
    };
    copy(&shelf.join("other/flappy-runs"));
    refused(
        "other",
        "flappy-runs",
        "is foreign: it belongs to cluster `tests`",
    );
    std::fs::remove_dir_all(shelf.join("other")).expect("it is ours");
    let memory = shelf.join(NAME).join("flappy-runs/machines/w1/memory");
    let file = std::fs::File::options()
        .write(true)
        .open(memory)
        .expect("it is ours");
    std::os::unix::fs::FileExt::write_all_at(&file, b"torn", 50 << 20).expect("it is ours");
    refused(
        NAME,
        "flappy-runs",
        "machines/w1/memory is not what was written",
    );
    refused(NAME, "never-saved", "has no snapshot `never-saved`");
    assert_eq!(
        status()["nodes"][1]["ready"],
        true,
        "the cluster that is up was left alone"
    );
    ok(&["snapshot", "rm", "flappy-runs"]);
}

#[test]
fn i_exec_hands_on_output_and_exit_code() {
    deploy_flappy();
    let pods = get(&["pods", "-l", "type=nginx"]);
    let pod = pods["items"][0]["metadata"]["name"]
        .as_str()
        .expect("a pod has a name");
    let output = flightcage(&[
        "exec",
        pod,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        (
            output.status.code(),
            said(&output.stdout),
            said(&output.stderr)
        ),
        (Some(7), "out\n".into(), "err\n".into())
    );
    assert_eq!(
        flightcage(&["exec", pod, "--", "/no/such/program"])
            .status
            .code(),
        Some(1)
    );
    let output = flightcage(&["exec", "no-such-pod", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output.stderr).contains("no-such-pod"),
        "{}",
        said(&output.stderr)
    );
}

#[test]
fn i_ports_of_nodes_lead_to_pods_and_a_readiness_gate_holds_one_back() {
    deploy_flappy();
    let pods = get(&["pods", "-l", "type=nginx"]);
    let from = pods["items"][0]["metadata"]["name"]
        .as_str()
        .expect("a pod has a name");
    kubectl_ok(&["apply", "-f", "tests/fixtures/manifests/node-ports.yml"]);
    // What a pod hears that asks there.
    let asked = |node: &str, port: u16| {
        let node = get(&["node", node]);
        let address = node["status"]["addresses"][0]["address"]
            .as_str()
            .expect("a node has an address")
            .to_owned();
        let ask = format!(
            "exec 3<>/dev/tcp/{address}/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
        );
        let output = kubectl(&["exec", from, "--", "timeout", "5", "bash", "-c", &ask]);
        String::from_utf8_lossy(&output.stdout).contains(" 200 ")
    };
    let answers = |node: &str, port: u16| {
        wait_for("an answer", || {
            let heard = asked(node, port);
            heard.then_some(()).ok_or_else(|| format!("{node}:{port}"))
        });
    };
    answers("w2", 8099);
    assert!(!asked("w1", 8099), "the pod is on w2");
    // Its container answers, but somebody's condition is still missing.
    assert!(!asked("w1", 30099), "a readiness gate is closed");
    let condition = r#"{"status":{"conditions":[{"type":"example.org/open","status":"True"}]}}"#;
    kubectl_ok(&[
        "patch",
        "pod",
        "node-ports",
        "--subresource=status",
        "-p",
        condition,
    ]);
    answers("w1", 30099);
    answers("w2", 30099);
    kubectl_ok(&["delete", "-f", "tests/fixtures/manifests/node-ports.yml"]);
    wait_for("the port to go with its pod", || {
        (!asked("w2", 8099)).then_some(()).ok_or_else(String::new)
    });
}

#[test]
fn j_an_update_that_gets_nowhere_is_rolled_back() {
    deploy_flappy();
    let old = if kubectl(&["get", "rc", "flappy-silex-v2"]).status.success() {
        "flappy-silex-v2"
    } else {
        "flappy-silex-v1"
    };
    let v2 = std::fs::read_to_string("scenarios/flappy/silex-v2.yml").expect("it can be read");
    let v3 = v2
        .replace("silex-v2", "silex-v3")
        .replace("version: v2", "version: v3")
        .replace("endpoint:v2", "endpoint:none");
    let file = tempfile::Builder::new()
        .suffix(".yml")
        .tempfile()
        .expect("a temporary file can be made");
    std::fs::write(file.path(), v3).expect("it can be written");
    let manifest = file.path().to_str().expect("the path is UTF-8");
    let output = flightcage(&[
        "rolling-update",
        old,
        "-f",
        manifest,
        "--update-period",
        "1s",
        "--timeout",
        "15s",
    ]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ok(&["rollback", old, "flappy-silex-v3", "--update-period", "1s"]);
    wait_for_replicas(old, 2);
    assert!(
        !kubectl(&["get", "rc", "flappy-silex-v3"]).status.success(),
        "the new one is gone"
    );
}

#[test]
fn k_a_dead_mirror_is_said_so_and_recovered_from() {
    cluster();
    let home =
        std::env::var("FLIGHTCAGE_HOME").expect("tests/run gives the tests a home of their own");
    let blobs = Path::new(&home).join("cache/images/blobs");
    let away = blobs.with_extension("away");
    std::fs::rename(&blobs, &away).expect("it is ours");
    kubectl_ok(&["apply", "-f", "tests/fixtures/manifests/late-image.yml"]);
    let seen = std::panic::catch_unwind(|| {
        wait_for("ErrImagePull or its back-off", || {
            let pod = get(&["pod", "late-image"]);
            let reason = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                .as_str()
                .unwrap_or("")
                .to_owned();
            if ["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()) {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        });
    });
    std::fs::rename(&away, &blobs).expect("it is ours");
    seen.expect("the pod waits for its image");
    wait_for("the pod to run when the mirror is back", || {
        let pod = get(&["pod", "late-image"]);
        if pod["status"]["phase"] == "Running" {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
    kubectl_ok(&["delete", "pod", "late-image"]);
}

#[test]
fn l_another_cluster_file_is_refused_while_this_one_is_up() {
    cluster();
    let file = tempfile::Builder::new()
        .suffix(".toml")
        .tempfile()
        .expect("a temporary file can be made");
    std::fs::write(file.path(), "[cluster]\nworkers = 1\n").expect("it can be written");
    let output = flightcage(&["up", "-f", file.path().to_str().expect("the path is UTF-8")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("another specification") && said.contains("flightcage down"),
        "{said}"
    );
    assert_eq!(
        status()["nodes"].as_array().map(Vec::len),
        Some(3),
        "nothing was changed"
    );
}

#[test]
fn m_limits_hold_and_are_reported() {
    cluster();
    kubectl_ok(&["apply", "-f", "tests/fixtures/manifests/limits.yml"]);
    wait_for(
        "the glutton killed for its memory, and started again",
        || {
            let container = get(&["pod", "glutton"])["status"]["containerStatuses"][0].clone();
            let states = [&container["state"], &container["lastState"]];
            let killed = states
                .iter()
                .any(|state| state["terminated"]["reason"] == "OOMKilled");
            if killed && container["restartCount"].as_i64() > Some(0) {
                Ok(())
            } else {
                Err(container.to_string())
            }
        },
    );
    kubectl_ok(&["delete", "pod", "glutton"]);
    wait_for("the spinner", || {
        let pod = get(&["pod", "spinner"]);
        if pod["status"]["phase"] == "Running" {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
    assert_eq!(get(&["pod", "spinner"])["status"]["qosClass"], "Guaranteed");
    // What it used between two looks, by the node's own clock, which the container shares.
    let look = || -> (f64, f64) {
        let told = ok(&[
            "exec",
            "spinner",
            "--",
            "cat",
            "/proc/uptime",
            "/sys/fs/cgroup/cpu.stat",
        ]);
        let number = |text: Option<&str>| {
            text.and_then(|text| text.trim().parse::<f64>().ok())
                .unwrap_or_else(|| panic!("{told}"))
        };
        let used = told
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        (number(told.split_whitespace().next()), number(used) / 1e6)
    };
    let (from, before) = look();
    std::thread::sleep(Duration::from_secs(20));
    let (to, after) = look();
    let used = (after - before) / (to - from);
    println!(
        "limits: 200m of a processor: {:.1}m used over {:.1} s",
        used * 1000.0,
        to - from
    );
    // A busy host may give it less.
    assert!(
        used < 0.22,
        "{used} of a processor, at most 0.2 and a tenth of it"
    );
    kubectl_ok(&["delete", "pod", "spinner"]);
}

#[test]
fn z_killing_the_daemon_leaves_nothing_and_up_brings_the_cluster_back() {
    cluster();
    let daemons = Command::new("pgrep")
        .args(["-f", &format!("daemon --name {NAME}")])
        .output()
        .expect("pgrep runs");
    let pid = String::from_utf8_lossy(&daemons.stdout).trim().to_owned();
    assert!(
        !pid.is_empty() && !pid.contains('\n'),
        "one daemon: {pid:?}"
    );
    assert!(
        Command::new("kill")
            .args(["-KILL", &pid])
            .status()
            .expect("kill runs")
            .success()
    );
    let home =
        std::env::var("FLIGHTCAGE_HOME").expect("tests/run gives the tests a home of their own");
    let machines = format!("qemu-system.*{home}/clusters/{NAME}/");
    wait_for("the machines to die with their daemon", || {
        let left = Command::new("pgrep")
            .args(["-f", &machines])
            .output()
            .expect("pgrep runs");
        if left.stdout.is_empty() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&left.stdout).into_owned())
        }
    });
    assert_eq!(
        flightcage(&["status"]).status.code(),
        Some(1),
        "a dead daemon's cluster is not up"
    );
    ok(&UP);
    // A beat that is late on a busy host makes a node unready for a moment.
    wait_for("every node to be ready", || {
        let status = status();
        let nodes = status["nodes"].as_array().expect("nodes is a list");
        let unready = nodes.iter().find(|node| node["ready"] != true);
        unready.map_or(Ok(()), |node| Err(node.to_string()))
    });
    ok(&["down"]);
    assert!(
        !Path::new(&home).join("clusters").join(NAME).exists(),
        "down removes the cluster's directory"
    );
}

#[test]
fn zz_up_restores_the_pristine_cluster_and_boots_cold_when_its_snapshot_is_torn() {
    let snapshots = json(&ok(&["snapshot", "list", "--json"]));
    let name = snapshots[0]["name"]
        .as_str()
        .expect("the cold boot was saved")
        .to_owned();
    let with = |script: &str| flightcage(&["with", "-f", UP[2], "--", "sh", "-c", script]);
    let output = with("kubectl get nodes -o name | wc -l; kubectl get rc -o name; exit 7");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert_eq!(
        stdout.trim(),
        "3",
        "three nodes and nothing deployed: {stdout}{stderr}"
    );
    assert!(
        stderr.contains(&format!("restoring snapshot `{name}`")),
        "{stderr}"
    );

    let home =
        std::env::var("FLIGHTCAGE_HOME").expect("tests/run gives the tests a home of their own");
    let manifest = Path::new(&home)
        .join("snapshots")
        .join(NAME)
        .join(&name)
        .join("manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("it is there");
    std::fs::write(&manifest, &text[..text.len() / 2]).expect("it is ours");
    let output = with("kubectl get nodes -o name | wc -l");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && stdout.trim() == "3",
        "{stdout}{stderr}"
    );
    assert!(
        stderr.contains("is torn") && stderr.contains("booting 3 machines"),
        "{stderr}"
    );
    ok(&["snapshot", "rm", &name]);
}
