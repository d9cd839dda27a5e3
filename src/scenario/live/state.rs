//! What is known of a run that goes on: messages put together, and the report that they would make by now.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::cells::Cells;
use super::{Begun, Facts, PlannedStep, Seen};
use crate::scenario::load::Record;
use crate::scenario::load::analysis::{Latency, latency_of_us};
use crate::scenario::page::StoredRun;
use crate::scenario::page::stored::{Stored, Stream};
use crate::scenario::report::{
    EventReport, FaultReport, LoadReport, OutageReport, Report, SpanReport, StepReport,
    StreamReport, Verdict, rounded,
};

/// Requests that the live page shows. Beyond them the oldest half of the good ones goes; the report has all.
const REQUESTS_MAX: usize = 100_000;
/// Events likewise.
const EVENTS_MAX: usize = 10_000;
/// Lines of text that are kept.
const LINES_MAX: usize = 12;

/// One stream.
#[derive(Debug, Clone)]
pub struct LiveStream {
    /// Its load.
    pub load: String,
    /// `new` or `reused`.
    pub stream: &'static str,
    /// Of its load, in milliseconds.
    pub deadline_ms: f64,
    /// Requests that are over.
    pub sent: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The last minute.
    pub cells: Cells,
}

impl LiveStream {
    /// `web.new`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.load, self.stream)
    }
}

/// A step that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running<'a> {
    /// As it was planned.
    pub step: &'a PlannedStep,
    /// When it began, in milliseconds since the start of the run.
    pub began_ms: u64,
}

/// Everything that was told.
#[derive(Debug, Clone)]
pub struct LiveRun {
    /// What was known before.
    pub begun: Begun,
    /// The streams, in the order of the file.
    pub streams: Vec<LiveStream>,
    /// Nodes and workloads as they were seen last.
    pub facts: Facts,
    /// The last lines that the run told, with their times.
    pub lines: VecDeque<(Duration, String)>,
    /// Messages that were not taken in time.
    pub dropped: u64,
    /// Good requests that the page does not show, since there were too many.
    pub thinned: u64,
    steps: Vec<StepReport>,
    running: BTreeMap<String, u64>,
    faults: BTreeMap<String, (FaultReport, Duration)>,
    events: Vec<EventReport>,
    counted: BTreeMap<String, u64>,
    /// Every request, if a page wants them.
    stored: Option<Stored>,
}

impl LiveRun {
    /// A run of which nothing more is known yet. Requests are kept one by one if a page is to show them.
    #[must_use]
    pub fn new(begun: Begun, keeps_requests: bool) -> Self {
        let streams = begun.streams.iter();
        let streams = streams.map(|(load, stream, deadline)| LiveStream {
            load: load.clone(),
            stream: *stream,
            deadline_ms: deadline.as_secs_f64() * 1000.0,
            sent: 0,
            failed: 0,
            cells: Cells::default(),
        });
        Self {
            streams: streams.collect(),
            begun,
            facts: Facts::default(),
            lines: VecDeque::new(),
            dropped: 0,
            thinned: 0,
            steps: Vec::new(),
            running: BTreeMap::new(),
            faults: BTreeMap::new(),
            events: Vec::new(),
            counted: BTreeMap::new(),
            stored: keeps_requests.then(Stored::default),
        }
    }

