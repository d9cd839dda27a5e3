//! Which nodes are silent, and which of those are lost: a pure function of beats and of what other nodes say.
//!
//! # A pause is not a death
//! A machine that is stopped for a second (a frozen VM, a host that gives its processor to somebody else) and one that lost its power
//! look the same from outside until the first comes back. So time decides, and only time that was really spent listening counts:
//!
//! - Nothing is evicted before a node was silent for [`PAUSE`], a beat, and the *patience*: by how much any node's beats were late of late
//!   by its own clock. A cluster whose processors are starved, which its nodes notice themselves, waits longer ([`PATIENCE_MAX`] at most),
//!   an idle one 1.3 s.
//! - When the server itself was late (its round came after it was due), everybody's silence is shortened by that time: what it could not hear
//!   it does not hold against anybody. After its start it judges only nodes it has heard, for [`START_GRACE`].
//! - Silence here may be the fault of the path to the server. Other nodes are asked to look for the silent one, again and again, from
//!   [`ASK_AFTER`] on (the indirect probe of SWIM, Das et al. 2002); a node is lost only when one that was not itself late (Lifeguard, Dadgar
//!   et al. 2017) found silence too, and none of those asked found it alive. An observer on the server's own machine shares the server's
//!   path: alone it counts only after [`EVICT_ALONE`].
//! - A node goes on serving while another answers it that the server hears that one, or so many answer that the server is gone that the brake
//!   holds here; and it believes what was answered for a while. So for [`SPARED_FOR`] after another node found it alive, or the brake held,
//!   it is not lost either; nor for [`WITNESS_FOR`] after another worker was heard last that is silent now, since that one may have told it so.
//! - A node whose beats come through may hear nothing itself, and says so with its beats. It is not lost for that; but it tells others that
//!   it does not reach the server, and serves on by their word. So it keeps the brake as if it were silent, and others are asked about it.
//! - A node that says it is fenced (it keeps service traffic from its pods, since its lease has lapsed) may be replaced without harm, unless
//!   the brake held: then all may have told it that the server is gone, and it lifts its fence.
//!
//! ```text
//!  Alive ──silent for 3 beats + patience──► Suspect ──NOT_READY_AFTER──► Silent
//!    ▲                                        │ pause + patience, corroborated   │
//!    └──────────── the next beat ─────────────┴──────────────► Lost ◄────────────┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::nodes::Brake;
use super::world::Liveness;
use crate::orchestrator::api::heartbeats::{Beat, Statement, Statements};
use crate::orchestrator::lateness::Lateness;
use crate::orchestrator::tunnel::{HEARTBEAT_INTERVAL_MS, PeerAnswer};

const BEAT: Duration = Duration::from_millis(HEARTBEAT_INTERVAL_MS);
/// A machine may be stopped for so long without anything being evicted.
const PAUSE: Duration = Duration::from_secs(1);
/// Patience with an idle cluster, and with one whose processors are starved.
const PATIENCE_MIN: Duration = Duration::from_millis(150);
const PATIENCE_MAX: Duration = Duration::from_secs(3);
/// Silent for so long (three beats, and half the least patience), a node is asked about and keeps the brake, however long the patience: by
/// what others say to it from then on it may serve on when that is over.
const ASK_AFTER: Duration = Duration::from_millis(HEARTBEAT_INTERVAL_MS * 3 + 75);
/// Silent for so long, a node is said to be not ready, whatever others find.
const NOT_READY_AFTER: Duration = Duration::from_millis(2500);
/// Without an observer on another machine than the server's, a node's pods are replaced after so long.
const EVICT_ALONE: Duration = Duration::from_secs(8);
/// After a start, agents have so long to come back before their silence is judged.
const START_GRACE: Duration = Duration::from_secs(10);
/// The detector looks so often.
const ROUND: Duration = Duration::from_millis(100);
/// A round may be so late before silence is shortened.
const TOLERATED: Duration = Duration::from_millis(20);
/// An observer is asked so often, and an answer counts for so long.
const ASK_EVERY: Duration = Duration::from_millis(250);
const ANSWER_COUNTS: Duration = Duration::from_secs(2);
/// After something spoke against replacing a node's pods, they are left alone for so long: as long as the node may go on serving on account of
/// it (`agent::lease::ANSWER_COUNTS`), and three rounds of its fence.
const SPARED_FOR: Duration = Duration::from_millis(1800);
/// So long after the server heard a worker last, others may serve on by its word that the server hears it (`agent::lease`: `ASK_AFTER`,
/// `ANSWER_COUNTS`, and a round of the fence).
const WITNESS_FOR: Duration = Duration::from_millis(2300);
/// A node that no answer of the server's has reached for so long says to others that it does not reach it (`agent::lease::ASK_AFTER`), though
/// its beats may come through: its brake holds as if it were silent.
const UNANSWERED_FOR: Duration = Duration::from_millis(700);
/// So many nodes at most are asked about one.
const OBSERVERS: usize = 3;

