//! `bench up`: how long a cluster takes to come up, beside bare machines in the same run, and what it takes of the host's memory.
//!
//! ```text
//! bare boots ─► cold up ─► memory ─► down ─► cold up that saves ─► down ─► bare load ─► up that restores ─► reset ─► memory
//!   ─► deploy the stack ─► save ─► down ─► restore ─► first answer ─► down
//! ```
//! All of it happens on a cluster of its own, which is gone at the end with its snapshots, whatever ends the command. What an `up` is
//! measured against is measured strictly: a bare boot begins when the machines are ordered, an `up` with the checks of the host.

mod stack;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::cluster::open_home;
use super::doctor;
use super::failure::Failure;
use super::figures::collect;
use super::interruption::Interruption;
use super::series::accel_name;
use super::terminal::{Live, say};
use crate::cluster::home::{ClusterPaths, Home};
use crate::cluster::inventory;
use crate::cluster::life::{self, Boot, Cluster, LifeError, Lifetime, SnapshotUse};
use crate::machines::provider::{Acceleration, BoxBoot, BoxFiles, KernelBoot};
use crate::model::cluster::ClusterSpec;
use crate::model::names::{ClusterName, NodeName};
use crate::shell::ssh::Ssh;
use stack::StackTimes;

/// The measured cluster's name is the given one with this.
const SUFFIX: &str = "-bench";
/// A cluster that has just become Ready is given so long to become idle before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(20);
/// Longest that a machine which is up may take to let us in.
const LOGIN_LIMIT: Duration = Duration::from_secs(30);
/// Tells a machine's own view of its memory.
const READ_MEMORY: &str = "cat /proc/meminfo";
/// The host's memory for a cluster may be this much of what its guests use,
const GUEST_SHARE: f64 = 1.15;
/// so much more for each machine,
const MACHINE_MIB: f64 = 120.0;
/// and so much for the daemon.
const DAEMON_MIB: f64 = 80.0;

