//! Link rules where the machines' network is not ours: each acts on a machine, in its own kernel, and holds its deadline there. See
//! [`crate::cluster::machine::fault`].
//!
//! The daemon tells a machine again well before the deadline, for as long as the rule is wanted: a daemon that dies heals within [`HOLD`].
//! The host dials the cluster from the machines themselves, so that a machine's link with the host follows its links with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::links::{LinkChange, LinkEffect, LinkHeal, LinkState};
use crate::cluster::machine::fault::{Direction, Effect, LinkOrder, LinkOrders, RoundTrips};
use crate::machines::fabric::{LinkRule, Links, Measured, Port};
use crate::machines::provider::Provider;
use crate::model::addresses;
use crate::model::cluster::ClusterSpec;
use crate::model::names::NodeName;
use crate::shell::ssh::Ssh;

/// How long a rule holds without us.
const HOLD: Duration = Duration::from_mins(1);
/// How often it is told again.
const RENEW_INTERVAL: Duration = Duration::from_secs(20);
/// Longest that a machine may take to let us in; an emulated one under load takes seconds.
const REACH_LIMIT: Duration = Duration::from_secs(20);
/// How long a machine may take to answer on a session that was kept: it may have lost its power since.
const KEPT_LIMIT: Duration = Duration::from_secs(30);
/// Our binary on a machine.
const BINARY: &str = "$(ls -t /var/lib/flightcage/bin/flightcage-* | head -n 1)";
/// Round trips measured where the rule leaves nothing to chance.
const PROBES: u32 = 20;
/// How long an answer may take beside what the rule adds: less than the second after which a lost SYN is sent again.
const ANSWER_LIMIT: Duration = Duration::from_millis(900);

/// A rule of one directed link.
#[derive(Debug, Clone, PartialEq)]
struct Acting {
    tag: String,
    rule: LinkRule,
    /// The machine on which it acts.
    keeper: NodeName,
    until: Option<Instant>,
}

/// The rules of all directed links, in the order in which they were set.
#[derive(Debug, Default)]
struct Rules(BTreeMap<(NodeName, NodeName), Vec<Acting>>);

/// The links of machines with a network of their own.
pub(super) struct MachineLinks {
    spec: ClusterSpec,
    provider: Arc<dyn Provider>,
    rules: Mutex<Rules>,
    sessions: Mutex<BTreeMap<NodeName, Ssh>>,
}

impl MachineLinks {
    pub(super) fn new(spec: &ClusterSpec, provider: Arc<dyn Provider>) -> Self {
        Self {
            spec: spec.clone(),
            provider,
            rules: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    /// The machines and the host, by the names that rules use.
    pub(super) fn ports(&self) -> Vec<Port> {
        let nodes = self
            .spec
            .machines
            .iter()
            .map(|machine| Port::Node(machine.name.clone()));
        [Port::Host].into_iter().chain(nodes).collect()
    }

    /// Sets a rule and returns what it does, as measured by round trips before and after.
    ///
    /// # Errors
    /// With what a machine said.
    pub(super) async fn change(&self, change: &LinkChange) -> Result<Vec<LinkEffect>, String> {
        change.rule.validate().map_err(|error| error.to_string())?;
        let links = nodes_of(&change.links, &self.ports());
        if links.is_empty() {
            return Err(
                "no link between two machines is meant, and the host is on none of theirs".into(),
            );
        }
        let count = probes(&change.rule);
        let before = join_all(
            links
                .iter()
                .map(|link| self.measure(link, PROBES, ANSWER_LIMIT)),
        )
        .await;
        {
            let mut rules = self.rules.lock().await;
            let keepers = rules.set(change, &links);
            self.tell(&rules, &keepers).await?;
        }
        let acts_since = Instant::now();
        let limit = ANSWER_LIMIT + 2 * (change.rule.delay + change.rule.jitter);
        let after = join_all(links.iter().map(|link| self.measure(link, count, limit))).await;
        let effect =
            |(((from, to), before), after): (((NodeName, NodeName), RoundTrips), RoundTrips)| {
                let measured = compare(&before, &after);
                // Where nothing passed before, nothing is shown by nothing passing; and a round trip shows no rate.
                let verified = !before.answered_ms.is_empty()
                    && change.rule.rate.is_none()
                    && measured.shows(&change.rule);
                LinkEffect {
                    from: Port::Node(from),
                    to: Port::Node(to),
                    measured,
                    verified,
                    acted_for: acts_since.elapsed(),
                }
            };
        Ok(links
            .into_iter()
            .zip(before)
            .zip(after)
            .map(effect)
            .collect())
    }

    /// Removes rules.
    ///
    /// # Errors
    /// With what a machine said; the others are healed all the same, and this one heals itself.
    pub(super) async fn heal(&self, heal: &LinkHeal) -> Result<(), String> {
        let links = nodes_of(&heal.links, &self.ports());
        let mut rules = self.rules.lock().await;
        let keepers = rules.remove(|link, acting| {
            links.contains(link) && heal.tag.as_ref().is_none_or(|tag| *tag == acting.tag)
        });
        self.tell(&rules, &keepers).await
    }

    /// Every directed link between machines, with what acts on it.
    pub(super) async fn states(&self) -> Vec<LinkState> {
        let rules = self.rules.lock().await;
        let state = |link: (NodeName, NodeName)| LinkState {
            rules: rules
                .0
                .get(&link)
                .into_iter()
                .flatten()
                .map(|acting| (acting.tag.clone(), acting.rule))
                .collect(),
            from: Port::Node(link.0),
            to: Port::Node(link.1),
            counters: None,
        };
        nodes_of(&Links::all(), &self.ports())
            .into_iter()
            .map(state)
            .collect()
    }

    /// Tells machines again what they are to hold, and ends what has lasted long enough, for ever.
    pub(super) async fn renew(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RENEW_INTERVAL).await;
            let mut rules = self.rules.lock().await;
            let now = Instant::now();
            let mut keepers =
                rules.remove(|_, acting| acting.until.is_some_and(|until| until <= now));
            keepers.extend(
                rules
                    .0
                    .values()
                    .flatten()
                    .map(|acting| acting.keeper.clone()),
            );
            if let Err(error) = self.tell(&rules, &keepers).await {
                tracing::warn!(
                    error,
                    "rules could not be told again; they will heal themselves"
                );
            }
        }
    }

