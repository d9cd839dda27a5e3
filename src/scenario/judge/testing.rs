//! Made-up runs with known truth.

use std::path::Path;

use super::super::file::{self, Against};
use super::super::report::{
    FaultReport, LoadReport, Report, SpanReport, State, TargetFacts, Verdict, rounded,
};
use super::super::requests::{Requests, Sample};
use super::super::spec::Scenario;
use super::{Judgement, judge};

/// A run of load `web` with the streams `new` and `reused`, and a fault `kill`.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) rate: f64,
    pub(super) from_ms: f64,
    pub(super) to_ms: f64,
    pub(super) streams: Vec<(&'static str, Vec<Sample>)>,
    /// Onset and heal.
    pub(super) fault: Option<(u64, u64)>,
    pub(super) struck: Vec<String>,
    pub(super) pauses: Vec<(f64, f64)>,
}

impl History {
    /// Requests at `rate` a second for `seconds`; `bad` says which fail, by stream and intended time.
    pub(super) fn new(rate: f64, seconds: f64, bad: impl Fn(&str, f64) -> bool) -> Self {
        let period_ms = 1000.0 / rate;
        let requests = |stream: &str, offset_ms: f64| -> Vec<Sample> {
            (0_u32..)
                .map(|number| offset_ms + f64::from(number) * period_ms)
                .take_while(|at| *at < seconds * 1000.0)
                .map(|at| Sample::made(at, !bad(stream, at), false))
                .collect()
        };
        Self {
            rate,
            from_ms: 0.0,
            to_ms: seconds * 1000.0,
            streams: vec![
                ("new", requests("new", 0.0)),
                ("reused", requests("reused", period_ms / 2.0)),
            ],
            fault: Some((60_000, 100_000)),
            struck: vec!["web-1".to_owned()],
            pauses: Vec::new(),
        }
    }

    pub(super) fn evidence(&self) -> Report {
        let target = TargetFacts {
            provider: "qemu".into(),
            accel: "tcg".into(),
            nodes: 3,
        };
        let mut report = Report::without_run("demo", 7, target, Verdict::Pass, Vec::new());
        report.load.insert(
            "web".to_owned(),
            LoadReport {
                window: Some(SpanReport {
                    from_ms: rounded(self.from_ms),
                    to_ms: rounded(self.to_ms),
                }),
                rate: Some(self.rate),
                ..LoadReport::default()
            },
        );
        if let Some((onset_ms, healed_ms)) = self.fault {
            report.faults.push(FaultReport {
                id: "kill".into(),
                kind: "node.power_off".into(),
                target: "w1".into(),
                requested_ms: onset_ms,
                onset_ms: Some(onset_ms),
                healed_ms: Some(healed_ms),
                verified: true,
                measured: None,
            });
            report.struck.insert("kill".into(), self.struck.clone());
        }
        report.prober.pauses = self
            .pauses
            .iter()
            .map(|(from_ms, to_ms)| SpanReport {
                from_ms: rounded(*from_ms),
                to_ms: rounded(*to_ms),
            })
            .collect();
        report
    }

    pub(super) fn requests(&self) -> Requests {
        Requests::made("web", self.streams.clone())
    }

    pub(super) fn judge(&self, scenario: &Scenario) -> Judgement {
        judge(scenario, &self.evidence(), &self.requests())
    }

    /// The states of all rows, in their order.
    pub(super) fn states(&self, scenario: &Scenario) -> Vec<State> {
        let judgement = self.judge(scenario);
        judgement.rows.iter().map(|row| row.state).collect()
    }
}

/// A scenario that powers a worker off for 40 s and expects `rows`.
pub(super) fn scenario(rate: f64, rows: &str) -> Scenario {
    let text = format!(
        r#"flightcage = 1
[load.web]
url = "https://web/"
rate = "{rate}/s"
streams = ["new", "reused"]
deadline = "1s"
version = {{ header = "X-Version" }}
baseline = {{ for = "5s", good = "100%" }}
[[step]]
id = "kill"
fault = {{ kind = "node.power_off", target = {{ node = "w1" }}, for = "40s" }}
[expect]
{rows}
"#
    );
    let name = "test".parse().unwrap();
    let against = Against::own_cluster(&name, |_, _| Vec::new());
    file::parse(Path::new("demo.toml"), &text, &against)
        .unwrap_or_else(|refusal| panic!("{}", refusal.listing()))
}
