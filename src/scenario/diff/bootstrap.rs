//! The block bootstrap: how much a figure could differ had other moments of the same run been drawn.
//!
//! Requests that fail do so together, so that whole seconds are drawn, not requests (H. Künsch, The jackknife and the bootstrap for
//! general stationary observations, Ann. Statist. 17, 1989). What is drawn is the same in every call: the seed is constant.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::expectations::latency_us;
use super::super::judge::watched::{Watched, share};
use super::CONFIDENCE;

/// A block's length, unless the run is so long that there would be more than [`BLOCKS_MAX`].
const BLOCK_MS: f64 = 1000.0;
const BLOCKS_MAX: f64 = 600.0;
/// How often blocks are drawn.
const DRAWS: usize = 1000;
const SEED: u64 = 1;
/// Latencies are told apart by this factor.
const STEP: f64 = 1.01;
/// The percentiles that are compared.
pub(super) const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// The figures of one draw, or of the run itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Drawn {
    /// Bad requests of all.
    pub(super) failed: f64,
    /// Sum of all outages, as a share of the time: runs need not be equally long.
    pub(super) down: f64,
    /// [`QUANTILES`] in milliseconds.
    pub(super) quantiles_ms: [f64; QUANTILES.len()],
}

/// What one block holds.
#[derive(Debug, Clone, Default)]
struct Block {
    sent: usize,
    bad: usize,
    down_ms: f64,
    /// How many requests took how long, in steps of [`STEP`].
    latencies: Vec<(u16, u32)>,
}

/// One stream, cut into blocks.
pub(super) struct Blocks {
    blocks: Vec<Block>,
    block_ms: f64,
    steps: usize,
}

impl Blocks {
    pub(super) fn of(stream: &Watched<'_>) -> Self {
        let span = stream.span;
        let block_ms = BLOCK_MS.max(span.length_ms() / BLOCKS_MAX);
        let place = |ms: f64| -> usize {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at most a few hundred blocks"
            )]
            {
                ((ms - span.from_ms).max(0.0) / block_ms) as usize
            }
        };
        let count = place(span.to_ms).max(1);
        let mut blocks = vec![Block::default(); count];
        let mut counts: Vec<Vec<u32>> = vec![Vec::new(); count];
        let mut steps = 1;
        for sample in stream.samples {
            // What is left over at the end belongs to the last whole block.
            let place = place(sample.intended_ms()).min(count - 1);
            let block = &mut blocks[place];
            block.sent += 1;
            block.bad += usize::from(!sample.good());
            let step = step(latency_us(sample, stream.deadline_us));
            let counts = &mut counts[place];
            if counts.len() <= step {
                counts.resize(step + 1, 0);
            }
            counts[step] += 1;
            steps = steps.max(step + 1);
        }
        for outage in stream.outages() {
            let last = place(outage.span.to_ms).min(count - 1);
            for (index, block) in blocks.iter_mut().enumerate().take(last + 1) {
                #[expect(clippy::cast_precision_loss, reason = "at most a few hundred blocks")]
                let from_ms = span.from_ms + index as f64 * block_ms;
                let to_ms = if index + 1 == count {
                    span.to_ms
                } else {
                    from_ms + block_ms
                };
                let within = outage.span.to_ms.min(to_ms) - outage.span.from_ms.max(from_ms);
                block.down_ms += within.max(0.0);
            }
        }
        for (block, counts) in blocks.iter_mut().zip(counts) {
            let seen = counts.into_iter().enumerate().filter(|(_, seen)| *seen > 0);
            block.latencies = seen
                .map(|(step, seen)| (u16::try_from(step).unwrap_or(u16::MAX), seen))
                .collect();
        }
        Self {
            blocks,
            block_ms,
            steps,
        }
    }

    /// The figures when every block is drawn once.
    pub(super) fn measured(&self) -> Drawn {
        self.draw(0..self.blocks.len())
    }

    /// Figures of so many draws.
    fn draws(&self, random: &mut StdRng) -> Vec<Drawn> {
        let count = self.blocks.len();
        (0..DRAWS)
            .map(|_| {
                let drawn: Vec<usize> = (0..count).map(|_| random.random_range(0..count)).collect();
                self.draw(drawn.into_iter())
            })
            .collect()
    }

    fn draw(&self, drawn: impl Iterator<Item = usize>) -> Drawn {
        let (mut sent, mut bad, mut down_ms, mut count) = (0, 0, 0.0, 0_u32);
        let mut latencies = vec![0_u64; self.steps];
        for block in drawn.map(|index| &self.blocks[index]) {
            sent += block.sent;
            bad += block.bad;
            down_ms += block.down_ms;
            count += 1;
            for (step, seen) in &block.latencies {
                latencies[usize::from(*step)] += u64::from(*seen);
            }
        }
        Drawn {
            failed: share(bad, sent),
            down: down_ms / (f64::from(count) * self.block_ms),
            quantiles_ms: quantiles(&latencies, sent as u64),
        }
    }
}

/// The interval in which B less A lies, of each figure.
pub(super) fn differences(
    (drawn_a, drawn_b): &(Vec<Drawn>, Vec<Drawn>),
    figure: impl Fn(&Drawn) -> f64,
) -> (f64, f64) {
    let mut differences: Vec<f64> = drawn_a
        .iter()
        .zip(drawn_b)
        .map(|(a, b)| figure(b) - figure(a))
        .collect();
    differences.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a thousand draws"
    )]
    let left_out = ((1.0 - CONFIDENCE) / 2.0 * differences.len() as f64) as usize;
    let highest = differences.len() - 1 - left_out;
    (differences[left_out], differences[highest])
}

/// Draws from both runs.
pub(super) fn draw(a: &Blocks, b: &Blocks) -> (Vec<Drawn>, Vec<Drawn>) {
    let mut random = StdRng::seed_from_u64(SEED);
    (a.draws(&mut random), b.draws(&mut random))
}

fn step(us: u64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "far fewer than 2^16 steps"
    )]
    {
        ((us as f64 / 10.0 + 1.0).ln() / STEP.ln()).round() as usize
    }
}

fn quantiles(latencies: &[u64], sent: u64) -> [f64; QUANTILES.len()] {
    let mut found = [0.0; QUANTILES.len()];
    let mut seen = 0;
    let mut next = 0;
    for (step, count) in latencies.iter().enumerate() {
        seen += count;
        while next < QUANTILES.len() {
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
            if (seen as f64) < QUANTILES[next].1 * sent as f64 || seen == 0 {
                break;
            }
            #[expect(clippy::cast_precision_loss, reason = "a few thousand steps")]
            let us = (STEP.powf(step as f64) - 1.0) * 10.0;
            found[next] = us / 1000.0;
            next += 1;
        }
    }
    found
}
