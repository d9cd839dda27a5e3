//! Who had no processor left, and who took it: a pure function of what was spent between two looks.
//!
//! ```text
//! the machine wanted more than it got ──► others took a tenth of the host: `others`
//!                                     └─► nobody else did:                  `cage` (our other machines)
//! the machine got all that one has    ──►                                   `cage` (emulation at its limit)
//! ```

use std::collections::BTreeMap;

use super::sample::Sample;

/// A machine that got so much of its processors has nothing to spare.
const FULL: f64 = 0.95;
/// So much of the time on the run queue is too little processor, whoever took it: every answer waits its turn.
const QUEUED: f64 = 0.25;
/// So much is, if others took it.
const QUEUED_BEHIND_OTHERS: f64 = 0.1;
/// So much of the host is worth a word about the others.
const OTHERS: f64 = 0.1;
/// Less of the host than this is as good as none.
const IDLE: f64 = 0.1;
/// The whole host is short of processors when nothing is idle and others take more of it than this: of two processors, two fifths of one;
const OTHERS_OF_A_FULL_HOST: f64 = 0.2;
/// and anything of ours waits for more than this share of the time. Others that stand behind us take only what we leave.
const WAITS: f64 = 0.05;
/// Two spans of one cause with less than this between them are one.
const JOINED_MS: f64 = 750.0;
/// A run keeps at most so many spans; what comes later makes the last of its kind longer.
const SPANS_MAX: usize = 2_000;

/// Who left a machine without processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::scenario) enum By {
    /// Programs that are not of this cluster.
    Others,
    /// The cluster itself: emulation at its limit, or its other machines.
    Cage,
}

/// A span in which somebody had no processor left.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::scenario) struct Starved {
    /// On the run's clock.
    pub(in crate::scenario) from_ms: f64,
    /// On the run's clock.
    pub(in crate::scenario) to_ms: f64,
    /// Who took it.
    pub(in crate::scenario) by: By,
    /// The machine; without one, the host: the prober or the network between the machines.
    pub(in crate::scenario) machine: Option<String>,
    /// `Others`: what they took of the host. `Cage`: what the machine got of its own processors.
    pub(in crate::scenario) share: f64,
}

/// What was spent between two looks, as shares.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Slice {
    pub(super) from_ms: f64,
    pub(super) to_ms: f64,
    /// Of the host.
    pub(super) idle: f64,
    /// Of the host.
    pub(super) others: f64,
    /// Of one processor, by the prober's and the daemon's threads together.
    pub(super) carriers_waited: f64,
    /// By machine.
    pub(super) machines: BTreeMap<String, Use>,
}

/// What a machine did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Use {
    /// Of all its processors.
    pub(super) ran: f64,
    /// Of one processor: an answer is the work of one.
    pub(super) waited: f64,
    /// Of all its processors, got or not.
    pub(super) wanted: f64,
}

