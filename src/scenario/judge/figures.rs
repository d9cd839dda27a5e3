//! The figures of each load and stream, as `report.json` holds them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::expectations::{latency_of, recovery_of};
use super::super::report::{LoadReport, OutageReport, SpanReport, StreamReport, rounded};
use super::case::{Case, rate};
use super::watched::Watched;

/// How long a stream must stay good for its recovery to be told when no expectation says.
const HOLD: Duration = Duration::from_secs(5);

/// Every load that ran.
pub(super) fn loads(case: &Case<'_>) -> BTreeMap<String, LoadReport> {
    let names = case.scenario.loads.keys().filter(|name| {
        case.evidence.load.contains_key(*name) || case.requests.loads.contains_key(*name)
    });
    names.map(|name| (name.clone(), load(case, name))).collect()
}

fn load(case: &Case<'_>, name: &str) -> LoadReport {
    let evidence = case.evidence.load.get(name).cloned().unwrap_or_default();
    let counted = case.counted(name);
    let streams = case.watch(name, None, counted, counted.to_ms);
    LoadReport {
        window: Some(SpanReport {
            from_ms: rounded(counted.from_ms),
            to_ms: rounded(counted.to_ms),
        }),
        rate: rate(case.scenario, case.evidence, name),
        pods: evidence.pods,
        machines: evidence.machines,
        streams: streams
            .iter()
            .map(|watched| (watched.stream.to_owned(), stream(case, name, watched)))
            .collect(),
    }
}

fn stream(case: &Case<'_>, load: &str, watched: &Watched<'_>) -> StreamReport {
    let sent = watched.samples.len() as u64;
    let failed = watched.bad() as u64;
    let outages = watched.outages();
    let mut by_class: BTreeMap<String, u64> = BTreeMap::new();
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    for sample in watched.samples {
        if !sample.good() {
            add(&mut by_class, case.requests.class(sample));
        }
        if let Some(version) = case.requests.version(sample) {
            add(&mut versions, version);
        }
    }
    let faults = case.evidence.faults.iter();
    let acted = faults.filter(|fault| fault.onset_ms.is_some());
    StreamReport {
        sent,
        good: sent - failed,
        failed,
        by_class,
        failures: watched.all.failures.clone(),
        late: watched.samples.iter().filter(|s| s.late()).count() as u64,
        longest_outage_ms: outages
            .iter()
            .map(|outage| rounded(outage.span.length_ms()))
            .max()
            .unwrap_or(0),
        outages: outages
            .iter()
            .map(|outage| OutageReport {
                from_ms: rounded(outage.span.from_ms),
                to_ms: rounded(outage.span.to_ms),
            })
            .collect(),
        recovery_ms: acted
            .map(|fault| {
                let hold = hold(case, load, &fault.id);
                let recovered = recovery_of(case, watched, fault, hold);
                (fault.id.clone(), recovered.map(rounded))
            })
            .collect(),
        latency_ms: latency_of(watched),
        versions,
    }
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else {
        counts.insert(name.to_owned(), 1);
    }
}

/// How long a fault's recovery must hold, as the expectations of the load say.
fn hold(case: &Case<'_>, load: &str, step: &str) -> Duration {
    let rows = case.scenario.expectations.iter();
    let mut holds = rows.filter_map(|row| row.check.recovery());
    holds
        .find(|(of_load, of_step, _)| *of_load == load && *of_step == step)
        .map_or(HOLD, |(.., hold)| hold)
}
