//! `report.json`, version 1 of the public contract, and `junit.xml`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::guards::GuardReport;
use crate::kubernetes::manifest::NotApplied;

pub use super::load::analysis::Latency;

/// How a scenario ended. The five never blur into each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every expectation held.
    Pass,
    /// The stack did not do what was expected.
    Fail,
    /// The measurement cannot be trusted: the prober was late, a fault did not bite, there was too little traffic.
    Inconclusive,
    /// The target cannot do what the scenario needs.
    Skipped,
    /// The file is wrong.
    Invalid,
}

impl Verdict {
    /// As it is printed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Skipped => "SKIPPED",
            Self::Invalid => "INVALID",
        }
    }
}

/// How one scenario file ended for the exit code: a verdict, or an error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was judged.
    Judged(Verdict),
    /// Something else went wrong.
    Error,
}

/// The exit code of several files: the first of 2, 1, 3, 4, 5, 0 that applies to any.
#[must_use]
pub fn exit_code(outcomes: &[Outcome]) -> u8 {
    let code = |outcome: &Outcome| match outcome {
        Outcome::Judged(Verdict::Invalid) => 2,
        Outcome::Error => 1,
        Outcome::Judged(Verdict::Fail) => 3,
        Outcome::Judged(Verdict::Inconclusive) => 4,
        Outcome::Judged(Verdict::Skipped) => 5,
        Outcome::Judged(Verdict::Pass) => 0,
    };
    let codes: Vec<u8> = outcomes.iter().map(code).collect();
    [2, 1, 3, 4, 5, 0]
        .into_iter()
        .find(|code| codes.contains(code))
        .unwrap_or(0)
}

/// Everything that is known about one run: its verdict, and the evidence from which [`super::judge`] says it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Of this format.
    pub version: u32,
    /// The scenario's name.
    pub scenario: String,
    /// The cell of its matrix, for instance `seed-3`: a folder of its own.
    #[serde(skip)]
    pub cell: Option<String>,
    /// What decided the ties.
    #[serde(default)]
    pub seed: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it did not pass.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// What it ran on.
    pub target: TargetFacts,
    /// The steps that began.
    #[serde(default)]
    pub steps: Vec<StepReport>,
    /// The faults that were asked for.
    #[serde(default)]
    pub faults: Vec<FaultReport>,
    /// By fault: the pods of the loads' paths that were at its place when it struck.
    #[serde(default)]
    pub struck: BTreeMap<String, Vec<String>>,
    /// What the API server showed meanwhile.
    #[serde(default)]
    pub events: Vec<EventReport>,
    /// How awake the prober was.
    #[serde(default)]
    pub prober: ProberReport,
    /// Whether the machines had the host's processors.
    #[serde(default)]
    pub host: HostReport,
    /// What the API server said at the end; absent if it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<CountedReport>,
    /// What was seen of each entry of `never` and `always`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<GuardReport>,
    /// Why the run cannot be judged, whatever its figures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
    /// What the manifests set without effect on this target: a real cluster may behave otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_applied: Vec<NotAppliedReport>,
    /// What failed beside the steps, for instance the deployment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// The loads.
    #[serde(default)]
    pub load: BTreeMap<String, LoadReport>,
    /// The expectations.
    #[serde(default)]
    pub expectations: Vec<ExpectationReport>,
}

