//! `via`: a foreign cluster's own way in.

use std::sync::Arc;

use crate::model::names::NodeName;
use crate::scenario::fault::DialService;
use crate::scenario::load::through;
use crate::scenario::spec::{Load, Scenario, Url};

/// Loads that name a way into a cluster of ours, which has one of its own.
pub(super) fn misplaced(scenario: &Scenario, nodes: &[NodeName]) -> Vec<String> {
    // Of a cluster that is not ours the machines are not known here.
    if nodes.is_empty() {
        return Vec::new();
    }
    let named = scenario.loads.iter();
    let named = named.filter_map(|(name, load)| Some((name, load.via?)));
    named
        .map(|(name, address)| {
            format!(
                "load `{name}`: `via = \"{address}\"` is the way into a cluster that `--kubeconfig` names; leave it out for a cluster of ours"
            )
        })
        .collect()
}

/// The way to a URL: that of a load of the same Service and port if it names one, else the target's own.
pub(super) fn dial(
    scenario: &Scenario,
    own: &Arc<dyn DialService>,
    url: &Url,
) -> Arc<dyn DialService> {
    let same = |load: &&Load| load.url.service() == url.service() && load.url.port == url.port;
    let mut loads = scenario.loads.values().filter(same);
    let address = loads.find_map(|load| load.via);
    address.map_or_else(|| Arc::clone(own), through)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::scenario::file::{Against, parse};

    #[test]
    fn a_way_into_a_cluster_of_ours_is_refused_with_the_load_that_names_it() {
        let text = "flightcage = 1\n[load.web]\nurl = \"http://web/\"\nrate = \"5/s\"\nstreams = [\"new\"]\n\
                    deadline = \"1s\"\nbaseline = { for = \"5s\", good = \"100%\" }\nvia = \"192.0.2.7:443\"\n";
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        let scenario = parse(Path::new("demo.toml"), text, &against).unwrap();
        assert_eq!(misplaced(&scenario, &[]), [""; 0]);
        let nodes = ["w1".parse().unwrap()];
        let told = misplaced(&scenario, &nodes);
        assert_eq!(told.len(), 1);
        assert!(
            told[0].starts_with("load `web`: `via = \"192.0.2.7:443\"`"),
            "{told:?}"
        );
    }
}