/// A node, as the detector needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watched {
    /// Its name.
    pub(super) name: String,
    /// It runs the control plane: it shares the server's path.
    pub(super) beside_server: bool,
}

/// What a round came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// How every node fares.
    pub(super) liveness: BTreeMap<String, Liveness>,
    /// Who is to be asked (first) about whom (second).
    pub(super) ask: Vec<(String, String)>,
}

/// Follows the beats of all nodes.
#[derive(Debug)]
pub(super) struct Detector {
    started: Instant,
    due: Instant,
    nodes: BTreeMap<String, Known>,
    lateness: Lateness,
    brake: Brake,
}

#[derive(Debug)]
struct Known {
    /// The last beat that was seen.
    beat: Option<Instant>,
    /// Silence counts from here: the last beat, later by what the server missed.
    heard: Instant,
    /// How long before that beat the server had answered the node, as far as the node knew.
    contact: Duration,
    liveness: Liveness,
    /// It has been silent for [`ASK_AFTER`].
    quiet: bool,
    /// It is quiet, or deaf, since then, and others are asked about it; that alone has no effect.
    doubted_since: Option<Instant>,
    asked: Option<Instant>,
    /// Until when something speaks against replacing its pods, unless it is fenced.
    spared_until: Option<Instant>,
    /// The brake held; who is fenced may lift its fence on account of that.
    braked_until: Option<Instant>,
}

impl Known {
    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// How long ago the server answered it, as far as it knew when it beat last.
    fn unanswered(&self, now: Instant) -> Duration {
        self.silence(now).saturating_add(self.contact)
    }

    fn spare(&mut self, until: Option<Instant>) {
        self.spared_until = self.spared_until.max(until);
    }
}

impl Detector {
    /// A detector of a server that starts now.
    pub(super) fn new(now: Instant, brake: Brake) -> Self {
        Self {
            started: now,
            due: now,
            nodes: BTreeMap::new(),
            lateness: Lateness::default(),
            brake,
        }
    }

    /// Judges all nodes; to be called every [`ROUND`].
    pub(super) fn round(
        &mut self,
        now: Instant,
        watched: &[Watched],
        beats: &BTreeMap<String, Beat>,
        statements: &Statements,
    ) -> Round {
        self.hear(now, watched, beats);
        let patience = self.patience(now);
        // First who is silent, then who may speak about them.
        let out_of_reach = self.out_of_reach(now, watched, patience);
        let workers = watched.iter().filter(|node| !node.beside_server).count();
        let braked = self.brake.holds(out_of_reach.len(), workers);
        let mut ask = Vec::new();
        for node in watched {
            let Some(known) = self
                .nodes
                .get_mut(&node.name)
                .filter(|known| known.doubted_since.is_some())
            else {
                continue;
            };
            let silence = known.silence(now);
            let others = out_of_reach.iter().filter(|(other, _)| *other != node.name);
            let witness = others
                .map(|(_, since)| *since)
                .min()
                .filter(|since| *since < WITNESS_FOR);
            known.spare(witness.map(|since| now + WITNESS_FOR - since));
            if braked {
                known.braked_until = Some(now + SPARED_FOR);
                // What was found before the brake held may not be so any more when it lets go.
                known.liveness = known.liveness.min(Liveness::Silent);
            }
            let observers = self.observers(watched, &node.name, beats);
            let (liveness, asked, found_alive) =
                self.judge(now, node, silence, patience, &observers, statements);
            let Some(known) = self.nodes.get_mut(&node.name) else {
                continue;
            };
            known.liveness = liveness;
            known.spare(found_alive.then(|| now + SPARED_FOR));
            if asked {
                known.asked = Some(now);
                ask.extend(
                    observers
                        .into_iter()
                        .map(|observer| (observer.name.clone(), node.name.clone())),
                );
            }
        }
        Round {
            liveness: self
                .nodes
                .iter()
                .map(|(name, known)| (name.clone(), known.liveness))
                .collect(),
            ask,
        }
    }

