//! What `/proc` says of processor time: of the host, of this process, of the cluster's daemon and of each machine's threads.

use std::collections::BTreeMap;
use std::thread::available_parallelism;

use procfs::process::{Process, Stat, Task, all_processes};
use procfs::{CurrentSI as _, KernelStats, ProcResult};

use crate::model::names::NodeName;

/// Nanoseconds of a tick of `/proc/stat`: Linux counts a hundred a second there, on every architecture (proc(5), `USER_HZ`).
const TICK_NS: u64 = 10_000_000;
/// A host with less idle than this is full.
const FULL_HOST_IDLE: f64 = 0.05;
/// Waiting, by what was got, that is as good as none.
const BARELY_WAITED: f64 = 0.05;
/// QEMU names the threads of a machine's processors so (`debug-threads=on`): `CPU 0/TCG`.
const PROCESSOR_THREAD: &str = "CPU ";

/// Processor time so far, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::scenario) struct Times {
    /// Spent.
    pub(in crate::scenario) ran_ns: u64,
    /// Spent on the run queue: wanted, and not got.
    pub(in crate::scenario) waited_ns: u64,
}

impl Times {
    /// Times of a thread that began later may be smaller.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            ran_ns: self.ran_ns.saturating_sub(before.ran_ns),
            waited_ns: self.waited_ns.saturating_sub(before.waited_ns),
        }
    }
}

impl std::ops::AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.ran_ns += other.ran_ns;
        self.waited_ns += other.waited_ns;
    }
}

/// One machine: a QEMU process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::scenario) struct Machine {
    /// Another process is another boot: its times do not go on where the last one's ended.
    pub(in crate::scenario) pid: i32,
    /// How many processors it has.
    pub(in crate::scenario) processors: u32,
    /// Its processors' threads together.
    pub(in crate::scenario) guest: Times,
    /// Its other threads together: devices, network, disk.
    pub(in crate::scenario) devices: Times,
}

/// One look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::scenario) struct Sample {
    /// All processors of the host.
    pub(super) idle_ns: u64,
    /// All processors of the host.
    pub(super) busy_ns: u64,
    /// The prober, the daemon and the machines, those that have ended as well.
    pub(super) ours_ns: u64,
    /// The threads that carry what the prober asks: the prober's own and the daemon's, which is the network between the machines.
    pub(super) carriers: Times,
    /// How many processors the host has.
    pub(super) processors: usize,
    /// How many of them this process may use.
    pub(super) processors_allowed: usize,
    /// The machines that run, by name.
    pub(in crate::scenario) machines: BTreeMap<String, Machine>,
}

impl Sample {
    /// Reads it; `daemon` is the process whose children the machines are.
    pub(in crate::scenario) fn read(daemon: i32) -> ProcResult<Self> {
        let KernelStats {
            total, cpu_time, ..
        } = KernelStats::current()?;
        let total_processors = cpu_time.len();
        // What a hypervisor withheld went to others, too. (Guests' time is part of `user` and `nice`.)
        let kernel = [total.irq, total.softirq, total.steal]
            .into_iter()
            .flatten()
            .sum::<u64>();
        let (prober, holder) = (Process::myself()?, Process::new(daemon)?);
        let mut ours = spent(&prober.stat()?) + spent(&holder.stat()?);
        let mut carriers = Times::default();
        for process in [&prober, &holder] {
            for task in process.tasks()?.flatten() {
                carriers += times(&task);
            }
        }
        let mut machines = BTreeMap::new();
        for (process, stat) in children(daemon)? {
            ours += spent(&stat);
            if let Some((name, machine)) = machine(&process, &stat) {
                machines.insert(name, machine);
            }
        }
        Ok(Self {
            idle_ns: (total.idle + total.iowait.unwrap_or(0)) * TICK_NS,
            busy_ns: (total.user + total.nice + total.system + kernel) * TICK_NS,
            ours_ns: ours * TICK_NS,
            carriers,
            processors: total_processors.max(1),
            processors_allowed: available_parallelism().map_or(1, usize::from),
            machines,
        })
    }
}

