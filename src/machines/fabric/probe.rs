//! What a link does, measured: probes take the way of frames through the link's rules, and arrive at their sender instead of a machine.
//!
//! A probe is judged like a frame of the same length, at the same time: it measures the switch, its rules and its delay line. What QEMU and
//! the guests add is not in it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::rules::{Link, RATE_QUEUE};
use super::switch::{Parcel, Switch};
use crate::model::link::LinkRule;

/// Probes sent before others get their turn, when there is no gap between them.
const BURST: u32 = 100;
/// Probes of one measurement.
const MAX_PROBES: u32 = 10_000;
/// How long a probe is waited for beyond the last that came.
const PATIENCE: Duration = Duration::from_millis(300);

/// How to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePlan {
    /// How many probes; at most 10 000.
    pub count: u32,
    /// The pause between two.
    pub gap: Duration,
    /// The length that each pretends to have.
    pub bytes: usize,
    /// How late the last is expected at most.
    pub slowest: Duration,
}

/// What became of the probes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Probes sent.
    pub sent: u32,
    /// Different probes that arrived.
    pub arrived: u32,
    /// Probes that arrived a second time.
    pub duplicated: u32,
    /// Probes that one sent later overtook.
    pub overtaken: u32,
    /// Mean delay of the first arrivals, in milliseconds.
    pub delay_mean_ms: f64,
    /// Half of them took at most this.
    pub delay_p50_ms: f64,
    /// 99 of 100 took at most this.
    pub delay_p99_ms: f64,
    /// Bits a second from the first sending to the last arrival, if there were several.
    pub rate: Option<f64>,
}

impl ProbePlan {
    /// A plan that can tell whether the rule acts.
    #[must_use]
    pub fn for_rule(rule: &LinkRule) -> Self {
        let slowest = rule.delay + rule.jitter + RATE_QUEUE + Duration::from_millis(20);
        let few = Self {
            count: 40,
            gap: Duration::from_millis(5),
            bytes: 60,
            slowest,
        };
        let rarest = [rule.loss, rule.duplicate, rule.reorder]
            .into_iter()
            .filter(|share| *share > 0.0)
            .fold(1.0, f64::min);
        if rule.cut || rule.loss >= 1.0 {
            few
        } else if let Some(rate) = rule.rate {
            // As many as three quarters of the link's queue take.
            let count = (rate * 150 / 1000 / (1250 * 8)).clamp(2, 100) as u32;
            Self {
                count,
                gap: Duration::ZERO,
                bytes: 1250,
                slowest: slowest + Duration::from_secs(3),
            }
        } else if rarest < 1.0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at most 4000"
            )]
            let count = (40.0 / rarest).clamp(400.0, 4000.0) as u32;
            Self {
                count,
                gap: Duration::ZERO,
                ..few
            }
        } else {
            few
        }
    }
}

impl Measured {
    /// Whether the probes show at least what the rule says. Other rules on the same link may add to it.
    #[must_use]
    pub fn shows(&self, rule: &LinkRule) -> bool {
        if rule.cut || rule.loss >= 1.0 {
            return self.sent > 0 && self.arrived == 0;
        }
        let (sent, arrived) = (f64::from(self.sent), f64::from(self.arrived));
        // Four standard deviations of a count of independent events.
        let often = |count: f64, of: f64, share: f64| {
            count >= of * share - 4.0 * (of * share * (1.0 - share)).sqrt()
        };
        let lossy = often(sent - arrived, sent, rule.loss);
        if self.arrived == 0 {
            return lossy;
        }
        // The mean of so many uniform jitters; a timer never fires early, but clocks are read in steps.
        let jitter_ms = 4.0 * rule.jitter.as_secs_f64() * 1000.0 / (3.0 * arrived).sqrt();
        let late = self.delay_mean_ms >= rule.delay.as_secs_f64() * 1000.0 - jitter_ms - 0.1;
        let slow = rule.rate.zip(self.rate).is_none_or(|(wanted, measured)| {
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let wanted = wanted as f64;
            measured <= wanted * 1.1
        });
        // Held back together, some of the reordered ones keep their order.
        let reordered = rule.reorder == 0.0 || self.overtaken > 0;
        lossy
            && late
            && slow
            && reordered
            && often(f64::from(self.duplicated), arrived, rule.duplicate)
    }
}

/// One probe on its way.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    number: u32,
    sent: Instant,
    pub(super) bytes: usize,
    home: mpsc::UnboundedSender<Arrival>,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    number: u32,
    sent: Instant,
    at: Instant,
}

impl Probe {
    /// Reports home. Unbounded, but a measurement sends at most [`MAX_PROBES`], each of which arrives twice at most.
    pub(super) fn arrived(self) {
        // Whoever measured may have given up.
        let _ = self.home.send(Arrival {
            number: self.number,
            sent: self.sent,
            at: Instant::now(),
        });
    }
}

pub(super) async fn measure(switch: &Arc<Switch>, link: Link, plan: ProbePlan) -> Measured {
    let (home, mut arrivals) = mpsc::unbounded_channel();
    let count = plan.count.min(MAX_PROBES);
    for number in 0..count {
        let probe = Probe {
            number,
            sent: Instant::now(),
            bytes: plan.bytes,
            home: home.clone(),
        };
        switch.pass(link, Parcel::Probe(probe));
        if !plan.gap.is_zero() {
            sleep(plan.gap).await;
        } else if number % BURST == BURST - 1 {
            tokio::task::yield_now().await;
        }
    }
    // Probes that are lost drop their sender: when no probe is under way any more, the channel ends by itself.
    drop(home);
    let deadline = Instant::now() + plan.slowest + PATIENCE;
    let mut seen = Vec::new();
    while let Ok(Some(arrival)) = timeout_at(deadline, arrivals.recv()).await {
        seen.push(arrival);
    }
    evaluate(count, plan.bytes, &seen)
}

