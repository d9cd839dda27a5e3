//! What is ordered from the page: read and checked before anything is done, then carried out by what `node`, `net` and `undo` do.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::facts::PodFacts;
use crate::cli::failure::Failure;
use crate::cli::{machines, net, scenarios};
use crate::cluster::life::Cluster;
use crate::kubernetes::client::DeleteParams;
use crate::machines::fabric::{LinkRule, Links, Port};
use crate::machines::provider::PowerAction;
use crate::model::cluster::ClusterSpec;
use crate::model::names::NodeName;
use crate::model::units::{InvalidQuantity, parse_bit_rate, parse_duration, parse_share};

/// Decides which frames are lost, doubled, overtaken, as without `net shape --seed`.
const SEED: u64 = 1;

/// An order as the page sends it.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Asked {
    /// A machine's power.
    Power { node: String, action: PowerAction },
    /// What a link, or all links of a machine, do.
    Link(AskedLink),
    /// Links are perfect again.
    Heal {
        from: String,
        #[serde(default)]
        to: String,
    },
    /// Everything is.
    HealAll {},
    /// A pod is killed, without grace.
    KillPod {
        namespace: String,
        name: String,
        uid: String,
    },
}

/// Texts as they were typed; an empty one was left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AskedLink {
    from: String,
    to: String,
    one_way: bool,
    cut: bool,
    delay: String,
    jitter: String,
    loss: String,
    duplicate: String,
    reorder: String,
    rate: String,
    lasts: String,
}

/// Something to do to a cluster.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Order {
    Power(NodeName, PowerAction),
    Link {
        links: Links,
        rule: LinkRule,
        lasts: Option<Duration>,
    },
    Heal {
        from: Port,
        to: Option<Port>,
    },
    HealAll,
    KillPod {
        namespace: String,
        name: String,
        uid: String,
    },
}

/// Why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot be read, or makes no sense.
    Wrong(String),
    /// What it names is not there.
    Unknown(String),
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Power(node, action) => {
                let verb = match action {
                    PowerAction::PowerOff => "power off",
                    PowerAction::PowerOn => "power on",
                    PowerAction::Reset => "reset",
                    PowerAction::Freeze => "freeze",
                    PowerAction::Thaw => "thaw",
                };
                write!(f, "{verb} {node}")
            }
            Self::Link { links, rule, lasts } => {
                write!(f, "{links}: {rule}")?;
                match lasts {
                    Some(lasts) => write!(f, ", for {} s", lasts.as_secs_f64()),
                    None => Ok(()),
                }
            }
            Self::Heal {
                from,
                to: Some(other),
            } => write!(f, "heal {from} <-> {other}"),
            Self::Heal { from, to: None } => write!(f, "heal the links of {from}"),
            Self::HealAll => f.write_str("heal all"),
            Self::KillPod {
                namespace, name, ..
            } => write!(f, "kill pod {namespace}/{name}"),
        }
    }
}

impl Order {
    /// Reads an order for this cluster, whose pods were last seen so. Every problem is told at once.
    pub(super) fn read(
        body: &[u8],
        spec: &ClusterSpec,
        pods: &[PodFacts],
    ) -> Result<Self, Refusal> {
        let asked: Asked = serde_json::from_slice(body)
            .map_err(|error| Refusal::Wrong(format!("the order cannot be read: {error}")))?;
        match asked {
            Asked::Power { node, action } => {
                let node: NodeName = node.parse().map_err(|_| unknown_node(&node, spec))?;
                require_node(&node, spec)?;
                Ok(Self::Power(node, action))
            }
            Asked::Link(link) => link.read(spec),
            Asked::Heal { from, to } => Ok(Self::Heal {
                from: port(&from, spec)?,
                to: other_port(&to, spec)?,
            }),
            Asked::HealAll {} => Ok(Self::HealAll),
            Asked::KillPod {
                namespace,
                name,
                uid,
            } => {
                let is_it = |pod: &PodFacts| {
                    pod.namespace == namespace && pod.name == name && pod.uid == uid
                };
                if pods.iter().any(is_it) {
                    Ok(Self::KillPod {
                        namespace,
                        name,
                        uid,
                    })
                } else {
                    Err(Refusal::Unknown("there is no such pod any more".to_owned()))
                }
            }
        }
    }

