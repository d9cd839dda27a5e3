//! The story of a verdict in at most ten plain sentences: what failed first, where it went, what that pod and machine were doing, what
//! was known then, how it recovered.

use super::page::history::{History, Pod, whole};
use super::page::stored::{Request, Stream};
use super::page::svg::duration;
use super::page::{StoredRun, lanes, sentence};
use super::report::FaultReport;

/// So many sentences at most.
const SENTENCES_MAX: usize = 10;
/// So many entries of `never` and `always`.
const GUARDS_TOLD_MAX: usize = 2;
/// So many names in one sentence.
const NAMES_MAX: usize = 4;

/// The story of a run.
#[must_use]
pub fn explain(run: &StoredRun) -> Vec<String> {
    let mut story = vec![format!(
        "{}: {}",
        run.report.verdict.word(),
        sentence::of(run)
    )];
    let first = first_failure(run);
    let fault = struck_before(run, first.as_ref());
    story.extend(fault.map(|fault| strike(run, fault)));
    match &first {
        Some(first) => {
            story.push(told(run, first));
            story.extend(endpoints(run, first));
        }
        None if run.requests.is_empty() => {
            story.push("No requests were kept, so that more cannot be told of them.".to_owned());
        }
        None => story.push(format!("None of {} requests failed.", run.requests.len())),
    }
    story.extend(guards(run));
    story.extend(fault.and_then(|fault| known(run, fault)));
    story.extend(run.streams().map(|(load, stream, figures)| {
        let name = format!("{load}.{stream}");
        let latency = figures.latency_ms;
        let share = format!(
            "{name}: {} of {} requests failed",
            figures.failed, figures.sent
        );
        if figures.failed == 0 {
            return format!("{share}; p99 {}.", duration(latency.p99));
        }
        let classes: Vec<String> = figures
            .by_class
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(class, count)| format!("{class} {count}"))
            .collect();
        let recovered = fault
            .and_then(|fault| figures.recovery_ms.get(&fault.id))
            .map_or(String::new(), |recovery| match recovery {
                Some(ms) => format!(", good again {} after the onset", duration(whole(*ms))),
                None => ", and it did not recover".to_owned(),
            });
        format!(
            "{share} ({}), the longest outage {}{recovered}.",
            classes.join(", "),
            duration(whole(figures.longest_outage_ms))
        )
    }));
    story.extend(fault.and_then(|fault| replacements(&run.history, fault)));
    story.truncate(SENTENCES_MAX - 1);
    story.push(honesty(run));
    story
}

struct Failure<'a> {
    load: &'a str,
    stream: &'a str,
    requests: &'a Stream,
    index: usize,
}

impl Failure<'_> {
    fn request(&self) -> &Request {
        &self.requests.requests[self.index]
    }

    fn at_ms(&self) -> f64 {
        self.request().intended_ms()
    }
}

fn first_failure(run: &StoredRun) -> Option<Failure<'_>> {
    let streams = run.requests.streams.iter();
    streams
        .filter_map(|((load, stream), requests)| {
            let index = requests
                .requests
                .iter()
                .position(|request| !request.good())?;
            Some(Failure {
                load,
                stream,
                requests,
                index,
            })
        })
        .min_by(|a, b| a.at_ms().total_cmp(&b.at_ms()))
}

/// The last fault that took effect before the first failure; the first fault if nothing failed.
fn struck_before<'a>(run: &'a StoredRun, first: Option<&Failure<'_>>) -> Option<&'a FaultReport> {
    let faults = run.report.faults.iter();
    match first {
        Some(first) => {
            // A request under way when the fault struck was intended before it.
            let over_ms = first.at_ms() + first.request().latency_ms();
            faults
                .filter(|fault| fault.onset_ms.is_some_and(|onset| whole(onset) <= over_ms))
                .max_by_key(|fault| fault.onset_ms)
        }
        None => run.report.faults.first(),
    }
}

