//! apps/v1 StatefulSet.

use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::{Map, Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{
    AGE, Column, NAME, column, containers, list, number, or_none, text, wide,
};
use super::parts::decode::through;
use super::parts::fields::{Object, child, children, set};
use super::parts::{names, numbers, pod_defaults, selector, template};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status, Subresource::Scale],
    decode: through::<StatefulSet>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::labels,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", |set| {
        let ready = number(set, "/status/readyReplicas");
        json!(format!("{ready}/{}", number(set, "/spec/replicas")))
    }),
    AGE,
    wide("Containers", |set| json!(containers(set, "name"))),
    wide("Images", |set| json!(containers(set, "image"))),
    wide("Selector", |set| json!(or_none(&selector::labels(set)))),
];

/// k8s.io/kubernetes/pkg/apis/apps/v1/defaults.go.
fn defaults(object: &mut Object) {
    let Some(spec) = child(object, "spec") else {
        return;
    };
    for (field, value) in [
        ("replicas", json!(1)),
        ("revisionHistoryLimit", json!(10)),
        ("podManagementPolicy", json!("OrderedReady")),
        ("updateStrategy", json!({})),
        (
            "persistentVolumeClaimRetentionPolicy",
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
        ),
    ] {
        set(Some(spec), field, value);
    }
    if let Some(strategy) = child(spec, "updateStrategy") {
        set(Some(strategy), "type", json!("RollingUpdate"));
        if strategy["type"] == "RollingUpdate" {
            set(Some(strategy), "rollingUpdate", json!({}));
            set(child(strategy, "rollingUpdate"), "partition", json!(0));
        }
    }
    for claim in children(spec, "volumeClaimTemplates") {
        set(Some(claim), "kind", json!("PersistentVolumeClaim"));
        set(Some(claim), "apiVersion", json!("v1"));
        set(child(claim, "spec"), "volumeMode", json!("Filesystem"));
        set(Some(claim), "status", json!({"phase": "Pending"}));
    }
    pod_defaults::template(spec);
    let status = json!({"replicas": 0, "availableReplicas": 0});
    set(Some(object), "status", status);
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    template::replicas(spec, found);
    found.one_of(
        "spec.podManagementPolicy",
        spec.get("podManagementPolicy"),
        &["OrderedReady", "Parallel"],
    );
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    found.one_of(
        "spec.updateStrategy.type",
        strategy.get("type"),
        &["OnDelete", "RollingUpdate"],
    );
    if let Some(rolling) = strategy.get("rollingUpdate").filter(|one| one.is_object()) {
        let path = "spec.updateStrategy.rollingUpdate";
        if text(strategy, "/type") == "OnDelete" {
            found.invalid(
                path,
                rolling,
                "only allowed for updateStrategy 'RollingUpdate'",
            );
        }
        numbers::not_negative(rolling, path, &["partition"], found);
    }
    let start = spec.get("ordinals").unwrap_or(&Value::Null);
    numbers::not_negative(start, "spec.ordinals", &["start"], found);
    template::validate_with_label_selector(spec, old, found);
    if let Some(before) = old.and_then(|old| old.get("spec"))
        && fixed(before) != fixed(spec)
    {
        found.forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}

/// What never changes.
fn fixed(spec: &Value) -> Map<String, Value> {
    let mut spec = spec.as_object().cloned().unwrap_or_default();
    for field in [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
        // It has its own message.
        "selector",
    ] {
        spec.shift_remove(field);
    }
    spec
}

fn warnings(set: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if !list(set, "/spec/volumeClaimTemplates").is_empty() {
        warnings.push("spec.volumeClaimTemplates: no volume is provisioned by Flightcage: the claims stay Pending, and the pods wait for them".to_owned());
    }
    let at_once = set.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable");
    if at_once.is_some_and(|at_once| !at_once.is_null()) {
        warnings.push("spec.updateStrategy.rollingUpdate.maxUnavailable is not honoured by Flightcage: one pod at a time is replaced".to_owned());
    }
    for (event, policy) in set
        .pointer("/spec/persistentVolumeClaimRetentionPolicy")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if policy == "Delete" {
            warnings.push(format!("spec.persistentVolumeClaimRetentionPolicy.{event} is not honoured by Flightcage: claims are retained"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stateful_set() -> Value {
        let mut object = json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "s",
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        defaults(object.as_object_mut().expect("an object"));
        object
    }

    fn fields(object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut found = Causes::default();
        validate(object, old, &mut found);
        found.0.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = stateful_set();
        assert_eq!(
            object["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(object["spec"]["podManagementPolicy"], json!("OrderedReady"));
        assert!(fields(&object, None).is_empty());
        assert!(warnings(&object).is_empty());
    }

    #[test]
    fn only_some_of_it_may_change() {
        let old = stateful_set();
        let mut changed = old.clone();
        changed["spec"]["replicas"] = json!(3);
        changed["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(1);
        assert!(fields(&changed, Some(&old)).is_empty());
        changed["spec"]["serviceName"] = json!("other");
        assert_eq!(fields(&changed, Some(&old)), ["spec"]);
        changed = old.clone();
        changed["spec"]["updateStrategy"] = json!({"type": "Sudden"});
        assert_eq!(fields(&changed, None), ["spec.updateStrategy.type"]);
    }

    #[test]
    fn what_has_no_effect_is_told() {
        let mut object = stateful_set();
        object["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}}]);
        object["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] = json!("Delete");
        object["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = json!(2);
        assert_eq!(warnings(&object).len(), 3);
    }
}
