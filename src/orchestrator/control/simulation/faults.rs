//! Any faults in any order, by property: the controllers come to rest and the replicas come back.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::json;

use super::cluster::Cluster;
use crate::orchestrator::control::reconcile;
use crate::orchestrator::control::world::{Key, Liveness, node_of, ready_since};

#[derive(Debug, Clone)]
enum Fault {
    Scale(bool, u8),
    DeletePod(usize, bool),
    Relabel(usize),
    Unready(usize),
    Silence(u8, Liveness),
    Agents,
    Round,
    Recreate,
}

fn fault() -> impl Strategy<Value = Fault> {
    let liveness = prop_oneof![
        Just(Liveness::Alive),
        Just(Liveness::Suspect),
        Just(Liveness::Lost)
    ];
    prop_oneof![
        (any::<bool>(), 0..7_u8).prop_map(|(which, replicas)| Fault::Scale(which, replicas)),
        (any::<usize>(), any::<bool>()).prop_map(|(which, force)| Fault::DeletePod(which, force)),
        any::<usize>().prop_map(Fault::Relabel),
        any::<usize>().prop_map(Fault::Unready),
        (1..4_u8, liveness).prop_map(|(node, liveness)| Fault::Silence(node, liveness)),
        Just(Fault::Agents),
        Just(Fault::Round),
        Just(Fault::Round),
        Just(Fault::Recreate),
    ]
}

impl Cluster {
    fn pick(&self, which: usize) -> Option<Arc<Pod>> {
        let count = self.world.pods.len();
        if count == 0 {
            None
        } else {
            self.world.pods.values().nth(which % count).cloned()
        }
    }

    fn suffer(&mut self, fault: &Fault) {
        match fault {
            Fault::Scale(which, replicas) => {
                let key: Key = (
                    "default".to_owned(),
                    if *which { "web-v1" } else { "web-v2" }.to_owned(),
                );
                let rc = self.world.replication_controllers[&key].clone();
                self.edit("ReplicationController", &*rc, |value| {
                    value["spec"]["replicas"] = json!(replicas);
                    value["metadata"]["generation"] =
                        json!(value["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
                });
            }
            Fault::DeletePod(which, force) => {
                if let Some(pod) = self.pick(*which) {
                    let key = (
                        "default".to_owned(),
                        pod.metadata.name.clone().unwrap_or_default(),
                    );
                    self.delete(
                        "Pod",
                        &key,
                        pod.metadata.uid.as_deref().unwrap_or_default(),
                        *force,
                    );
                }
            }
            Fault::Relabel(which) => {
                if let Some(pod) = self.pick(*which) {
                    self.edit("Pod", &*pod, |value| {
                        value["metadata"]["labels"]["version"] = json!("debug")
                    });
                }
            }
            Fault::Unready(which) => {
                if let Some(pod) = self.pick(*which).filter(|pod| ready_since(pod).is_some()) {
                    self.edit("Pod", &*pod, |value| {
                        value["status"]["conditions"][0]["status"] = json!("False")
                    });
                }
            }
            Fault::Silence(node, liveness) => self.silence(&format!("w{node}"), *liveness),
            Fault::Agents => self.agents(),
            Fault::Round => drop(self.round()),
            Fault::Recreate => {
                self.remove(
                    "ReplicationController",
                    &("default".to_owned(), "web-v1".to_owned()),
                );
                self.rc("web-v1", 2, "v1");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// After any faults the replicas come back, on nodes that beat, with one owner each; `check` holds after every round.
    #[test]
    fn replicas_converge_whatever_happens(faults in prop::collection::vec(fault(), 1..40)) {
        let mut cluster = Cluster::new(3);
        cluster.rc("web-v1", 2, "v1");
        cluster.rc("web-v2", 1, "v2");
        cluster.service();
        for fault in &faults {
            cluster.suffer(fault);
        }
        // In the end one worker stays lost and the others beat.
        cluster.silence("w1", Liveness::Lost);
        cluster.silence("w2", Liveness::Alive);
        cluster.silence("w3", Liveness::Alive);
        cluster.settle();
        for name in ["web-v1", "web-v2"] {
            let key: Key = ("default".to_owned(), name.to_owned());
            let rc = &cluster.world.replication_controllers[&key];
            let wanted = rc.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let pods = cluster.owned_by(name);
            prop_assert_eq!(i32::try_from(pods.len()).expect("few"), wanted, "{}", name);
            prop_assert!(pods.iter().all(|pod| matches!(node_of(pod), Some("w2" | "w3"))));
            prop_assert_eq!(rc.status.as_ref().map(|status| status.replicas), Some(wanted));
        }
        cluster.ready_addresses();
        prop_assert!(reconcile(&cluster.world).actions.is_empty());
    }
}