fn strike(run: &StoredRun, fault: &FaultReport) -> String {
    let pods = run
        .report
        .struck
        .get(&fault.id)
        .cloned()
        .unwrap_or_default();
    let pods = if pods.is_empty() {
        String::new()
    } else {
        format!("; pods of the load's path there: {}", some(&pods))
    };
    let told = lanes::faults::told(fault);
    format!("{}{}{pods}.", told[..1].to_uppercase(), &told[1..])
}

fn told(run: &StoredRun, first: &Failure<'_>) -> String {
    let request = first.request();
    let class = run.requests.class(request);
    let failed = first
        .requests
        .failed
        .first()
        .filter(|failed| failed.index == first.index);
    let reached = match failed {
        Some(failed) if failed.first_byte_us.is_some() => "an answer had begun",
        Some(failed) if failed.connected_us.is_some() => "it was connected, and no answer came",
        _ => "it was never connected",
    };
    format!(
        "The first request that failed is {}.{}.{}, intended at {}{}: {class} after {}; {reached}.",
        first.load,
        first.stream,
        first.index + 1,
        duration(first.at_ms()),
        sentence::after_fault(run, first.at_ms()),
        duration(request.latency_ms())
    )
}

/// Where the first failure went, or could have gone: the endpoint if a header told it, else all that the Services had.
fn endpoints(run: &StoredRun, first: &Failure<'_>) -> Vec<String> {
    let at_ms = first.at_ms();
    let request = first.request();
    let earlier = &first.requests.requests[..first.index];
    let same = |other: &&Request| {
        request.connection != 0 && other.connection == request.connection && other.endpoint != 0
    };
    let told = |how: &str, name: &str| {
        let doing = run.history.pod(name).map_or_else(
            || "of which no more is known".to_owned(),
            |pod| doing(&run.history, pod, at_ms),
        );
        vec![format!("{how} {name}, {doing}.")]
    };
    if let Some(name) = run.requests.endpoint(request) {
        return told("It was answered by", name);
    }
    if let Some(name) = earlier
        .iter()
        .rev()
        .find(same)
        .and_then(|last| run.requests.endpoint(last))
    {
        return told("The last answer on its connection came from", name);
    }
    let mut told = Vec::new();
    for service in &run.history.services {
        let Some(addresses) = service.at(at_ms).filter(|addresses| !addresses.is_empty()) else {
            continue;
        };
        let pods = addresses
            .iter()
            .map(|address| match run.history.pod(address) {
                Some(pod) => format!("{} ({})", pod.name, doing(&run.history, pod, at_ms)),
                None => address.clone(),
            });
        let pods: Vec<String> = pods.collect();
        told.push(format!(
            "Service {} led to {} then.",
            service.name,
            some(&pods)
        ));
    }
    told.truncate(2);
    told
}

/// What a pod and its machine were doing.
fn doing(history: &History, pod: &Pod, at_ms: f64) -> String {
    let state = pod.at(at_ms).map_or("not there", lanes::pods::word);
    let Some(node) = &pod.node else {
        return format!("{state} as the API saw it");
    };
    let machine = history.node(node);
    let truth = machine
        .and_then(|machine| machine.truth_at(at_ms))
        .unwrap_or("on");
    let seen = match machine.and_then(|machine| machine.seen_at(at_ms)) {
        Some("ready") | None => "Ready",
        Some(_) => "not Ready",
    };
    format!("{state} on {node}, which was {truth} and {seen} as the API saw it")
}

/// What `never` and `always` found, of those that were violated or not watched without a gap.
fn guards(run: &StoredRun) -> Vec<String> {
    let told = run.report.guards.iter().filter_map(|guard| {
        if let Some(first) = guard.violations.first() {
            return Some(format!(
                "`{}` was violated {} times, first at {} by {}: {}.",
                guard.guard,
                guard.violated,
                duration(whole(first.at_ms)),
                first.object,
                first.seen
            ));
        }
        let gap = guard.gaps.first()?;
        Some(format!(
            "`{}`: what happened from {} to {} is not known, since {}.",
            guard.guard,
            duration(whole(gap.from_ms)),
            duration(whole(gap.to_ms)),
            gap.why
        ))
    });
    told.take(GUARDS_TOLD_MAX).collect()
}

