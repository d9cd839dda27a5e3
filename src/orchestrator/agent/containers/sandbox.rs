//! A pod's sandbox: its address, its network and its files of `/etc`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::super::runtime::{RuntimeError, SandboxSpec};
use super::helper::VERB;
use super::network::{self, NamespaceRequest};
use super::records::{self, SandboxRecord};
use super::{RealRuntime, START_LIMIT, doing, failed};

impl RealRuntime {
    pub(super) fn sandbox(&self, pod_uid: &str) -> Option<SandboxRecord> {
        records::read(&self.layout.pod(pod_uid).join("sandbox.json"))
    }

    pub(super) fn sandboxes(&self) -> Vec<SandboxRecord> {
        let mut found: Vec<SandboxRecord> = fs::read_dir(self.layout.pods())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| records::read(&entry.path().join("sandbox.json")))
            .collect();
        found.sort_by(|a, b| a.pod_uid.cmp(&b.pod_uid));
        found
    }

    /// Makes a sandbox, or what is missing of it; returns its address.
    pub(super) async fn make_sandbox(&self, spec: &SandboxSpec) -> Result<Ipv4Addr, RuntimeError> {
        let _allocation = self.allocation.lock().await;
        let directory = self.layout.pod(&spec.pod_uid);
        let address = match self.sandbox(&spec.pod_uid) {
            Some(record) => record.address,
            None if spec.host_network => self.node_address,
            None => {
                let last_file = self.layout.data.join("last-address.json");
                let used: BTreeSet<Ipv4Addr> = self
                    .sandboxes()
                    .iter()
                    .map(|sandbox| sandbox.address)
                    .collect();
                let address = self.pods.allocate(&used, records::read(&last_file));
                let address = address
                    .ok_or_else(|| failed("every address of this node's pod network is in use"))?;
                records::write(&last_file, &address).map_err(doing("record the pod's address"))?;
                address
            }
        };
        let record = SandboxRecord::new(spec, address, self.boot_id.clone());
        write_etc(&directory.join("etc"), &record).map_err(doing("write the pod's /etc files"))?;
        records::write(&directory.join("sandbox.json"), &record)
            .map_err(doing("write sandbox.json"))?;
        self.ensure_network(&record).await?;
        Ok(address)
    }

    /// Makes the network of a sandbox in this boot, if it is not there.
    pub(super) async fn ensure_network(&self, record: &SandboxRecord) -> Result<(), RuntimeError> {
        if record.host_network {
            return Ok(());
        }
        let path = self.layout.netns(&record.pod_uid);
        let link = network::link_name(&record.pod_uid);
        if !network::namespace_exists(&path) {
            self.node.detach(&link).await.map_err(failed)?;
            let request = NamespaceRequest::new(self.pods, path, &record.pod_uid, record.address);
            let request =
                serde_json::to_string(&request).map_err(doing("write the network request"))?;
            self.ask_helper("network", &request).await?;
        }
        self.node.attach(&link).await.map_err(failed)
    }

    /// Runs a short-lived helper; its standard output is its reason for failing.
    async fn ask_helper(&self, verb: &str, argument: &str) -> Result<(), RuntimeError> {
        let output = Command::new(&self.helper)
            .args([VERB, verb, argument])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(START_LIMIT, output)
            .await
            .map_err(|_| {
                failed(format!(
                    "helper `{verb}` did not finish in {} s",
                    START_LIMIT.as_secs()
                ))
            })?
            .map_err(doing(format!("start helper `{verb}`")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(format!(
            "helper `{verb}` ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        )))
    }
}

fn write_etc(directory: &Path, sandbox: &SandboxRecord) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let SandboxRecord {
        hostname, address, ..
    } = sandbox;
    fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
    fs::write(directory.join("resolv.conf"), &sandbox.resolv_conf)?;
    fs::write(
        directory.join("hosts"),
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{address}\t{hostname}\n"),
    )
}
