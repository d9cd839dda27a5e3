//! Why a scenario file gave no scenario.

use crate::model::diagnostic::Refusal;

/// Why a scenario file gave no scenario. Both mean INVALID.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioFileError {
    /// The file cannot be read.
    #[error("read scenario `{file}`")]
    Read {
        /// Its name.
        file: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file has problems.
    #[error(transparent)]
    Refused(#[from] Refusal),
}
