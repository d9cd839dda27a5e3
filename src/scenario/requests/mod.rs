//! Every request of a run: `requests.csv.gz`, written while the run goes on and read when it is judged.
//!
//! ```text
//! load streams ─► log (orders by intended time, compresses) ─► requests.csv.gz ─► samples ─► judge
//! ```
//! Invariants: a request is written once, after it has ended; the file is ordered by intended time; neither writing nor judging
//! holds the file's text in memory: a request costs the judge [`samples::SAMPLE_BYTES`].

pub mod folder;
pub mod format;
pub mod log;
pub mod samples;

pub use log::{LoadSink, RequestLog, StreamSink};
pub use samples::{Requests, Sample, StreamSamples, Wanted};

/// The file's name in a report's folder.
pub const FILE_NAME: &str = "requests.csv.gz";

/// Why a file of requests cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum RequestsError {
    /// It cannot be read, or is cut short.
    #[error("read the requests")]
    Read(#[from] std::io::Error),
    /// A line is not one of this format.
    #[error("requests, line {line}: {what}")]
    Line {
        /// Its number, the header being 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

#[cfg(test)]
mod tests;
