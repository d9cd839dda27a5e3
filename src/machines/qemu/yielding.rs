//! A machine that boots beside others that serve gets what they leave of the processors: a real one would have its own.
//!
//! ```text
//! powered on ─► yields ─► calm for a while, or patience over ─► as all others
//!                 ├─ with the privilege to take it back: a higher niceness
//!                 └─ without: stopped for a moment whenever one of the others had to wait
//! ```
//! Niceness could be raised by anybody, but not lowered again. The stops are short: to the guest they are a busy host. They end before
//! anything else is done to the machine's power, so that a frozen machine is always one that was asked to be.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, getpriority_process, setpriority_pgrp};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::process::{Exit, as_pid, set_stopped};
use crate::model::names::NodeName;

/// How far a booting machine stands behind the others, where niceness can be taken back.
const NICENESS: i32 = 10;
/// It does not stand back for longer than this.
const PATIENCE: Duration = Duration::from_secs(90);
/// It is looked at so often whether it is calm.
const LOOK: Duration = Duration::from_secs(1);
/// A machine that takes less of a processor than this is calm,
const CALM_SHARE: f64 = 0.5;
/// when it was for so many looks on end.
const CALM_LOOKS: u32 = 4;
/// How long a stop lasts, and how long at least it runs between two.
const STOP: Duration = Duration::from_millis(20);
/// The others had to wait, all their threads together, for more of a slice than this share.
const WAITED_SHARE: f64 = 0.1;
/// Linux counts so many ticks a second in `/proc/PID/stat`, on every architecture.
const TICKS: f64 = 100.0;

/// The machines that yield.
#[derive(Debug, Clone, Default)]
pub(super) struct Yielding(Arc<Mutex<BTreeMap<NodeName, Yield>>>);

#[derive(Debug, Clone)]
struct Yield {
    end: CancellationToken,
    ended: CancellationToken,
}

impl Yielding {
    /// Whether a machine yields. While it does, that its process is stopped means nothing.
    pub(super) fn is(&self, node: &NodeName) -> bool {
        self.get(node).is_some_and(|one| !one.ended.is_cancelled())
    }

    fn get(&self, node: &NodeName) -> Option<Yield> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(node).cloned()
    }

    /// Ends it. When this returns the process runs, and nothing but its owner stops it.
    pub(super) async fn end(&self, node: &NodeName) {
        if let Some(one) = self.get(node) {
            one.end.cancel();
            one.ended.cancelled().await;
        }
    }

    /// Lets a machine yield to `others` while it boots.
    pub(super) fn begin(&self, node: &NodeName, pid: u32, exit: Exit, others: Vec<u32>) {
        let one = Yield {
            end: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node.clone(), one.clone());
        let node = node.clone();
        tokio::spawn(async move {
            let _ended = one.ended.drop_guard();
            let over = over(pid, exit, one.end);
            match Nicer::begin(pid) {
                Some(nicer) => {
                    over.await;
                    nicer.end(&node);
                }
                None => stop_and_go(pid, &others, over).await,
            }
        });
    }
}

/// Returns when the machine is calm, has ended, or somebody says so, and at the latest when patience is over.
async fn over(pid: u32, mut exit: Exit, end: CancellationToken) {
    let calm = async {
        let mut before = spent(pid);
        let mut calm_looks = 0;
        while calm_looks < CALM_LOOKS {
            let from = Instant::now();
            sleep(LOOK).await;
            let now = spent(pid);
            let share = (now - before) / from.elapsed().as_secs_f64();
            calm_looks = if share < CALM_SHARE {
                calm_looks + 1
            } else {
                0
            };
            before = now;
        }
    };
    tokio::select! {
        _ = timeout(PATIENCE, calm) => {}
        _ = exit.wait_for(Option::is_some) => {}
        () = end.cancelled() => {}
    }
}

/// Processor time of a process in seconds; none of one that is gone.
fn spent(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ticks(&stat).map_or(0.0, |ticks| ticks / TICKS)
}

/// `utime` and `stime` of a line of `/proc/PID/stat` (proc(5)): fields 14 and 15, counted behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut field = || fields.next()?.parse::<f64>().ok();
    Some(field()? + field()?)
}