    /// Takes in what was heard since the last round.
    fn hear(&mut self, now: Instant, watched: &[Watched], beats: &BTreeMap<String, Beat>) {
        let missed = now.saturating_duration_since(self.due);
        self.due = now + ROUND;
        self.nodes
            .retain(|name, _| watched.iter().any(|node| node.name == *name));
        for node in watched {
            let known = self.nodes.entry(node.name.clone()).or_insert(Known {
                beat: None,
                heard: now,
                contact: Duration::MAX,
                liveness: Liveness::Alive,
                quiet: false,
                doubted_since: None,
                asked: None,
                spared_until: None,
                braked_until: None,
            });
            if missed > TOLERATED {
                known.heard = (known.heard + missed).min(now);
            }
            if let Some(beat) = beats
                .get(&node.name)
                .filter(|beat| known.beat != Some(beat.last))
            {
                known.beat = Some(beat.last);
                known.heard = known.heard.max(beat.last);
                known.contact = beat.contact;
                self.lateness.note(now, beat.late);
            }
        }
    }

    /// Says of all nodes whether they are quiet and suspect. Returns the workers that do not hear the server, or it does not hear, and how long
    /// ago they could say otherwise last. Who has not come back to this server yet may be on the other side of a partition with them.
    fn out_of_reach<'a>(
        &mut self,
        now: Instant,
        watched: &'a [Watched],
        patience: Duration,
    ) -> Vec<(&'a str, Duration)> {
        let suspected_after = ASK_AFTER + patience.saturating_sub(PATIENCE_MIN);
        let mut out_of_reach = Vec::new();
        for node in watched {
            let Some(known) = self.nodes.get_mut(&node.name) else {
                continue;
            };
            let silence = known.silence(now);
            let unknown =
                known.beat.is_none() && now.saturating_duration_since(self.started) < START_GRACE;
            known.quiet = !unknown && silence >= ASK_AFTER;
            let deaf = known.unanswered(now) >= UNANSWERED_FOR;
            if known.quiet || deaf && !unknown {
                known.doubted_since.get_or_insert(now);
            } else {
                (
                    known.doubted_since,
                    known.asked,
                    known.spared_until,
                    known.braked_until,
                ) = (None, None, None, None);
            }
            if unknown || silence < suspected_after {
                known.liveness = Liveness::Alive;
            } else {
                known.liveness = known.liveness.max(Liveness::Suspect);
            }
            let since = if known.quiet {
                silence
            } else {
                known.unanswered(now)
            };
            if !node.beside_server && (known.quiet || deaf) {
                out_of_reach.push((node.name.as_str(), since));
            }
        }
        out_of_reach
    }

    /// How long silence is borne beyond [`PAUSE`] and a beat.
    fn patience(&mut self, now: Instant) -> Duration {
        self.lateness.worst(now).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// Who may be asked about a node: those that beat, in an order that differs from node to node; those on other machines than the
    /// server's, if there are any.
    fn observers<'a>(
        &self,
        watched: &'a [Watched],
        about: &str,
        beats: &BTreeMap<String, Beat>,
    ) -> Vec<&'a Watched> {
        let speaks = |node: &&Watched| {
            node.name != about
                && self
                    .nodes
                    .get(&node.name)
                    .is_some_and(|known| !known.quiet && known.beat.is_some())
                && beats.get(&node.name).is_some_and(|beat| beat.connected)
        };
        let after = watched
            .iter()
            .position(|node| node.name == about)
            .unwrap_or(0);
        let around: Vec<&Watched> = watched[after..]
            .iter()
            .chain(&watched[..after])
            .filter(speaks)
            .collect();
        let elsewhere: Vec<&Watched> = around
            .iter()
            .copied()
            .filter(|node| !node.beside_server)
            .take(OBSERVERS)
            .collect();
        if elsewhere.is_empty() {
            around.into_iter().take(OBSERVERS).collect()
        } else {
            elsewhere
        }
    }

    /// What a silent node is, whether to ask about it now, and whether another finds it alive.
    fn judge(
        &self,
        now: Instant,
        node: &Watched,
        silence: Duration,
        patience: Duration,
        observers: &[&Watched],
        statements: &Statements,
    ) -> (Liveness, bool, bool) {
        let Some(known) = self.nodes.get(&node.name) else {
            return (Liveness::Suspect, false, false);
        };
        if known.liveness == Liveness::Lost {
            return (Liveness::Lost, false, false);
        }
        let asked = known
            .asked
            .is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_EVERY);
        let statements = statements.get(&node.name);
        let said = |observer: &&Watched| statements?.get(&observer.name);
        let fresh = |said: &&Statement| now.saturating_duration_since(said.asked) < ANSWER_COUNTS;
        let answers: Vec<&Statement> = observers.iter().filter_map(said).filter(fresh).collect();
        // Life speaks for a deaf node though it beat since; silence counts for nothing as soon as it has.
        let alive = answers
            .iter()
            .any(|said| known.doubted_since <= Some(said.asked) && said.answer.is_alive());
        let missing: Vec<PeerAnswer> = answers
            .iter()
            .filter(|said| said.asked > known.heard && said.answer.is_missing())
            .map(|said| said.answer)
            .collect();
        let fenced = missing.contains(&PeerAnswer::Fenced);
        let until = known
            .braked_until
            .max(if fenced { None } else { known.spared_until });
        let spared = until.is_some_and(|until| now < until);
        let alone = observers.iter().all(|observer| observer.beside_server);
        let limit = if alone {
            EVICT_ALONE
        } else {
            PAUSE + BEAT + patience
        };
        if silence >= limit && !missing.is_empty() && !alive && !spared {
            (Liveness::Lost, false, false)
        } else if known.liveness == Liveness::Alive {
            (Liveness::Alive, asked, alive)
        } else if silence >= NOT_READY_AFTER {
            (Liveness::Silent, asked, alive)
        } else {
            (Liveness::Suspect, asked, alive)
        }
    }

    /// When the next round is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster of c1, w1 and w2 that beats, and a detector whose rounds come when they are due.
    struct Case {
        detector: Detector,
        start: Instant,
        now_ms: u64,
        beats: BTreeMap<String, Beat>,
        statements: Statements,
        workers: usize,
        late: Duration,
        /// It beats, and cannot be asked.
        mute: Option<&'static str>,
        /// It beats, and hears no answer.
        deaf: Option<&'static str>,
    }

    impl Case {
        fn new() -> Self {
            let start = Instant::now();
            let mut case = Self {
                detector: Detector::new(start, Brake::default()),
                start,
                now_ms: 0,
                beats: BTreeMap::new(),
                statements: Statements::new(),
                workers: 2,
                late: Duration::ZERO,
                mute: None,
                deaf: None,
            };
            case.beat_until(20_000, &["c1", "w1", "w2"]);
            case
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// Rounds until then, with these nodes beating.
        fn beat_until(&mut self, to_ms: u64, beating: &[&str]) -> Round {
            let mut round = Round::default();
            while self.now_ms < to_ms {
                self.now_ms += 50;
                if self.now_ms.is_multiple_of(HEARTBEAT_INTERVAL_MS) {
                    for node in beating {
                        let beat = Beat {
                            last: self.at(self.now_ms),
                            late: self.late,
                            contact: if self.deaf == Some(*node) {
                                Duration::MAX
                            } else {
                                Duration::ZERO
                            },
                            connected: self.mute != Some(*node),
                        };
                        self.beats.insert((*node).to_owned(), beat);
                    }
                }
                if self.at(self.now_ms) >= self.detector.due() {
                    round = self.round();
                }
            }
            round
        }

        fn round(&mut self) -> Round {
            let mut watched = vec![Watched {
                name: "c1".to_owned(),
                beside_server: true,
            }];
            watched.extend((1..=self.workers).map(|n| Watched {
                name: format!("w{n}"),
                beside_server: false,
            }));
            self.detector.round(
                self.at(self.now_ms),
                &watched,
                &self.beats,
                &self.statements,
            )
        }

        /// `observer` was asked about w1 at that time.
        fn says(&mut self, observer: &str, at_ms: u64, answer: PeerAnswer) {
            let statement = Statement {
                asked: self.at(at_ms),
                answer,
            };
            self.statements
                .entry("w1".to_owned())
                .or_default()
                .insert(observer.to_owned(), statement);
        }
    }

    #[test]
    fn silence_is_suspected_corroborated_lost_and_forgiven() {
        let mut case = Case::new();
        let round = case.beat_until(20_300, &["c1", "w2"]);
        assert_eq!(round.liveness["w1"], Liveness::Alive);
        let round = case.beat_until(20_600, &["c1", "w2"]);
        assert_eq!(round.liveness["w1"], Liveness::Suspect);
        let mut asked = case.detector.nodes["w1"].asked;
        assert!(asked.is_some(), "another worker is asked");
        case.says("w2", 20_700, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(21_200, &["c1", "w2"]).liveness["w1"],
            Liveness::Suspect,
            "a pause of a second is borne"
        );
        assert_ne!(
            asked.take(),
            case.detector.nodes["w1"].asked,
            "and asked again"
        );
        assert_eq!(
            case.beat_until(21_400, &["c1", "w2"]).liveness["w1"],
            Liveness::Lost
        );
        assert_eq!(
            case.beat_until(22_000, &["c1", "w1", "w2"]).liveness["w1"],
            Liveness::Alive
        );
    }

    #[test]
    fn nothing_is_lost_without_corroboration() {
        for answer in [
            None,
            Some(PeerAnswer::Serving),
            Some(PeerAnswer::Refused),
            Some(PeerAnswer::Late),
        ] {
            let mut case = Case::new();
            for at in (20_500..40_000).step_by(500) {
                if let Some(answer) = answer {
                    case.says("w2", at, answer);
                }
                let round = case.beat_until(at + 500, &["c1", "w2"]);
                assert!(round.liveness["w1"] < Liveness::Lost, "{answer:?} at {at}");
            }
            assert_eq!(
                case.round().liveness["w1"],
                Liveness::Silent,
                "it is not ready all the same"
            );
        }
    }

    #[test]
    fn one_that_finds_it_alive_outweighs_one_that_does_not() {
        let mut case = Case::new();
        case.workers = 3;
        case.beat_until(30_000, &["c1", "w1", "w2", "w3"]);
        case.beat_until(30_700, &["c1", "w2", "w3"]);
        case.says("w2", 30_700, PeerAnswer::Silent);
        case.says("w3", 30_700, PeerAnswer::Serving);
        assert_eq!(
            case.beat_until(31_600, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Suspect
        );
        case.says("w3", 31_600, PeerAnswer::Fenced);
        assert_eq!(
            case.beat_until(31_700, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Lost,
            "a fenced node may be replaced"
        );
    }

    #[test]
    fn an_old_answer_counts_for_nothing() {
        let mut case = Case::new();
        case.says("w2", 19_000, PeerAnswer::Silent);
        assert!(
            case.beat_until(22_000, &["c1", "w2"]).liveness["w1"] < Liveness::Lost,
            "from before the silence"
        );
        case.says("w2", 22_000, PeerAnswer::Silent);
        case.statements.clear();
        assert!(case.beat_until(25_000, &["c1", "w2"]).liveness["w1"] < Liveness::Lost);
    }

    #[test]
    fn a_server_that_was_starved_holds_nothing_against_anybody() {
        let mut case = Case::new();
        // Stopped for 40 s: everybody's beats wait in its sockets.
        case.now_ms += 40_000;
        let round = case.round();
        assert!(
            round
                .liveness
                .values()
                .all(|liveness| *liveness == Liveness::Alive)
                && round.ask.is_empty()
        );
        // Starved: every round comes 300 ms late; silence runs at a quarter of the speed.
        for _ in 0..4 {
            case.now_ms += 400;
            let round = case.round();
            assert!(
                round
                    .liveness
                    .values()
                    .all(|liveness| *liveness == Liveness::Alive)
            );
        }
    }

    #[test]
    fn nodes_that_are_late_themselves_make_it_patient() {
        let mut case = Case::new();
        case.late = Duration::from_millis(700);
        case.beat_until(21_000, &["c1", "w1", "w2"]);
        case.beat_until(21_800, &["c1", "w2"]);
        assert_eq!(case.round().liveness["w1"], Liveness::Alive);
        for at in [22_000, 22_600] {
            case.says("w2", at, PeerAnswer::Silent);
            assert_eq!(
                case.beat_until(at + 100, &["c1", "w2"]).liveness["w1"],
                Liveness::Suspect
            );
        }
        assert_eq!(
            case.beat_until(22_900, &["c1", "w2"]).liveness["w1"],
            Liveness::Lost
        );
    }

    #[test]
    fn others_are_asked_whatever_the_patience() {
        let mut case = Case::new();
        case.late = Duration::from_secs(3);
        case.beat_until(21_000, &["c1", "w1", "w2"]);
        let round = case.beat_until(21_700, &["c1", "w2"]);
        assert!(case.detector.nodes["w1"].asked.is_some());
        assert_eq!(
            round.liveness["w1"],
            Liveness::Alive,
            "that alone has no effect"
        );
    }

    #[test]
    fn the_servers_own_machine_alone_is_a_weak_witness() {
        let mut case = Case::new();
        case.mute = Some("w2");
        case.beat_until(20_600, &["c1", "w2"]);
        for at in (20_700..28_000).step_by(500) {
            case.says("c1", at, PeerAnswer::Silent);
            assert!(case.beat_until(at + 100, &["c1", "w2"]).liveness["w1"] < Liveness::Lost);
        }
        case.says("c1", 28_000, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(28_200, &["c1", "w2"]).liveness["w1"],
            Liveness::Lost
        );
    }

    #[test]
    fn what_another_node_reached_is_spared_for_as_long_as_it_believes_that() {
        let mut case = Case::new();
        case.beat_until(21_500, &["c1", "w2"]);
        case.says("w2", 21_500, PeerAnswer::Serving);
        case.beat_until(22_000, &["c1", "w2"]);
        case.says("w2", 22_000, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(23_600, &["c1", "w2"]).liveness["w1"],
            Liveness::Silent
        );
        case.says("w2", 23_600, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(24_000, &["c1", "w2"]).liveness["w1"],
            Liveness::Lost
        );
    }

    #[test]
    fn when_the_brake_lets_go_everything_is_found_again() {
        let mut case = Case::new();
        case.workers = 3;
        case.beat_until(30_000, &["c1", "w1", "w2", "w3"]);
        case.beat_until(31_000, &["c1", "w3"]);
        case.says("w3", 31_000, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(32_000, &["c1", "w3"]).liveness["w1"],
            Liveness::Suspect,
            "two of three are silent"
        );
        case.says("w3", 32_500, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(33_500, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Silent,
            "w2 is just back"
        );
        case.says("w3", 33_500, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(34_200, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Lost
        );
    }

    #[test]
    fn a_witness_that_falls_silent_too_is_believed_for_a_while() {
        let mut case = Case::new();
        case.workers = 4;
        case.beat_until(30_000, &["c1", "w1", "w2", "w3", "w4"]);
        case.beat_until(31_000, &["c1", "w3", "w4"]);
        case.says("w3", 31_000, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(32_200, &["c1", "w3", "w4"]).liveness["w1"],
            Liveness::Suspect
        );
        case.says("w3", 32_200, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(32_500, &["c1", "w3", "w4"]).liveness["w1"],
            Liveness::Lost
        );
    }

    #[test]
    fn who_does_not_hear_the_server_keeps_its_brake() {
        let mut case = Case::new();
        case.workers = 3;
        case.beat_until(30_000, &["c1", "w1", "w2", "w3"]);
        case.deaf = Some("w3");
        case.says("w2", 30_700, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(32_000, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Suspect,
            "w3 tells w1 so"
        );
        case.deaf = None;
        case.says("w2", 32_300, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(33_700, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Silent
        );
        assert_eq!(
            case.beat_until(34_000, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Lost
        );
    }

    #[test]
    fn who_does_not_hear_the_server_is_asked_about_and_spared() {
        for (deaf, wanted) in [(None, Liveness::Lost), (Some("w1"), Liveness::Suspect)] {
            let mut case = Case::new();
            case.workers = 3;
            case.beat_until(30_000, &["c1", "w1", "w2", "w3"]);
            case.deaf = deaf;
            case.beat_until(30_700, &["c1", "w1", "w2", "w3"]);
            assert_eq!(case.detector.nodes["w1"].asked.is_some(), deaf.is_some());
            case.says("w2", 30_700, PeerAnswer::Serving);
            let round = case.beat_until(30_900, &["c1", "w1", "w2", "w3"]);
            assert_eq!(
                round.liveness["w1"],
                Liveness::Alive,
                "being asked about has no effect"
            );
            case.beat_until(31_600, &["c1", "w2", "w3"]);
            case.says("w2", 31_600, PeerAnswer::Silent);
            assert_eq!(
                case.beat_until(32_300, &["c1", "w2", "w3"]).liveness["w1"],
                wanted,
                "deaf: {deaf:?}"
            );
            case.says("w2", 33_300, PeerAnswer::Silent);
            assert_eq!(
                case.beat_until(33_500, &["c1", "w2", "w3"]).liveness["w1"],
                Liveness::Lost
            );
        }
    }

    #[test]
    fn a_node_that_is_fenced_is_spared_after_the_brake_held() {
        let mut case = Case::new();
        case.workers = 3;
        case.beat_until(30_000, &["c1", "w1", "w2", "w3"]);
        case.beat_until(32_000, &["c1", "w3"]);
        case.beat_until(32_200, &["c1", "w2", "w3"]);
        case.says("w3", 32_200, PeerAnswer::Fenced);
        assert_eq!(
            case.beat_until(33_500, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Silent,
            "it may lift its fence"
        );
        case.says("w3", 33_600, PeerAnswer::Fenced);
        assert_eq!(
            case.beat_until(34_100, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Lost
        );
    }

    #[test]
    fn who_has_not_come_back_to_a_restarted_server_keeps_its_brake() {
        let mut case = Case::new();
        case.detector = Detector::new(case.at(20_000), Brake::default());
        case.workers = 3;
        case.beat_until(20_300, &["c1", "w1", "w2"]);
        case.says("w2", 20_900, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(22_500, &["c1", "w2"]).liveness["w1"],
            Liveness::Suspect,
            "w3 may be cut off with it"
        );
        case.says("w2", 22_500, PeerAnswer::Silent);
        case.beat_until(24_000, &["c1", "w2", "w3"]);
        case.says("w2", 24_000, PeerAnswer::Silent);
        assert_eq!(
            case.beat_until(24_500, &["c1", "w2", "w3"]).liveness["w1"],
            Liveness::Lost
        );
    }

    #[test]
    fn a_restarted_server_waits_for_its_agents() {
        let start = Instant::now();
        let mut detector = Detector::new(start, Brake::default());
        let watched = [Watched {
            name: "w1".to_owned(),
            beside_server: false,
        }];
        let mut last = Liveness::Alive;
        for ms in (0..=15_000).step_by(100) {
            let round = detector.round(
                start + Duration::from_millis(ms),
                &watched,
                &BTreeMap::new(),
                &Statements::new(),
            );
            last = round.liveness["w1"];
            assert_eq!(last == Liveness::Alive, ms < 10_000, "{ms}");
        }
        assert_eq!(last, Liveness::Silent, "nobody corroborates");
    }
}
