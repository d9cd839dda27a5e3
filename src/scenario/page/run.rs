//! One run as it lies in its folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::history::{History, whole};
use super::lanes::requests::Scale;
use super::stored::Stored;
use super::svg::Axis;
use crate::model::units::parse_duration;
use crate::scenario::evidence::FOLDER;
use crate::scenario::report::{Report, StreamReport};
use crate::scenario::requests::RequestsError;

/// Why a stored run cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum StoredRunError {
    /// A file of it cannot be read.
    #[error("read `{}`", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The report is none.
    #[error("`{}` is no report", file.display())]
    Report {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The requests are none.
    #[error("`{}` holds no requests", file.display())]
    Requests {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: RequestsError,
    },
}

/// One run.
#[derive(Debug, Clone)]
pub struct StoredRun {
    /// What was found.
    pub report: Report,
    /// Every request; none if they were not kept.
    pub requests: Stored,
    /// The scenario as it was run.
    pub scenario: Option<String>,
    /// Deadlines of the loads, as the scenario says them.
    pub deadlines_ms: BTreeMap<String, f64>,
    /// From the start of the run to the last thing that happened.
    pub axis: Axis,
    /// Pods, nodes and Services.
    pub history: History,
    /// What else was kept of the run: files below its folder.
    pub evidence: Vec<String>,
    /// Axes of latency that are not the run's own, by load: those of two runs side by side.
    pub(super) scales: BTreeMap<String, Scale>,
}

impl StoredRun {
    /// Reads a run's folder. Only `report.json` has to be there.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what its name says.
    pub fn read(folder: &Path) -> Result<Self, StoredRunError> {
        let file = folder.join("report.json");
        let text = std::fs::read(&file).map_err(|source| StoredRunError::Read {
            file: file.clone(),
            source,
        })?;
        let mut report: Report = serde_json::from_slice(&text)
            .map_err(|source| StoredRunError::Report { file, source })?;
        // A cell of a matrix is a folder below that of its scenario.
        let name = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        if folder.parent().and_then(name) == Some(report.scenario.clone()) {
            report.cell = name(folder);
        }
        let file = folder.join("requests.csv.gz");
        let requests = match optional(File::open(&file), &file)? {
            Some(open) => {
                Stored::read(open).map_err(|source| StoredRunError::Requests { file, source })?
            }
            None => Stored::default(),
        };
        let file = folder.join("scenario.toml");
        let scenario = optional(std::fs::read_to_string(&file), &file)?;
        Ok(Self {
            evidence: evidence(folder),
            ..Self::new(report, requests, scenario)
        })
    }

    /// A run whose parts are known.
    #[must_use]
    pub fn new(report: Report, requests: Stored, scenario: Option<String>) -> Self {
        let axis = axis(&report, &requests);
        Self {
            history: History::of(&report, axis.to_ms),
            deadlines_ms: scenario.as_deref().map(deadlines).unwrap_or_default(),
            axis,
            report,
            requests,
            scenario,
            evidence: Vec::new(),
            scales: BTreeMap::new(),
        }
    }

    /// The same, with an axis that reaches at least to this time: of a run that goes on.
    #[must_use]
    pub fn until(mut self, now_ms: u64) -> Self {
        self.axis.to_ms = self.axis.to_ms.max(whole(now_ms));
        self.history = History::of(&self.report, self.axis.to_ms);
        self
    }

    /// Every stream with its figures: `web.new`.
    pub fn streams(&self) -> impl Iterator<Item = (&str, &str, &StreamReport)> {
        self.report.load.iter().flat_map(|(load, report)| {
            let streams = report.streams.iter();
            streams.map(move |(stream, figures)| (load.as_str(), stream.as_str(), figures))
        })
    }

    /// The counted span of a load; the whole run if the report does not say.
    #[must_use]
    pub fn window(&self, load: &str) -> (f64, f64) {
        let window = self.report.load.get(load).and_then(|load| load.window);
        window.map_or((self.axis.from_ms, self.axis.to_ms), |window| {
            (whole(window.from_ms), whole(window.to_ms))
        })
    }

    /// The time between two requests of a stream of this load.
    #[must_use]
    pub fn period_ms(&self, load: &str) -> Option<f64> {
        let rate = self.report.load.get(load)?.rate?;
        (rate > 0.0).then_some(1000.0 / rate)
    }
}

/// The files of a run's evidence, as paths below its folder, in order.
fn evidence(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.join(FOLDER)];
    while let Some(next) = folders.pop() {
        let entries = std::fs::read_dir(next).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(below) = path.strip_prefix(folder) {
                files.push(below.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    files
}

fn optional<T>(read: io::Result<T>, file: &Path) -> Result<Option<T>, StoredRunError> {
    match read {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoredRunError::Read {
            file: file.to_owned(),
            source,
        }),
    }
}

fn axis(report: &Report, requests: &Stored) -> Axis {
    let mut end_ms: f64 = 1000.0;
    let mut reach = |ms: f64| end_ms = end_ms.max(ms);
    report
        .steps
        .iter()
        .for_each(|step| reach(whole(step.end_ms)));
    for fault in &report.faults {
        reach(whole(fault.healed_ms.unwrap_or(fault.requested_ms)));
    }
    report
        .events
        .iter()
        .for_each(|event| reach(whole(event.at_ms)));
    for window in report.load.values().filter_map(|load| load.window) {
        reach(whole(window.to_ms));
    }
    for stream in requests.streams.values() {
        if let Some(last) = stream.requests.last() {
            reach(last.intended_ms() + last.latency_ms());
        }
    }
    Axis {
        from_ms: 0.0,
        to_ms: end_ms,
    }
}

/// The deadlines in a scenario's text. A text that cannot be read has none: the page is made of what there is.
fn deadlines(scenario: &str) -> BTreeMap<String, f64> {
    let Ok(table) = scenario.parse::<toml::Table>() else {
        return BTreeMap::new();
    };
    let loads = table.get("load").and_then(toml::Value::as_table);
    let deadline = |(name, load): (&String, &toml::Value)| {
        let text = load.get("deadline")?.as_str()?;
        let deadline = parse_duration(text).ok()?;
        Some((name.clone(), deadline.as_secs_f64() * 1000.0))
    };
    loads.into_iter().flatten().filter_map(deadline).collect()
}
