//! The place that a fault's target means when its step begins.

use k8s_openapi::api::core::v1::{ReplicationController, Service};
use rand::SeedableRng;
use rand::seq::IndexedRandom;

use super::deploy::NAMESPACE;
use super::events::View;
use super::injection::Place;
use super::pod_target::draw;
use super::run::Environment;
use super::spec::{Count, PodsMeant, Target};
use crate::kubernetes::client::ClientError;

/// The place that a target means now, or why it means none.
pub(super) async fn choose(
    target: &Target,
    environment: &Environment,
    view: &View,
) -> Result<Place, String> {
    let name = match target {
        Target::Node(node) => return Ok(Place::Node(node.clone())),
        Target::Links(links) => return Ok(Place::Links(links.clone())),
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
}