/// Arguments of `bench up`.
#[derive(Debug, Args)]
pub(super) struct Up {
    /// How often everything is measured.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

impl Up {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        doctor::require_able_host().await?;
        let name = format!("{name}{SUFFIX}")
            .parse::<ClusterName>()
            .map_err(|error| Failure::from(error).invalid())?;
        let home = open_home()?;
        let paths = home.cluster(&name);
        if paths.complete().exists() {
            return Err(LifeError::Exists(name.to_string()).into());
        }
        let bench = Bench {
            home,
            paths,
            spec: ClusterSpec::with_workers(name, 2),
            live: Live::new(),
        };
        let interruption = Interruption::watch();
        let measured = tokio::select! {
            measured = bench.measure(self.repeat) => measured,
            () = interruption.token().cancelled() => Err(Failure::new("interrupted; what was begun is taken down")),
        };
        let cleared = bench.clear().await;
        bench.live.finish();
        let (runs, acceleration) = measured?;
        cleared?;
        let figures = collect(&runs.iter().map(Run::figures).collect::<Vec<_>>());
        if self.json {
            let document = json!({"version": 1, "bench": "up", "runs": runs.len(), "accel": accel_name(acceleration),
                "machines": bench.spec.machines.len(), "figures": with_goals(figures)});
            say(&serde_json::to_string_pretty(&document)?);
        } else {
            say(&table(&figures));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What is measured, and where.
struct Bench {
    home: Home,
    paths: ClusterPaths,
    spec: ClusterSpec,
    live: Arc<Live>,
}

impl Bench {
    async fn measure(&self, repeat: u32) -> Result<(Vec<Run>, Option<Acceleration>), Failure> {
        let box_files =
            life::build_artefacts(&self.home, &self.spec.box_name, &self.live.reporter()).await?;
        read_once(&box_files).await?;
        let (mut runs, mut acceleration) = (Vec::new(), None);
        for number in 1..=repeat {
            self.live.step(&format!("run {number} of {repeat}"));
            let (run, used) = self.run().await?;
            runs.push(run);
            acceleration = used;
        }
        Ok((runs, acceleration))
    }

    async fn run(&self) -> Result<(Run, Option<Acceleration>), Failure> {
        self.clear().await?;
        self.live.step("bare boots, together, each to an SSH login");
        let bare_logins = life::bare_boots(&self.home, &self.spec, &self.live.reporter()).await?;

        self.live.step("cold `up`");
        let (cluster, cold) = self.up(SnapshotUse::Ignore).await?;
        let acceleration = cluster.daemon.status().await?.acceleration;
        let booted_memory = self.memory(&cluster).await?;
        self.down(cluster).await?;

        self.live.step("cold `up` that saves a snapshot");
        let (cluster, saving) = self.up(SnapshotUse::Keep(1)).await?;
        self.down(cluster).await?;

        self.live.step("loading the saved memories, bare");
        let bare_load = life::bare_load(&self.home, &self.spec, &self.live.reporter()).await?;
        self.live.step("`up` that restores");
        let (cluster, restored) = self.up(SnapshotUse::Keep(1)).await?;
        require_restored(&cluster).await?;
        self.live.step("reset");
        let begun = Instant::now();
        let cluster = life::reset(
            &self.home,
            cluster,
            SnapshotUse::Keep(1),
            self.live.reporter(),
        )
        .await?;
        let reset = begun.elapsed();
        require_restored(&cluster).await?;
        let restored_memory = self.memory(&cluster).await?;
        let stack = self.stack(cluster).await?;
        let run = Run {
            bare_logins,
            cold,
            saving,
            bare_load,
            restored,
            reset,
            booted_memory,
            restored_memory,
            stack,
        };
        Ok((run, acceleration))
    }

    /// What the command `up` does, to its return.
    async fn up(&self, snapshots: SnapshotUse) -> Result<(Cluster, Duration), Failure> {
        let begun = Instant::now();
        doctor::require_able_host().await?;
        self.live.step(&format!(
            "checks of the host: {:.2} s",
            begun.elapsed().as_secs_f64()
        ));
        // Owned: killed, this command leaves no cluster.
        let boot = Boot {
            lifetime: Lifetime::Owned,
            snapshots,
        };
        let cluster = life::up(&self.home, self.spec.clone(), boot, self.live.reporter()).await?;
        Ok((cluster, begun.elapsed()))
    }

    async fn down(&self, cluster: Cluster) -> Result<(), Failure> {
        self.live.step("taking the cluster down");
        Ok(life::down(&cluster.paths).await?)
    }

    /// Removes whatever there is of the measured cluster, and the snapshots that were made of it.
    async fn clear(&self) -> Result<(), Failure> {
        life::down(&self.paths).await?;
        let shelf = life::shelf(&self.paths);
        let stack = shelf
            .path(stack::SNAPSHOT)
            .exists()
            .then(|| stack::SNAPSHOT.to_owned());
        for name in shelf
            .automatic()?
            .into_iter()
            .map(|kept| kept.name)
            .chain(stack)
        {
            life::remove_snapshot(&self.paths, &name)?;
        }
        Ok(())
    }

    /// The guests first: what looking at them takes is then in what the host gives.
    async fn memory(&self, cluster: &Cluster) -> Result<Memory, Failure> {
        self.live.step("memory of the idle cluster");
        tokio::time::sleep(SETTLE).await;
        let guests_mib = try_join_all(self.spec.machines.iter().map(async |machine| {
            let ssh =
                Ssh::connect(&cluster.daemon.login(&machine.name).await?, LOGIN_LIMIT).await?;
            let told = ssh.run(READ_MEMORY, None).await?.check(READ_MEMORY)?.text();
            let used = mebibytes(&told, "MemTotal")
                .zip(mebibytes(&told, "MemFree"))
                .map(|(total, free)| total - free);
            used.ok_or_else(|| {
                Failure::new(format!(
                    "read the memory of node `{}`: `{READ_MEMORY}` told none",
                    machine.name
                ))
            })
        }));
        let guests_mib = guests_mib.await?;
        let host_mib = self
            .processes()?
            .into_iter()
            .map(proportional_mib)
            .sum::<Result<f64, Failure>>()?;
        Ok(Memory {
            host_mib,
            guests_mib,
        })
    }

    /// The daemon and its machines. What the daemon shares with this command, the binary's text, counts for it by half.
    fn processes(&self) -> Result<Vec<u32>, Failure> {
        let clusters = inventory::look(&self.home)?.clusters;
        let entry = clusters
            .into_iter()
            .find(|entry| entry.name == self.spec.name);
        let found = entry
            .as_ref()
            .and_then(|entry| Some((entry.daemon?, &entry.machines)));
        let wanted = self.spec.machines.len();
        match found {
            Some((daemon, machines)) if machines.len() == wanted => Ok(std::iter::once(daemon)
                .chain(machines.iter().map(|machine| machine.pid))
                .collect()),
            _ => Err(Failure::new(format!(
                "find the daemon and the {wanted} machines of cluster `{}`",
                self.spec.name
            ))),
        }
    }
}

/// Reads the box, so that the machines that boot first do not wait for the disk where later ones do not.
async fn read_once(files: &BoxFiles) -> Result<(), Failure> {
    let files = match &files.boot {
        BoxBoot::Existing => Vec::new(),
        BoxBoot::Kernel(KernelBoot {
            kernel,
            initramfs,
            root,
            ..
        }) => vec![kernel, initramfs, root],
        BoxBoot::Disk(image) => vec![&image.path],
    };
    for path in files {
        let read = async {
            tokio::io::copy(
                &mut tokio::fs::File::open(path).await?,
                &mut tokio::io::sink(),
            )
            .await
        };
        read.await
            .map_err(|error| Failure::new(format!("read `{}`", path.display())).because(error))?;
    }
    Ok(())
}

/// A cold boot in a restore's place is no measurement.
async fn require_restored(cluster: &Cluster) -> Result<(), Failure> {
    if cluster.daemon.status().await?.restored_from.is_some() {
        return Ok(());
    }
    Err(
        Failure::new("the cluster booted cold instead of from its snapshot")
            .hint("what it said above tells why"),
    )
}

/// What a process takes of the host's memory: pages that it shares count in part (`/proc/PID/smaps_rollup`, proc(5)).
fn proportional_mib(pid: u32) -> Result<f64, Failure> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let failed = || Failure::new(format!("read `{path}`"));
    let told = std::fs::read_to_string(&path).map_err(|error| failed().because(error))?;
    mebibytes(&told, "Pss").ok_or_else(|| failed().hint("it has no line `Pss:`"))
}

/// The value of a line `FIELD:  N kB`, as `/proc` has them.
fn mebibytes(text: &str, field: &str) -> Option<f64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(
        value
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<f64>()
            .ok()?
            / 1024.0,
    )
}

/// What an idle cluster takes.
#[derive(Debug, Clone)]
struct Memory {
    /// The sum over the daemon and the machines' processes.
    host_mib: f64,
    /// What each machine does not have free.
    guests_mib: Vec<f64>,
}

impl Memory {
    fn limit_mib(&self) -> f64 {
        DAEMON_MIB
            + self
                .guests_mib
                .iter()
                .map(|guest| GUEST_SHARE * guest + MACHINE_MIB)
                .sum::<f64>()
    }
}

/// What one run has measured.
#[derive(Debug, Clone)]
struct Run {
    bare_logins: Vec<(NodeName, Duration)>,
    cold: Duration,
    saving: Duration,
    bare_load: Duration,
    restored: Duration,
    reset: Duration,
    booted_memory: Memory,
    restored_memory: Memory,
    stack: StackTimes,
}

impl Run {
    /// By name; the unit is the name's end.
    fn figures(&self) -> BTreeMap<&'static str, f64> {
        let slowest = self
            .bare_logins
            .iter()
            .map(|(_, took)| *took)
            .max()
            .unwrap_or_default();
        let per = |took: Duration, of: Duration| took.as_secs_f64() / of.as_secs_f64();
        BTreeMap::from([
            ("slowest_bare_login_s", slowest.as_secs_f64()),
            ("cold_up_s", self.cold.as_secs_f64()),
            ("cold_up_per_bare_login", per(self.cold, slowest)),
            ("cold_up_and_save_s", self.saving.as_secs_f64()),
            ("bare_load_s", self.bare_load.as_secs_f64()),
            ("restored_up_s", self.restored.as_secs_f64()),
            ("restored_up_per_cold_up", per(self.restored, self.cold)),
            (
                "restored_up_per_bare_load",
                per(self.restored, self.bare_load),
            ),
            ("reset_s", self.reset.as_secs_f64()),
            ("reset_per_cold_up", per(self.reset, self.cold)),
            ("reset_per_bare_load", per(self.reset, self.bare_load)),
            ("stack_restored_s", self.stack.restored.as_secs_f64()),
            ("stack_first_answer_s", self.stack.served.as_secs_f64()),
            (
                "booted_guests_mib",
                self.booted_memory.guests_mib.iter().sum(),
            ),
            ("booted_memory_mib", self.booted_memory.host_mib),
            (
                "booted_memory_per_limit",
                self.booted_memory.host_mib / self.booted_memory.limit_mib(),
            ),
            (
                "restored_guests_mib",
                self.restored_memory.guests_mib.iter().sum(),
            ),
            ("restored_memory_mib", self.restored_memory.host_mib),
            (
                "restored_memory_per_limit",
                self.restored_memory.host_mib / self.restored_memory.limit_mib(),
            ),
        ])
    }
}

