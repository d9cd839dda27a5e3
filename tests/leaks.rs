//! `kill -9` of the command, the daemon or a machine at random moments of `up`, `run` and `down`: after the next `down` nothing is left.
//!
//! Needs a host that `flightcage doctor` calls able and a built box. `FLIGHTCAGE_LEAK_POINTS` (default 20) and `FLIGHTCAGE_LEAK_SEED` choose
//! how many moments and which. Every process that a point starts is marked in its environment, which its children inherit.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use serde_json::Value;

const NAME: &str = "leaks";
const MARK: &str = "FLIGHTCAGE_LEAK_POINT";
/// Longest after the start that a point kills: machines have started by then, and boot.
const WINDOW: Duration = Duration::from_secs(5);
/// Bounds a wait; not an expectation of speed.
const PATIENCE: Duration = Duration::from_secs(120);

/// `SplitMix64`: the same points for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

fn home() -> PathBuf {
    std::env::var_os("FLIGHTCAGE_HOME")
        .expect("tests/run gives the tests a home of their own")
        .into()
}

fn command(mark: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flightcage"));
    command
        .args(["--name", NAME])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env(MARK, mark)
        .stdin(Stdio::null());
    command
}

fn start(mark: &str, arguments: &[&str]) -> Child {
    command(mark, arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("the binary starts")
}

fn finish(mark: &str, arguments: &[&str]) -> Output {
    command(mark, arguments).output().expect("the binary runs")
}

fn ok(mark: &str, arguments: &[&str]) -> String {
    let output = finish(mark, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{mark}: `flightcage {}` failed ({}):\n{stderr}",
        arguments.join(" "),
        output.status
    );
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

/// The processes that carry the mark, with their arguments; zombies have none and are not seen.
fn marked(mark: &str) -> Vec<(u32, String)> {
    let wanted = format!("{MARK}={mark}");
    let processes = fs::read_dir("/proc").expect("/proc can be read").flatten();
    let carries = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        environment
            .split(|byte| *byte == 0)
            .find(|word| *word == wanted.as_bytes())?;
        let words = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?)
            .replace('\0', " ");
        (!words.is_empty()).then_some((pid, words))
    };
    processes.filter_map(carries).collect()
}

fn kill(pid: u32) {
    // It may be gone by now.
    let _ = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

fn machines(mark: &str) -> Vec<u32> {
    let all = marked(mark).into_iter();
    all.filter(|(_, words)| {
        words
            .split(' ')
            .next()
            .is_some_and(|program| program.contains("qemu-system"))
    })
    .map(|(pid, _)| pid)
    .collect()
}

fn daemon(mark: &str) -> Option<u32> {
    marked(mark)
        .into_iter()
        .find(|(_, words)| words.contains(" daemon "))
        .map(|(pid, _)| pid)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        park_timeout(Duration::from_millis(20));
    }
}

/// Everything of the cluster that still exists.
fn left(mark: &str) -> Vec<String> {
    let mut left: Vec<String> = marked(mark)
        .into_iter()
        .map(|(pid, words)| format!("process {pid}: {words}"))
        .collect();
    let named = |directory: &Path| {
        let entries = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let ours = entries.filter(|path| {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            name == NAME
                || name.starts_with(&format!(".{NAME}."))
                || name.ends_with(&format!("-{NAME}"))
        });
        ours.map(|path| path.display().to_string())
            .collect::<Vec<_>>()
    };
    left.extend(named(&home().join("clusters")));
    let listed: Value =
        serde_json::from_str(&ok(mark, &["ls", "--json"])).expect("`ls --json` is JSON");
    let clusters = listed["clusters"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|cluster| cluster["name"] == NAME);
    left.extend(clusters.map(|cluster| format!("listed: {cluster}")));
    left.extend(
        listed["abandoned"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|path| format!("abandoned: {path}")),
    );
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&*home().to_string_lossy()))
            .map(|line| format!("mount: {line}")),
    );
    left
}