/// What a run ran on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFacts {
    /// The provider's name.
    pub provider: String,
    /// `kvm`, `tcg` or `none`.
    pub accel: String,
    /// How many machines.
    pub nodes: usize,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Its id.
    pub id: String,
    /// When it began.
    #[serde(deserialize_with = "whole_millis")]
    pub start_ms: u64,
    /// When it ended.
    #[serde(deserialize_with = "whole_millis")]
    pub end_ms: u64,
    /// Whether it did a rolling update or a rollout to its end: what answers from then on is the new version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub updated: bool,
    /// Why it failed; absent if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    /// The step's id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// The node.
    pub target: String,
    /// When it was asked for.
    #[serde(deserialize_with = "whole_millis")]
    pub requested_ms: u64,
    /// When it took effect, as measured; `null` if it did not.
    #[serde(default, deserialize_with = "whole_millis_or_none")]
    pub onset_ms: Option<u64>,
    /// When it was healed; `null` if it was not.
    #[serde(default, deserialize_with = "whole_millis_or_none")]
    pub healed_ms: Option<u64>,
    /// Whether its effect was seen.
    #[serde(default)]
    pub verified: bool,
    /// What was measured of its effect; absent if it did not take effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<String>,
}

/// A field that a manifest sets without effect on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotAppliedReport {
    /// The manifest's file.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// Kind and name of the object.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What happens instead.
    pub instead: String,
}

impl From<&NotApplied> for NotAppliedReport {
    fn from(one: &NotApplied) -> Self {
        Self {
            file: one.source.display().to_string(),
            line: one.line,
            column: one.column,
            object: one.object.clone(),
            field: one.field.clone(),
            instead: one.instead.clone(),
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReport {
    /// When it was seen.
    #[serde(deserialize_with = "whole_millis")]
    pub at_ms: u64,
    /// What happened, for instance `node.not_ready`.
    pub kind: String,
    /// To what.
    pub object: String,
}

/// A span of time, in milliseconds since the start of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanReport {
    /// Its beginning.
    #[serde(deserialize_with = "whole_millis")]
    pub from_ms: u64,
    /// Its end.
    #[serde(deserialize_with = "whole_millis")]
    pub to_ms: u64,
}

/// How awake the prober was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProberReport {
    /// When its own clock check was late, by more than 50 ms each time.
    #[serde(default)]
    pub pauses: Vec<SpanReport>,
}

/// Whether the machines had the host's processors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// How long the host was watched.
    #[serde(default, deserialize_with = "whole_millis")]
    pub watched_ms: u64,
    /// When a machine had none, in order.
    #[serde(default)]
    pub starved: Vec<StarvedReport>,
    /// Whether what failed meanwhile counts all the same: `run --slow-host=fail`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub slow_fails: bool,
}

/// A time in which a machine had no processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StarvedReport {
    /// Its beginning.
    #[serde(deserialize_with = "whole_millis")]
    pub from_ms: u64,
    /// Its end.
    #[serde(deserialize_with = "whole_millis")]
    pub to_ms: u64,
    /// Who had the processor instead.
    pub by: StarvedBy,
    /// The machine; any if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// By others: the share of the host's processors that they took. By the cage: what the machine got of its own. 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// Who kept the processors from a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StarvedBy {
    /// Programs that have nothing to do with the cluster.
    Others,
    /// The cage itself: another machine's boot, emulation.
    Cage,
}

/// What the API server said at the end of the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedReport {
    /// Ready replicas by workload: plain names where they are unique, `kind/name` always.
    #[serde(default)]
    pub replicas: BTreeMap<String, u32>,
    /// Restarts of containers since the baseline began, by workload as above.
    #[serde(default)]
    pub restarts: BTreeMap<String, u32>,
    /// Pods that were deleted during the run.
    #[serde(default)]
    pub pods_deleted: u32,
    /// Faults that still act.
    #[serde(default)]
    pub faults_left: u32,
}

/// So many failed requests of a stream are told one by one.
pub const FAILURES_SHOWN: usize = 100;

/// One load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The counted span: from the start of the baseline to the end of all schedules.
    #[serde(default)]
    pub window: Option<SpanReport>,
    /// Requests a second of each stream, as run.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The pods that were on its path at some time of the run; with several loads it tells whose pods a fault struck.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
    /// The machines on which these ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
    /// Its streams, by name.
    #[serde(default)]
    pub streams: BTreeMap<String, StreamReport>,
}

