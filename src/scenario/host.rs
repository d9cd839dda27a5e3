//! Whether other programs took the host's processors from the machines while a scenario ran.
//!
//! A machine that shares its processor with somebody else's build answers late, misses its beats and boots slowly, and nothing inside it
//! shows why. The host shows it: nothing is idle, and much of what is spent is not spent by the cluster.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use procfs::process::{Process, Stat, all_processes};
use procfs::{CurrentSI as _, KernelStats, ProcResult};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The host is looked at so often.
const EVERY: Duration = Duration::from_secs(1);
/// The machines are starved while less of the host is idle than this share,
const IDLE_MAX: f64 = 0.1;
/// and others take more of it than this: of two processors, two fifths of one.
const OTHERS_MIN: f64 = 0.2;

/// For how long others kept the processors from the machines.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Starvation {
    /// How long the host was watched.
    pub watched: Duration,
    /// How long of that the machines were starved.
    pub starved: Duration,
    /// The share of the host that others took meanwhile.
    pub others: f64,
}

impl Starvation {
    fn add(&mut self, lasted: Duration, spent: Spent) {
        self.watched += lasted;
        if spent.idle < IDLE_MAX && spent.others > OTHERS_MIN {
            let before = self.starved.as_secs_f64() * self.others;
            self.starved += lasted;
            self.others =
                (before + lasted.as_secs_f64() * spent.others) / self.starved.as_secs_f64();
        }
    }
}

/// What became of the host's processor time, as shares of it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spent {
    idle: f64,
    others: f64,
}

/// Processor time so far, in ticks.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    idle: u64,
    busy: u64,
    ours: u64,
}

impl Ticks {
    /// `ours` are this process, and that of the cluster's daemon with its children.
    fn read(daemon: i32) -> ProcResult<Self> {
        let total = KernelStats::current()?.total;
        let idle = total.idle + total.iowait.unwrap_or(0);
        // What a hypervisor withheld went to others, too. (Guests' time is part of `user` and `nice`.)
        let kernel = [total.irq, total.softirq, total.steal]
            .into_iter()
            .flatten()
            .sum::<u64>();
        let ours = spent(&Process::myself()?.stat()?) + spent_by_family(daemon)?;
        Ok(Self {
            idle,
            busy: total.user + total.nice + total.system + kernel,
            ours,
        })
    }

    fn since(self, before: Self) -> Option<Spent> {
        let idle = self.idle.saturating_sub(before.idle);
        let busy = self.busy.saturating_sub(before.busy);
        let ours = self.ours.saturating_sub(before.ours);
        #[expect(clippy::cast_precision_loss, reason = "ticks of seconds")]
        let share = |ticks: u64| ticks as f64 / (idle + busy) as f64;
        (idle + busy > 0).then(|| Spent {
            idle: share(idle),
            others: share(busy.saturating_sub(ours)),
        })
    }
}

/// The ticks of a process, and of its children that have ended.
fn spent(stat: &Stat) -> u64 {
    stat.utime + stat.stime + u64::try_from(stat.cutime + stat.cstime).unwrap_or(0)
}

/// The ticks of a process and all its children. The sum does not fall when one of them ends.
fn spent_by_family(parent: i32) -> ProcResult<u64> {
    let children = all_processes()?
        .filter_map(|process| process.ok()?.stat().ok())
        .filter(|stat| stat.ppid == parent);
    Ok(spent(&Process::new(parent)?.stat()?) + children.map(|stat| spent(&stat)).sum::<u64>())
}

/// Watches until it is dropped.
pub(super) struct Watch {
    seen: Arc<Mutex<Starvation>>,
    task: AbortHandle,
}

impl Watch {
    /// `daemon` is the process whose children the machines are; without one nothing is known, and nothing is said.
    pub(super) fn start(daemon: Option<u32>) -> Self {
        let seen = Arc::new(Mutex::new(Starvation::default()));
        let task = tokio::spawn(watch(
            daemon.and_then(|pid| i32::try_from(pid).ok()),
            Arc::clone(&seen),
        ))
        .abort_handle();
        Self { seen, task }
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Starvation {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(daemon: Option<i32>, seen: Arc<Mutex<Starvation>>) {
    let Some(daemon) = daemon else { return };
    let mut before: Option<(Instant, Ticks)> = None;
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        // Where the daemon is gone there is nothing to be starved.
        let now = Ticks::read(daemon)
            .ok()
            .map(|ticks| (Instant::now(), ticks));
        if let (Some((from, old)), Some((to, new))) = (before, now)
            && let Some(spent) = new.since(old)
        {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(to - from, spent);
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn starved_is_who_has_nothing_idle_left_and_shares_it() {
        let mut seen = Starvation::default();
        for (idle, others) in [(0.5, 0.4), (0.0, 0.1), (0.05, 0.5), (0.0, 0.3)] {
            seen.add(EVERY, Spent { idle, others });
        }
        assert_eq!((seen.watched, seen.starved), (EVERY * 4, EVERY * 2));
        assert!((seen.others - 0.4).abs() < 1e-9, "{seen:?}");
    }

    /// A parent that itself does nothing; its child is busy until the parent reads a line.
    #[test]
    fn what_children_spend_is_their_parents_even_when_they_have_ended() {
        let script =
            "sh -c 'while :; do :; done' & read -r line; kill $!; wait; echo ended; read -r line";
        let mut parent = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let pid = i32::try_from(parent.id()).expect("a process id");
        let family = || spent_by_family(pid).expect("it is there");
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
    fn what_is_not_ours_is_of_others() {
        let before = Ticks {
            idle: 100,
            busy: 1000,
            ours: 50,
        };
        let after = Ticks {
            idle: 110,
            busy: 1090,
            ours: 80,
        };
        let spent = after.since(before).expect("time went by");
        assert!(
            (spent.idle - 0.1).abs() < 1e-9 && (spent.others - 0.6).abs() < 1e-9,
            "{spent:?}"
        );
        assert_eq!(before.since(before), None);
    }
}
