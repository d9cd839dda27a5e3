//! Ready and wanted pods of each workload, for whoever looks at a run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ReplicationController};

use super::{name, pod_ready, workload};

/// Of a ReplicationController as many as it wants, of any other as many as there are. By plain names where these are unique.
pub(super) fn of<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    controllers: impl Iterator<Item = &'a ReplicationController>,
) -> BTreeMap<String, (u32, u32)> {
    let mut counts: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for pod in pods.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        if let Some(workload) = workload(pod) {
            let (ready, all) = counts.entry(workload).or_default();
            *ready += u32::from(pod_ready(pod));
            *all += 1;
        }
    }
    for controller in controllers {
        let wanted = controller.spec.as_ref().and_then(|spec| spec.replicas);
        let key = format!("replicationcontroller/{}", name(&controller.metadata));
        let (_, all) = counts.entry(key).or_default();
        if let Some(wanted) = wanted.and_then(|wanted| u32::try_from(wanted).ok()) {
            *all = wanted;
        }
    }
    let plain = |key: &str| key.rsplit('/').next().unwrap_or(key).to_owned();
    let names: Vec<String> = counts.keys().map(|key| plain(key)).collect();
    let unique = |name: &String| names.iter().filter(|other| *other == name).count() == 1;
    let short = |key: String| Some(plain(&key)).filter(unique).unwrap_or(key);
    let counts = counts.into_iter();
    counts.map(|(key, count)| (short(key), count)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_is_told_before_its_pods_are_there() {
        let pod = |owner: (&str, &str), ready: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "x", "ownerReferences": [{ "apiVersion": "v1", "kind": owner.0, "name": owner.1, "uid": "1", "controller": true }] },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            }))
            .expect("it is a pod")
        };
        let controller = |name: &str, replicas: i32| -> ReplicationController {
            serde_json::from_value(json!({
                "metadata": { "name": name }, "spec": { "replicas": replicas },
            }))
            .expect("it is a controller")
        };
        let pods = [
            pod(("ReplicationController", "silex"), "True"),
            pod(("ReplicationController", "silex"), "False"),
            pod(("StatefulSet", "store"), "True"),
            pod(("StatefulSet", "twice"), "True"),
        ];
        let controllers = [
            controller("silex", 3),
            controller("nginx", 2),
            controller("twice", 1),
        ];
        let counts = of(pods.iter(), controllers.iter());
        let told: Vec<String> = counts
            .into_iter()
            .map(|(name, (ready, wanted))| format!("{name} {ready}/{wanted}"))
            .collect();
        assert_eq!(
            told,
            [
                "nginx 0/2",
                "replicationcontroller/twice 0/1",
                "silex 1/3",
                "statefulset/twice 1/1",
                "store 1/1"
            ]
        );
    }
}