    /// Takes one more message.
    pub fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Begun(begun) => *self = Self::new(*begun, self.stored.is_some()),
            Seen::Counted { load, from_ms } => drop(self.counted.insert(load, from_ms)),
            Seen::StepBegan { id, at_ms } => drop(self.running.insert(id, at_ms)),
            Seen::StepEnded { id, at_ms, failed } => {
                let start_ms = self.running.remove(&id).unwrap_or(at_ms);
                self.steps.push(StepReport {
                    id,
                    start_ms,
                    end_ms: at_ms,
                    updated: false,
                    failed,
                });
            }
            Seen::Fault(fault, lasts) => {
                drop(self.faults.insert(fault.id.clone(), (*fault, lasts)));
            }
            Seen::Facts(facts) => self.facts = *facts,
            Seen::Event(event) => {
                if self.events.len() < EVENTS_MAX {
                    self.events.push(event);
                }
            }
            Seen::Request(load, record) => self.count(&load, &record),
        }
    }

    /// Takes a line of text.
    pub fn tell(&mut self, at: Duration, text: &str) {
        self.lines.push_back((at, text.to_owned()));
        while self.lines.len() > LINES_MAX {
            self.lines.pop_front();
        }
    }

    /// Milliseconds since the start of the run.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The steps that go on, in the order of the file.
    #[must_use]
    pub fn running(&self) -> Vec<Running<'_>> {
        let steps = self.begun.steps.iter();
        steps
            .filter_map(|step| {
                let began_ms = *self.running.get(&step.id)?;
                Some(Running { step, began_ms })
            })
            .collect()
    }

    /// Faults that act, each with how many milliseconds it still will.
    #[must_use]
    pub fn acting(&self, now_ms: u64) -> Vec<(&FaultReport, u64)> {
        let faults = self.faults.values();
        let acting = faults.filter(|(fault, _)| fault.healed_ms.is_none());
        acting
            .filter_map(|(fault, lasts)| {
                let until_ms = fault.onset_ms? + u64::try_from(lasts.as_millis()).ok()?;
                Some((fault, until_ms.saturating_sub(now_ms)))
            })
            .collect()
    }

    fn count(&mut self, load: &str, record: &Record) {
        let stream = record.stream.name();
        let mut known = self.streams.iter_mut();
        let known = known.find(|one| one.load == load && one.stream == stream);
        if let Some(known) = known {
            known.sent += 1;
            known.failed += u64::from(!record.good());
            known.cells.add(record);
        }
        if let Some(stored) = &mut self.stored {
            if stored.len() >= REQUESTS_MAX {
                self.thinned += stored.forget_half();
            }
            stored.keep(load, record);
        }
    }

    /// The requests that are kept, by intended time; none if none are.
    #[must_use]
    pub fn into_requests(self) -> Option<Stored> {
        let mut stored = self.stored?;
        stored.order();
        Some(stored)
    }

    /// The run as its page would show it by now; none if requests are not kept.
    #[must_use]
    pub fn so_far(mut self, now_ms: u64) -> Option<StoredRun> {
        let mut stored = self.stored.take()?;
        stored.order();
        let begun = &self.begun;
        let mut report = Report::without_run(
            &begun.scenario,
            begun.seed,
            begun.target.clone(),
            Verdict::Inconclusive,
            vec!["the run goes on".to_owned()],
        );
        report.cell.clone_from(&begun.cell);
        report.steps.clone_from(&self.steps);
        report
            .steps
            .extend(self.running.iter().map(|(id, began_ms)| StepReport {
                id: id.clone(),
                start_ms: *began_ms,
                end_ms: now_ms,
                ..StepReport::default()
            }));
        report.steps.sort_by_key(|step| step.start_ms);
        report.faults = self
            .faults
            .values()
            .map(|(fault, _)| fault.clone())
            .collect();
        report.faults.sort_by_key(|fault| fault.requested_ms);
        report.events.clone_from(&self.events);
        for (load, stream, _) in &begun.streams {
            let nothing = Stream::default();
            let requests = stored.stream(load, stream).unwrap_or(&nothing);
            let mut figures = figures(&stored, requests);
            let known = self.streams.iter();
            let mut known = known.filter(|one| one.load == *load && one.stream == *stream);
            // What the page does not show was sent all the same.
            if let Some(live) = known.next() {
                (figures.sent, figures.failed) = (live.sent, live.failed);
                figures.good = live.sent - live.failed;
            }
            let of = report
                .load
                .entry(load.clone())
                .or_insert_with(|| LoadReport {
                    window: self.counted.get(load).map(|from_ms| SpanReport {
                        from_ms: *from_ms,
                        to_ms: now_ms,
                    }),
                    ..LoadReport::default()
                });
            of.streams.insert((*stream).to_owned(), figures);
        }
        Some(StoredRun::new(report, stored, Some(begun.text.clone())).until(now_ms))
    }
}