/// What the workers spent between two looks, in processors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::scenario) struct Used {
    /// By all workers together: their guests and their devices.
    pub(in crate::scenario) processors: f64,
    /// How many workers were seen.
    pub(in crate::scenario) machines: usize,
    /// How many processors one worker has.
    pub(in crate::scenario) of_one: f64,
    /// By programs that are not of this cluster.
    pub(in crate::scenario) others: f64,
    /// What those leave of the host, or of what this process may use of it.
    pub(in crate::scenario) left: f64,
}

impl Sample {
    /// What these workers spent since an earlier look.
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of seconds, and counts of processors"
    )]
    pub(in crate::scenario) fn used_since(&self, before: &Self, workers: &[NodeName]) -> Used {
        let passed = |now: u64, then: u64| now.saturating_sub(then) as f64;
        let busy = passed(self.busy_ns, before.busy_ns);
        let all = (busy + passed(self.idle_ns, before.idle_ns)).max(1.0);
        let others = (busy - passed(self.ours_ns, before.ours_ns)).max(0.0);
        let of_host = self.processors as f64;
        // A control group or an affinity may leave us less than the host has, and others the rest.
        let ours = self.processors_allowed as f64;
        let others = others / all * of_host;
        let seen = workers.iter().filter_map(|name| {
            let (new, old) = (
                self.machines.get(name.as_str())?,
                before.machines.get(name.as_str())?,
            );
            (new.pid == old.pid).then_some((new, old))
        });
        let (mut spent, mut waited, mut machines, mut of_one) = (0.0, 0.0, 0, f64::INFINITY);
        for (new, old) in seen {
            spent +=
                (new.guest.since(old.guest).ran_ns + new.devices.since(old.devices).ran_ns) as f64;
            waited += new.guest.since(old.guest).waited_ns as f64;
            machines += 1;
            of_one = of_one.min(f64::from(new.processors));
        }
        // Others that fill the host, and for whom nobody of ours waits, stand behind us: they take only what we leave.
        let full = passed(self.idle_ns, before.idle_ns) / all < FULL_HOST_IDLE;
        let others = if full && waited < BARELY_WAITED * spent {
            0.0
        } else {
            others
        };
        Used {
            processors: spent / all * of_host,
            machines,
            of_one: if of_one.is_finite() { of_one } else { 1.0 },
            others,
            left: (of_host - others).clamp(0.0, ours),
        }
    }
}

fn children(parent: i32) -> ProcResult<Vec<(Process, Stat)>> {
    let with_stat = |process: ProcResult<Process>| {
        let process = process.ok()?;
        let stat = process.stat().ok()?;
        (stat.ppid == parent).then_some((process, stat))
    };
    Ok(all_processes()?.filter_map(with_stat).collect())
}

/// The ticks of a process, and of its children that have ended.
fn spent(stat: &Stat) -> u64 {
    stat.utime + stat.stime + u64::try_from(stat.cutime + stat.cstime).unwrap_or(0)
}

/// A child of the daemon's, if it is a machine. One that ends just now is none.
fn machine(process: &Process, stat: &Stat) -> Option<(String, Machine)> {
    let name = machine_name(&process.cmdline().ok()?)?;
    let mut machine = Machine {
        pid: stat.pid,
        ..Machine::default()
    };
    for task in process.tasks().ok()?.flatten() {
        if task
            .stat()
            .is_ok_and(|stat| stat.comm.starts_with(PROCESSOR_THREAD))
        {
            machine.processors += 1;
            machine.guest += times(&task);
        } else {
            machine.devices += times(&task);
        }
    }
    (machine.processors > 0).then_some((name, machine))
}

/// The name among QEMU's arguments: `-name w1,debug-threads=on`.
fn machine_name(arguments: &[String]) -> Option<String> {
    let value = arguments
        .iter()
        .skip_while(|word| *word != "-name")
        .nth(1)?;
    Some(value.split(',').next()?.to_owned())
}

