//! Starts container instances, and takes away what they hold.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::runtime::{ContainerSpec, RuntimeError};
use super::files::{remove_tree, unmount, write_private};
use super::helper::VERB;
use super::instance::Instance;
use super::records::{self, RunRecord, SandboxRecord, StateRecord};
use super::{RealRuntime, START_LIMIT, bundle, cgroup, doing, failed, layer};
use crate::model::signals;

impl RealRuntime {
    pub(super) async fn start_instance(
        &self,
        spec: &ContainerSpec,
    ) -> Result<Instance, RuntimeError> {
        let name = &spec.name;
        let sandbox = self.sandbox(&spec.pod_uid);
        let sandbox = sandbox.ok_or_else(|| {
            failed(format!(
                "start container `{name}`: pod {} has no sandbox",
                spec.pod_uid
            ))
        })?;
        self.ensure_network(&sandbox).await?;
        self.retire_older(spec)?;
        let begun = self.pace.begin(&spec.pod_uid).await;
        let directory = self
            .prepare(spec, &sandbox)
            .map_err(|error| failed(format!("start container `{name}`: {error}")))?;
        if let Err(error) = self.start_helper(&directory).await {
            if let Some(run) = records::read::<RunRecord>(&directory.join("run.json")) {
                let _ = self.dismantle(&directory, &run);
            }
            let _ = remove_tree(&directory);
            return Err(failed(format!("start container `{name}`: {error}")));
        }
        let instance = self
            .instance(&directory)
            .ok_or_else(|| failed(format!("container `{name}` lost its state")))?;
        let state = directory.join("state.json");
        let runs =
            move || records::read(&state).is_some_and(|state: StateRecord| state.is_running());
        tokio::spawn(begun.settle(self.changes.clone(), runs));
        Ok(instance)
    }

    /// Starts the helper that will live with the container, and waits for its answer.
    async fn start_helper(&self, directory: &Path) -> Result<(), RuntimeError> {
        let mut child = Command::new(&self.helper)
            .arg(VERB)
            .arg("watch")
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(doing("start the container's helper"))?;
        let mut answer = Vec::new();
        let mut stdout = child
            .stdout
            .take()
            .ok_or_else(|| failed("the helper has no output"))?;
        let read = timeout(START_LIMIT, stdout.read_to_end(&mut answer)).await;
        let Ok(read) = read else {
            let _ = child.start_kill();
            let _ = child.wait().await;
            return Err(failed(format!(
                "the container did not start in {} s",
                START_LIMIT.as_secs()
            )));
        };
        read.map_err(doing("read the helper's answer"))?;
        if !answer.is_empty() || !directory.join("state.json").exists() {
            let status = child.wait().await.map_err(doing("wait for the helper"))?;
            return Err(failed(format!(
                "{} (helper: {status})",
                String::from_utf8_lossy(&answer)
            )));
        }
        // Reaps it whenever it ends. It outlives this agent otherwise.
        tokio::spawn(async move { child.wait().await });
        self.watcher.look_again();
        Ok(())
    }

    /// Takes away what a container instance holds besides its log and its records.
    pub(super) fn dismantle(&self, instance: &Path, run: &RunRecord) -> Result<(), RuntimeError> {
        let root = instance.join("rootfs");
        unmount(&root).map_err(doing(format!("unmount `{}`", root.display())))?;
        for part in ["rootfs", "upper", "work"] {
            remove_tree(&instance.join(part))?;
        }
        remove_tree(&self.layout.oci().join(&run.id))?;
        let _ = fs::remove_file(self.layout.events().join(&run.id));
        cgroup::remove(&run.cgroup);
        Ok(())
    }