    /// Tells machines everything that they are to hold.
    async fn tell(&self, rules: &Rules, keepers: &BTreeSet<NodeName>) -> Result<(), String> {
        let tell = async |node: &NodeName| {
            let orders = LinkOrders {
                hold_s: HOLD.as_secs(),
                rules: rules.orders(node, &self.spec),
            };
            let orders = serde_json::to_vec(&orders).expect("orders are plain data");
            self.run(node, "links --client ${SSH_CONNECTION%% *}", Some(orders))
                .await
                .map(drop)
        };
        join_all(keepers.iter().map(tell))
            .await
            .into_iter()
            .collect()
    }

    /// Round trips over a link and back. A machine that cannot be asked has sent none.
    async fn measure(
        &self,
        (from, to): &(NodeName, NodeName),
        count: u32,
        limit: Duration,
    ) -> RoundTrips {
        let Some(to) = self.spec.index_of(to) else {
            return RoundTrips::default();
        };
        let verb = format!(
            "probe {} {count} {}",
            self.spec.address(to),
            limit.as_millis()
        );
        let answer = self.run(from, &verb, None).await;
        answer
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    async fn run(
        &self,
        node: &NodeName,
        verb: &str,
        stdin: Option<Vec<u8>>,
    ) -> Result<String, String> {
        let what =
            |error: &dyn std::fmt::Display| format!("change the links of node `{node}`: {error}");
        let command = format!("sudo -n {BINARY} machine {verb}");
        let kept = self.sessions.lock().await.get(node).cloned();
        let answered = match &kept {
            Some(ssh) => ssh
                .run_within(&command, stdin.clone(), KEPT_LIMIT)
                .await
                .ok(),
            None => None,
        };
        let output = match answered {
            Some(output) => output,
            // The first, or one of before the machine lost its power; saying a thing twice does no harm.
            None => self
                .session(node)
                .await?
                .run(&command, stdin)
                .await
                .map_err(|error| what(&error))?,
        };
        Ok(output.check(&command).map_err(|error| what(&error))?.text())
    }

    /// A new session. It is kept: logging in takes an emulated machine a second.
    async fn session(&self, node: &NodeName) -> Result<Ssh, String> {
        let target = self
            .provider
            .login(node)
            .await
            .map_err(|error| error.to_string())?;
        let target = target.ok_or_else(|| format!("node `{node}` has no login"))?;
        let ssh = Ssh::connect(&target, REACH_LIMIT)
            .await
            .map_err(|error| format!("reach node `{node}`: {error}"))?;
        self.sessions.lock().await.insert(node.clone(), ssh.clone());
        Ok(ssh)
    }
}

/// The directed links between machines that are meant.
fn nodes_of(links: &Links, ports: &[Port]) -> Vec<(NodeName, NodeName)> {
    let nodes = |link: (Port, Port)| match link {
        (Port::Node(from), Port::Node(to)) => Some((from, to)),
        _ => None,
    };
    links.among(ports).into_iter().filter_map(nodes).collect()
}

impl Rules {
    /// Enters a change, and returns the machines that have to be told.
    ///
    /// What is cut is dropped by a machine that the change names, whichever way it goes, so that one machine does it at one moment; what is
    /// shaped waits where it is sent.
    fn set(&mut self, change: &LinkChange, links: &[(NodeName, NodeName)]) -> BTreeSet<NodeName> {
        let named: Vec<&NodeName> = change
            .links
            .named()
            .filter_map(|port| {
                if let Port::Node(node) = port {
                    Some(node)
                } else {
                    None
                }
            })
            .collect();
        let until = change.lasts.map(|lasts| Instant::now() + lasts);
        let mut keepers = BTreeSet::new();
        for link in links {
            let (from, to) = link;
            let first = named.iter().find(|node| **node == from || **node == to);
            let keeper = if change.rule.cut {
                first.copied().unwrap_or(from)
            } else {
                from
            };
            let acting = Acting {
                tag: change.tag.clone(),
                rule: change.rule,
                keeper: keeper.clone(),
                until,
            };
            let rules = self.0.entry(link.clone()).or_default();
            if let Some(old) = rules.iter().position(|old| old.tag == change.tag) {
                keepers.insert(rules.remove(old).keeper);
            }
            rules.push(acting);
            keepers.insert(keeper.clone());
        }
        keepers
    }

