//! What one run left, as the rows ask for it: spans of steps, streams, and what a fault struck.

use super::super::report::{FaultReport, Report};
use super::super::requests::{Requests, StreamSamples};
use super::super::spec::{Action, Arrival, Load, Scenario};
use super::watched::{Span, Watched, longest_gap_ms, most_due, slice};

/// How long after its heal or end a step's span goes on.
pub const AFTER_STEP_MS: f64 = 10_000.0;
/// Sent later than this after the intended time is late, or than the stream's period if that is longer.
pub const LATE_MS: f64 = 50.0;

/// A run that is judged.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// What was expected.
    pub scenario: &'a Scenario,
    /// What was seen beside the requests.
    pub evidence: &'a Report,
    /// All requests.
    pub requests: &'a Requests,
}

/// Why there is nothing to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nothing {
    /// It could not have failed.
    Vacuous(String),
    /// It is not known whether it could have failed.
    Unknown(String),
}

static NO_REQUESTS: StreamSamples = StreamSamples {
    samples: Vec::new(),
    before: 0,
    failures: Vec::new(),
};

/// Requests a second of each stream of a load, as run.
#[must_use]
pub fn rate(scenario: &Scenario, evidence: &Report, load: &str) -> Option<f64> {
    let as_run = evidence.load.get(load).and_then(|load| load.rate);
    as_run
        .or_else(|| Some(scenario.loads.get(load)?.rate))
        .filter(|rate| *rate > 0.0 && rate.is_finite())
}

/// The counted span of a load; all time if it is not known.
#[must_use]
pub fn window(evidence: &Report, load: &str) -> Option<Span> {
    let window = evidence.load.get(load)?.window?;
    Some(Span {
        from_ms: millis(window.from_ms),
        to_ms: millis(window.to_ms),
    })
}

/// Whole milliseconds as they are reckoned with.
#[must_use]
pub fn millis(ms: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "times of a run")]
    {
        ms as f64
    }
}

