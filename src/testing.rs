//! A cluster for the tests of a binary: booted or restored once, shared by its tests, pristine for each of them.
//!
//! ```no_run
//! use flightcage::testing::Cluster;
//!
//! // In a real test: #[test]
//! fn the_pod_runs() {
//!     let cluster = Cluster::shared().pristine();
//!     cluster.apply(r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
//!         "spec": {"containers": [{"name": "web", "image": "quay.io/purplebooth/flappy-nginx"}]}}"#);
//!     cluster.wait_for("pod", "web", |pod| pod["status"]["phase"] == "Running");
//! }
//! ```
//! Tests of one binary take turns: [`Cluster::pristine`] waits for the test that has the cluster, and puts everything back that it has
//! changed by restoring the snapshot that every cluster begins from. Test binaries, and the shards of a pipeline, have clusters of their own and run side by side.
//!
//! The cluster belongs to a `flightcage with` whose standard input this process holds: it goes when the test binary ends, however that
//! happens. A test that fails leaves the cluster's objects, the pods' logs and the machines' consoles below [`logs_directory`].
//!
//! Everything here blocks, uses the `flightcage` binary (`FLIGHTCAGE_BIN`, the one that cargo built beside the test, or the one on PATH)
//! and panics with what happened: it is for tests. Asynchronous tests take a [`Client`] from [`Session::client`].

use std::io::{BufRead, BufReader, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kubernetes::client::Client;

/// Bounds every wait of [`Session::wait_for`]; machines without hardware acceleration are slow.
const PATIENCE: Duration = Duration::from_mins(5);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// What runs inside `with`: tells us where the kubeconfig is, and lives as long as we hold its input.
const HOLD: &str = "echo \"$KUBECONFIG\"; exec cat > /dev/null";

/// A cluster that this process owns.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    kubeconfig: PathBuf,
    /// Held by the test whose turn it is.
    turn: Mutex<Turn>,
}

/// What the cluster is like between two tests.
#[derive(Debug)]
struct Turn {
    owner: Option<Owner>,
    /// Whether a test may have changed anything.
    is_used: bool,
}

/// The `flightcage with` that owns the cluster: the end of its input ends both.
#[derive(Debug)]
struct Owner {
    input: ChildStdin,
    child: Child,
}