/// One stream, in the counted span.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Requests.
    pub sent: u64,
    /// Good answers.
    pub good: u64,
    /// All others.
    pub failed: u64,
    /// The failed ones by how they ended.
    pub by_class: BTreeMap<String, u64>,
    /// The first [`FAILURES_SHOWN`] of them, by intended time.
    #[serde(default)]
    pub failures: Vec<FailureReport>,
    /// Requests that the prober sent too late.
    pub late: u64,
    /// The outages, in order.
    pub outages: Vec<OutageReport>,
    /// The longest of them, 0 if there was none.
    pub longest_outage_ms: u64,
    /// From each fault's onset until the stream was good again; `null` if it was not.
    pub recovery_ms: BTreeMap<String, Option<u64>>,
    /// Latency from the intended send time.
    pub latency_ms: Latency,
    /// Answers by version.
    pub versions: BTreeMap<String, u64>,
}

/// One failed request, in milliseconds since the start of the run: how far it got tells where it was stuck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureReport {
    /// When it should have been sent.
    pub intended_ms: u64,
    /// When its connection was up, TLS included.
    pub connected_ms: Option<u64>,
    /// When the head of an answer had come.
    pub first_byte_ms: Option<u64>,
    /// When it was over.
    pub end_ms: u64,
    /// Number of its connection within the load.
    pub connection: Option<u64>,
    /// How it ended.
    pub class: String,
}

/// One outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutageReport {
    /// Intended time of the first bad request.
    pub from_ms: u64,
    /// Intended time of the next good one.
    pub to_ms: u64,
}

/// One expectation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectationReport {
    /// Its key.
    pub name: String,
    /// Its value.
    pub expected: String,
    /// What was found.
    pub measured: String,
    /// How exact that is; `±0` for what is counted exactly.
    pub error: String,
    /// Whether it held: true for `met` alone.
    pub ok: bool,
    /// What can be said of it.
    pub state: State,
    /// The lower end of the interval that holds the truth, a share or milliseconds or a count; `null` if nothing is known.
    #[serde(default)]
    pub low: Option<f64>,
    /// Its upper end; `null` if there is none.
    #[serde(default)]
    pub high: Option<f64>,
    /// Why it is undecided or could not have failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What can be said of an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Every value of the interval keeps the bound.
    Met,
    /// None does.
    NotMet,
    /// Some do.
    Undecided,
    /// It could not have failed.
    Vacuous,
}

impl State {
    /// As it is printed.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::NotMet => "not met",
            Self::Undecided => "undecided",
            Self::Vacuous => "could not have failed",
        }
    }
}

/// Milliseconds, rounded: other writers of this format may write `12.0`.
pub(super) fn whole_millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(rounded(f64::deserialize(deserializer)?))
}

fn whole_millis_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.map(rounded))
}

/// Whole milliseconds of a time of a run.
#[must_use]
pub fn rounded(ms: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive times of a run"
    )]
    {
        ms.max(0.0).round() as u64
    }
}

impl Report {
    /// A report of a run that ended before it began.
    #[must_use]
    pub fn without_run(
        scenario: &str,
        seed: u64,
        target: TargetFacts,
        verdict: Verdict,
        reasons: Vec<String>,
    ) -> Self {
        Self {
            version: 1,
            scenario: scenario.to_owned(),
            cell: None,
            seed,
            verdict,
            reasons,
            target,
            steps: Vec::new(),
            faults: Vec::new(),
            struck: BTreeMap::new(),
            events: Vec::new(),
            prober: ProberReport::default(),
            host: HostReport::default(),
            counted: None,
            guards: Vec::new(),
            doubts: Vec::new(),
            not_applied: Vec::new(),
            failures: Vec::new(),
            load: BTreeMap::new(),
            expectations: Vec::new(),
        }
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("string keys and finite numbers only")
    }

