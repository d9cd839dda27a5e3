//! `[matrix]`: one file, many runs, which differ in what is left to chance.

use rand::SeedableRng;

/// A run for each seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// The seeds, each once, in the order of the file.
    pub seeds: Vec<u64>,
    /// Only so many of them.
    pub sample: Option<usize>,
}

/// One run of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Its name within the scenario, for instance `seed-3`; a scenario without a matrix has one cell without a name.
    pub name: Option<String>,
    /// Decides what is left to chance.
    pub seed: u64,
}

impl Cell {
    /// The only run of a scenario.
    #[must_use]
    pub fn only(seed: u64) -> Self {
        Self { name: None, seed }
    }
}

impl Matrix {
    /// The cells, in the order of the file; `seed` decides which ones a sample is made of.
    #[must_use]
    pub fn cells(&self, seed: u64) -> Vec<Cell> {
        let all = self.seeds.len();
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let mut chosen =
            rand::seq::index::sample(&mut random, all, self.sample.unwrap_or(all).min(all))
                .into_vec();
        chosen.sort_unstable();
        let cell = |index: usize| Cell {
            name: Some(format!("seed-{}", self.seeds[index])),
            seed: self.seeds[index],
        };
        chosen.into_iter().map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_sample_is_decided_by_the_seed_and_keeps_the_order() {
        let matrix = |sample| Matrix {
            seeds: (1..=20).collect(),
            sample,
        };
        let seeds = |sample, seed| {
            matrix(sample)
                .cells(seed)
                .iter()
                .map(|cell| cell.seed)
                .collect::<Vec<u64>>()
        };
        assert_eq!(seeds(None, 7), (1..=20).collect::<Vec<u64>>());
        for seed in 0..20 {
            let sample = seeds(Some(5), seed);
            assert_eq!(sample, seeds(Some(5), seed));
            assert!(sample.len() == 5 && sample.is_sorted());
        }
        assert!(
            (0..20)
                .map(|seed| seeds(Some(5), seed))
                .collect::<BTreeSet<_>>()
                .len()
                > 1,
            "the seed matters"
        );
        assert_eq!(
            matrix(Some(1)).cells(1)[0].name,
            Some(format!("seed-{}", seeds(Some(1), 1)[0]))
        );
    }
}
