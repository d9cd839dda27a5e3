//! `bench failover`, `bench rolling-update` and `bench pods-killed`: the figures of a shipped scenario over several runs on one cluster:
//! least, median, most.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::agenda::Repeats;
use super::case::Case;
use super::cluster::{bring_up, open_home};
use super::demo::{SCENARIO_FILES, write_files};
use super::doctor;
use super::failure::Failure;
use super::interruption::Interruption;
use super::manifests;
use super::series::{Settings, end, run_on, verdict_words};
use super::terminal::{Live, complain, say};
use crate::cluster::home::Home;
use crate::cluster::life::{Boot, Lifetime, SnapshotUse};
use crate::model::cluster::ClusterSpec;
use crate::model::names::ClusterName;
use crate::scenario::evidence::Keep;
use crate::scenario::file::Against;
use crate::scenario::matrix::Cell;
use crate::scenario::spec::Scenario;
use crate::scenario::{self, SlowHost, exit_code};

/// The scenarios that are only measured, beside those of the demonstration.
const FILES: &[(&str, &str)] = &[
    (
        "update-and-back.toml",
        include_str!("../../scenarios/update-and-back.toml"),
    ),
    (
        "pods-killed.toml",
        include_str!("../../scenarios/pods-killed.toml"),
    ),
];

/// A host on which this is missed before anything happens cannot carry the load: the run is INCONCLUSIVE.
const BASELINE_P99: Duration = Duration::from_millis(250);

/// Arguments of the benches that run a scenario.
#[derive(Debug, Args)]
pub(super) struct Repeated {
    /// How often it is run, on one cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Requests a second on each stream, such as 25, in place of the scenario's own.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: Option<u32>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Keep every run's report below this directory, as `N/<scenario>/report.json`.
    #[arg(long, value_name = "DIR")]
    report: Option<super::File>,
}

impl Repeated {
    /// Runs the shipped scenario of that name.
    pub(super) async fn run(
        self,
        name: ClusterName,
        shipped_name: &str,
    ) -> Result<ExitCode, Failure> {
        doctor::require_able_host().await?;
        let home = open_home()?;
        let mut scenario = shipped(&home, &name, shipped_name)?;
        for load in scenario.loads.values_mut() {
            load.baseline.p99 = Some(BASELINE_P99);
            if let Some(rate) = self.rate {
                (load.rate, load.automatic) = (f64::from(rate), None);
                load.stages.clear();
            }
        }
        let spec = scenario
            .cluster
            .clone()
            .unwrap_or_else(|| ClusterSpec::with_workers(name, 2));
        let folder = folder(&home);
        let scratch = tempfile::tempdir_in(&folder).map_err(unwritable(&folder))?;
        let reports = self.report.as_deref().unwrap_or(scratch.path());
        let live = Live::new();
        let boot = Boot {
            lifetime: Lifetime::Owned,
            snapshots: SnapshotUse::Ignore,
        };
        let interruption = Interruption::watch();
        let stop = interruption.token();
        let mut cluster = bring_up(&home, spec, boot, &live).await?;
        let (mut outcomes, mut read) = (Vec::new(), Vec::new());
        let mut broke = None;
        for run in 1..=self.repeat {
            if stop.is_cancelled() {
                break;
            }
            live.step(&format!("run {run} of {}", self.repeat));
            let own = reports.join(run.to_string());
            // Of standard output a program reads the figures.
            let print = if self.json { complain } else { say };
            let settings = Settings {
                report: Some(&own),
                print,
                keep: false,
                cluster: None,
                snapshots: SnapshotUse::Ignore,
                slow_host: SlowHost::default(),
                repeats: Repeats::default(),
                evidence: Keep::default(),
            };
            let case = Case {
                scenario: &scenario,
                cell: Cell::only(u64::from(run)),
            };
            let (back, outcome) = run_on(cluster, &case, &settings, stop, &live).await;
            cluster = back;
            match outcome {
                Ok(outcome) => outcomes.push(outcome),
                Err(failure) => {
                    broke = Some(failure);
                    break;
                }
            }
            read.extend(report_of(&own.join(&scenario.name).join("report.json")));
        }
        live.step("taking the cluster down");
        end(cluster, false).await?;
        live.finish();
        if let Some(failure) = broke {
            return Err(failure);
        }
        let figures = collect(&read.iter().map(figures).collect::<Vec<_>>());
        if self.json {
            let verdicts: Vec<String> = verdict_words(&outcomes)
                .into_iter()
                .map(str::to_owned)
                .collect();
            let accel = read
                .first()
                .map_or(Value::Null, |report| report["target"]["accel"].clone());
            let document = json!({"version": 1, "bench": shipped_name, "runs": read.len(), "accel": accel,
                "verdicts": verdicts, "figures": figures});
            say(&serde_json::to_string_pretty(&document).map_err(Failure::from)?);
        } else {
            say(&table(&figures));
        }
        Ok(ExitCode::from(exit_code(&outcomes)))
    }
}