impl<'a> Case<'a> {
    /// A load as its file describes it.
    #[must_use]
    pub fn load(&self, name: &str) -> Option<&'a Load> {
        self.scenario.loads.get(name)
    }

    /// Time between two requests of a stream.
    #[must_use]
    pub fn period_ms(&self, load: &str) -> f64 {
        rate(self.scenario, self.evidence, load).map_or(0.0, |rate| 1000.0 / rate)
    }

    /// No more requests than one in this time are due on a stream: by the highest of its stages, and with Poisson arrival twice as
    /// many as on average.
    #[must_use]
    pub fn shortest_ms(&self, load: &str) -> f64 {
        let period_ms = self.period_ms(load);
        let Some(spec) = self.load(load) else {
            return period_ms;
        };
        let highest_ms = if spec.stages.is_empty() {
            period_ms
        } else {
            period_ms.min(1000.0 / spec.highest_rate())
        };
        match spec.arrival {
            Arrival::Constant => highest_ms,
            Arrival::Poisson => highest_ms / 2.0,
        }
    }

    /// The counted span of a load.
    #[must_use]
    pub fn counted(&self, load: &str) -> Span {
        window(self.evidence, load).unwrap_or_else(|| self.seen(load))
    }

    /// From the first request to the last, for runs that do not say what counts.
    fn seen(&self, load: &str) -> Span {
        let samples = || {
            self.requests
                .loads
                .get(load)
                .into_iter()
                .flat_map(|streams| streams.values())
                .flat_map(|stream| {
                    stream
                        .samples
                        .first()
                        .into_iter()
                        .chain(stream.samples.last())
                })
                .map(super::super::requests::Sample::intended_ms)
        };
        let from_ms = samples().fold(f64::INFINITY, f64::min);
        let to_ms = samples().fold(0.0, f64::max) + self.period_ms(load);
        if from_ms.is_finite() {
            Span { from_ms, to_ms }
        } else {
            Span {
                from_ms: 0.0,
                to_ms: 0.0,
            }
        }
    }

    /// The names of a load's streams: those of its file, and others that have requests.
    #[must_use]
    pub fn streams(&self, load: &str) -> Vec<&'a str> {
        let written = self.load(load).map(|load| load.streams.as_slice());
        let mut names: Vec<&str> = written
            .unwrap_or_default()
            .iter()
            .map(|stream| stream.name())
            .collect();
        let sent = self.requests.loads.get(load);
        for name in sent.into_iter().flat_map(|streams| streams.keys()) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// The streams of a load, or one of them, in a span. `wanted_to_ms` is where the span would end had the load not ended before.
    #[must_use]
    pub fn watch(
        &self,
        load: &str,
        stream: Option<&str>,
        span: Span,
        wanted_to_ms: f64,
    ) -> Vec<Watched<'a>> {
        let (period_ms, shortest_ms) = (self.period_ms(load), self.shortest_ms(load));
        let poisson = self
            .load(load)
            .is_some_and(|load| load.arrival == Arrival::Poisson);
        let deadline = self.load(load).map(|load| load.deadline);
        let deadline_us = deadline.map_or(0, |deadline| {
            u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX)
        });
        let counted = self.counted(load);
        let pauses: Vec<Span> = self.pauses(span);
        let watch = |name: &'a str| {
            let of_load = self.requests.loads.get(load);
            let all = of_load
                .and_then(|streams| streams.get(name))
                .unwrap_or(&NO_REQUESTS);
            let (first, samples) = slice(all, span);
            Watched {
                stream: name,
                all,
                first,
                samples,
                span,
                counted,
                period_ms,
                // At random some gaps are much longer than most.
                edge_ms: if poisson {
                    longest_gap_ms(&all.samples).max(period_ms)
                } else {
                    period_ms
                },
                shortest_ms,
                deadline_us,
                pauses: pauses.clone(),
                missing: most_due(wanted_to_ms - span.to_ms, shortest_ms),
            }
        };
        self.streams(load)
            .into_iter()
            .filter(|name| stream.is_none_or(|wanted| wanted == *name))
            .map(watch)
            .collect()
    }

    /// When the prober itself was asleep, within a span; what overlaps is told once.
    #[must_use]
    pub fn pauses(&self, span: Span) -> Vec<Span> {
        let mut pauses: Vec<Span> = self
            .evidence
            .prober
            .pauses
            .iter()
            .map(|pause| Span {
                from_ms: millis(pause.from_ms),
                to_ms: millis(pause.to_ms),
            })
            .map(|pause| pause.within(span))
            .filter(|pause| pause.length_ms() > 0.0)
            .collect();
        pauses.sort_by(|a, b| a.from_ms.total_cmp(&b.from_ms));
        let mut joined: Vec<Span> = Vec::new();
        for pause in pauses {
            match joined.last_mut() {
                Some(last) if pause.from_ms <= last.to_ms => {
                    last.to_ms = last.to_ms.max(pause.to_ms);
                }
                _ => joined.push(pause),
            }
        }
        joined
    }

    /// A fault of the run.
    #[must_use]
    pub fn fault(&self, step: &str) -> Option<&'a FaultReport> {
        self.evidence.faults.iter().find(|fault| fault.id == step)
    }

    /// The span of a step, not yet cut at the counted span's end.
    ///
    /// # Errors
    /// When it did not act or run.
    pub fn step_span(&self, step: &str) -> Result<Span, Nothing> {
        let is_fault = |written: &super::super::spec::Step| {
            written.id == step && matches!(written.action, Action::Fault { .. })
        };
        let fault = self.fault(step);
        if fault.is_some() || self.scenario.steps.iter().any(is_fault) {
            let onset = fault.and_then(|fault| fault.onset_ms);
            let (Some(fault), Some(onset_ms)) = (fault, onset) else {
                return Err(Nothing::Vacuous(format!("fault `{step}` did not act")));
            };
            return Ok(Span {
                from_ms: millis(onset_ms),
                to_ms: fault
                    .healed_ms
                    .map_or(f64::INFINITY, |healed| millis(healed) + AFTER_STEP_MS),
            });
        }
        let ran = self.evidence.steps.iter().find(|ran| ran.id == step);
        let ran = ran.ok_or_else(|| Nothing::Vacuous(format!("step `{step}` did not run")))?;
        Ok(Span {
            from_ms: millis(ran.start_ms),
            to_ms: millis(ran.end_ms) + AFTER_STEP_MS,
        })
    }

    /// The pods of a load's path that a fault struck; `None` if that is not known.
    fn struck(&self, load: &str, step: &str) -> Option<Vec<&'a str>> {
        let struck = self.evidence.struck.get(step)?;
        let path = self
            .evidence
            .load
            .get(load)
            .map(|load| load.pods.as_slice())
            .unwrap_or_default();
        let several = self.evidence.load.len() > 1 && !path.is_empty();
        let of_load = struck
            .iter()
            .filter(|pod| !several || path.contains(pod))
            .map(String::as_str);
        Some(of_load.collect())
    }

    /// Whether what is measured of a load in the span of `during`, or of the whole run, could have failed.
    ///
    /// # Errors
    /// When it could not have, or nobody knows.
    pub fn could_fail(&self, load: &str, during: Option<&str>) -> Result<(), Nothing> {
        if let Some(spec) = self.load(load)
            && spec.baseline.good <= 0.0
        {
            return Err(Nothing::Vacuous(format!(
                "load `{load}` has a baseline of 0 %"
            )));
        }
        if let Some(step) = during {
            let Some(fault) = self.fault(step) else {
                return Ok(());
            };
            return match self.struck(load, step) {
                Some(pods) if pods.is_empty() => Err(Nothing::Vacuous(format!(
                    "fault `{step}` struck `{}`, which held no pod of the path of load `{load}`",
                    fault.target
                ))),
                Some(_) => Ok(()),
                None => Err(Nothing::Unknown(format!(
                    "it is not known which pods fault `{step}` struck"
                ))),
            };
        }
        let faults = &self.evidence.faults;
        let aside = |fault: &FaultReport| {
            self.struck(load, &fault.id)
                .is_some_and(|pods| pods.is_empty())
        };
        if !faults.is_empty() && faults.iter().all(aside) {
            let ids: Vec<String> = faults
                .iter()
                .map(|fault| format!("`{}`", fault.id))
                .collect();
            return Err(Nothing::Vacuous(format!(
                "no fault of this run ({}) struck a pod of the path of load `{load}`",
                ids.join(", ")
            )));
        }
        Ok(())
    }
}