impl Owner {
    /// Brings the cluster up, pristine; returns its owner and its kubeconfig.
    fn start(name: &str) -> (Self, PathBuf) {
        let mut command = Command::new(binary());
        command.args(["--name", name, "with", "--", "sh", "-c", HOLD]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start `{}`: {error}", binary().display()));
        let input = child.stdin.take().expect("it is piped");
        let progress = BufReader::new(child.stderr.take().expect("it is piped"));
        let said = std::thread::spawn(move || {
            progress
                .lines()
                .map_while(Result::ok)
                .collect::<Vec<_>>()
                .join("\n")
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("the pipe can be read");
        let owner = Self { input, child };
        if line.trim().is_empty() {
            owner.end();
            panic!(
                "cluster `{name}` did not come up:\n{}",
                said.join().unwrap_or_default()
            );
        }
        (owner, PathBuf::from(line.trim()))
    }

    /// Takes the cluster down.
    fn end(mut self) {
        drop(self.input);
        // Whether it says 0 or not, it is gone; what it could not clear, the next start clears.
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// The cluster of this test binary; the first caller brings it up.
    ///
    /// # Panics
    /// When it does not come up; with what `flightcage` said.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&default_name()))
    }

    /// Brings up a cluster of this name, for a binary that needs several. The same name finds the same snapshot again.
    ///
    /// # Panics
    /// When it does not come up; with what `flightcage` said.
    pub fn start(name: &str) -> Self {
        let (owner, kubeconfig) = Owner::start(name);
        Self {
            name: name.to_owned(),
            kubeconfig,
            turn: Mutex::new(Turn {
                owner: Some(owner),
                is_used: false,
            }),
        }
    }

    /// Waits for its turn and gets the cluster as it was after its boot.
    ///
    /// # Panics
    /// When the cluster cannot be put back.
    pub fn pristine(&self) -> Session<'_> {
        // A test that failed has poisoned it; the next one starts afresh all the same.
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.is_used || turn.owner.is_none() {
            turn.owner.take().into_iter().for_each(Owner::end);
            let (owner, kubeconfig) = Owner::start(&self.name);
            assert_eq!(
                kubeconfig, self.kubeconfig,
                "a cluster's kubeconfig does not move"
            );
            turn.owner = Some(owner);
        }
        turn.is_used = true;
        Session {
            cluster: self,
            _turn: turn,
        }
    }

    /// The cluster's name, for `flightcage --name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A kubeconfig for any client.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A Kubernetes client, as administrator.
    ///
    /// # Panics
    /// When the kubeconfig cannot be read.
    pub fn client(&self) -> Client {
        // The binary's tests may have installed one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::from_kubeconfig(&self.kubeconfig).expect("`flightcage with` wrote the kubeconfig")
    }

    /// Runs `flightcage` on this cluster.
    ///
    /// # Panics
    /// When the binary cannot be started.
    pub fn flightcage(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command
            .args(["--name", &self.name])
            .args(arguments)
            .stdin(Stdio::null());
        command
            .output()
            .unwrap_or_else(|error| panic!("run `{}`: {error}", binary().display()))
    }

    /// Runs `flightcage` on this cluster and returns what it prints.
    ///
    /// # Panics
    /// When it fails; with what it said.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.flightcage(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "`flightcage {}` failed ({}):\n{said}",
            arguments.join(" "),
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A test's turn with the cluster. Its end lets the next test have it.
#[derive(Debug)]
pub struct Session<'c> {
    cluster: &'c Cluster,
    _turn: MutexGuard<'c, Turn>,
}

impl Deref for Session<'_> {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Session<'_> {
    /// Creates or changes the objects of a manifest: YAML or JSON, one or several documents.
    ///
    /// # Panics
    /// When the API refuses it; with every cause.
    pub fn apply(&self, manifest: &str) {
        let mut file = tempfile::Builder::new()
            .suffix(".yml")
            .tempfile()
            .expect("a temporary file can be made");
        file.write_all(manifest.as_bytes())
            .expect("a temporary file can be written");
        self.ok(&["apply", "-f", &file.path().to_string_lossy()]);
    }

    /// An object in namespace `default`, or what the API says instead.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value, String> {
        let output = self.flightcage(&["get", kind, name, "-o", "json"]);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    /// Waits until an object is as it should be, and returns it.
    ///
    /// # Panics
    /// After five minutes; with the object as it was then.
    pub fn wait_for(&self, kind: &str, name: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        self.wait(&format!("{kind} `{name}` to be as expected"), || {
            self.get(kind, name).and_then(|object| {
                if is_right(&object) {
                    Ok(object)
                } else {
                    Err(object.to_string())
                }
            })
        })
    }

    /// Waits until `look` finds what it looks for.
    ///
    /// # Panics
    /// After five minutes; with what was seen last.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
        let begun = Instant::now();
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) if begun.elapsed() > PATIENCE => {
                    panic!("waited {PATIENCE:?} for {what}; last seen: {seen}")
                }
                // There is no event to wait for across processes; the wait is bounded.
                Err(_) => std::thread::park_timeout(LOOK_AGAIN),
            }
        }
    }

    /// Where this host reaches a port of a LoadBalancer Service, such as `127.0.0.1:40443`.
    ///
    /// # Panics
    /// When the Service is not served after five minutes.
    pub fn address(&self, service: &str, port: u16) -> String {
        self.wait(&format!("port {port} of Service `{service}`"), || {
            let status: Value = serde_json::from_str(&self.ok(&["status", "--json"]))
                .map_err(|error| error.to_string())?;
            let services = status["services"].as_array().cloned().unwrap_or_default();
            let found = services.iter().find(|found| found["name"] == service);
            let ports = found
                .and_then(|found| found["ports"].as_array())
                .cloned()
                .unwrap_or_default();
            let found = ports
                .iter()
                .find(|found| found["port"] == port)
                .and_then(|found| found["host"].as_str());
            found
                .map(str::to_owned)
                .ok_or_else(|| status["services"].to_string())
        })
    }

    /// Writes down what a failed test leaves behind.
    fn keep_logs(&self) -> std::io::Result<PathBuf> {
        let test = std::thread::current()
            .name()
            .unwrap_or("test")
            .replace("::", "-");
        let directory = logs_directory().join(&self.name).join(test);
        std::fs::create_dir_all(&directory)?;
        let said = |arguments: &[&str]| {
            let output = self.flightcage(arguments);
            [output.stdout, output.stderr].concat()
        };
        for kind in [
            "nodes",
            "pods",
            "events",
            "services",
            "endpoints",
            "replicationcontrollers",
        ] {
            std::fs::write(
                directory.join(format!("{kind}.json")),
                said(&["get", kind, "-o", "json"]),
            )?;
        }
        let pods: Value = serde_json::from_slice(&std::fs::read(directory.join("pods.json"))?)
            .unwrap_or_default();
        let names = pods["items"].as_array().cloned().unwrap_or_default();
        for pod in names
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
        {
            std::fs::write(
                directory.join(format!("pod-{pod}.log")),
                said(&["logs", pod]),
            )?;
        }
        let status: Value =
            serde_json::from_slice(&said(&["status", "--json"])).unwrap_or_default();
        for node in status["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|node| node["name"].as_str())
        {
            std::fs::write(
                directory.join(format!("console-{node}.log")),
                said(&["console", node]),
            )?;
        }
        Ok(directory)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.keep_logs() {
                Ok(directory) => {
                    tracing::error!(directory = %directory.display(), "the failed test's logs are kept")
                }
                Err(error) => tracing::error!(%error, "the failed test's logs could not be kept"),
            }
        }
    }
}

