//! autoscaling/v2 HorizontalPodAutoscaler: kept as it is; nothing measures, nothing scales.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, list, number, text};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::not_enforced;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<HorizontalPodAutoscaler>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Reference", |scaler| {
        let of = |field: &str| text(scaler, &format!("/spec/scaleTargetRef/{field}"));
        json!(format!("{}/{}", of("kind"), of("name")))
    }),
    column("Targets", |scaler| json!(targets(scaler))),
    column("MinPods", |scaler| {
        json!(number(scaler, "/spec/minReplicas").to_string())
    }),
    column("MaxPods", |scaler| {
        json!(number(scaler, "/spec/maxReplicas").to_string())
    }),
    column("Replicas", |scaler| {
        json!(number(scaler, "/status/currentReplicas").to_string())
    }),
    AGE,
];

/// `cpu: <unknown>/80%`: nothing is measured.
fn targets(scaler: &Value) -> String {
    let targets: Vec<String> = list(scaler, "/spec/metrics")
        .iter()
        .map(|metric| {
            let name = text(metric, "/resource/name");
            match number(metric, "/resource/target/averageUtilization") {
                0 => format!("{name}: <unknown>"),
                percent => format!("{name}: <unknown>/{percent}%"),
            }
        })
        .collect();
    if targets.is_empty() {
        "<none>".to_owned()
    } else {
        targets.join(", ")
    }
}

fn defaults(object: &mut Object) {
    if let Some(spec) = child(object, "spec") {
        set(Some(spec), "minReplicas", json!(1));
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        set(Some(spec), "metrics", cpu);
    }
    let status = json!({"desiredReplicas": 0, "currentMetrics": null, "conditions": null});
    set(Some(object), "status", status);
}

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    for field in ["kind", "name"] {
        if text(spec, &format!("/scaleTargetRef/{field}")).is_empty() {
            found.required(format!("spec.scaleTargetRef.{field}"), "");
        }
    }
    let (least, most) = (number(spec, "/minReplicas"), number(spec, "/maxReplicas"));
    if least < 1 {
        found.invalid(
            "spec.minReplicas",
            &json!(least),
            "must be greater than or equal to 1",
        );
    }
    if most < 1 {
        found.invalid("spec.maxReplicas", &json!(most), "must be greater than 0");
    } else if most < least {
        found.invalid(
            "spec.maxReplicas",
            &json!(most),
            "must be greater than or equal to `minReplicas`",
        );
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced(
        "HorizontalPodAutoscaler",
        "nothing measures pods, so the number of replicas stays as it is",
    )
}