/// A stream's figures by now. The report's own may differ: they begin with the counted span, and wait for answers that are due.
fn figures(stored: &Stored, stream: &Stream) -> StreamReport {
    let mut report = StreamReport {
        sent: stream.requests.len() as u64,
        latency_ms: Latency::default(),
        ..StreamReport::default()
    };
    let mut bad_from: Option<u64> = None;
    for request in &stream.requests {
        let at_ms = rounded(request.intended_ms());
        if request.good() {
            report.good += 1;
            if let Some(from_ms) = bad_from.take() {
                report.outages.push(OutageReport {
                    from_ms,
                    to_ms: at_ms,
                });
            }
            if let Some(version) = stored.version(request) {
                *report.versions.entry(version.to_owned()).or_default() += 1;
            }
        } else {
            report.failed += 1;
            let class = stored.class(request).to_owned();
            *report.by_class.entry(class).or_default() += 1;
            bad_from.get_or_insert(at_ms);
        }
    }
    let lengths = report.outages.iter().map(|one| one.to_ms - one.from_ms);
    report.longest_outage_ms = lengths.max().unwrap_or(0);
    report.latency_ms = latency_of_us(stream.requests.iter().map(|one| u64::from(one.latency_us)));
    report
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::super::cells::tests::record;
    use super::*;
    use crate::scenario::load::Class;
    use crate::scenario::report::TargetFacts;

    /// A run of two streams and two steps.
    pub(crate) fn begun(scenario: &str) -> Begun {
        let step = |id: &str, words: &str, within: Option<u64>| PlannedStep {
            id: id.to_owned(),
            words: words.to_owned(),
            within: within.map(Duration::from_secs),
        };
        Begun {
            epoch: Instant::now(),
            scenario: scenario.to_owned(),
            cell: None,
            seed: 7,
            target: TargetFacts {
                provider: "qemu".to_owned(),
                accel: "tcg".to_owned(),
                nodes: 3,
            },
            text: "flightcage = 1\n[load.web]\ndeadline = \"1s\"\n".to_owned(),
            streams: vec![
                ("web".to_owned(), "new", Duration::from_secs(1)),
                ("web".to_owned(), "reused", Duration::from_secs(1)),
            ],
            steps: vec![
                step("kill", "node.power_off of w1 for 40 s", None),
                step(
                    "moved",
                    "wait at most 60 s for 2 ready replicas of `silex`",
                    Some(60),
                ),
            ],
        }
    }

    /// The same with 70 s of requests, some of which failed, and a fault that acts.
    pub(crate) fn busy(scenario: &str) -> LiveRun {
        let mut run = LiveRun::new(begun(scenario), true);
        run.take(Seen::Counted {
            load: "web".to_owned(),
            from_ms: 2_000,
        });
        let web: Arc<str> = "web".into();
        for number in 0..700_u32 {
            let at_ms = f64::from(number) * 100.0;
            let bad = (610..640).contains(&number);
            let (took_ms, class) = match number {
                _ if bad => (990.0, Class::ConnectTimeout),
                450..460 => (300.0, Class::Ok),
                _ => (12.0, Class::Ok),
            };
            let mut one = record(at_ms, took_ms, class);
            one.version = (!bad).then(|| "v1".to_owned());
            run.take(Seen::Request(Arc::clone(&web), Box::new(one)));
        }
        let fault = FaultReport {
            id: "kill".to_owned(),
            kind: "node.power_off".to_owned(),
            target: "w1".to_owned(),
            requested_ms: 60_000,
            onset_ms: Some(60_100),
            healed_ms: None,
            verified: true,
            measured: Some("no process".to_owned()),
        };
        run.take(Seen::StepBegan {
            id: "kill".to_owned(),
            at_ms: 60_000,
        });
        run.take(Seen::StepBegan {
            id: "moved".to_owned(),
            at_ms: 60_100,
        });
        run.take(Seen::Fault(Box::new(fault), Duration::from_secs(40)));
        run.take(Seen::Event(EventReport {
            at_ms: 500,
            kind: "node.ready".to_owned(),
            object: "w1".to_owned(),
        }));
        let nodes = [("c1", true), ("w1", false), ("w2", true)];
        run.take(Seen::Facts(Box::new(Facts {
            nodes: nodes.map(|(name, ready)| (name.to_owned(), ready)).into(),
            workloads: [
                ("flappy-nginx".to_owned(), (2, 2)),
                ("flappy-silex".to_owned(), (1, 2)),
            ]
            .into(),
        })));
        run.tell(Duration::from_millis(60_000), "step `kill` begins");
        run.tell(
            Duration::from_millis(60_100),
            "node.power_off of w1 acts: no process",
        );
        run
    }

    #[test]
    fn messages_become_a_report_so_far() {
        let run = busy("failover");
        assert_eq!(run.running().len(), 2);
        let acting = run.acting(70_000);
        assert_eq!(acting.len(), 1);
        assert_eq!(acting[0].1, 30_100);
        assert_eq!(run.acting(200_000)[0].1, 0);
        let so_far = run.clone().so_far(70_000).expect("requests are kept");
        let figures = &so_far.report.load["web"].streams["new"];
        assert_eq!((figures.sent, figures.good, figures.failed), (700, 670, 30));
        assert_eq!(figures.by_class["connect_timeout"], 30);
        let outage = OutageReport {
            from_ms: 61_000,
            to_ms: 64_000,
        };
        assert_eq!(figures.outages, [outage]);
        assert_eq!(figures.longest_outage_ms, 3_000);
        assert_eq!(so_far.report.load["web"].streams["reused"].sent, 0);
        assert!((so_far.axis.to_ms - 70_000.0).abs() < 1.0);
        assert_eq!(so_far.report.steps.len(), 2);
        assert!(LiveRun::new(begun("x"), false).so_far(1).is_none());
    }

    #[test]
    fn a_healed_fault_acts_no_more_and_an_ended_step_is_over() {
        let mut run = busy("failover");
        let (fault, lasts) = run.faults["kill"].clone();
        let healed = FaultReport {
            healed_ms: Some(100_000),
            ..fault
        };
        run.take(Seen::Fault(Box::new(healed), lasts));
        run.take(Seen::StepEnded {
            id: "kill".to_owned(),
            at_ms: 100_000,
            failed: None,
        });
        assert!(run.acting(100_500).is_empty());
        assert_eq!(run.running().len(), 1);
    }

    #[test]
    fn what_is_kept_is_bounded_and_failures_stay() {
        let mut run = LiveRun::new(begun("x"), true);
        let web: Arc<str> = "web".into();
        for number in 0..u32::try_from(REQUESTS_MAX).expect("it fits") + 10 {
            let class = if number == 3 { Class::Reset } else { Class::Ok };
            let one = record(f64::from(number), 1.0, class);
            run.take(Seen::Request(Arc::clone(&web), Box::new(one)));
        }
        let stored = run.stored.as_ref().expect("requests are kept");
        assert!(stored.len() <= REQUESTS_MAX, "{}", stored.len());
        assert_eq!(run.thinned + stored.len() as u64, REQUESTS_MAX as u64 + 10);
        let so_far = run.so_far(1).expect("requests are kept");
        assert_eq!(so_far.report.load["web"].streams["new"].failed, 1);
        let stream = so_far
            .requests
            .stream("web", "new")
            .expect("it has requests");
        assert!(!stream.requests[stream.failed[0].index].good());
    }
}
