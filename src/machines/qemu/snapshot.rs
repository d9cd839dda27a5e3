//! Memory and disks of all machines, saved together and restored together.
//!
//! ```text
//! save      sync all ─► stop all ─► (each: memory by QEMU's migration to a file, then the disk) ─► let all run ─► clocks
//! restore   (each: copy the disk, start QEMU with the memory as its standard input) ─► let all run ─► randomness ─► clocks
//! ```
//! Machines are stopped before any is saved and run only when all are loaded, so that no machine hears of a future that another one
//! does not know. A restored machine has a disk and a memory of its own. What only the network saw in between is lost as a
//! dropped frame is: TCP between machines repairs it.
//! QEMU before 8.2 cannot migrate to a file by itself; `exec:` runs `cat`, and standard input is a file descriptor to read from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use serde_json::json;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep};

use super::clock::ClockPort;
use super::directory::{self, SavedMachine};
use super::qmp::{Qmp, QmpError};
use super::{QemuProvider, Vm, failed};
use crate::machines::provider::{
    ClockFact, DiskFault, MachineRequest, Power, ProviderError, Restored, Snapshots,
};
use crate::model::names::NodeName;
use crate::shell;

/// Longest that saving or loading one machine's memory may take; a slow disk carries 512 MiB in less.
const MEMORY_LIMIT: Duration = Duration::from_mins(2);
/// Pause between two looks at a memory that is being saved or loaded.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Migration is throttled to 128 MiB/s by default.
const UNTHROTTLED: u64 = 1 << 40;

/// A machine that runs and is to be saved, or to stand still. Nobody else changes its power while the slot is held.
pub(super) struct Running {
    pub(super) node: NodeName,
    pub(super) qmp: Qmp,
    pub(super) clock: Arc<Mutex<ClockPort>>,
}

impl Snapshots for QemuProvider {
    fn save(&self, into: PathBuf) -> BoxFuture<'_, Result<Restored, ProviderError>> {
        Box::pin(async move { self.save_all(&into).await })
    }

    fn restore(
        &self,
        from: PathBuf,
        requests: Vec<MachineRequest>,
    ) -> BoxFuture<'_, Result<Restored, ProviderError>> {
        Box::pin(async move { self.restore_all(&from, requests).await })
    }
}

impl QemuProvider {
    async fn save_all(&self, into: &Path) -> Result<Restored, ProviderError> {
        let nodes = directory::nodes(&self.config.state_dir)
            .map_err(|error| failed("list machines", error))?;
        let mut slots = Vec::new();
        for node in &nodes {
            slots.push(self.slot(node).lock_owned().await);
        }
        // QEMU would go on with what it was told to stop.
        self.still.forbid(|| "save the machines".to_owned())?;
        let mut running = Vec::new();
        for (node, slot) in nodes.iter().zip(&slots) {
            SavedMachine::new(into, node)
                .prepare(&self.directory(node))
                .map_err(|error| failed(format!("begin to save node `{node}`"), error))?;
            if let Some(vm) = self.running(node, slot)? {
                let qmp = Qmp::connect(&self.qmp_socket(node))
                    .await
                    .map_err(saving(node))?;
                running.push(Running {
                    node: node.clone(),
                    qmp,
                    clock: Arc::clone(&vm.clock),
                });
            }
        }
        let mut problems = sync_all(&running).await;
        let begun = Instant::now();
        let saved = self.stop_and_save(&nodes, &mut running, into).await;
        // Whatever happened, they run on. One that was not stopped takes no harm.
        let resumed = join_all(running.iter_mut().map(async |machine| {
            machine
                .qmp
                .execute("cont", json!({}))
                .await
                .map_err(resuming(&machine.node))
        }));
        let resumed = first_error(resumed.await);
        saved?;
        resumed?;
        let running_ms = milliseconds(begun.elapsed());
        // What was saved is whole: a clock that is wrong now is no reason to throw it away.
        let mut clocks = Vec::new();
        for corrected in correct_all(&running).await {
            match corrected {
                Ok(clock) => clocks.push(clock),
                Err(error) => problems.push(with_cause(&error)),
            }
        }
        drop(slots);
        Ok(Restored {
            clocks,
            running_ms,
            loaded_ms: 0,
            problems,
        })
    }

