//! The links between machines, and what may be done to them: plain data.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names::{InvalidName, NodeName};

/// The gateway's name where a port is written.
const HOST: &str = "host";
/// Longest delay a link may have.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// Slowest rate a link may have, in bits a second: a full frame then takes 1.5 s.
const MIN_RATE: u64 = 8_000;
/// Layers that one link may carry.
pub(crate) const MAX_LAYERS: usize = 16;

/// A place on the switch. Written as the node's name, or `host`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Port {
    /// The gateway: the host's own connections.
    Host,
    /// A machine's cluster NIC.
    Node(NodeName),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str(HOST),
            Self::Node(node) => node.fmt(f),
        }
    }
}

impl std::str::FromStr for Port {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text == HOST {
            Ok(Self::Host)
        } else {
            text.parse().map(Self::Node)
        }
    }
}

impl TryFrom<String> for Port {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

/// Which directed links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Links {
    /// Those between two ports.
    Between {
        /// One end; `None`: every port.
        from: Option<Port>,
        /// The other end; `None`: every port.
        to: Option<Port>,
        /// The opposite direction, too.
        both_directions: bool,
    },
    /// Those that lead from one group into another, in both directions. A port in no group keeps all of its links.
    Groups(Vec<Vec<Port>>),
}

impl Links {
    /// Every link there is.
    #[must_use]
    pub fn all() -> Self {
        Self::Between {
            from: None,
            to: None,
            both_directions: false,
        }
    }

    /// The links of one node, both directions.
    #[must_use]
    pub fn of_node(node: &NodeName) -> Self {
        Self::Between {
            from: Some(Port::Node(node.clone())),
            to: None,
            both_directions: true,
        }
    }

    /// The ports that are named.
    pub fn named(&self) -> impl Iterator<Item = &Port> {
        let (between, groups): (Vec<&Port>, Vec<&Port>) = match self {
            Self::Between { from, to, .. } => (from.iter().chain(to).collect(), Vec::new()),
            Self::Groups(groups) => (Vec::new(), groups.iter().flatten().collect()),
        };
        between.into_iter().chain(groups)
    }

    /// The directed links meant, among these ports. None leads from a port to itself, and none comes twice.
    #[must_use]
    pub fn among(&self, ports: &[Port]) -> Vec<(Port, Port)> {
        let meant = |from: &Port, to: &Port| match self {
            Self::Between {
                from: first,
                to: second,
                both_directions,
            } => {
                let leads = |from: &Port, to: &Port| {
                    first.as_ref().is_none_or(|port| port == from)
                        && second.as_ref().is_none_or(|port| port == to)
                };
                leads(from, to) || *both_directions && leads(to, from)
            }
            Self::Groups(groups) => {
                let group = |port: &Port| groups.iter().position(|group| group.contains(port));
                matches!((group(from), group(to)), (Some(one), Some(other)) if one != other)
            }
        };
        let pairs = ports
            .iter()
            .flat_map(|from| ports.iter().map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to && meant(from, to))
            .map(|(from, to)| (from.clone(), to.clone()))
            .collect()
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between {
                from: None,
                to: None,
                ..
            } => f.write_str("every link"),
            Self::Between {
                from: Some(port),
                to: None,
                both_directions: true,
            } => port.fmt(f),
            Self::Between {
                from,
                to,
                both_directions,
            } => {
                let name = |port: &Option<Port>| {
                    port.as_ref()
                        .map_or_else(|| "all".to_owned(), Port::to_string)
                };
                write!(
                    f,
                    "{} {} {}",
                    name(from),
                    if *both_directions { "<->" } else { "->" },
                    name(to)
                )
            }
            Self::Groups(groups) => {
                let group = |ports: &Vec<Port>| {
                    ports
                        .iter()
                        .map(Port::to_string)
                        .collect::<Vec<_>>()
                        .join(",")
                };
                f.write_str(&groups.iter().map(group).collect::<Vec<_>>().join(" | "))
            }
        }
    }
}

/// How one directed link treats its frames. The default is a perfect link.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkRule {
    /// Nothing passes.
    pub cut: bool,
    /// Each frame arrives this much later.
    pub delay: Duration,
    /// The delay varies by so much to either side, uniformly; frames keep their order.
    pub jitter: Duration,
    /// The share of frames that is lost, 0 to 1.
    pub loss: f64,
    /// The share of frames that arrives twice, 0 to 1.
    pub duplicate: f64,
    /// The share of frames that is held back 10 ms longer than the others, which overtake it, 0 to 1.
    pub reorder: f64,
    /// Bits a second that pass; what would wait longer than 200 ms is dropped.
    pub rate: Option<u64>,
}