    /// Removes rules, and returns the machines that have to be told.
    fn remove(
        &mut self,
        over: impl Fn(&(NodeName, NodeName), &Acting) -> bool,
    ) -> BTreeSet<NodeName> {
        let mut keepers = BTreeSet::new();
        for (link, rules) in &mut self.0 {
            keepers.extend(
                rules
                    .extract_if(.., |acting| over(link, acting))
                    .map(|acting| acting.keeper),
            );
        }
        self.0.retain(|_, rules| !rules.is_empty());
        keepers
    }

    /// Everything that one machine is to hold.
    fn orders(&self, keeper: &NodeName, spec: &ClusterSpec) -> Vec<LinkOrder> {
        let mut orders = Vec::new();
        for ((from, to), rules) in &self.0 {
            let own: Vec<LinkRule> = rules
                .iter()
                .filter(|acting| acting.keeper == *keeper)
                .map(|acting| acting.rule)
                .collect();
            let (peer, direction) = if from == keeper {
                (to, Direction::Out)
            } else {
                (from, Direction::In)
            };
            let Some(peer) = spec.index_of(peer) else {
                continue;
            };
            let (pods, prefix) = addresses::pod_network(peer);
            let address = spec.address(peer);
            let order = |effect| LinkOrder {
                peer: address,
                networks: vec![format!("{address}/32"), format!("{pods}/{prefix}")],
                direction,
                effect,
            };
            if own.iter().any(|rule| rule.cut) {
                orders.push(order(Effect::Cut));
            } else if !own.is_empty() {
                orders.push(order(Effect::Shape(netem(&own))));
            }
        }
        orders
    }
}

/// The layers of a link as one `netem`.
fn netem(rules: &[LinkRule]) -> Vec<String> {
    let ms = |duration: Duration| format!("{:.3}ms", duration.as_secs_f64() * 1000.0);
    let percent = |share: f64| format!("{:.4}%", share * 100.0);
    let sum = |of: fn(&LinkRule) -> Duration| rules.iter().map(of).sum::<Duration>();
    // At least one of independent events.
    let any =
        |of: fn(&LinkRule) -> f64| 1.0 - rules.iter().map(|rule| 1.0 - of(rule)).product::<f64>();
    let (mut delay, jitter) = (sum(|rule| rule.delay), sum(|rule| rule.jitter));
    let (loss, duplicate, reorder) = (
        any(|rule| rule.loss),
        any(|rule| rule.duplicate),
        any(|rule| rule.reorder),
    );
    // netem lets a share overtake, and there has to be something to overtake.
    if reorder > 0.0 && delay.is_zero() {
        delay = Duration::from_millis(10);
    }
    let mut words = Vec::new();
    if !delay.is_zero() {
        words.extend(["delay".to_owned(), ms(delay)]);
        if !jitter.is_zero() {
            words.push(ms(jitter));
        }
    }
    for (word, share) in [
        ("loss", loss),
        ("duplicate", duplicate),
        ("reorder", reorder),
    ] {
        if share > 0.0 {
            words.extend([word.to_owned(), percent(share)]);
        }
    }
    if let Some(rate) = rules.iter().filter_map(|rule| rule.rate).min() {
        words.extend(["rate".to_owned(), format!("{rate}bit")]);
    }
    words
}

/// Round trips that can show the rule.
fn probes(rule: &LinkRule) -> u32 {
    if rule.cut || rule.loss <= 0.0 {
        return PROBES;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 1000"
    )]
    let count = (40.0 / rule.loss).clamp(100.0, 1000.0) as u32;
    count
}