impl Slice {
    /// What became of the time between two looks; `None` if none went by.
    pub(super) fn between(before: (f64, &Sample), after: (f64, &Sample)) -> Option<Self> {
        let ((from_ms, old), (to_ms, new)) = (before, after);
        let idle = new.idle_ns.saturating_sub(old.idle_ns);
        let busy = new.busy_ns.saturating_sub(old.busy_ns);
        let ours = new.ours_ns.saturating_sub(old.ours_ns);
        if idle + busy == 0 || to_ms <= from_ms {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of seconds")]
        let (of_host, of_one) = (
            |ns: u64| ns as f64 / (idle + busy) as f64,
            |ns: u64| ns as f64 / ((to_ms - from_ms) * 1e6),
        );
        let used = new.machines.iter().filter_map(|(name, machine)| {
            // What a new process did before it was first seen is not known.
            let old = old
                .machines
                .get(name)
                .filter(|old| old.pid == machine.pid)?;
            let guest = machine.guest.since(old.guest);
            let processors = f64::from(machine.processors);
            let used = Use {
                ran: of_one(guest.ran_ns) / processors,
                waited: of_one(guest.waited_ns),
                wanted: of_one(guest.ran_ns + guest.waited_ns) / processors,
            };
            Some((name.clone(), used))
        });
        Some(Self {
            from_ms,
            to_ms,
            idle: of_host(idle),
            others: of_host(busy.saturating_sub(ours)),
            carriers_waited: of_one(new.carriers.since(old.carriers).waited_ns),
            machines: used.collect(),
        })
    }
}

/// Who had no processor left in a slice.
pub(super) fn starved(slice: &Slice) -> Vec<Starved> {
    let span = |machine: Option<&String>, by, share| Starved {
        from_ms: slice.from_ms,
        to_ms: slice.to_ms,
        by,
        machine: machine.cloned(),
        share,
    };
    let mut found = Vec::new();
    let waited = slice.machines.values().map(|used| used.waited);
    let waited = waited.fold(slice.carriers_waited, f64::max);
    if slice.idle < IDLE && slice.others > OTHERS_OF_A_FULL_HOST && waited > WAITS {
        found.push(span(None, By::Others, slice.others));
    } else if slice.carriers_waited >= QUEUED {
        let (by, share) = if slice.others >= OTHERS {
            (By::Others, slice.others)
        } else {
            (By::Cage, 1.0 - slice.idle)
        };
        found.push(span(None, by, share));
    }
    for (name, used) in &slice.machines {
        if used.waited >= QUEUED_BEHIND_OTHERS && slice.others >= OTHERS {
            found.push(span(Some(name), By::Others, slice.others));
        } else if used.waited >= QUEUED || used.wanted >= FULL {
            found.push(span(Some(name), By::Cage, used.ran.min(1.0)));
        }
    }
    found
}

/// The spans so far, joined where they touch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Spans(pub(super) Vec<Starved>);

impl Spans {
    /// Adds what a slice shows.
    pub(super) fn add(&mut self, slice: &Slice) {
        for new in starved(slice) {
            let full = self.0.len() >= SPANS_MAX;
            let same = |old: &&mut Starved| old.machine == new.machine && old.by == new.by;
            match self.0.iter_mut().rev().find(same) {
                Some(last) if full || new.from_ms - last.to_ms < JOINED_MS => {
                    let (before, lasts) = (last.to_ms - last.from_ms, new.to_ms - new.from_ms);
                    last.share = (last.share * before + new.share * lasts) / (before + lasts);
                    last.to_ms = new.to_ms;
                }
                _ if full => {}
                _ => self.0.push(new),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Machine, Times};
    use super::*;

    fn slice(idle: f64, others: f64, used: &[(&str, f64, f64)]) -> Slice {
        let machines = used
            .iter()
            .map(|(name, ran, waited)| {
                let (ran, waited) = (*ran, *waited);
                let wanted = ran + waited;
                (
                    (*name).to_owned(),
                    Use {
                        ran,
                        waited,
                        wanted,
                    },
                )
            })
            .collect();
        Slice {
            to_ms: 500.0,
            idle,
            others,
            machines,
            ..Slice::default()
        }
    }

    #[test]
    fn who_had_no_processor_left() {
        use By::{Cage, Others};
        let check = |what: &str, slice: Slice, wanted: &[(Option<&str>, By)]| {
            let found = starved(&slice);
            let found: Vec<_> = found
                .iter()
                .map(|span| (span.machine.as_deref(), span.by))
                .collect();
            assert_eq!(found, wanted, "{what}: {slice:?}");
        };
        check("to spare", slice(0.3, 0.0, &[("w1", 0.7, 0.05)]), &[]);
        check(
            "busy, with a little to spare",
            slice(0.3, 0.0, &[("w1", 0.9, 0.04)]),
            &[],
        );
        check(
            "emulation at its limit",
            slice(0.3, 0.0, &[("w1", 0.97, 0.0), ("w2", 0.4, 0.0)]),
            &[(Some("w1"), Cage)],
        );
        check(
            "it waits for another machine of ours",
            slice(0.0, 0.02, &[("w1", 0.5, 0.3), ("w2", 0.8, 0.1)]),
            &[(Some("w1"), Cage)],
        );
        check(
            "others take a quarter of the host, and it waits for them",
            slice(0.2, 0.25, &[("w1", 0.5, 0.12)]),
            &[(Some("w1"), Others)],
        );
        check(
            "others are there, but it does not wait",
            slice(0.4, 0.25, &[("w1", 0.5, 0.02)]),
            &[],
        );
        check(
            "others take half of a full host",
            slice(0.0, 0.5, &[("w1", 0.4, 0.08)]),
            &[(None, Others)],
        );
        check(
            "others take half of a full host, and stand behind us",
            slice(0.0, 0.5, &[("w1", 0.4, 0.02)]),
            &[],
        );
        check(
            "others fill what is left",
            slice(0.0, 0.1, &[("w1", 0.4, 0.05)]),
            &[],
        );
        let carriers = |others| Slice {
            carriers_waited: 0.3,
            ..slice(0.2, others, &[])
        };
        check(
            "the prober waits for our machines",
            carriers(0.0),
            &[(None, Cage)],
        );
        check(
            "the prober waits for others",
            carriers(0.15),
            &[(None, Others)],
        );
    }

    #[test]
    fn spans_that_touch_are_one() {
        let mut spans = Spans::default();
        for (from, ran) in [
            (0.0, 1.0),
            (500.0, 0.96),
            (1000.0, 0.5),
            (1500.0, 1.0),
            (3000.0, 1.0),
        ] {
            let (from_ms, to_ms) = (from, from + 500.0);
            let shown = slice(0.3, 0.0, &[("w1", ran, 0.0)]);
            spans.add(&Slice {
                from_ms,
                to_ms,
                ..shown
            });
        }
        let found: Vec<_> = spans
            .0
            .iter()
            .map(|span| (span.from_ms, span.to_ms))
            .collect();
        assert_eq!(found, [(0.0, 2000.0), (3000.0, 3500.0)]);
    }

    #[test]
    fn shares_of_what_was_spent_between_two_looks() {
        let machine = |pid, ran_ms: u64, waited_ms: u64| Machine {
            pid,
            processors: 2,
            guest: Times {
                ran_ns: ran_ms * 1_000_000,
                waited_ns: waited_ms * 1_000_000,
            },
            ..Machine::default()
        };
        let look =
            |idle_ms: u64, busy_ms: u64, ours_ms: u64, machines: &[(&str, Machine)]| Sample {
                idle_ns: idle_ms * 1_000_000,
                busy_ns: busy_ms * 1_000_000,
                ours_ns: ours_ms * 1_000_000,
                machines: machines
                    .iter()
                    .map(|(name, machine)| ((*name).to_owned(), *machine))
                    .collect(),
                ..Sample::default()
            };
        let old = look(
            100,
            1000,
            50,
            &[("w1", machine(7, 100, 0)), ("w2", machine(8, 900, 0))],
        );
        let new = look(
            200,
            1900,
            350,
            &[("w1", machine(7, 600, 100)), ("w2", machine(9, 50, 0))],
        );
        let slice = Slice::between((0.0, &old), (500.0, &new)).expect("time went by");
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(
            near(slice.idle, 0.1) && near(slice.others, 0.6),
            "{slice:?}"
        );
        // `w2` is another process by now: nothing is known of it.
        assert_eq!(slice.machines.len(), 1, "{slice:?}");
        let used = slice.machines["w1"];
        assert!(
            near(used.ran, 0.5) && near(used.waited, 0.2) && near(used.wanted, 0.6),
            "{slice:?}"
        );
        assert_eq!(Slice::between((500.0, &new), (500.0, &new)), None);
    }
}
