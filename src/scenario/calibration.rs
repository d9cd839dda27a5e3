//! Finds the rate of a load that leaves it to the host, before the baseline.
//!
//! ```text
//! calm? ─► idle: what the workers spend on nothing ─► a small known load ─► idle again ─► what a request costs ─► the rate
//! ```
//! The calmer of the two looks counts: what else began or ended meanwhile would make a request look cheap, and the rate too high.
//! Machines that are not this host's children are not seen from outside: there the latency of the known load decides alone.

use std::time::Duration;

use tokio::time::sleep;

use super::host::sample::{Sample, Used};
use super::load::automatic::{Automatic, Cost, RATE_MIN, TooSmall};
use super::load::{self, HttpRequest, Record};
use super::run::Run;
use super::spec::{Load, Scenario};

/// Requests a second of each stream of the small known load.
const KNOWN_RATE: f64 = 4.0;
/// It runs so long before it counts: the first requests cost more.
const WARM_UP: Duration = Duration::from_secs(3);
/// It counts so long.
const MEASURED: Duration = Duration::from_secs(6);
/// The idle machines are looked at so long at a time,
const LOOK: Duration = Duration::from_secs(2);
/// and so often, until they no longer do less than the time before.
const LOOKS_MAX: u32 = 10;
/// They are calm when this was their change, in processors.
const CALM: f64 = 0.1;

/// What was found for one load.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// Requests a second of each stream.
    Rate(f64),
    /// The target does not carry the least that says something: why, and what would help.
    TooLittle(String),
    /// The run was cancelled meanwhile.
    Interrupted,
}

impl Run<'_> {
    /// The scenario with every rate as it is going to be asked for; else why there is none.
    pub(super) async fn with_rates(
        &self,
        request: &(dyn Fn(&super::spec::Url) -> HttpRequest + Sync),
    ) -> Result<Scenario, String> {
        let mut scenario = self.scenario.clone();
        for (name, spec) in &mut scenario.loads {
            let Some(automatic) = spec.automatic else {
                continue;
            };
            match self
                .find_rate(name, spec, automatic, request(&spec.url))
                .await
            {
                Found::Rate(rate) => spec.rate = rate,
                Found::TooLittle(why) => return Err(why),
                Found::Interrupted => return Err("interrupted".to_owned()),
            }
        }
        Ok(scenario)
    }

    async fn find_rate(
        &self,
        name: &str,
        spec: &Load,
        automatic: Automatic,
        request: HttpRequest,
    ) -> Found {
        self.tell(format!(
            "load `{name}`: looking for the rate that this host carries"
        ));
        let measured = tokio::select! {
            measured = self.measure(spec, request) => measured,
            () = self.cancel.cancelled() => return Found::Interrupted,
        };
        let streams = spec.streams.len();
        let words = measured.words();
        match automatic.rate(measured.cost(), streams) {
            Ok(rate) => {
                self.tell(format!("load `{name}`: {rate}/s on each stream ({words})"));
                Found::Rate(rate)
            }
            Err(TooSmall { rate }) => Found::TooLittle(format!(
                "load `{name}`: this target carries only {rate:.1}/s on each stream at {:.0} % of a worker's processors, and less than \
                 {RATE_MIN}/s says nothing ({words}); end what else runs on the host, give it KVM or more processors, or raise `auto`",
                automatic.share * 100.0
            )),
        }
    }

    async fn measure(&self, spec: &Load, request: HttpRequest) -> Measured {
        let idle = self.idle().await;
        let known = Load {
            rate: KNOWN_RATE,
            ..spec.clone()
        };
        let running = load::start(&known, request, self.epoch);
        sleep(WARM_UP).await;
        let (from_ms, before) = (self.now_ms(), self.look());
        sleep(MEASURED).await;
        let (to_ms, after) = (self.now_ms(), self.look());
        let records = running.finish().await;
        let idle = calmer(idle, self.idle().await);
        let ended = |record: &&Record| (from_ms..to_ms).contains(&record.end_ms);
        let mut latencies: Vec<f64> = records
            .iter()
            .filter(ended)
            .map(|record| (record.end_ms - record.sent_ms) / 1000.0)
            .collect();
        latencies.sort_by(f64::total_cmp);
        let busy = before
            .zip(after)
            .map(|(before, after)| after.used_since(&before, &self.environment.workers));
        Measured {
            idle: idle.filter(|_| busy.is_some()),
            busy,
            requests: latencies.len(),
            lasted: (to_ms - from_ms) / 1000.0,
            p50: latencies
                .get(latencies.len() / 2)
                .copied()
                .unwrap_or(spec.deadline.as_secs_f64()),
        }
    }

    /// What the workers spend without load, once they are calm.
    async fn idle(&self) -> Option<Used> {
        let mut before = self.look()?;
        let mut last: Option<Used> = None;
        for _ in 0..LOOKS_MAX {
            sleep(LOOK).await;
            let now = self.look()?;
            let used = now.used_since(&before, &self.environment.workers);
            if last.is_some_and(|last| last.processors - used.processors < CALM) {
                return Some(used);
            }
            (before, last) = (now, Some(used));
        }
        last
    }

    fn look(&self) -> Option<Sample> {
        let daemon = i32::try_from(self.environment.daemon?).ok()?;
        Sample::read(daemon).ok()
    }
}