    /// The machine's process, unless it is off.
    fn running<'a>(
        &self,
        node: &NodeName,
        slot: &'a OwnedMutexGuard<Option<Vm>>,
    ) -> Result<Option<&'a Vm>, ProviderError> {
        let power = self.find(node).map_or(Power::Off, |machine| machine.power);
        if let Some(why) = unfit(power, slot.as_ref().and_then(|vm| vm.disk_fault)) {
            return Err(failed(
                format!("save node `{node}`"),
                std::io::Error::other(why),
            ));
        }
        Ok(slot.as_ref().filter(|_| power == Power::On))
    }

    async fn stop_and_save(
        &self,
        nodes: &[NodeName],
        running: &mut [Running],
        into: &Path,
    ) -> Result<(), ProviderError> {
        let stopped = join_all(running.iter_mut().map(async |machine| {
            machine
                .qmp
                .execute("stop", json!({}))
                .await
                .map(drop)
                .map_err(saving(&machine.node))
        }));
        first_error(stopped.await)?;
        let memories = join_all(running.iter_mut().map(async |machine| {
            let file = SavedMachine::new(into, &machine.node).memory();
            save_memory(&mut machine.qmp, &file)
                .await
                .map_err(saving(&machine.node))
        }));
        first_error(memories.await)?;
        // Only now have the machines' block devices written what they held.
        let disks = join_all(nodes.iter().map(async |node| {
            let (saved, machine) = (SavedMachine::new(into, node), self.directory(node));
            let copied = tokio::task::spawn_blocking(move || saved.copy_disk(&machine)).await;
            copied
                .unwrap_or_else(|broken| Err(broken.into()))
                .map_err(|error| failed(format!("save the disk of node `{node}`"), error))
        }));
        first_error(disks.await).map(drop)
    }

    async fn restore_all(
        &self,
        from: &Path,
        requests: Vec<MachineRequest>,
    ) -> Result<Restored, ProviderError> {
        let nodes: Vec<NodeName> = requests
            .iter()
            .map(|request| request.spec.name.clone())
            .collect();
        let restored = self.load_and_run(from, requests).await;
        if restored.is_err() {
            for node in &nodes {
                if let Err(error) = self.destroy_machine(node).await {
                    tracing::warn!(%node, %error, "a machine that could not be restored could not be removed either");
                }
            }
        }
        restored
    }

    async fn load_and_run(
        &self,
        from: &Path,
        requests: Vec<MachineRequest>,
    ) -> Result<Restored, ProviderError> {
        let begun = Instant::now();
        let loaded = first_error(
            join_all(requests.into_iter().map(|request| self.load(from, request))).await,
        )?;
        let (mut machines, loads): (Vec<Running>, Vec<Duration>) =
            loaded.into_iter().flatten().unzip();
        let loaded_ms = milliseconds(loads.into_iter().max().unwrap_or_default());
        let resumed = join_all(machines.iter_mut().map(async |machine| {
            machine
                .qmp
                .execute("cont", json!({}))
                .await
                .map_err(resuming(&machine.node))
        }));
        first_error(resumed.await)?;
        let running_ms = milliseconds(begun.elapsed());
        let problems = seed_all(&machines).await;
        let clocks = first_error(correct_all(&machines).await)?;
        tracing::info!(
            loaded_ms,
            running_ms,
            total_ms = milliseconds(begun.elapsed()),
            "the machines are restored"
        );
        Ok(Restored {
            clocks,
            running_ms,
            loaded_ms,
            problems,
        })
    }

    /// Loads one machine and leaves it stopped; with how long QEMU took to start and to load. `None`: it was saved as off.
    async fn load(
        &self,
        from: &Path,
        request: MachineRequest,
    ) -> Result<Option<(Running, Duration)>, ProviderError> {
        let node = request.spec.name.clone();
        let slot = self.slot(&node);
        let mut slot = slot.lock().await;
        let saved = SavedMachine::new(from, &node);
        let directory = self.directory(&node);
        let adopted = {
            let saved = saved.path().to_owned();
            tokio::task::spawn_blocking(move || directory.adopt(&saved, &request)).await
        };
        let record = adopted
            .unwrap_or_else(|broken| Err(broken.into()))
            .map_err(|error| failed(format!("restore the disk of node `{node}`"), error))?;
        let memory = saved.memory();
        if !memory.exists() {
            return Ok(None);
        }
        let begun = Instant::now();
        let vm = self.start(record, Some(&memory)).await?;
        let mut qmp = Qmp::connect(&self.qmp_socket(&node))
            .await
            .map_err(restoring(&node))?;
        let clock = Arc::clone(&vm.clock);
        let loaded = self.await_memory(&node, &vm, &mut qmp).await;
        *slot = Some(vm);
        loaded?;
        Ok(Some((Running { node, qmp, clock }, begun.elapsed())))
    }

    async fn await_memory(
        &self,
        node: &NodeName,
        vm: &Vm,
        qmp: &mut Qmp,
    ) -> Result<(), ProviderError> {
        let deadline = Instant::now() + MEMORY_LIMIT;
        loop {
            match qmp.execute("query-status", json!({})).await {
                Ok(status) if status["status"] != "inmigrate" => return Ok(()),
                Ok(_) if Instant::now() > deadline => {
                    let late = std::io::Error::other(format!(
                        "its memory was not loaded within {MEMORY_LIMIT:?}"
                    ));
                    return Err(failed(format!("restore node `{node}`"), late));
                }
                Ok(_) => sleep(LOOK_PAUSE).await,
                // It says why in its log, then it ends.
                Err(QmpError::Closed(_)) => {
                    let mut exit = vm.exit.clone();
                    let _ = tokio::time::timeout(
                        Duration::from_secs(2),
                        exit.wait_for(Option::is_some),
                    )
                    .await;
                    return Err(self.ended(node, vm, "it ended while its saved memory was loaded"));
                }
                Err(error) => return Err(restoring(node)(error)),
            }
        }
    }
}

