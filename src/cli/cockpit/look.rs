//! One look at a cluster: the daemon is asked, the API's nodes and pods are followed, consoles and `/proc` are read.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use procfs::process::Process;
use procfs::{Current as _, ProcResult, Uptime};
use tokio::time::Instant;

use super::facts::{
    EndpointFacts, Facts, LinkFacts, MachineFacts, NodeReady, PodFacts, Usage, last_lines, shorten,
};
use crate::cli::journal::in_words;
use crate::cli::machine_logs::end_of;
use crate::cluster::client::DaemonClientError;
use crate::cluster::daemon::{LinkState, Served};
use crate::cluster::life::{Cluster, is_ready};
use crate::kubernetes::client::{ListParams, Reflector};
use crate::machines::provider::{Machine, Power};
use crate::model::cluster::ClusterSpec;
use crate::scenario::fault::Journal;

/// Lines of a console that are shown, and how much of its file is read for them.
const CONSOLE_LINES: usize = 6;
const CONSOLE_BYTES: u64 = 4096;
/// Troubles that are shown.
const TROUBLES_MAX: usize = 5;
/// How long one tick of a process's times is: Linux tells a hundred a second on every architecture (proc(5), `USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Why nothing was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LookError {
    /// The cluster is not up any more.
    Gone,
    /// Its daemon did not tell.
    Failed(String),
}

/// Looks at one cluster again and again.
pub(super) struct Looker {
    cluster: Arc<Cluster>,
    spec: ClusterSpec,
    nodes: Reflector<Node>,
    pods: Reflector<Pod>,
    /// Processor time of each machine's process, by its id, and when it was read.
    spent: BTreeMap<u32, (Instant, Duration)>,
    troubles: VecDeque<String>,
    /// The number of the last trouble that was told.
    trouble: u64,
}

impl Looker {
    pub(super) fn new(cluster: Arc<Cluster>, spec: ClusterSpec) -> Self {
        let nodes = cluster.client.reflect("", ListParams::all());
        let pods = cluster.client.reflect("", ListParams::all());
        Self {
            cluster,
            spec,
            nodes,
            pods,
            spent: BTreeMap::new(),
            troubles: VecDeque::new(),
            trouble: 0,
        }
    }

    pub(super) async fn look(&mut self) -> Result<Facts, LookError> {
        let daemon = self.cluster.daemon.clone();
        let (status, links, endpoints, troubles) = tokio::join!(
            daemon.status(),
            daemon.links(),
            daemon.balancer(),
            daemon.sightings(self.trouble),
        );
        let status = status.map_err(|error| match error {
            DaemonClientError::NotUp { .. } => LookError::Gone,
            other => LookError::Failed(format!(
                "the machines cannot be looked at: {}",
                crate::cluster::chain(&other)
            )),
        })?;
        let mut gaps = Vec::new();
        if status.owned {
            gaps.push(
                "a `run`, `with` or `demo` holds this cluster: what is broken here by hand spoils its verdict"
                    .to_owned(),
            );
        }
        for sighting in troubles.unwrap_or_default() {
            self.trouble = self.trouble.max(sighting.number);
            self.troubles.push_back(in_words(&sighting));
        }
        while self.troubles.len() > TROUBLES_MAX {
            self.troubles.pop_front();
        }
        let (links, endpoints) = (
            told(links, "links", &mut gaps),
            told(endpoints, "load balancer", &mut gaps),
        );
        let machines = self.machines(&status.machines).await;
        let mut notes = self.journal(&mut gaps);
        notes.extend(self.troubles.iter().cloned());
        let mut facts = Facts {
            machines,
            pods: self.pods(&mut gaps),
            links: links.iter().filter_map(LinkFacts::new).collect(),
            endpoints: endpoint_facts(&endpoints, &status.services),
            notes,
            gaps,
        };
        shorten(&mut facts.pods, "pods", &mut facts.gaps);
        shorten(&mut facts.endpoints, "endpoints", &mut facts.gaps);
        Ok(facts)
    }

    async fn machines(&mut self, found: &[Machine]) -> Vec<MachineFacts> {
        let folder = self.cluster.paths.root().join("machines");
        let found = |name: &str| found.iter().find(|one| one.name.as_str() == name).cloned();
        let asked: Vec<(PathBuf, Option<u32>)> = self
            .spec
            .machines
            .iter()
            .map(|spec| {
                let name = spec.name.as_str();
                let pid = found(name).and_then(|machine| machine.pid);
                (folder.join(name).join("console.log"), pid)
            })
            .collect();
        // Files, which may be slow.
        let read = tokio::task::spawn_blocking(move || {
            let read = |(console, pid): (PathBuf, Option<u32>)| {
                let lines = last_lines(&end_of(&console, CONSOLE_BYTES), CONSOLE_LINES);
                (
                    lines,
                    pid.and_then(|pid| process(pid).ok().map(|seen| (pid, seen))),
                )
            };
            asked.into_iter().map(read).collect::<Vec<_>>()
        })
        .await
        .unwrap_or_default();
        let now = Instant::now();
        let mut read = read.into_iter();
        let mut machines = Vec::new();
        let mut spent = BTreeMap::new();
        for spec in &self.spec.machines {
            let (console, seen) = read.next().unwrap_or_default();
            let usage = seen.map(|(pid, (spent_now, mut usage))| {
                spent.insert(pid, (now, spent_now));
                let before = self.spent.get(&pid);
                usage.processors =
                    before.map(|(at, before)| share(now - *at, spent_now.saturating_sub(*before)));
                usage
            });
            let name = spec.name.as_str();
            let machine = found(name);
            let ready = self.ready(name);
            machines.push(MachineFacts::new(
                spec,
                machine.as_ref(),
                ready,
                usage,
                console,
            ));
        }
        self.spent = spent;
        machines
    }

