//! A machine's directory: what of it outlives a process. Directories are 0700, files 0600: they hold keys.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{qcow2, sparse};
use crate::machines::provider::{BoxBoot, MachineRequest};
use crate::model::names::NodeName;

/// `STATE/machines/NODE`.
#[derive(Debug, Clone)]
pub(super) struct MachineDirectory(PathBuf);

/// What is recorded once and never moves on a restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// What the machine was made from.
    pub(super) request: MachineRequest,
    /// The loopback port of its SSH server, once QEMU has told it.
    pub(super) ssh_port: Option<u16>,
}

/// The machine's own disk in its directory: a blank one, or a layer over the box's image.
const BLANK_DISK: &str = "disk.raw";
const LAYER_DISK: &str = "disk.qcow2";
/// All that a machine's own disk may be called.
pub(super) const DISKS: [&str; 2] = [BLANK_DISK, LAYER_DISK];

/// Where the directories of a cluster's machines lie.
pub(super) fn machines_directory(state: &Path) -> PathBuf {
    state.join("machines")
}

impl MachineDirectory {
    pub(super) fn new(state: &Path, node: &NodeName) -> Self {
        Self(machines_directory(state).join(node.as_str()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The machine's own disk: blank at first, or a layer over the box's image.
    pub(super) fn disk(&self, boot: &BoxBoot) -> PathBuf {
        self.0.join(match boot {
            BoxBoot::Existing | BoxBoot::Kernel(_) => BLANK_DISK,
            BoxBoot::Disk(_) => LAYER_DISK,
        })
    }

    pub(super) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// The machine's journal, one JSON object a line.
    pub(super) fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    /// What QEMU itself says.
    pub(super) fn qemu_log(&self) -> PathBuf {
        self.0.join("qemu.log")
    }

    pub(super) fn ignition(&self) -> PathBuf {
        self.0.join("ignition.json")
    }

    fn pid_file(&self) -> PathBuf {
        self.0.join("pid")
    }

    fn record_file(&self) -> PathBuf {
        self.0.join("machine.json")
    }

    /// Makes the directory, the disk unless there is one, and the files.
    pub(super) fn prepare(&self, request: &MachineRequest) -> io::Result<Record> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        let ssh_port = self.record().ok().and_then(|record| record.ssh_port);
        let disk = self.disk(&request.box_files.boot);
        if !disk.exists() {
            let part = self.0.join("disk.part");
            let mut file = create(&part)?;
            match &request.box_files.boot {
                BoxBoot::Existing => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "a machine that exists needs no QEMU",
                    ));
                }
                BoxBoot::Kernel(_) => file.set_len(request.spec.disk_bytes)?,
                BoxBoot::Disk(image) => {
                    qcow2::write_overlay(&mut file, image, request.spec.disk_bytes)?
                }
            }
            fs::rename(part, disk)?;
        }
        self.write(&self.ignition(), request.ignition.as_bytes())?;
        let record = Record {
            request: request.clone(),
            ssh_port,
        };
        self.save(&record)?;
        Ok(record)
    }

    pub(super) fn record(&self) -> io::Result<Record> {
        Ok(serde_json::from_slice(&fs::read(self.record_file())?)?)
    }

    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        self.write(&self.record_file(), &serde_json::to_vec_pretty(record)?)
    }

    pub(super) fn save_pid(&self, pid: u32) -> io::Result<()> {
        self.write(&self.pid_file(), pid.to_string().as_bytes())
    }

    /// Takes over the disk and the SSH port of a saved machine; its record is what `request` says.
    pub(super) fn adopt(&self, saved: &Path, request: &MachineRequest) -> io::Result<Record> {
        self.remove()?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        let ssh_port = SavedMachine(saved.to_owned())
            .record()
            .ok()
            .and_then(|record| record.ssh_port);
        self.write(&self.ignition(), request.ignition.as_bytes())?;
        let record = Record {
            request: request.clone(),
            ssh_port,
        };
        self.save(&record)?;
        sparse::copy(
            &SavedMachine(saved.to_owned()).disk(),
            &self.disk(&request.box_files.boot),
        )?;
        Ok(record)
    }

    /// The recorded process id, which may be anyone's by now.
    pub(super) fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file())
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// How long the console's file is.
    pub(super) fn console_length(&self) -> u64 {
        fs::metadata(self.console()).map_or(0, |metadata| metadata.len())
    }

    /// Removes everything; absent is fine.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let part = self.0.join("file.part");
        create(&part)?.write_all(bytes)?;
        fs::rename(part, path)
    }
}

/// A machine's folder in a snapshot.
#[derive(Debug, Clone)]
pub(super) struct SavedMachine(PathBuf);

impl SavedMachine {
    pub(super) fn new(snapshot: &Path, node: &NodeName) -> Self {
        Self(snapshot.join(node.as_str()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Processor, devices and memory, as QEMU's migration stream. A machine that was off has none.
    pub(super) fn memory(&self) -> PathBuf {
        self.0.join("memory")
    }

    fn disk(&self) -> PathBuf {
        self.0.join("disk")
    }

    fn record_file(&self) -> PathBuf {
        self.0.join("machine.json")
    }

    fn record(&self) -> io::Result<Record> {
        Ok(serde_json::from_slice(&fs::read(self.record_file())?)?)
    }

    /// Makes the folder, with what is known before the machine is stopped.
    pub(super) fn prepare(&self, machine: &MachineDirectory) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        create(&self.record_file())?.write_all(&serde_json::to_vec_pretty(&machine.record()?)?)
    }

    /// Copies the disk of a machine that does not run.
    pub(super) fn copy_disk(&self, machine: &MachineDirectory) -> io::Result<()> {
        sparse::copy(
            &machine.disk(&machine.record()?.request.box_files.boot),
            &self.disk(),
        )
    }
}

/// An empty file that only we can read.
pub(super) fn create(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Names of the machines that have a directory, in order.
pub(super) fn nodes(state: &Path) -> io::Result<Vec<NodeName>> {
    let entries = match fs::read_dir(machines_directory(state)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut nodes: Vec<NodeName> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    nodes.sort();
    Ok(nodes)
}