    /// Forgets older instances of a container: what they hold, and all but the last one's log.
    fn retire_older(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        for older in self
            .instances(&spec.pod_uid)
            .into_iter()
            .filter(|i| i.run.name == spec.name)
        {
            if older.run.restart_count == spec.restart_count {
                return Err(failed(format!(
                    "container `{}` instance {} exists already",
                    spec.name, spec.restart_count
                )));
            }
            if older.state.is_running() {
                return Err(failed(format!(
                    "container `{}` instance {} still runs",
                    spec.name, older.run.restart_count
                )));
            }
            self.dismantle(&older.directory, &older.run)?;
            if older.run.restart_count + 1 < spec.restart_count {
                remove_tree(&older.directory)?;
                for number in ["log", "log.1", "log.2"] {
                    let _ = fs::remove_file(older.run.log.with_extension(number));
                }
            }
        }
        Ok(())
    }

    /// Mounts the root and writes the configuration of a new instance.
    fn prepare(
        &self,
        spec: &ContainerSpec,
        sandbox: &SandboxRecord,
    ) -> Result<PathBuf, RuntimeError> {
        let directory = self
            .layout
            .container(&spec.pod_uid, &spec.name, spec.restart_count);
        let image = self.images.record(&spec.image.digest);
        let image = image.ok_or_else(|| {
            failed(format!(
                "image `{}` is not on this node",
                spec.image.reference
            ))
        })?;
        let id = format!("{}-{}-{}", spec.pod_uid, spec.name, spec.restart_count);
        let stop_signal = spec.stop_signal.as_deref().unwrap_or(&image.stop_signal);
        let stop_signal = signals::number(stop_signal).unwrap_or(signals::TERM);
        let run = RunRecord::new(
            &self.layout,
            spec,
            id,
            i32::from(stop_signal),
            self.boot_id.clone(),
        );
        // A start that failed before left no state, but may have left a mount.
        self.dismantle(&directory, &run)?;
        remove_tree(&directory)?;
        let root = directory.join("rootfs");
        for part in [&root, &directory.join("upper"), &directory.join("work")] {
            fs::create_dir_all(part).map_err(doing(format!("make `{}`", part.display())))?;
        }
        if let Some(parent) = run.log.parent() {
            fs::create_dir_all(parent).map_err(doing(format!("make `{}`", parent.display())))?;
        }
        let layers = self.images.stack(&spec.image.digest, &image);
        mount_overlay(&layers, &directory)?;
        let prepared = (|| {
            layer::make_directory_in_root(&root, bundle::working_dir(&image, spec))
                .map_err(doing("make the working directory"))?;
            let netns = self.layout.netns(&spec.pod_uid);
            let etc = self.layout.pod(&spec.pod_uid).join("etc");
            let netns = (!sandbox.host_network).then_some(netns.as_path());
            let places = bundle::Places {
                root: &root,
                etc: &etc,
                netns,
                controllers: &self.controllers,
            };
            let config = bundle::config(&image, sandbox, spec, &run, &places).map_err(failed)?;
            write_private(&directory.join("config.json"), &config)?;
            records::write(&directory.join("run.json"), &run).map_err(doing("write run.json"))
        })();
        if prepared.is_err() {
            let _ = self.dismantle(&directory, &run);
            let _ = remove_tree(&directory);
        }
        prepared.map(|()| directory)
    }
}

/// Mounts the root of an instance. The options of a mount have to fit in one page: layers are named by open directories.
fn mount_overlay(layers: &[PathBuf], directory: &Path) -> Result<(), RuntimeError> {
    let mut open = Vec::new();
    for layer in layers {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let layer = rustix::fs::open(layer, flags, Mode::empty())
            .map_err(doing(format!("open layer `{}`", layer.display())))?;
        open.push(layer);
    }
    if open.is_empty() {
        return Err(failed("its image has no layer"));
    }
    let lower: Vec<String> = open
        .iter()
        .map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd()))
        .collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        directory.join("upper").display(),
        directory.join("work").display()
    );
    let options = std::ffi::CString::new(options).map_err(doing("write the overlay's options"))?;
    rustix::mount::mount(
        "overlay",
        directory.join("rootfs"),
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(doing(format!(
        "mount the overlay of `{}`",
        directory.display()
    )))
}