/// Why a rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// A share is none.
    #[error("{0} must be between 0 and 1")]
    Share(&'static str),
    /// `delay` is out of range.
    #[error("delay must be at most {} s", MAX_DELAY.as_secs())]
    Delay,
    /// A frame would arrive before it was sent.
    #[error("jitter must not be larger than delay")]
    Jitter,
    /// `rate` is out of range.
    #[error("rate must be at least {MIN_RATE} bit/s")]
    Rate,
    /// Too many faults act on one link.
    #[error("a link carries at most {MAX_LAYERS} rules at a time; heal some")]
    Layers,
}

impl LinkRule {
    /// The rule that lets nothing pass.
    #[must_use]
    pub fn cut() -> Self {
        Self {
            cut: true,
            ..Self::default()
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// When a field is out of range.
    pub fn validate(&self) -> Result<(), InvalidRule> {
        for (name, share) in [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(InvalidRule::Share(name));
            }
        }
        if self.delay > MAX_DELAY {
            return Err(InvalidRule::Delay);
        }
        if self.jitter > self.delay {
            return Err(InvalidRule::Jitter);
        }
        if self.rate.is_some_and(|rate| rate < MIN_RATE) {
            return Err(InvalidRule::Rate);
        }
        Ok(())
    }
}

impl fmt::Display for LinkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        if self.cut {
            parts.push("cut".to_owned());
        }
        if !self.delay.is_zero() {
            let jitter = if self.jitter.is_zero() {
                String::new()
            } else {
                format!(" ±{} ms", ms(self.jitter))
            };
            parts.push(format!("delay {} ms{jitter}", ms(self.delay)));
        }
        for (name, share) in [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
        ] {
            if share > 0.0 {
                parts.push(format!("{name} {} %", share * 100.0));
            }
        }
        if let Some(rate) = self.rate {
            parts.push(format!("rate {} kbit/s", rate / 1000));
        }
        f.write_str(if parts.is_empty() { "perfect" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Vec<Port> {
        ["host", "c1", "w1", "w2"]
            .map(|name| name.parse().unwrap())
            .to_vec()
    }

    fn check(links: &Links, expected: &[&str]) {
        let among: Vec<String> = links
            .among(&ports())
            .iter()
            .map(|(from, to)| format!("{from} {to}"))
            .collect();
        assert_eq!(among, expected, "{links}");
    }

    #[test]
    fn links_are_the_meant_ones_once() {
        let between = |from: Option<&str>, to: Option<&str>, both_directions| Links::Between {
            from: from.map(|name| name.parse().unwrap()),
            to: to.map(|name| name.parse().unwrap()),
            both_directions,
        };
        check(&between(Some("w1"), Some("host"), false), &["w1 host"]);
        check(&between(Some("w1"), Some("c1"), true), &["c1 w1", "w1 c1"]);
        check(
            &between(Some("w1"), None, false),
            &["w1 host", "w1 c1", "w1 w2"],
        );
        check(
            &between(Some("w1"), None, true),
            &["host w1", "c1 w1", "w1 host", "w1 c1", "w1 w2", "w2 w1"],
        );
        assert_eq!(Links::all().among(&ports()).len(), 12);
        let groups = Links::Groups(vec![
            vec![ports()[1].clone(), ports()[2].clone()],
            vec![ports()[3].clone()],
        ]);
        check(&groups, &["c1 w2", "w1 w2", "w2 c1", "w2 w1"]);
        assert_eq!(groups.to_string(), "c1,w1 | w2");
    }

    #[test]
    fn impossible_rules_are_refused() {
        for loss in [-0.1, 1.1, f64::NAN] {
            assert_eq!(
                LinkRule {
                    loss,
                    ..LinkRule::default()
                }
                .validate(),
                Err(InvalidRule::Share("loss"))
            );
        }
        let late = LinkRule {
            delay: Duration::from_secs(31),
            ..LinkRule::default()
        };
        assert_eq!(late.validate(), Err(InvalidRule::Delay));
        let early = LinkRule {
            jitter: Duration::from_millis(1),
            ..LinkRule::default()
        };
        assert_eq!(early.validate(), Err(InvalidRule::Jitter));
        assert_eq!(
            LinkRule {
                rate: Some(0),
                ..LinkRule::default()
            }
            .validate(),
            Err(InvalidRule::Rate)
        );
        assert_eq!(
            LinkRule {
                loss: 1.0,
                ..LinkRule::default()
            }
            .validate(),
            Ok(())
        );
    }
}
