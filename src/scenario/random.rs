//! Faults that the seed draws: `fault = { kind = "random", from = […], times = 5, pause = "10s" }` stands for so many steps, each with
//! one of these faults, one after another.
//!
//! They are ordinary steps from the reader on, named `chaos-1`, `chaos-2`, … after the step that stands for them. Which fault each has
//! is decided by the seed and its name alone, before a run begins: another run with that seed has the same.

use std::sync::Arc;
use std::time::Duration;

use rand::{Rng as _, SeedableRng};

use super::spec::{Action, Scenario};

/// The kind's name.
pub(in crate::scenario) const KIND: &str = "random";
/// So many faults at most are drawn by one step.
pub(in crate::scenario) const TIMES_MAX: u64 = 100;
/// The largest weight of a fault.
pub(in crate::scenario) const WEIGHT_MAX: u64 = 1000;

/// One of the faults that may be drawn.
#[derive(Debug, Clone)]
pub struct Choice {
    /// How often it is drawn, beside the weights of the others.
    pub weight: u32,
    /// The fault.
    pub action: Action,
}

/// What a step's fault is drawn from.
#[derive(Debug, Clone)]
pub struct Draw {
    /// At least one, in the order of the file.
    pub from: Arc<Vec<Choice>>,
    /// How long after the end of the step before it begins.
    pub pause: Duration,
}

impl Draw {
    /// The place in [`Self::from`] of what this step has with this seed.
    #[must_use]
    pub fn pick(&self, step: &str, seed: u64) -> usize {
        let total: u32 = self.from.iter().map(|choice| choice.weight).sum();
        // Steps of one run differ by their names.
        let own = u64::from(crc32fast::hash(step.as_bytes()));
        let mut random = rand::rngs::StdRng::seed_from_u64(seed ^ own.rotate_left(32));
        let mut left = random.random_range(0..total.max(1));
        for (place, choice) in self.from.iter().enumerate() {
            if left < choice.weight {
                return place;
            }
            left -= choice.weight;
        }
        0
    }
}

/// The scenario as it is run with this seed: every fault is drawn.
#[must_use]
pub fn drawn(scenario: &Scenario, seed: u64) -> Scenario {
    let mut scenario = scenario.clone();
    for step in &mut scenario.steps {
        let Some(draw) = &step.drawn else {
            continue;
        };
        if let Some(choice) = draw.from.get(draw.pick(&step.id, seed)) {
            step.action = choice.action.clone();
        }
    }
    scenario
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::scenario::file::{Against, parse};

    fn scenario(times: u32) -> Scenario {
        let text = format!(
            "flightcage = 1\n[[step]]\nid = \"chaos\"\n\
             fault = {{ kind = \"random\", times = {times}, pause = \"1s\", from = [\n\
             {{ weight = 3, fault = {{ kind = \"pod.kill\", target = {{ pod = \"web\" }} }} }},\n\
             {{ fault = {{ kind = \"node.freeze\", target = {{ node = \"w1\" }}, for = \"2s\" }} }},\n] }}\n"
        );
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        parse(Path::new("demo.toml"), &text, &against)
            .unwrap_or_else(|refusal| panic!("{}", refusal.listing()))
    }

    fn kinds(scenario: &Scenario) -> Vec<&'static str> {
        let kind = |action: &Action| match action {
            Action::Fault { fault, .. } => fault.kind.name,
            other => panic!("{other:?}"),
        };
        scenario
            .steps
            .iter()
            .map(|step| kind(&step.action))
            .collect()
    }

    #[test]
    fn the_seed_alone_draws_and_a_longer_series_begins_like_a_shorter_one() {
        let mut series = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let long = kinds(&drawn(&scenario(8), seed));
            assert_eq!(long, kinds(&drawn(&scenario(8), seed)));
            assert_eq!(long[..3], kinds(&drawn(&scenario(3), seed)));
            series.insert(long);
        }
        assert!(series.len() > 20, "the seed matters: {}", series.len());
    }

    #[test]
    fn weights_are_kept_over_many_draws() {
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for seed in 0..100 {
            for kind in kinds(&drawn(&scenario(10), seed)) {
                *counts.entry(kind).or_default() += 1;
            }
        }
        // Three of four in 1,000 draws; five standard deviations are 69.
        let kills = counts["pod.kill"];
        assert!((680..=820).contains(&kills), "{counts:?}");
        assert_eq!(counts.values().sum::<u32>(), 1000);
    }
}