/// Why a machine cannot be saved as it is: what QEMU was told to do to it is in no saved memory.
fn unfit(power: Power, disk_fault: Option<DiskFault>) -> Option<String> {
    match (power, disk_fault) {
        (Power::Frozen, _) => Some("it is frozen; thaw it first".to_owned()),
        (Power::On, Some(fault)) => Some(format!(
            "a fault acts on its disk ({fault}); `flightcage undo` heals it"
        )),
        (Power::On, None) | (Power::Off, _) => None,
    }
}

/// What came of work on all machines, once all of it has ended: what still goes on would write where somebody else clears up.
pub(super) fn first_error<T>(
    ended: Vec<Result<T, ProviderError>>,
) -> Result<Vec<T>, ProviderError> {
    ended.into_iter().collect()
}

/// Writes processor, devices and memory of a stopped machine.
async fn save_memory(qmp: &mut Qmp, file: &Path) -> Result<(), QmpError> {
    qmp.execute(
        "migrate-set-parameters",
        json!({ "max-bandwidth": UNTHROTTLED }),
    )
    .await?;
    qmp.execute(
        "migrate",
        json!({ "uri": format!("exec:{}", writer(file)) }),
    )
    .await?;
    let deadline = Instant::now() + MEMORY_LIMIT;
    loop {
        let progress = qmp.execute("query-migrate", json!({})).await?;
        let refused = |reason: &str| QmpError::Refused {
            command: "migrate".to_owned(),
            reason: reason.to_owned(),
        };
        let status = progress["status"].as_str();
        // QEMU calls it done when the pipe has taken everything: the writer has the last word.
        if status == Some("completed")
            && let Some(written) = written(file)
        {
            return written.map_err(refused);
        }
        match status {
            Some("failed" | "cancelled") => {
                return Err(refused(
                    progress["error-desc"]
                        .as_str()
                        .unwrap_or("it gave no reason; is the disk full?"),
                ));
            }
            _ if Instant::now() > deadline => {
                return Err(refused(&format!("it was not done within {MEMORY_LIMIT:?}")));
            }
            _ => sleep(LOOK_PAUSE).await,
        }
    }
}

/// The shell command that writes its input to `file`: under another name until it is whole. What failed makes room and leaves a mark.
fn writer(file: &Path) -> String {
    let quoted = |path: &Path| shell::quote(&path.display().to_string());
    let (part, whole, mark) = (
        quoted(&file.with_extension("part")),
        quoted(file),
        quoted(&failure_mark(file)),
    );
    format!("umask 077; cat > {part} && mv {part} {whole} || {{ rm -f {part}; : > {mark}; }}")
}

fn failure_mark(file: &Path) -> PathBuf {
    file.with_extension("failed")
}

/// What came of [`writer`]; `None` while it writes.
fn written(file: &Path) -> Option<Result<(), &'static str>> {
    if file.exists() {
        return Some(Ok(()));
    }
    if failure_mark(file).exists() {
        return Some(Err("its memory could not be written; is the disk full?"));
    }
    let is_gone = !file.parent().is_some_and(Path::exists);
    is_gone.then_some(Err("its folder was removed meanwhile"))
}