/// Where the shipped scenarios are written to be read.
fn folder(home: &Home) -> PathBuf {
    home.cache().join("bench")
}

fn unwritable(folder: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let failure = Failure::new(format!("write below `{}`", folder.display()));
    move |error| failure.because(error)
}

/// The shipped scenario of that name, for a cluster of that name.
pub(super) fn shipped(home: &Home, cluster: &ClusterName, name: &str) -> Result<Scenario, Failure> {
    let folder = folder(home);
    for files in [SCENARIO_FILES, FILES] {
        write_files(&folder, files).map_err(unwritable(&folder))?;
    }
    let file = folder.join(format!("{name}.toml"));
    Ok(scenario::file::read(
        &file,
        &Against::own_cluster(cluster, manifests::check),
    )?)
}

fn report_of(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The figures of one report, by name; the unit is the name's end.
fn figures(report: &Value) -> BTreeMap<&'static str, f64> {
    let mut figures = BTreeMap::new();
    let streams: Vec<(&String, &Value)> = (report["load"].as_object().into_iter().flatten())
        .flat_map(|(_, load)| load["streams"].as_object().into_iter().flatten())
        .collect();
    let sum = |field: &str| {
        streams
            .iter()
            .filter_map(|(_, stream)| stream[field].as_f64())
            .sum::<f64>()
    };
    let most = |name: &str, field: &str| {
        let named = streams.iter().filter(|(stream, _)| *stream == name);
        named
            .filter_map(|(_, stream)| stream[field].as_f64())
            .fold(None, |most: Option<f64>, value| {
                Some(most.map_or(value, |most| most.max(value)))
            })
    };
    figures.insert("sent_requests", sum("sent"));
    figures.insert("failed_requests", sum("failed"));
    figures.extend(most("new", "longest_outage_ms").map(|value| ("longest_outage_new_ms", value)));
    figures.extend(
        most("reused", "longest_outage_ms").map(|value| ("longest_outage_reused_ms", value)),
    );
    if let Some(onset) = report["faults"][0]["onset_ms"].as_f64() {
        // The last moment at which a new connection still failed.
        let outages = streams
            .iter()
            .filter(|(name, _)| *name == "new")
            .filter_map(|(_, stream)| stream["outages"].as_array());
        let ends = outages.flatten().filter(|outage| {
            outage["from_ms"]
                .as_f64()
                .is_some_and(|from| from + 1000.0 >= onset)
        });
        let last = ends
            .filter_map(|outage| outage["to_ms"].as_f64())
            .fold(onset, f64::max);
        figures.insert("new_connections_fail_until_ms", last - onset);
        let after = |wanted: &dyn Fn(&Value) -> bool| {
            let events = report["events"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|event| wanted(event));
            events
                .filter_map(|event| event["at_ms"].as_f64())
                .filter(|at| *at >= onset)
                .fold(None, |first: Option<f64>, at| {
                    Some(first.map_or(at, |first| first.min(at)))
                })
        };
        let first = |kind: &'static str| after(&move |event: &Value| event["kind"] == kind);
        figures.extend(first("node.not_ready").map(|at| ("node_not_ready_ms", at - onset)));
        figures.extend(
            first("pod.scheduled")
                .or_else(|| first("pod.pending"))
                .map(|at| ("replacement_scheduled_ms", at - onset)),
        );
        let elsewhere = report["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|step| step["id"] == "elsewhere");
        figures.extend(
            elsewhere
                .and_then(|step| step["end_ms"].as_f64())
                .map(|at| ("replicas_back_ms", at - onset)),
        );
        figures.extend(replacements(report, onset));
    }
    for (step, figure) in [
        ("update", "update_took_ms"),
        ("and-back", "way_back_took_ms"),
    ] {
        let update = report["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["id"] == step);
        if let Some((from, to)) =
            update.and_then(|step| Some((step["start_ms"].as_f64()?, step["end_ms"].as_f64()?)))
        {
            figures.insert(figure, to - from);
        }
    }
    figures
}

/// Of the pods that began after `onset`: the time to the last one's start, and the longest that one took from its start to being ready,
/// which is the application's own. Nothing without such pods.
fn replacements(report: &Value, onset: f64) -> BTreeMap<&'static str, f64> {
    let mut pods: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
    for event in report["events"].as_array().into_iter().flatten() {
        if let (Some(kind), Some(pod), Some(at)) = (
            event["kind"].as_str(),
            event["object"].as_str(),
            event["at_ms"].as_f64(),
        ) {
            pods.entry(pod).or_default().entry(kind).or_insert(at);
        }
    }
    let new = pods
        .values()
        .filter(|pod| pod.get("pod.pending").is_some_and(|at| *at >= onset));
    let mut found = BTreeMap::new();
    for pod in new {
        let (Some(started), Some(ready)) = (pod.get("pod.not_ready"), pod.get("pod.running"))
        else {
            continue;
        };
        for (name, value) in [
            ("replacement_started_ms", started - onset),
            ("replacement_own_start_ms", ready - started),
        ] {
            let most = found.entry(name).or_insert(value);
            *most = f64::max(*most, value);
        }
    }
    found
}

/// Least, median and most of each figure; of how many runs it is known.
pub(super) fn collect(runs: &[BTreeMap<&'static str, f64>]) -> Value {
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, value) in runs.iter().flatten() {
        values.entry(name).or_default().push(*value);
    }
    let mut all = json!({});
    for (name, mut values) in values {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        all[name] = json!({"min": values[0], "median": median, "max": values[values.len() - 1], "runs": values.len()});
    }
    all
}

fn table(figures: &Value) -> String {
    let mut lines = vec![format!(
        "{:<32} {:>10} {:>10} {:>10} {:>5}",
        "figure", "min", "median", "max", "runs"
    )];
    for (name, figure) in figures.as_object().into_iter().flatten() {
        let number = |field: &str| {
            figure[field]
                .as_f64()
                .map_or_else(String::new, |value| format!("{value:.0}"))
        };
        lines.push(format!(
            "{name:<32} {:>10} {:>10} {:>10} {:>5}",
            number("min"),
            number("median"),
            number("max"),
            number("runs")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_figures() {
        let report = json!({
            "faults": [{"onset_ms": 1000}],
            "steps": [{"id": "elsewhere", "start_ms": 1000, "end_ms": 5200}],
            "events": [{"at_ms": 900, "kind": "pod.pending", "object": "old"}, {"at_ms": 950, "kind": "pod.not_ready", "object": "old"},
                {"at_ms": 2400, "kind": "pod.pending", "object": "a"}, {"at_ms": 2300, "kind": "node.not_ready", "object": "w1"},
                {"at_ms": 2410, "kind": "pod.pending", "object": "b"}, {"at_ms": 3000, "kind": "pod.not_ready", "object": "b"},
                {"at_ms": 3100, "kind": "pod.not_ready", "object": "a"}, {"at_ms": 5000, "kind": "pod.running", "object": "a"},
                {"at_ms": 5100, "kind": "pod.running", "object": "b"}, {"at_ms": 9000, "kind": "pod.running", "object": "old"}],
            "load": {"web": {"streams": {
                "new": {"sent": 10, "failed": 1, "longest_outage_ms": 200, "outages": [{"from_ms": 1010, "to_ms": 1210}]},
                "reused": {"sent": 10, "failed": 2, "longest_outage_ms": 300, "outages": [{"from_ms": 1010, "to_ms": 1310}]}}}},
        });
        let found = figures(&report);
        for (name, wanted) in [
            ("sent_requests", 20.0),
            ("failed_requests", 3.0),
            ("longest_outage_new_ms", 200.0),
            ("new_connections_fail_until_ms", 210.0),
            ("node_not_ready_ms", 1300.0),
            ("replacement_scheduled_ms", 1400.0),
            ("replicas_back_ms", 4200.0),
            ("replacement_started_ms", 2100.0),
            ("replacement_own_start_ms", 2100.0),
        ] {
            assert!((found[name] - wanted).abs() < 0.5, "{name}: {found:?}");
        }
        let all = collect(&[
            found.clone(),
            found,
            BTreeMap::from([("failed_requests", 0.0)]),
        ]);
        assert_eq!(
            all["failed_requests"],
            json!({"min": 0.0, "median": 3.0, "max": 3.0, "runs": 3})
        );
        assert_eq!(all["sent_requests"]["runs"], 2);
        assert!(
            table(&all)
                .lines()
                .nth(1)
                .is_some_and(|line| line.contains("failed_requests"))
        );
    }
}