/// Where failed tests leave their logs: `$FLIGHTCAGE_TEST_LOGS`, or `flightcage-logs` in the directory for temporary files.
pub fn logs_directory() -> PathBuf {
    std::env::var_os("FLIGHTCAGE_TEST_LOGS").map_or_else(
        || std::env::temp_dir().join("flightcage-logs"),
        PathBuf::from,
    )
}

/// `$FLIGHTCAGE_NAME`, or the test binary's name without the hash that cargo gives it: the same in every run, so that a snapshot serves.
fn default_name() -> String {
    std::env::var("FLIGHTCAGE_NAME")
        .unwrap_or_else(|_| cluster_name(&std::env::current_exe().unwrap_or_default()))
}

fn cluster_name(test: &Path) -> String {
    let stem = test
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stem = match stem.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|c| c.is_ascii_hexdigit()) => {
            name
        }
        _ => stem.as_str(),
    };
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = stem.chars().map(plain).take(34).collect();
    format!("test-{}", name.trim_matches('-'))
}

/// `$FLIGHTCAGE_BIN`, the binary that cargo built beside this test, or the one on PATH.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let beside = || {
            let test = std::env::current_exe().ok()?;
            test.ancestors()
                .skip(1)
                .take(2)
                .map(|directory| directory.join("flightcage"))
                .find(|path| path.is_file())
        };
        std::env::var_os("FLIGHTCAGE_BIN")
            .map(PathBuf::from)
            .or_else(beside)
            .unwrap_or_else(|| "flightcage".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_binarys_cluster_has_the_same_name_in_every_build() {
        let check = |path: &str, expected: &str| {
            let name = cluster_name(Path::new(path));
            assert_eq!(name, expected);
            name.parse::<crate::model::names::ClusterName>()
                .expect("it names a cluster");
        };
        check("/t/debug/deps/failover-0123456789abcdef", "test-failover");
        check("/t/debug/deps/my_tests-aaaaaaaaaaaaaaaa", "test-my-tests");
        check("/t/my-tests", "test-my-tests");
        check(
            &format!("/t/{}", "x".repeat(60)),
            &format!("test-{}", "x".repeat(34)),
        );
    }
}
