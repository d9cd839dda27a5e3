//! Pods as a fault's target: which are meant, and which of them the seed draws.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use rand::SeedableRng;
use rand::seq::SliceRandom;

use super::events::matches_labels;
use super::injection::StruckPod;

/// Which pods are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodsMeant {
    /// Those whose names begin like this.
    Prefix(String),
    /// Those with all of these labels.
    Labels(BTreeMap<String, String>),
}

impl PodsMeant {
    /// Whether this pod is meant.
    #[must_use]
    pub fn holds(&self, pod: &Pod) -> bool {
        match self {
            Self::Prefix(prefix) => {
                let name = pod.metadata.name.as_deref();
                name.is_some_and(|name| name.starts_with(prefix.as_str()))
            }
            Self::Labels(labels) => matches_labels(pod, labels),
        }
    }
}

impl fmt::Display for PodsMeant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => write!(f, "pods `{prefix}…`"),
            Self::Labels(labels) => {
                let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "pods with `{}`", pairs.join(","))
            }
        }
    }
}

/// How many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// One.
    One,
    /// The most that are fewer than half.
    Minority,
    /// The fewest that are more than half.
    Majority,
    /// Every one.
    All,
}

impl Count {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("one", Self::One),
        ("minority", Self::Minority),
        ("majority", Self::Majority),
        ("all", Self::All),
    ];

    /// How many of so many.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::One => all.min(1),
            Self::Minority => all.saturating_sub(1) / 2,
            Self::Majority if all == 0 => 0,
            Self::Majority => all / 2 + 1,
            Self::All => all,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one of",
            Self::Minority => "a minority of",
            Self::Majority => "a majority of",
            Self::All => "all",
        })
    }
}

/// So many of these pods; the seed alone decides which.
#[must_use]
pub(super) fn draw(mut pods: Vec<StruckPod>, count: Count, seed: u64) -> Vec<StruckPod> {
    let wanted = count.of(pods.len());
    pods.sort();
    pods.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
    pods.truncate(wanted);
    pods.sort();
    pods
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(count: usize) -> Vec<StruckPod> {
        let pod = |number: usize| StruckPod {
            name: format!("web-{number}"),
            uid: format!("uid-{number}"),
            node: "w1".parse().unwrap(),
        };
        (0..count).map(pod).collect()
    }

    #[test]
    fn a_minority_is_less_than_half_and_a_majority_more() {
        let counts = |all: usize| Count::ALL.map(|(_, count)| count.of(all));
        assert_eq!(counts(0), [0, 0, 0, 0]);
        assert_eq!(counts(1), [1, 0, 1, 1]);
        assert_eq!(counts(2), [1, 0, 2, 2]);
        assert_eq!(counts(3), [1, 1, 2, 3]);
        assert_eq!(counts(4), [1, 1, 3, 4]);
        assert_eq!(counts(5), [1, 2, 3, 5]);
    }

    #[test]
    fn the_seed_alone_draws() {
        let mut backwards = pods(5);
        backwards.reverse();
        let mut drawn = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let one = draw(pods(5), Count::Minority, seed);
            assert_eq!(one, draw(backwards.clone(), Count::Minority, seed));
            assert_eq!(one.len(), 2);
            drawn.insert(one);
        }
        assert_eq!(drawn.len(), 10, "every pair comes");
        assert_eq!(draw(pods(3), Count::All, 1), pods(3));
    }

    #[test]
    fn pods_are_meant_by_the_beginning_of_their_name_or_by_labels() {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web-v1-abc".into());
        pod.metadata.labels = Some(BTreeMap::from([("app".into(), "web".into())]));
        let labels = |value: &str| PodsMeant::Labels([("app".into(), value.into())].into());
        assert!(PodsMeant::Prefix("web".into()).holds(&pod));
        assert!(!PodsMeant::Prefix("eb".into()).holds(&pod));
        assert!(labels("web").holds(&pod));
        assert!(!labels("db").holds(&pod));
    }
}