fn evaluate(sent: u32, bytes: usize, seen: &[Arrival]) -> Measured {
    let mut known = vec![false; sent as usize];
    let mut delays_ms = Vec::with_capacity(seen.len());
    let (mut duplicated, mut overtaken, mut newest) = (0, 0, None);
    for arrival in seen {
        if std::mem::replace(&mut known[arrival.number as usize], true) {
            duplicated += 1;
            continue;
        }
        delays_ms.push((arrival.at - arrival.sent).as_secs_f64() * 1000.0);
        if newest > Some(arrival.number) {
            overtaken += 1;
        }
        newest = newest.max(Some(arrival.number));
    }
    let arrived = u32::try_from(delays_ms.len()).expect("at most MAX_PROBES");
    let mean = if arrived == 0 {
        0.0
    } else {
        delays_ms.iter().sum::<f64>() / f64::from(arrived)
    };
    delays_ms.sort_by(f64::total_cmp);
    let quantile = |percent: usize| {
        delays_ms.get((delays_ms.len() * percent / 100).min(delays_ms.len().saturating_sub(1)))
    };
    #[expect(clippy::cast_precision_loss, reason = "at most 10 000 frames")]
    let bits = bytes as f64 * 8.0 * seen.len() as f64;
    // From the first sending, so that a late arrival of the first makes no link look fast.
    let begun = seen.iter().map(|arrival| arrival.sent).min();
    let span = begun
        .zip(seen.last())
        .map_or(0.0, |(begun, last)| (last.at - begun).as_secs_f64());
    Measured {
        sent,
        arrived,
        duplicated,
        overtaken,
        delay_mean_ms: mean,
        delay_p50_ms: quantile(50).copied().unwrap_or_default(),
        delay_p99_ms: quantile(99).copied().unwrap_or_default(),
        rate: (arrived > 1 && span > 0.0).then_some(bits / span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::fabric::delay;
    use crate::machines::fabric::rules::Layer;
    use tokio_util::sync::CancellationToken;

    async fn measured(rule: LinkRule, plan: ProbePlan) -> Measured {
        let (switch, _host, line) = Switch::new(2);
        switch
            .rules
            .write()
            .unwrap()
            .set((1, 2), rule, &Layer::tagged("test"), Instant::now())
            .unwrap();
        let _line = tokio::spawn(delay::run(
            Arc::clone(&switch),
            line,
            CancellationToken::new(),
        ));
        measure(&switch, (1, 2), plan).await
    }

    fn plan(count: u32, gap_ms: u64) -> ProbePlan {
        ProbePlan {
            count,
            gap: Duration::from_millis(gap_ms),
            bytes: 1250,
            slowest: Duration::from_secs(2),
        }
    }

    /// No upper bounds on times: a busy machine delivers late, but nothing delivers early.
    #[tokio::test]
    async fn probes_measure_what_the_rule_says() {
        let ms = Duration::from_millis;
        let perfect = measured(LinkRule::default(), plan(10, 1)).await;
        assert_eq!(
            (perfect.sent, perfect.arrived, perfect.overtaken),
            (10, 10, 0)
        );
        let cut = measured(LinkRule::cut(), plan(10, 1)).await;
        assert_eq!((cut.sent, cut.arrived, cut.rate), (10, 0, None));
        let late = measured(
            LinkRule {
                delay: ms(20),
                jitter: ms(5),
                ..LinkRule::default()
            },
            plan(40, 1),
        )
        .await;
        assert!(
            late.delay_mean_ms > 15.0 && late.arrived == 40 && late.overtaken == 0,
            "{late:?}"
        );
        let slow = measured(
            LinkRule {
                rate: Some(1_000_000),
                ..LinkRule::default()
            },
            plan(10, 0),
        )
        .await;
        assert!(slow.rate.unwrap() <= 1e6 && slow.arrived == 10, "{slow:?}");
        let mixed = measured(
            LinkRule {
                duplicate: 0.2,
                reorder: 0.2,
                ..LinkRule::default()
            },
            plan(500, 0),
        )
        .await;
        assert!(
            mixed.duplicated > 60 && mixed.overtaken > 60 && mixed.arrived == 500,
            "{mixed:?}"
        );
    }

    #[tokio::test]
    async fn a_rule_that_acts_shows_and_one_that_does_not_does_not() {
        let ms = Duration::from_millis;
        for rule in [
            LinkRule::cut(),
            LinkRule {
                delay: ms(50),
                jitter: ms(5),
                ..LinkRule::default()
            },
            LinkRule {
                loss: 0.01,
                ..LinkRule::default()
            },
            LinkRule {
                duplicate: 0.05,
                reorder: 0.05,
                delay: ms(5),
                ..LinkRule::default()
            },
            LinkRule {
                rate: Some(1_000_000),
                ..LinkRule::default()
            },
            LinkRule {
                rate: Some(100_000_000),
                ..LinkRule::default()
            },
        ] {
            let plan = ProbePlan::for_rule(&rule);
            let acting = measured(rule, plan).await;
            assert!(acting.shows(&rule), "{rule}: {acting:?}");
            let idle = measured(LinkRule::default(), plan).await;
            assert!(
                !idle.shows(&rule) || rule.rate.is_some(),
                "{rule}: {idle:?}"
            );
        }
    }
}