/// What a link does more than before, as far as round trips show it.
fn compare(before: &RoundTrips, after: &RoundTrips) -> Measured {
    let mean = |times: &[f64]| {
        #[expect(clippy::cast_precision_loss, reason = "at most 1000")]
        let count = times.len().max(1) as f64;
        times.iter().sum::<f64>() / count
    };
    let usual = mean(&before.answered_ms);
    let mut added: Vec<f64> = after
        .answered_ms
        .iter()
        .map(|time| (time - usual).max(0.0))
        .collect();
    added.sort_by(f64::total_cmp);
    let at = |share: usize| {
        added
            .get(added.len() * share / 100)
            .or(added.last())
            .copied()
            .unwrap_or_default()
    };
    Measured {
        sent: after.sent,
        arrived: u32::try_from(added.len()).unwrap_or(u32::MAX),
        duplicated: 0,
        overtaken: 0,
        delay_mean_ms: mean(&added),
        delay_p50_ms: at(50),
        delay_p99_ms: at(99),
        rate: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ClusterSpec {
        ClusterSpec::with_workers("test".parse().unwrap(), 2)
    }

    fn change(links: Links, rule: LinkRule, tag: &str) -> LinkChange {
        LinkChange {
            links,
            rule,
            lasts: None,
            tag: tag.into(),
            seed: 1,
        }
    }

    fn ports() -> Vec<Port> {
        ["host", "c1", "w1", "w2"]
            .map(|name| name.parse().unwrap())
            .to_vec()
    }

    fn set(rules: &mut Rules, change: &LinkChange) -> BTreeSet<NodeName> {
        rules.set(change, &nodes_of(&change.links, &ports()))
    }

    fn check(rules: &Rules, expected: &[&str]) {
        let mut lines = Vec::new();
        for machine in spec().machines {
            for order in rules.orders(&machine.name, &spec()) {
                lines.push(format!(
                    "{} {:?} {} {:?}",
                    machine.name,
                    order.direction,
                    order.networks.join(" "),
                    order.effect
                ));
            }
        }
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_machine_that_is_cut_off_drops_both_ways_itself() {
        let mut rules = Rules::default();
        let told = set(
            &mut rules,
            &change(Links::of_node(&"w1".parse().unwrap()), LinkRule::cut(), "a"),
        );
        assert_eq!(told, BTreeSet::from(["w1".parse().unwrap()]));
        check(
            &rules,
            &[
                "w1 In 10.77.0.11/32 10.78.0.0/24 Cut",
                "w1 Out 10.77.0.11/32 10.78.0.0/24 Cut",
                "w1 Out 10.77.0.13/32 10.78.2.0/24 Cut",
                "w1 In 10.77.0.13/32 10.78.2.0/24 Cut",
            ],
        );
    }

    #[test]
    fn what_is_slow_is_slow_where_it_is_sent_and_layers_add_up() {
        let mut rules = Rules::default();
        let slow = |delay_ms, loss| LinkRule {
            delay: Duration::from_millis(delay_ms),
            loss,
            ..LinkRule::default()
        };
        let link = Links::Between {
            from: Some("c1".parse().unwrap()),
            to: Some("w2".parse().unwrap()),
            both_directions: false,
        };
        set(&mut rules, &change(link.clone(), slow(50, 0.5), "a"));
        set(&mut rules, &change(link, slow(20, 0.5), "b"));
        check(
            &rules,
            &[
                r#"c1 Out 10.77.0.13/32 10.78.2.0/24 Shape(["delay", "70.000ms", "loss", "75.0000%"])"#,
            ],
        );
        let told = rules.remove(|_, acting| acting.tag == "a");
        assert_eq!(told, BTreeSet::from(["c1".parse().unwrap()]));
        check(
            &rules,
            &[
                r#"c1 Out 10.77.0.13/32 10.78.2.0/24 Shape(["delay", "20.000ms", "loss", "50.0000%"])"#,
            ],
        );
    }

    #[test]
    fn a_rule_is_shown_by_what_it_adds() {
        let trips = |answered_ms: &[f64]| RoundTrips {
            sent: 4,
            answered_ms: answered_ms.to_vec(),
        };
        let usual = trips(&[2.0, 2.0, 4.0, 4.0]);
        let slow = LinkRule {
            delay: Duration::from_millis(50),
            ..LinkRule::default()
        };
        assert!(compare(&usual, &trips(&[53.0, 54.0, 55.0, 56.0])).shows(&slow));
        assert!(!compare(&usual, &trips(&[43.0, 44.0, 45.0, 46.0])).shows(&slow));
        assert!(compare(&usual, &trips(&[])).shows(&LinkRule::cut()));
        assert!(!compare(&usual, &usual).shows(&LinkRule::cut()));
    }
}