/// The one with less spent.
fn calmer(before: Option<Used>, after: Option<Used>) -> Option<Used> {
    let (before, after) = before.zip(after)?;
    Some(if after.processors < before.processors {
        after
    } else {
        before
    })
}

/// What the small known load showed.
struct Measured {
    idle: Option<Used>,
    busy: Option<Used>,
    requests: usize,
    /// In seconds.
    lasted: f64,
    /// In seconds.
    p50: f64,
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    fn cost(&self) -> Cost {
        let (Some(idle), Some(busy)) = (self.idle, self.busy) else {
            return Cost {
                request: self.p50,
                idle: 0.0,
                capacity: 1.0,
            };
        };
        let spent = (busy.processors - idle.processors).max(0.0) * self.lasted;
        let workers = busy.machines.max(1) as f64;
        Cost {
            // Whatever asks without an answer costs as much as can be spent.
            request: spent / self.requests.max(1) as f64,
            idle: idle.processors / workers,
            capacity: busy.of_one.min(busy.left / 2.0),
        }
    }

    fn words(&self) -> String {
        let cost = self.cost();
        let answered = format!("answered in {:.0} ms", self.p50 * 1000.0);
        let (Some(idle), Some(busy)) = (self.idle, self.busy) else {
            return format!(
                "a request is {answered}; the machines' processors are not seen from here"
            );
        };
        let others = if busy.others < 0.05 {
            String::new()
        } else {
            format!(
                ", other programs take {:.0} % of a processor",
                busy.others * 100.0
            )
        };
        format!(
            "a request costs the workers {:.0} ms of processor and is {answered}; idle they take {:.0} %{others}",
            cost.request * 1000.0,
            idle.processors * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(processors: f64, left: f64) -> Used {
        Used {
            processors,
            machines: 2,
            of_one: 1.0,
            others: 0.0,
            left,
        }
    }

    #[test]
    fn the_calmer_of_two_looks_counts() {
        let (calm, busy) = (Some(used(0.1, 2.0)), Some(used(0.4, 2.0)));
        assert_eq!(calmer(busy, calm), calm);
        assert_eq!(calmer(calm, busy), calm);
        assert_eq!(calmer(calm, None), None);
    }

    #[test]
    fn a_request_costs_what_was_spent_beyond_idling() {
        let measured = Measured {
            idle: Some(used(0.1, 2.0)),
            busy: Some(used(0.34, 2.0)),
            requests: 48,
            lasted: 6.0,
            p50: 0.02,
        };
        let cost = measured.cost();
        assert!((cost.request - 0.03).abs() < 1e-9, "{cost:?}");
        assert!((cost.idle - 0.05).abs() < 1e-9 && (cost.capacity - 1.0).abs() < 1e-9);
        // Beside a program that keeps one of two processors, a worker has half of one.
        let crowded = Measured {
            busy: Some(used(0.34, 1.0)),
            ..measured
        };
        assert!((crowded.cost().capacity - 0.5).abs() < 1e-9);
        // What cannot be seen from outside costs no more than it takes.
        let foreign = Measured {
            idle: None,
            busy: None,
            ..crowded
        };
        let cost = foreign.cost();
        assert!(
            (cost.request - 0.02).abs() < 1e-9 && cost.idle.abs() < 1e-9,
            "{cost:?}"
        );
    }
}