    /// The report as JUnit XML: one case an expectation, and one for the run itself.
    #[must_use]
    pub fn to_junit(&self) -> String {
        use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
        let mut suite = TestSuite::new(self.title());
        suite.add_property(("seed", self.seed.to_string().as_str()));
        let status = match self.verdict {
            Verdict::Pass => TestCaseStatus::success(),
            Verdict::Skipped => TestCaseStatus::skipped(),
            Verdict::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
            Verdict::Inconclusive | Verdict::Invalid => {
                TestCaseStatus::non_success(NonSuccessKind::Error)
            }
        };
        let mut case = TestCase::new("verdict", status);
        if self.verdict != Verdict::Pass {
            case.status.set_message(format!(
                "{}: {}",
                self.verdict.word(),
                self.reasons.join("; ")
            ));
        }
        suite.add_test_case(case);
        for row in &self.expectations {
            let status = match row.state {
                State::Met => TestCaseStatus::success(),
                State::NotMet => TestCaseStatus::non_success(NonSuccessKind::Failure),
                State::Undecided | State::Vacuous => {
                    TestCaseStatus::non_success(NonSuccessKind::Error)
                }
            };
            let mut case = TestCase::new(row.name.clone(), status);
            if !row.ok {
                case.status.set_message(format!(
                    "{}: expected {}, measured {} {}",
                    row.state.words(),
                    row.expected,
                    row.measured,
                    row.error
                ));
            }
            suite.add_test_case(case);
        }
        let mut report = quick_junit::Report::new("flightcage");
        report.add_test_suite(suite);
        report.to_string().expect("names and messages are text")
    }

    /// The scenario, and its cell if it has some: `failover/seed-3`.
    #[must_use]
    pub fn title(&self) -> String {
        self.cell.as_ref().map_or_else(
            || self.scenario.clone(),
            |cell| format!("{}/{cell}", self.scenario),
        )
    }

    /// Writes `report.json` and `junit.xml` to `folder/<scenario>/`, below it to the cell's folder if it is one of several, and
    /// returns that folder.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        let folder = folder.join(self.title());
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("report.json"), self.to_json() + "\n")?;
        std::fs::write(folder.join("junit.xml"), self.to_junit())?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_a_folder_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let target = TargetFacts {
            provider: "qemu".into(),
            accel: "none".into(),
            nodes: 3,
        };
        let plain = Report::without_run("demo", 1, target, Verdict::Pass, Vec::new());
        let cell = Report {
            cell: Some("seed-3".into()),
            ..plain.clone()
        };
        assert_eq!(
            plain.write(folder.path()).unwrap(),
            folder.path().join("demo")
        );
        assert_eq!(
            cell.write(folder.path()).unwrap(),
            folder.path().join("demo/seed-3")
        );
        assert_eq!(cell.to_json(), plain.to_json());
        assert!(
            folder.path().join("demo/seed-3/report.json").exists()
                && cell.to_junit().contains("demo/seed-3")
        );
    }

    #[test]
    fn the_exit_code_is_the_first_that_applies() {
        use Verdict::{Fail, Inconclusive, Invalid, Pass, Skipped};
        let judged = |verdicts: &[Verdict]| {
            exit_code(
                &verdicts
                    .iter()
                    .map(|v| Outcome::Judged(*v))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(judged(&[]), 0);
        assert_eq!(judged(&[Pass]), 0);
        assert_eq!(judged(&[Pass, Fail]), 3);
        assert_eq!(judged(&[Inconclusive, Fail, Pass]), 3);
        assert_eq!(judged(&[Inconclusive, Pass]), 4);
        assert_eq!(judged(&[Skipped]), 5);
        assert_eq!(judged(&[Invalid, Fail]), 2);
        assert_eq!(exit_code(&[Outcome::Error, Outcome::Judged(Fail)]), 1);
        assert_eq!(exit_code(&[Outcome::Error, Outcome::Judged(Invalid)]), 2);
    }
}