/// A figure as it is shown: its name, what it is, and what it must not exceed, the mildest first.
type Row = (&'static str, &'static str, &'static [f64]);

/// The figures in the order in which they are shown.
const ROWS: &[Row] = &[
    (
        "slowest_bare_login_s",
        "slowest bare boot to an SSH login, s",
        &[],
    ),
    ("cold_up_s", "cold up to every node Ready, s", &[]),
    (
        "cold_up_per_bare_login",
        "  / slowest bare boot",
        &[1.5, 1.25],
    ),
    (
        "cold_up_and_save_s",
        "cold up that saves a snapshot, s",
        &[],
    ),
    (
        "bare_load_s",
        "bare parallel -incoming of its memories, s",
        &[],
    ),
    ("restored_up_s", "up that restores it, s", &[4.0]),
    ("restored_up_per_cold_up", "  / cold up", &[0.10]),
    ("restored_up_per_bare_load", "  / bare -incoming", &[3.0]),
    ("reset_s", "pristine reset, s", &[4.0]),
    ("reset_per_cold_up", "  / cold up", &[0.10]),
    ("reset_per_bare_load", "  / bare -incoming", &[3.0]),
    ("stack_restored_s", "restore with the stack in it, s", &[]),
    (
        "stack_first_answer_s",
        "  to the first request answered, s",
        &[0.5],
    ),
    (
        "booted_guests_mib",
        "booted and idle: used by the guests, MiB",
        &[],
    ),
    ("booted_memory_mib", "  memory on the host, MiB", &[]),
    (
        "booted_memory_per_limit",
        "  / (1.15 x guests + 120 MiB each + 80 MiB)",
        &[1.0],
    ),
    (
        "restored_guests_mib",
        "restored and idle: used by the guests, MiB",
        &[],
    ),
    ("restored_memory_mib", "  memory on the host, MiB", &[]),
    (
        "restored_memory_per_limit",
        "  / (1.15 x guests + 120 MiB each + 80 MiB)",
        &[1.0],
    ),
];

/// Adds to each figure its strictest goal, and whether every run has met it.
fn with_goals(mut figures: Value) -> Value {
    for (name, _, goals) in ROWS {
        if let (Some(goal), Some(most)) = (goals.last(), figures[name]["max"].as_f64()) {
            figures[name]["goal"] = json!(goal);
            figures[name]["met"] = json!(most <= *goal);
        }
    }
    figures
}

/// One line a figure: its value, or least, median and most of several; a goal is met when every run has met it.
fn table(figures: &Value) -> String {
    let is_repeated = ROWS
        .iter()
        .any(|(name, ..)| figures[name]["runs"].as_u64() > Some(1));
    let columns: &[&str] = if is_repeated {
        &["min", "median", "max"]
    } else {
        &["max"]
    };
    let titles = columns
        .iter()
        .map(|title| if is_repeated { title } else { "value" });
    let row = |what: &str, numbers: Vec<String>, goal: String| {
        let numbers: String = numbers
            .iter()
            .map(|number| format!(" {number:>9}"))
            .collect();
        format!("{what:<46}{numbers}   {goal}")
            .trim_end()
            .to_owned()
    };
    let mut lines = vec![row(
        "figure",
        titles.map(str::to_owned).collect(),
        "goal".to_owned(),
    )];
    for (name, what, goals) in ROWS {
        let number = |field: &str| figures[name][field].as_f64();
        let numbers = columns
            .iter()
            .map(|field| number(field).map_or_else(String::new, |value| format!("{value:.2}")));
        let goals = goals.iter().map(|goal| {
            let verdict = if number("max").is_some_and(|most| most <= *goal) {
                "met"
            } else {
                "missed"
            };
            format!("<= {goal} {verdict}")
        });
        lines.push(row(
            what,
            numbers.collect(),
            goals.collect::<Vec<_>>().join(", "),
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn run() -> Run {
        let took = Duration::from_secs;
        let memory = |host_mib| Memory {
            host_mib,
            guests_mib: vec![200.0, 100.0, 100.0],
        };
        Run {
            bare_logins: vec![
                ("c1".parse().expect("a name"), took(20)),
                ("w1".parse().expect("a name"), took(18)),
            ],
            cold: took(28),
            saving: took(30),
            bare_load: took(1),
            restored: took(2),
            reset: took(5),
            booted_memory: memory(900.0),
            restored_memory: memory(450.0),
            stack: StackTimes {
                restored: took(3),
                served: Duration::from_millis(250),
            },
        }
    }

    #[test]
    fn every_figure_is_shown_and_judged() {
        let figures = run().figures();
        let shown: BTreeSet<&str> = ROWS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(shown, figures.keys().copied().collect::<BTreeSet<_>>());
        for (name, wanted) in [
            ("slowest_bare_login_s", 20.0),
            ("cold_up_per_bare_login", 1.4),
            ("restored_up_per_bare_load", 2.0),
            ("booted_guests_mib", 400.0),
            ("booted_memory_per_limit", 1.0),
            ("restored_memory_per_limit", 0.5),
        ] {
            assert!((figures[name] - wanted).abs() < 1e-6, "{name}: {figures:?}");
        }
        let judged = with_goals(collect(&[figures]));
        assert_eq!(judged["cold_up_per_bare_login"]["met"], false, "{judged}");
        assert_eq!(judged["restored_up_per_cold_up"]["met"], true, "{judged}");
        assert_eq!(judged["cold_up_s"].get("goal"), None, "{judged}");
    }

    #[test]
    fn one_run_is_a_value_and_the_worst_of_several_is_judged() {
        let one = table(&collect(&[run().figures()]));
        assert!(
            one.lines()
                .next()
                .is_some_and(|line| line.contains("value") && !line.contains("median")),
            "{one}"
        );
        assert!(one.contains("1.40   <= 1.5 met, <= 1.25 missed"), "{one}");
        let slow = Run {
            restored: Duration::from_secs(6),
            ..run()
        };
        let two = table(&collect(&[run().figures(), slow.figures()]));
        assert!(
            two.contains("2.00      4.00      6.00   <= 4 missed"),
            "{two}"
        );
    }

    #[test]
    fn memory_is_read_as_proc_tells_it() {
        let text = "Rss:  9 kB\nPss:                2048 kB\nPss_Anon:  1 kB\n";
        assert_eq!(mebibytes(text, "Pss"), Some(2.0));
        assert_eq!(mebibytes(text, "Swap"), None);
        assert_eq!(mebibytes("Pss: many kB", "Pss"), None);
    }
}