/// By the scheduler's own statistics; a kernel without them counts ticks, and no waiting.
fn times(task: &Task) -> Times {
    if let Ok(seen) = task.schedstat() {
        return Times {
            ran_ns: seen.sum_exec_runtime,
            waited_ns: seen.run_delay,
        };
    }
    let ticks = task.stat().map_or(0, |stat| stat.utime + stat.stime);
    Times {
        ran_ns: ticks * TICK_NS,
        waited_ns: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_machine_is_named_by_its_arguments() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        for (arguments, wanted) in [
            (
                "qemu-system-x86_64 -name w1,debug-threads=on -m 512",
                Some("w1"),
            ),
            ("qemu-system-x86_64 -m 512 -name c1", Some("c1")),
            ("qemu-system-x86_64 -name", None),
            ("sh -c true", None),
        ] {
            assert_eq!(
                machine_name(&words(arguments)).as_deref(),
                wanted,
                "{arguments}"
            );
        }
    }

    /// A parent that itself does nothing; its child is busy until the parent reads a line.
    #[test]
    fn what_children_spend_is_ours_even_when_they_have_ended() {
        let script =
            "sh -c 'while :; do :; done' & read -r line; kill $!; wait; echo ended; read -r line";
        let mut parent = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let pid = i32::try_from(parent.id()).expect("a process id");
        let family = || {
            let parent = Process::new(pid).and_then(|process| process.stat());
            let parent = spent(&parent.expect("it is there"));
            let children = children(pid).expect("there is /proc");
            parent + children.iter().map(|(_, stat)| spent(stat)).sum::<u64>()
        };
        // A tick is a hundredth of a second; a busy host may let the loop wait.
        let grew = (0..300).any(|_| {
            #[expect(clippy::disallowed_methods, reason = "real processes need real time")]
            std::thread::sleep(Duration::from_millis(50));
            family() >= 10
        });
        let before = family();
        let mut input = parent.stdin.take().expect("it was asked for");
        writeln!(input).expect("it reads");
        let mut ended = String::new();
        BufReader::new(parent.stdout.take().expect("it was asked for"))
            .read_line(&mut ended)
            .expect("it says so");
        let after = family();
        drop(input);
        parent.wait().expect("it ends with its input");
        assert!(grew && after >= before, "{before}, then {after}");
    }

    #[test]
    fn what_the_workers_used_of_the_host() {
        let machine = |ran_ms: u64, devices_ms: u64| Machine {
            pid: 7,
            processors: 1,
            guest: Times {
                ran_ns: ran_ms * 1_000_000,
                waited_ns: 0,
            },
            devices: Times {
                ran_ns: devices_ms * 1_000_000,
                waited_ns: 0,
            },
        };
        // Two processors for a second.
        let look = |busy_ms: u64, ours_ms: u64, worker, controller| Sample {
            idle_ns: (2000 - busy_ms) * 1_000_000,
            busy_ns: busy_ms * 1_000_000,
            ours_ns: ours_ms * 1_000_000,
            processors: 2,
            processors_allowed: 2,
            machines: [("w1", worker), ("c1", controller)]
                .map(|(name, machine)| (name.to_owned(), machine))
                .into(),
            ..Sample::default()
        };
        let old = Sample {
            idle_ns: 0,
            ..look(0, 0, machine(0, 0), machine(0, 0))
        };
        let workers = ["w1".parse().expect("a name"), "w2".parse().expect("a name")];
        let used = look(1500, 1000, machine(400, 100), machine(300, 0)).used_since(&old, &workers);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(used.processors, 0.5) && used.machines == 1, "{used:?}");
        assert!(
            near(used.others, 0.5) && near(used.left, 1.5) && near(used.of_one, 1.0),
            "{used:?}"
        );
        // What fills the host, but lets us go first, leaves us all of it.
        let behind = look(2000, 1000, machine(400, 100), machine(300, 0));
        assert!(near(behind.used_since(&old, &workers).left, 2.0));
        // In a control group of one processor there is no more than that.
        let caged = Sample {
            processors_allowed: 1,
            ..look(1500, 1000, machine(400, 100), machine(300, 0))
        };
        assert!(near(caged.used_since(&old, &workers).left, 1.0));
    }

    #[test]
    fn this_process_has_spent_something() {
        let pid = i32::try_from(std::process::id()).expect("a process id");
        let sample = Sample::read(pid).expect("there is /proc");
        assert!(
            sample.busy_ns > 0 && sample.carriers.ran_ns > 0,
            "{sample:?}"
        );
        assert!(sample.machines.is_empty(), "{sample:?}");
    }
}