/// A process group at a higher niceness: the machine's process leads one, and all its threads are meant.
struct Nicer {
    group: Pid,
    usual: i32,
}

impl Nicer {
    /// `None` for who could not take it back.
    fn begin(pid: u32) -> Option<Self> {
        let privileged = rustix::thread::capabilities(None).is_ok_and(|sets| {
            sets.effective
                .contains(rustix::thread::CapabilitySet::SYS_NICE)
        });
        let (group, usual) = (as_pid(pid).ok()?, getpriority_process(None).ok()?);
        if !privileged || setpriority_pgrp(Some(group), usual + NICENESS).is_err() {
            return None;
        }
        Some(Self { group, usual })
    }

    fn end(self, node: &NodeName) {
        match setpriority_pgrp(Some(self.group), self.usual) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(%node, %error, "a machine stays behind the others"),
        }
    }
}

/// Stops a process for a moment whenever the others had to wait, until it is over.
async fn stop_and_go(pid: u32, others: &[u32], over: impl Future<Output = ()>) {
    let go = async {
        let mut before = waited(others);
        let mut slices = interval(STOP);
        slices.tick().await;
        loop {
            let from = Instant::now();
            slices.tick().await;
            let now = waited(others);
            if had_to_wait(now.saturating_sub(before), from.elapsed()) {
                if set_stopped(pid, true).await.is_err() {
                    return;
                }
                sleep(STOP).await;
                if set_stopped(pid, false).await.is_err() {
                    return;
                }
                slices.reset();
            }
            before = waited(others);
        }
    };
    tokio::select! {
        () = go => {}
        () = over => {}
    }
    // Cancelled between stop and go, or not: it runs from here on. One that has ended needs nothing.
    let _: io::Result<()> = set_stopped(pid, false).await;
}

fn had_to_wait(waited: Duration, slice: Duration) -> bool {
    waited > slice.mul_f64(WAITED_SHARE)
}

/// How long the threads of these processes have waited for a processor so far, all together.
fn waited(processes: &[u32]) -> Duration {
    let threads = processes.iter().flat_map(|pid| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        tasks.into_iter().flatten().flatten()
    });
    threads
        .filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            run_delay(&text)
        })
        .sum()
}

/// The second number of `schedstat` (the kernel's `Documentation/scheduler/sched-stats.rst`): nanoseconds on the run queue.
fn run_delay(schedstat: &str) -> Option<Duration> {
    let delay = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(delay))
}

#[cfg(test)]
mod tests {
    use super::super::process::is_stopped;
    use super::*;

    #[test]
    fn what_proc_says() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0";
        assert_eq!(ticks(stat), Some(300.0));
        assert_eq!(ticks("7 (a"), None);
        assert_eq!(
            run_delay("275426 147708 2\n"),
            Some(Duration::from_nanos(147_708))
        );
        assert_eq!(run_delay(""), None);
        assert!(had_to_wait(Duration::from_millis(3), STOP));
        assert!(!had_to_wait(Duration::from_millis(1), STOP));
    }

    #[tokio::test]
    async fn a_process_that_yielded_runs_when_it_is_over() {
        let mut child = tokio::process::Command::new("sleep")
            .arg("1000")
            .kill_on_drop(true)
            .spawn()
            .expect("sleep starts");
        let pid = child.id().expect("it runs");
        set_stopped(pid, true).await.expect("it stops");
        stop_and_go(pid, &[], std::future::ready(())).await;
        assert!(!is_stopped(pid));
        child.start_kill().expect("it runs");
        child.wait().await.expect("it has ended");
        // One that is gone is fine.
        stop_and_go(pid, &[], std::future::ready(())).await;
    }

    #[tokio::test]
    async fn who_ends_it_finds_it_ended() {
        let mut child = tokio::process::Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("sleep starts");
        let pid = child.id().expect("it runs");
        let (_told, exit) = tokio::sync::watch::channel(None);
        let (yielding, node) = (Yielding::default(), "w1".parse().expect("a name"));
        assert!(!yielding.is(&node));
        yielding.begin(&node, pid, exit, Vec::new());
        assert!(yielding.is(&node));
        yielding.end(&node).await;
        assert!(!yielding.is(&node) && !is_stopped(pid));
        child.start_kill().expect("it runs");
        child.wait().await.expect("it has ended");
    }
}
