//! The lanes of the timeline: a folder of files of one shape, and their order.

use super::run::StoredRun;

/// One lane.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Lane {
    /// Its anchor, unique on the page.
    pub id: String,
    /// What it belongs to: a thin rule stands between groups.
    pub group: &'static str,
    /// Its name.
    pub label: String,
    /// Its figure, beside the name.
    pub total: String,
    /// Pixels.
    pub height: u32,
    /// What is drawn, with percentages along time.
    pub body: String,
    /// What a screen reader says of it.
    pub spoken: String,
    /// Whether the requests are drawn over it, and of which stream.
    pub stream: Option<String>,
}

/// One kind of lanes.
type Kind = fn(&StoredRun) -> Vec<Lane>;

/// All of them, from the top down.
const KINDS: [Kind; 9] = [
    super::lanes::phases::lanes,
    super::lanes::faults::lanes,
    super::lanes::requests::lanes,
    super::lanes::versions::lanes,
    super::lanes::endpoints::lanes,
    super::lanes::pods::lanes,
    super::lanes::nodes::lanes,
    super::lanes::honesty::lanes,
    super::lanes::trouble::lanes,
];

/// The lanes of a run.
#[must_use]
pub fn lanes(run: &StoredRun) -> Vec<Lane> {
    KINDS.iter().flat_map(|lanes| lanes(run)).collect()
}