/// One moment: starts a command, kills something, and clears up as the next user would.
fn point(number: u64, random: &mut Random) {
    let mark = format!("{}-{number}", std::process::id());
    let verb = ["up", "run", "down"][usize::try_from(random.below(3)).expect("small")];
    let victim = ["command", "daemon", "machine"][usize::try_from(random.below(3)).expect("small")];
    let scenario = ["run", "scenarios/failover.toml"];
    let (mut child, window) = match verb {
        "up" => (start(&mark, &["up", "--fresh"]), WINDOW),
        "run" => (start(&mark, &scenario), WINDOW),
        _ => {
            // A cluster for `down` to take down: its `run` is killed, and the daemon has begun by itself when `down` comes.
            let mut run = start(&mark, &scenario);
            wait_for("machines", || (!machines(&mark).is_empty()).then_some(()));
            run.kill().expect("it runs");
            run.wait().expect("it has ended");
            (start(&mark, &["down"]), WINDOW / 10)
        }
    };
    // Half of the moments are counted from the first machine's start, however busy the host is until then.
    if verb != "down" && random.below(2) == 0 {
        wait_for("machines", || (!machines(&mark).is_empty()).then_some(()));
    }
    let delay = Duration::from_millis(
        random.below(u64::try_from(window.as_millis()).expect("it is seconds")),
    );
    park_timeout(delay);
    let found = match victim {
        "daemon" => daemon(&mark),
        "machine" => {
            let machines = machines(&mark);
            let count = u64::try_from(machines.len()).expect("few");
            (count > 0).then(|| machines[usize::try_from(random.below(count)).expect("few")])
        }
        _ => Some(child.id()),
    };
    println!("point {number}: {verb}, {victim} {found:?} after {delay:?}");
    found.into_iter().for_each(kill);
    if victim == "command" {
        child.wait().expect("it has ended");
    } else {
        // It goes on, or fails because of what was killed; either way it is interrupted.
        park_timeout(Duration::from_millis(random.below(1000)));
        kill(child.id());
        child.wait().expect("it has ended");
    }
    ok(&mark, &["down"]);
    // What was killed in the middle of starting a process may leave it for the instant that it needs to find itself orphaned.
    let begun = Instant::now();
    while !left(&mark).is_empty() && begun.elapsed() < Duration::from_secs(2) {
        park_timeout(Duration::from_millis(50));
    }
    let left = left(&mark);
    assert!(
        left.is_empty(),
        "point {number} ({verb}, {victim} after {delay:?}) left:\n{}",
        left.join("\n")
    );
}

#[test]
fn a_kill_at_any_moment_leaves_nothing() {
    let seed = setting("FLIGHTCAGE_LEAK_SEED", 20_261_123);
    let points = setting("FLIGHTCAGE_LEAK_POINTS", 20);
    println!("seed {seed}, {points} points");
    let mut random = Random(seed);
    let begun = Instant::now();
    for number in 0..points {
        point(number, &mut random);
    }
    println!(
        "{points} points in {:.0} s: nothing left",
        begun.elapsed().as_secs_f64()
    );
}

#[test]
fn of_two_ups_of_one_name_the_second_is_told_so() {
    let mark = format!("{}-two", std::process::id());
    let mut first = start(&mark, &["up", "--fresh"]);
    wait_for("the daemon", || daemon(&mark));
    let second = finish(&mark, &["up", "--fresh"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        said.contains("another flightcage command is bringing cluster `leaks` up or down"),
        "{said}"
    );
    assert!(
        first.try_wait().expect("it can be asked").is_none(),
        "the first goes on"
    );
    // Interrupted as a user does it, it takes down what it has begun.
    let asked = Command::new("kill")
        .args(["-INT", &first.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(asked.success());
    assert_eq!(first.wait().expect("it ends").code(), Some(1));
    ok(&mark, &["down"]);
    assert_eq!(left(&mark), Vec::<String>::new());
}

#[test]
fn what_the_host_cannot_hold_is_refused_and_leaves_nothing() {
    let mark = format!("{}-host", std::process::id());
    let file = tempfile::Builder::new()
        .suffix(".toml")
        .tempfile()
        .expect("a temporary file can be made");
    let write = |text: &str| fs::write(file.path(), text).expect("it can be written");
    let refused = |limit: &str| {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &format!("{limit} exec \"$@\""),
            "sh",
            env!("CARGO_BIN_EXE_flightcage"),
            "--name",
            NAME,
            "up",
            "--fresh",
            "-f",
        ]);
        let output = shell
            .arg(file.path())
            .env(MARK, &mark)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        ok(&mark, &["down"]);
        assert_eq!(left(&mark), Vec::<String>::new());
        said
    };
    write("[cluster]\nmemory = \"900GiB\"\n");
    let said = refused("");
    assert!(
        said.contains("MiB of memory") && said.contains("mend: end other programs"),
        "{said}"
    );
    write("[cluster]\nworkers = 1\n");
    let said = refused("ulimit -n 128;");
    assert!(
        said.contains("open files, the limit is 128") && said.contains("mend: ulimit -n"),
        "{said}"
    );
}