    fn ready(&self, name: &str) -> NodeReady {
        if !self.nodes.progress().borrow().connected {
            return NodeReady::Unknown;
        }
        match self.nodes.get("", name) {
            None => NodeReady::Absent,
            Some(node) if is_ready(&node) => NodeReady::Ready,
            Some(_) => NodeReady::NotReady,
        }
    }

    fn pods(&self, gaps: &mut Vec<String>) -> Vec<PodFacts> {
        if !self.pods.progress().borrow().connected {
            gaps.push("the API does not answer: pods are shown as they were known last".to_owned());
        }
        let objects = self.pods.objects();
        let mut pods: Vec<PodFacts> = objects.values().map(|pod| PodFacts::new(pod)).collect();
        pods.sort();
        pods
    }

    /// What a scenario has broken and not healed.
    fn journal(&self, gaps: &mut Vec<String>) -> Vec<String> {
        match Journal::new(&self.cluster.paths.journal()).entries() {
            Ok(entries) => entries
                .iter()
                .map(|(_, entry)| format!("still to be healed: {entry} (step {})", entry.step))
                .collect(),
            Err(error) => {
                gaps.push(format!("the journal of faults cannot be read: {error}"));
                Vec::new()
            }
        }
    }
}

/// What the daemon told; that it did not is said.
fn told<T>(asked: Result<Vec<T>, DaemonClientError>, what: &str, gaps: &mut Vec<String>) -> Vec<T> {
    asked.unwrap_or_else(|error| {
        let why = crate::cluster::chain(&error);
        gaps.push(format!("the {what} cannot be looked at: {why}"));
        Vec::new()
    })
}

fn endpoint_facts(
    endpoints: &[crate::balancer::EndpointView],
    served: &[Served],
) -> Vec<EndpointFacts> {
    endpoints
        .iter()
        .map(|view| EndpointFacts::new(view, served))
        .collect()
}

/// Processors that were used.
fn share(wall: Duration, spent: Duration) -> f64 {
    spent.as_secs_f64() / wall.max(TICK).as_secs_f64()
}

/// The processor time of a process, and the rest that is known of it.
fn process(pid: u32) -> ProcResult<(Duration, Usage)> {
    let process = Process::new(i32::try_from(pid).unwrap_or(i32::MAX))?;
    let stat = process.stat()?;
    let ticks = |ticks: u64| TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
    let up = Duration::try_from_secs_f64(Uptime::current()?.uptime).unwrap_or_default();
    let usage = Usage {
        age: up.saturating_sub(ticks(stat.starttime)),
        processors: None,
        memory_bytes: process.status()?.vmrss.unwrap_or(0) * 1024,
    };
    Ok((ticks(stat.utime + stat.stime), usage))
}

/// Which of these rules and machines a command leaves as it found or made them: one line each.
pub(super) fn still_on(links: &[LinkState], machines: &[Machine]) -> Vec<String> {
    let rules = links.iter().filter_map(LinkFacts::new);
    let rules = rules.map(|link| format!("{} -> {}: {}", link.from, link.to, link.rules));
    let machines = machines.iter().filter_map(|machine| match machine.power {
        Power::On => None,
        Power::Off => Some(format!("{} is off", machine.name)),
        Power::Frozen => Some(format!("{} is frozen", machine.name)),
    });
    rules.chain(machines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::fabric::LinkRule;

    #[test]
    fn what_stays_broken_is_said_and_nothing_else() {
        let link = |from: &str, rules| LinkState {
            from: from.parse().unwrap(),
            to: "w2".parse().unwrap(),
            rules,
            counters: None,
        };
        let machine = |name: &str, power| Machine {
            name: name.parse().unwrap(),
            power,
            ssh: None,
            pid: None,
        };
        let links = [
            link("w1", vec![("by-hand".to_owned(), LinkRule::cut())]),
            link("host", vec![]),
        ];
        let machines = [
            machine("c1", Power::On),
            machine("w1", Power::Off),
            machine("w2", Power::Frozen),
        ];
        assert_eq!(
            still_on(&links, &machines),
            ["w1 -> w2: cut [by-hand]", "w1 is off", "w2 is frozen"]
        );
        assert!(still_on(&links[1..], &machines[..1]).is_empty());
    }

    #[test]
    fn a_process_is_seen_with_its_age_and_memory() {
        let (_, usage) = process(std::process::id()).expect("it is this one");
        assert!(usage.memory_bytes > 0);
        assert!(process(u32::MAX).is_err());
        let half = share(Duration::from_secs(2), Duration::from_secs(1));
        assert!((half - 0.5).abs() < f64::EPSILON);
    }
}