/// When the cluster learned of a fault.
fn known(run: &StoredRun, fault: &FaultReport) -> Option<String> {
    let onset_ms = whole(fault.onset_ms?);
    let until_ms = fault.healed_ms.map_or(run.axis.to_ms, whole) + 10_000.0;
    let mut parts = Vec::new();
    let first = |kind: &str| {
        run.report.events.iter().find(|event| {
            let at_ms = whole(event.at_ms);
            event.kind == kind && at_ms >= onset_ms && at_ms <= until_ms
        })
    };
    for (kind, what) in [
        ("endpoint.removed", "the first endpoint was removed"),
        ("node.not_ready", "a node was called not Ready"),
        ("pod.terminating", "the first pod was given up"),
    ] {
        if let Some(event) = first(kind) {
            parts.push(format!(
                "{what} {} after the onset ({})",
                duration(whole(event.at_ms) - onset_ms),
                event.object
            ));
        }
    }
    (!parts.is_empty()).then(|| format!("What was known: {}.", parts.join(", ")))
}

fn replacements(history: &History, fault: &FaultReport) -> Option<String> {
    let onset_ms = whole(fault.onset_ms?);
    let came = history.pods.iter().filter(|pod| {
        pod.stays
            .first()
            .is_some_and(|stay| stay.from_ms > onset_ms)
    });
    let pods: Vec<String> = came
        .map(|pod| {
            let place = pod
                .node
                .as_ref()
                .map(|node| format!(" on {node}"))
                .unwrap_or_default();
            match pod.stays.iter().find(|stay| stay.state == "running") {
                Some(ready) => format!(
                    "{}{place}, ready {} after the onset",
                    pod.name,
                    duration(ready.from_ms - onset_ms)
                ),
                None => format!("{}{place}, never ready", pod.name),
            }
        })
        .collect();
    (!pods.is_empty()).then(|| format!("New pods: {}.", some(&pods)))
}

/// Whether anything of ours stood in the way.
fn honesty(run: &StoredRun) -> String {
    let late: u64 = run.streams().map(|(_, _, figures)| figures.late).sum();
    let slept: f64 = run
        .report
        .prober
        .pauses
        .iter()
        .map(|pause| whole(pause.to_ms) - whole(pause.from_ms))
        .sum();
    let starved: f64 = run
        .report
        .host
        .starved
        .iter()
        .map(|one| whole(one.to_ms) - whole(one.from_ms))
        .sum();
    if late == 0 && slept == 0.0 && starved == 0.0 {
        return "Nothing of ours stood in the way: no request was sent late, the prober never slept, the host was never short of a processor.".to_owned();
    }
    format!(
        "Of ours: {late} requests were sent late, the prober slept for {}, a machine had no processor for {}.",
        duration(slept),
        duration(starved)
    )
}

fn some(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(NAMES_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    if names.len() > NAMES_MAX {
        text = format!("{text}; and {} more", names.len() - NAMES_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::page::fixture::{Plan, write};

    fn story(plan: &Plan<'_>) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), plan).unwrap();
        explain(&StoredRun::read(folder.path()).unwrap())
    }

    #[test]
    fn a_failure_is_told_from_the_fault_to_the_recovery() {
        let plan = Plan {
            outage_ms: 4_100,
            verdict: "fail",
            ..Plan::default()
        };
        insta::assert_snapshot!(story(&plan).join("\n"));
    }

    #[test]
    fn a_run_without_failures_has_a_story_too() {
        let plan = Plan {
            outage_ms: 0,
            ..Plan::default()
        };
        let story = story(&plan);
        assert!(story.len() <= SENTENCES_MAX);
        assert!(
            story
                .iter()
                .any(|line| line == "None of 4560 requests failed."),
            "{story:?}"
        );
    }
}
