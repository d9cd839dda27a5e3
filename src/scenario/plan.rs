//! What a scenario would do, without doing it.

use super::fault::Faults;
use super::live::PlannedStep;
use super::parallel::starter;
use super::run::needed;
use super::spec::{Action, Arrival, HttpVersion, Load, Progress, Scenario, Step, UpdateEnd};

/// A plan, printed by `flightcage plan FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The scenario's name.
    pub scenario: String,
    /// Capabilities that the target lacks: the run would be SKIPPED.
    pub missing: Vec<String>,
    /// One line each: what is deployed, loaded, done and expected.
    pub lines: Vec<String>,
}

/// Plans a scenario for a target.
#[must_use]
pub fn plan(scenario: &Scenario, target: &dyn Faults) -> Plan {
    let has = target.capabilities();
    let missing = needed(scenario)
        .into_iter()
        .filter(|need| !has.contains(need))
        .map(|need| need.to_string())
        .collect();
    let mut lines: Vec<String> = Vec::new();
    if let Some(matrix) = &scenario.matrix {
        let runs = matrix.sample.unwrap_or(matrix.seeds.len());
        lines.push(format!(
            "{runs} runs, each with one of {} seeds",
            matrix.seeds.len()
        ));
    }
    if let Some(cluster) = &scenario.cluster {
        lines.push(format!("cluster of {} machines", cluster.machines.len()));
    }
    if let Some(secret) = &scenario.deploy.tls_secret {
        lines.push(format!(
            "create Secret `{}` with a certificate for `{}`",
            secret.name, secret.host
        ));
    }
    lines.extend(
        scenario
            .deploy
            .files
            .iter()
            .map(|file| format!("apply {}", file.display())),
    );
    lines.extend(scenario.loads.iter().map(|(name, load)| {
        let streams: Vec<&str> = load.streams.iter().map(|stream| stream.name()).collect();
        let method = match load.asked.method.as_str() {
            "GET" => String::new(),
            method => format!("{method} "),
        };
        let rate = load
            .automatic
            .map_or_else(|| rates(load), |automatic| automatic.to_string());
        format!(
            "load `{name}`: {method}{} at {rate} on each of {}{}",
            load.url,
            streams.join(", "),
            other_than_usual(load)
        )
    }));
    for step in &scenario.steps {
        let started = starter(&scenario.steps, &step.id);
        let started = started.map_or(String::new(), |starter| format!(" with `{starter}`"));
        let when = step
            .when
            .as_ref()
            .map_or(started, |when| match when.progress {
                Progress::Plus(plus) => {
                    format!(" {} ms after `{}` began", plus.as_millis(), when.step)
                }
                Progress::Replaced(count) => format!(" when `{}` has replaced {count}", when.step),
            });
        let pause = step
            .drawn
            .as_ref()
            .map(|draw| draw.pause)
            .filter(|pause| !pause.is_zero())
            .map_or(String::new(), |pause| {
                format!(" after a pause of {} s", pause.as_secs_f64())
            });
        lines.push(format!(
            "step `{}`{when}{pause}: {}",
            step.id,
            what(&step.action)
        ));
    }
    lines.extend(
        scenario
            .expectations
            .iter()
            .map(|e| format!("expect {}: {}", e.name, e.expected)),
    );
    Plan {
        scenario: scenario.name.clone(),
        missing,
        lines,
    }
}

/// The rate of a load, or those of its stages.
fn rates(load: &Load) -> String {
    let stages = load.rates();
    let Some((last, before)) = stages.split_last() else {
        return String::new();
    };
    let before = before.iter().map(ToString::to_string);
    let all: Vec<String> = before.chain([format!("{}/s", last.rate)]).collect();
    all.join(", then ")
}

/// What a load does otherwise than most.
fn other_than_usual(load: &Load) -> String {
    let words = [
        (load.http == HttpVersion::Two).then(|| ", over HTTP/2".to_owned()),
        (load.arrival == Arrival::Poisson).then(|| ", at random times (Poisson)".to_owned()),
        load.via.map(|address| format!(", through {address}")),
    ];
    words.into_iter().flatten().collect()
}

/// A step as whoever looks at a run is told of it.
pub(super) fn planned_step(step: &Step) -> PlannedStep {
    let within = match &step.action {
        Action::Wait { within, .. }
        | Action::RollingUpdate { within, .. }
        | Action::Rollback { within, .. }
        | Action::Http { within, .. } => Some(*within),
        Action::Other(action) => action.within(),
        _ => None,
    };
    PlannedStep {
        id: step.id.clone(),
        words: what(&step.action),
        within,
    }
}

fn what(action: &Action) -> String {
    match action {
        Action::Fault {
            fault,
            target,
            duration,
        } if duration.is_zero() => format!("{fault} of {target}, once"),
        Action::Fault {
            fault,
            target,
            duration,
        } => format!("{fault} of {target} for {} s", duration.as_secs_f64()),
        Action::Wait { condition, within } => {
            format!("wait at most {} s for {condition}", within.as_secs_f64())
        }
        Action::RollingUpdate { from, to, ends, .. } => {
            let stops = if *ends == UpdateEnd::Stopped {
                ", which has to stop"
            } else {
                ""
            };
            format!("rolling update of `{from}` to {}{stops}", to.display())
        }
        Action::Rollback { old, new, .. } => format!("roll back from `{new}` to `{old}`"),
        Action::DeletePod { rc, grace } => {
            format!("delete a pod of `{rc}` with {} s of grace", grace.as_secs())
        }
        Action::Exec(exec) => format!("run `{}` in pods of `{}`", exec.command.join(" "), exec.rc),
        Action::Apply(file) => format!("apply {}", file.display()),
        Action::Http {
            url,
            status,
            within,
        } => format!("ask {url} for {status}, at most {} s", within.as_secs_f64()),
        Action::Parallel(ids) => format!(
            "start `{}` together, until all have ended",
            ids.join("`, `")
        ),
        Action::Other(action) => action.plan(),
    }
}
