//! The place that a fault's target means when its step begins.

use k8s_openapi::api::core::v1::{ReplicationController, Service};
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::deploy::NAMESPACE;
use super::events::View;
use super::injection::Place;
use super::pod_target::draw;
use super::run::Environment;
use super::spec::{Count, NodesMeant, PodsMeant, Target};
use crate::kubernetes::client::ClientError;
use crate::model::names::NodeName;

/// The place that a target means now, or why it means none.
pub(super) async fn choose(
    target: &Target,
    environment: &Environment,
    view: &View,
) -> Result<Place, String> {
    let name = match target {
        Target::Node(node) => return Ok(Place::Node(node.clone())),
        Target::Links(links) => return Ok(Place::Links(links.clone())),
        Target::Nodes { meant, count } => {
            let nodes = meant.of(&environment.nodes, &environment.workers);
            return draw_nodes(nodes, (*meant, *count), environment.seed);
        }
        Target::Pods { meant, count } => return draw_pods(meant, *count, environment.seed, view),
        Target::NodeRunningMostOf(name) => name,
    };
    let client = &environment.client;
    let failed = |error: ClientError| format!("look for `{name}`: {error}");
    let service: Option<Service> = client.get_optional(NAMESPACE, name).await.map_err(failed)?;
    let mut selector = service.and_then(|service| service.spec?.selector);
    if selector.is_none() {
        let rc: Option<ReplicationController> =
            client.get_optional(NAMESPACE, name).await.map_err(failed)?;
        selector = rc.and_then(|rc| rc.spec?.selector);
    }
    let Some(selector) = selector else {
        return Err(format!(
            "there is no Service or ReplicationController `{name}` with a selector"
        ));
    };
    let nodes = view.pods_by_node(&selector);
    let counts: Vec<(String, usize)> = nodes.into_iter().collect();
    let chosen = most(&counts, environment.seed)
        .and_then(|node| node.parse().ok())
        .map(Place::Node);
    chosen.ok_or_else(|| format!("no node runs a pod of `{name}`"))
}

/// So many of these machines; the seed alone decides which.
fn draw_nodes(
    mut nodes: Vec<NodeName>,
    (meant, count): (NodesMeant, Count),
    seed: u64,
) -> Result<Place, String> {
    let all = nodes.len();
    nodes.sort();
    nodes.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
    nodes.truncate(count.of(all));
    nodes.sort();
    if nodes.is_empty() {
        return Err(format!("{count} {meant} is none: there are {all} of them"));
    }
    Ok(Place::Nodes(nodes))
}

fn draw_pods(meant: &PodsMeant, count: Count, seed: u64, view: &View) -> Result<Place, String> {
    let running = view.running_pods(meant);
    let all = running.len();
    let drawn = draw(running, count, seed);
    if drawn.is_empty() {
        return Err(format!("{count} {meant} is none: {all} of them run"));
    }
    Ok(Place::Pods(drawn))
}

/// The node with most pods; the seed decides among equals.
fn most(counts: &[(String, usize)], seed: u64) -> Option<&str> {
    let highest = counts.iter().map(|(_, count)| *count).max()?;
    let equals: Vec<&str> = counts
        .iter()
        .filter(|(_, count)| *count == highest)
        .map(|(node, _)| node.as_str())
        .collect();
    equals
        .choose(&mut rand::rngs::StdRng::seed_from_u64(seed))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_are_decided_by_the_seed_alone() {
        let counts = [
            ("w1".to_owned(), 2),
            ("w2".to_owned(), 2),
            ("w3".to_owned(), 1),
        ];
        for seed in 0..20 {
            assert_eq!(most(&counts, seed), most(&counts, seed));
            assert_ne!(most(&counts, seed), Some("w3"));
        }
        let chosen: std::collections::BTreeSet<_> =
            (0..20).map(|seed| most(&counts, seed)).collect();
        assert_eq!(chosen.len(), 2, "the seed matters");
        assert_eq!(most(&[], 1), None);
    }

    #[test]
    fn machines_are_drawn_by_the_seed_alone_from_those_of_a_role() {
        let named = |names: &[&str]| -> Vec<NodeName> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let (all, workers) = (named(&["w2", "c1", "w1"]), named(&["w2", "w1"]));
        let of = |meant: NodesMeant, count, seed| {
            draw_nodes(meant.of(&all, &workers), (meant, count), seed)
        };
        let every = |meant| of(meant, Count::All, 1);
        assert_eq!(
            every(NodesMeant::Any),
            Ok(Place::Nodes(named(&["c1", "w1", "w2"])))
        );
        assert_eq!(
            every(NodesMeant::Workers),
            Ok(Place::Nodes(named(&["w1", "w2"])))
        );
        assert_eq!(
            every(NodesMeant::Controllers),
            Ok(Place::Nodes(named(&["c1"])))
        );
        let mut drawn = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let one = of(NodesMeant::Workers, Count::One, seed).unwrap();
            assert_eq!(Ok(one.clone()), of(NodesMeant::Workers, Count::One, seed));
            drawn.insert(one.to_string());
        }
        assert_eq!(drawn.len(), 2, "each comes");
        assert_eq!(
            of(NodesMeant::Controllers, Count::Minority, 1),
            Err("a minority of controllers is none: there are 1 of them".to_owned())
        );
    }
}