/// Has every machine write what it holds for its disks, and tells of those that did not: restored, they run, but what they last wrote
/// is lost when they then lose their power.
async fn sync_all(machines: &[Running]) -> Vec<String> {
    let synced = join_all(machines.iter().map(async |Running { node, clock, .. }| {
        let synced = clock.lock().await.sync().await;
        synced.map_err(|error| format!("what node `{node}` holds for its disks was not written before it was saved: {error}"))
    }));
    synced.await.into_iter().filter_map(Result::err).collect()
}

/// Gives every machine randomness of its own, and tells of those that did not take it up.
async fn seed_all(machines: &[Running]) -> Vec<String> {
    let seeded = join_all(machines.iter().map(async |Running { node, clock, .. }| {
        let seeded = clock.lock().await.seed().await;
        seeded.map_err(|error| {
            format!(
                "the random numbers of node `{node}` may be those of an earlier restore: {error}"
            )
        })
    }));
    seeded.await.into_iter().filter_map(Result::err).collect()
}

pub(super) async fn correct_all(machines: &[Running]) -> Vec<Result<ClockFact, ProviderError>> {
    join_all(machines.iter().map(async |Running { node, clock, .. }| {
        let correction = clock.lock().await.correct().await;
        let correction =
            correction.map_err(|error| failed(format!("set the clock of node `{node}`"), error))?;
        tracing::info!(%node, ?correction, "its clock is right");
        let bound_us = u64::try_from(correction.bound.as_micros()).unwrap_or(u64::MAX);
        Ok(ClockFact {
            node: node.clone(),
            behind_ms: -correction.before_ns / 1_000_000,
            bound_us,
        })
    }))
    .await
}

pub(super) fn with_cause(error: &ProviderError) -> String {
    std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn saving(node: &NodeName) -> impl FnOnce(QmpError) -> ProviderError {
    let what = format!("save node `{node}`");
    move |error| failed(what, error)
}

pub(super) fn resuming(node: &NodeName) -> impl FnOnce(QmpError) -> ProviderError {
    let what = format!("let node `{node}` run on");
    move |error| failed(what, error)
}

fn restoring(node: &NodeName) -> impl FnOnce(QmpError) -> ProviderError {
    let what = format!("restore node `{node}`");
    move |error| failed(what, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Feeds the writer as QEMU does and returns what is then known.
    fn write(file: &Path) -> Option<Result<(), &'static str>> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &writer(file)])
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        let mut shell = shell.spawn().expect("a shell starts");
        // One that does not read any more is what is tested.
        let _ = shell
            .stdin
            .take()
            .expect("it is piped")
            .write_all(b"memory");
        shell.wait().expect("it ends");
        written(file)
    }

    #[test]
    fn a_machine_is_saved_only_without_a_fault() {
        let slow = DiskFault::Throttle {
            bytes_per_second: Some(1 << 20),
            operations_per_second: None,
        };
        let check = |power, fault, expected: Option<&str>| {
            let said = unfit(power, fault);
            let agrees = match (&said, expected) {
                (Some(said), Some(expected)) => said.contains(expected),
                (said, expected) => said.is_none() && expected.is_none(),
            };
            assert!(agrees, "{power:?} {fault:?}: {said:?}");
        };
        check(Power::On, None, None);
        check(Power::Off, None, None);
        // It starts again with a disk that works.
        check(Power::Off, Some(slow), None);
        check(Power::Frozen, None, Some("thaw it first"));
        check(
            Power::On,
            Some(slow),
            Some("a fault acts on its disk (1.0 MiB/s)"),
        );
        check(
            Power::On,
            Some(DiskFault::Error {
                reads: true,
                writes: false,
            }),
            Some("(reads fail); `flightcage undo`"),
        );
    }

    #[test]
    fn a_memory_that_cannot_be_written_is_told_at_once() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let file = directory.path().join("it's/memory");
        assert!(
            written(&file).expect("nothing will come of it").is_err(),
            "there is no folder"
        );
        std::fs::create_dir(directory.path().join("it's")).expect("it is ours");
        assert_eq!(written(&file), None, "nobody has written yet");
        let part = file.with_extension("part");
        std::os::unix::fs::symlink("/dev/full", &part).expect("it is ours");
        assert!(
            write(&file)
                .expect("it has ended")
                .expect_err("the disk is full")
                .contains("is the disk full?")
        );
        assert!(
            part.symlink_metadata().is_err(),
            "what was half written makes room"
        );
        std::fs::remove_file(failure_mark(&file)).expect("it is there");
        assert_eq!(write(&file), Some(Ok(())));
        assert_eq!(std::fs::read(&file).expect("it is there"), b"memory");
    }
}