    /// Does it, and says in words what came of it.
    pub(super) async fn carry_out(&self, cluster: &Cluster) -> Result<String, Failure> {
        match self {
            Self::Power(node, action) => {
                machines::power(&cluster.daemon, node, *action).await?;
                Ok("done".to_owned())
            }
            Self::Link { links, rule, lasts } => {
                let set = net::set_rule(&cluster.daemon, links.clone(), *rule, *lasts, SEED);
                let effects = set.await?;
                net::require_measured(&effects)?;
                Ok(net::effects_in_words(rule, &effects).join("; "))
            }
            Self::Heal { from, to } => {
                net::heal(&cluster.daemon, Some(from.clone()), to.clone()).await?;
                Ok("done".to_owned())
            }
            Self::HealAll => {
                let healed = scenarios::heal_everything(cluster).await?;
                let healed: Vec<String> = healed.iter().map(ToString::to_string).collect();
                Ok(if healed.is_empty() {
                    "links are perfect, disks work, machines run".to_owned()
                } else {
                    format!(
                        "links are perfect, disks work, machines run; of scenarios: {}",
                        healed.join(", ")
                    )
                })
            }
            Self::KillPod {
                namespace,
                name,
                uid,
            } => {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    uid: Some(uid.clone()),
                    ..DeleteParams::default()
                };
                let deleted = cluster.client.delete::<Pod>(namespace, name, &params);
                deleted.await?;
                Ok("deleted without grace".to_owned())
            }
        }
    }
}

impl AskedLink {
    fn read(self, spec: &ClusterSpec) -> Result<Order, Refusal> {
        let (from, to) = (port(&self.from, spec)?, other_port(&self.to, spec)?);
        if to.as_ref() == Some(&from) {
            return Err(Refusal::Wrong(format!("`{from}` has no link to itself")));
        }
        let mut problems = Vec::new();
        let mut wrong = |field: &str, error: InvalidQuantity| {
            problems.push(format!("{field}: {error}"));
        };
        let rule = LinkRule {
            cut: self.cut,
            delay: typed("delay", &self.delay, parse_duration, &mut wrong).unwrap_or_default(),
            jitter: typed("jitter", &self.jitter, parse_duration, &mut wrong).unwrap_or_default(),
            loss: typed("loss", &self.loss, parse_share, &mut wrong).unwrap_or_default(),
            duplicate: typed("duplicate", &self.duplicate, parse_share, &mut wrong)
                .unwrap_or_default(),
            reorder: typed("reorder", &self.reorder, parse_share, &mut wrong).unwrap_or_default(),
            rate: typed("rate", &self.rate, parse_bit_rate, &mut wrong),
        };
        let lasts = typed("lasts", &self.lasts, parse_duration, &mut wrong);
        if problems.is_empty()
            && let Err(failure) = net::require_rule(&rule)
        {
            problems.push(failure.in_one_line());
        }
        if problems.is_empty() {
            let links = Links::Between {
                from: Some(from),
                to,
                both_directions: !self.one_way,
            };
            Ok(Order::Link { links, rule, lasts })
        } else {
            Err(Refusal::Wrong(problems.join("; ")))
        }
    }
}

/// What was typed into a field, unless nothing was.
fn typed<T>(
    field: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, InvalidQuantity>,
    wrong: &mut impl FnMut(&str, InvalidQuantity),
) -> Option<T> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    match parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            wrong(field, error);
            None
        }
    }
}

fn port(name: &str, spec: &ClusterSpec) -> Result<Port, Refusal> {
    let port: Port = name.parse().map_err(|_| unknown_node(name, spec))?;
    if let Port::Node(node) = &port {
        require_node(node, spec)?;
    }
    Ok(port)
}

/// An empty name: all others.
fn other_port(name: &str, spec: &ClusterSpec) -> Result<Option<Port>, Refusal> {
    if name.is_empty() {
        Ok(None)
    } else {
        port(name, spec).map(Some)
    }
}

