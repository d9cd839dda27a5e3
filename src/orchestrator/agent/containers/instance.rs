//! Container instances as they are on disk, with a state that is true now.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, timeout_at};

use super::super::runtime::{ContainerState, ContainerStatus, RuntimeError};
use super::records::{self, RunRecord, StateRecord};
use super::{RealRuntime, UNKNOWN_EXIT, cgroup, failed};

/// A killed process may take so long to vanish.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// A container instance on disk.
pub(super) struct Instance {
    pub(super) directory: PathBuf,
    pub(super) run: RunRecord,
    pub(super) state: StateRecord,
}

impl Instance {
    pub(super) fn status(self) -> ContainerStatus {
        let image = self.run.image();
        let state = match self.state {
            StateRecord::Running { started_at_ms, .. } => ContainerState::Running { started_at_ms },
            StateRecord::Exited {
                exit_code,
                oom_killed,
                started_at_ms,
                finished_at_ms,
            } => ContainerState::Exited {
                exit_code,
                oom_killed,
                started_at_ms,
                finished_at_ms,
            },
        };
        ContainerStatus {
            name: self.run.name,
            id: self.run.id,
            restart_count: self.run.restart_count,
            image,
            state,
        }
    }
}

impl RealRuntime {
    /// All instances of a pod's containers, oldest first, with a state that is true now.
    pub(super) fn instances(&self, pod_uid: &str) -> Vec<Instance> {
        let mut found: Vec<Instance> = fs::read_dir(self.layout.pod(pod_uid).join("containers"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| self.instance(&entry.path()))
            .collect();
        found.sort_by(|a, b| {
            (&a.run.name, a.run.restart_count).cmp(&(&b.run.name, b.run.restart_count))
        });
        found
    }

    pub(super) fn instance(&self, directory: &Path) -> Option<Instance> {
        let run: RunRecord = records::read(&directory.join("run.json"))?;
        let file = directory.join("state.json");
        // No state yet: it is being started, or its start failed.
        let mut state: StateRecord = records::read(&file)?;
        if let StateRecord::Running {
            helper,
            init,
            started_at_ms,
        } = state
        {
            let same_boot = run.boot_id == self.boot_id;
            if !same_boot || !helper.is_alive() {
                // The helper's last act was to write the state: look again.
                state = records::read(&file)?;
            }
            if state.is_running() && !(same_boot && helper.is_alive()) {
                if same_boot {
                    init.signal(Signal::KILL);
                    cgroup::kill(&run.cgroup);
                }
                let finished_at_ms = records::now_ms();
                state = StateRecord::Exited {
                    exit_code: UNKNOWN_EXIT,
                    oom_killed: false,
                    started_at_ms,
                    finished_at_ms,
                };
                let _ = records::write(&file, &state);
            }
        }
        Some(Instance {
            directory: directory.to_owned(),
            run,
            state,
        })
    }

    pub(super) fn newest(&self, pod_uid: &str, container: &str) -> Option<Instance> {
        self.instances(pod_uid)
            .into_iter()
            .rfind(|instance| instance.run.name == container)
    }

    /// Waits until an instance has ended.
    pub(super) async fn wait_exit(&self, directory: &Path, until: Instant) -> bool {
        let mut changes = self.changes.clone();
        loop {
            changes.borrow_and_update();
            if !self
                .instance(directory)
                .is_some_and(|instance| instance.state.is_running())
            {
                return true;
            }
            if timeout_at(until, changes.changed()).await.is_err() {
                return false;
            }
        }
    }

    pub(super) async fn kill(&self, instance: &Instance) -> Result<(), RuntimeError> {
        if let StateRecord::Running { init, .. } = instance.state {
            init.signal(Signal::KILL);
            cgroup::kill(&instance.run.cgroup);
            if !self
                .wait_exit(&instance.directory, Instant::now() + KILL_LIMIT)
                .await
            {
                return Err(failed(format!(
                    "container `{}` did not die in {} s",
                    instance.run.name,
                    KILL_LIMIT.as_secs()
                )));
            }
        }
        Ok(())
    }
}
