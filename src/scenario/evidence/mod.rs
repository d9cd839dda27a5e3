//! What is kept of a run that did not pass, without being asked: `DIR/<scenario>/evidence/`.
//!
//! ```text
//! API ─────► objects/<kind>.yaml (no Secret's data) · events.txt · pods/<namespace>_<pod>_<container>.log ┐
//! machines ► machines/<node>/{console,journal,flightcage-agent,flightcage-proxy,flightcage-server}.log    ├─► texts without secrets
//!                                                                                                         ┘    bounded in size
//! ```
//! Invariants: times are from the start of the run, as everywhere in its report; no file is longer than [`FILE_BYTES_MAX`], and all
//! together are not longer than [`ALL_BYTES_MAX`]; what a Secret holds stands nowhere, whatever wrote it down; what could not be
//! had is told in `README.txt`, and changes no verdict.

mod objects;
mod pods;
mod redact;
mod texts;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;

use super::fault::{Faults, MachineLog};
use super::report::Verdict;
use crate::kubernetes::client::Client;
use redact::Redaction;
use texts::Texts;
pub use texts::{ALL_BYTES_MAX, FILE_BYTES_MAX, last_bytes};

/// The folder's name below that of the run.
pub const FOLDER: &str = "evidence";
/// How long it may take altogether, and one question of it.
const WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// When evidence is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// Whenever a run did not pass.
    #[default]
    NotPassed,
    /// Of every run.
    Always,
    /// Never.
    Never,
}

impl Keep {
    /// Whether it is kept of a run that ended so.
    #[must_use]
    pub fn wants(self, verdict: Verdict) -> bool {
        match self {
            Self::NotPassed => verdict != Verdict::Pass,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Where evidence comes from.
pub struct Sources<'a> {
    /// The target's API.
    pub client: &'a Client,
    /// The target's machines.
    pub faults: &'a Arc<dyn Faults>,
    /// The namespaces that are the scenario's; all of the cluster's if there is none.
    pub namespaces: Vec<String>,
    /// When the run began.
    pub begun: SystemTime,
}

/// Gathers everything and writes it to a run's folder. That something could not be had, or not be written, is told in words.
pub async fn keep(sources: &Sources<'_>, run: &Path) -> Vec<String> {
    let mut texts = Texts::default();
    if timeout(WITHIN, gather(sources, &mut texts)).await.is_err() {
        texts.missing(format!("what took longer than {} s", WITHIN.as_secs()));
    }
    let folder = run.join(FOLDER);
    let missing = texts.missing_words();
    match tokio::task::spawn_blocking(move || texts.write(&folder)).await {
        Ok(Ok(())) => missing,
        Ok(Err(error)) => vec![format!("evidence could not be written: {error}")],
        Err(error) => vec![format!("evidence could not be written: {error}")],
    }
}

async fn gather(sources: &Sources<'_>, texts: &mut Texts) {
    // The Secrets come first: without them nothing is known that must not be written.
    match Redaction::read(sources).await {
        Ok(redaction) => texts.redact_with(redaction),
        Err(why) => {
            texts.missing(format!(
                "anything but this list, since it is not known what the Secrets hold: {why}"
            ));
            return;
        }
    }
    let machines = timeout(ANSWER_WITHIN, sources.faults.machine_logs(sources.begun)).await;
    match machines {
        Ok(logs) => {
            for MachineLog { node, name, text } in logs {
                texts.add(format!("machines/{node}/{name}.log"), text);
            }
        }
        Err(_) => texts.missing("the machines' consoles and journals".to_owned()),
    }
    objects::gather(sources, texts).await;
    pods::gather(sources, texts).await;
}

/// Milliseconds from the start of the run, as it stands before lines: `+12.345 s`.
#[must_use]
pub fn since_start(begun: SystemTime, micros_since_1970: u64) -> String {
    let begun_us = begun.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    });
    let (sign, us) = if micros_since_1970 >= begun_us {
        ('+', micros_since_1970 - begun_us)
    } else {
        ('-', begun_us - micros_since_1970)
    };
    format!("{sign}{}.{:03} s", us / 1_000_000, us / 1000 % 1000)
}

#[cfg(test)]
mod tests;