fn require_node(node: &NodeName, spec: &ClusterSpec) -> Result<(), Refusal> {
    if spec.index_of(node).is_some() {
        Ok(())
    } else {
        Err(unknown_node(node.as_str(), spec))
    }
}

fn unknown_node(name: &str, spec: &ClusterSpec) -> Refusal {
    let known: Vec<&str> = spec.machines.iter().map(|one| one.name.as_str()).collect();
    Refusal::Unknown(format!(
        "there is no machine `{name}`; there are {}",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ClusterSpec {
        ClusterSpec::with_workers("test".parse().unwrap(), 2)
    }

    fn read(body: &str) -> Result<Order, Refusal> {
        let pod = PodFacts {
            namespace: "default".to_owned(),
            name: "web-1".to_owned(),
            uid: "u".to_owned(),
            ..PodFacts::default()
        };
        Order::read(body.as_bytes(), &spec(), &[pod])
    }

    #[test]
    fn every_order_of_the_page_is_read() {
        for (body, words) in [
            (
                r#"{"do":"power","node":"w1","action":"power-off"}"#,
                "power off w1",
            ),
            (r#"{"do":"power","node":"c1","action":"thaw"}"#, "thaw c1"),
            (
                r#"{"do":"link","from":"w1","to":"w2","cut":true}"#,
                "w1 <-> w2: cut",
            ),
            (
                r#"{"do":"link","from":"host","to":"","one_way":true,"delay":"50ms","jitter":"5ms","loss":"1%","lasts":"30s"}"#,
                "host -> all: delay 50 ms ±5 ms, loss 1 %, for 30 s",
            ),
            (r#"{"do":"heal","from":"w1"}"#, "heal the links of w1"),
            (
                r#"{"do":"heal","from":"w1","to":"host"}"#,
                "heal w1 <-> host",
            ),
            (r#"{"do":"heal-all"}"#, "heal all"),
            (
                r#"{"do":"kill-pod","namespace":"default","name":"web-1","uid":"u"}"#,
                "kill pod default/web-1",
            ),
        ] {
            let order = read(body).map(|order| order.to_string());
            assert_eq!(order.as_deref(), Ok(words), "{body}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_apart_from_what_is_wrong() {
        for body in [
            r#"{"do":"power","node":"w9","action":"reset"}"#,
            r#"{"do":"power","node":"../w1","action":"reset"}"#,
            r#"{"do":"power","node":"host","action":"reset"}"#,
            r#"{"do":"link","from":"w1","to":"w9","cut":true}"#,
            r#"{"do":"heal","from":"<b>"}"#,
            r#"{"do":"kill-pod","namespace":"default","name":"web-1","uid":"older"}"#,
        ] {
            let refused = read(body);
            assert!(matches!(refused, Err(Refusal::Unknown(_))), "{refused:?}");
        }
        for body in [
            "",
            "{}",
            "[]",
            r#"{"do":"explode"}"#,
            r#"{"do":"power","node":"w1","action":"explode"}"#,
            r#"{"do":"power","node":"w1"}"#,
            r#"{"do":"link","from":"w1","cut":true,"of":"all"}"#,
            r#"{"do":"link","from":"w1","to":"w1","cut":true}"#,
            r#"{"do":"link","from":"w1"}"#,
            r#"{"do":"link","from":"w1","delay":"50ms","jitter":"60ms"}"#,
        ] {
            let refused = read(body);
            assert!(matches!(refused, Err(Refusal::Wrong(_))), "{refused:?}");
        }
    }

    #[test]
    fn every_problem_of_a_rule_is_told_at_once() {
        let refused = read(r#"{"do":"link","from":"w1","delay":"soon","loss":"2","rate":"1"}"#);
        let Err(Refusal::Wrong(problems)) = refused else {
            panic!("{refused:?}");
        };
        for field in ["delay: ", "loss: ", "rate: "] {
            assert!(problems.contains(field), "{problems}");
        }
    }
}
