//! How far a rollout is, by the rules of k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go.

use serde_json::Value as Json;

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// All pods are new, and serve.
    Done,
    /// Not yet: what is seen.
    Waits(String),
    /// Its controller has given it up.
    Stuck(String),
}

/// Why a workload would roll out nothing by itself, if so.
pub(super) fn unable(kind: &str, object: &Json) -> Option<String> {
    let spec = &object["spec"];
    if kind == "Deployment" && spec["paused"] == true {
        return Some("it is paused, so that nothing would roll out".to_owned());
    }
    let strategy = spec["updateStrategy"]["type"].as_str();
    if kind != "Deployment" && strategy == Some("OnDelete") {
        return Some("its update strategy is OnDelete: nobody replaces its pods".to_owned());
    }
    None
}

/// When a Deployment was given up, if it is: what a later rollout must not take for its own.
pub(super) fn exceeded_at(object: &Json) -> Option<String> {
    let condition = given_up(object)?;
    Some(
        condition["lastUpdateTime"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}

fn given_up(object: &Json) -> Option<&Json> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    })
}

/// How far the rollout of an object is. `stale` is when it had been given up before.
pub(super) fn of(kind: &str, object: &Json, stale: Option<&str>) -> Progress {
    let number = |value: &Json| value.as_i64().unwrap_or(0);
    let generation = number(&object["metadata"]["generation"]);
    if number(&object["status"]["observedGeneration"]) < generation {
        return Progress::Waits("its controller has not seen the change".to_owned());
    }
    match kind {
        "DaemonSet" => daemon_set(object),
        "StatefulSet" => stateful_set(object),
        _ => deployment(object, stale),
    }
}

fn status(object: &Json, key: &str) -> i64 {
    object["status"][key].as_i64().unwrap_or(0)
}

fn replicas(object: &Json) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn deployment(object: &Json, stale: Option<&str>) -> Progress {
    if let Some(condition) = given_up(object)
        && (stale.is_none() || stale != condition["lastUpdateTime"].as_str())
    {
        let message = condition["message"].as_str().unwrap_or_default();
        return Progress::Stuck(format!("it exceeded its progress deadline: {message}"));
    }
    let wanted = replicas(object);
    let (all, updated) = (
        status(object, "replicas"),
        status(object, "updatedReplicas"),
    );
    let available = status(object, "availableReplicas");
    if updated < wanted {
        return Progress::Waits(format!("{updated} of {wanted} replicas are new"));
    }
    if all > updated {
        return Progress::Waits(format!("{} old replicas are there", all - updated));
    }
    if available < updated {
        return Progress::Waits(format!(
            "{available} of {updated} new replicas are available"
        ));
    }
    Progress::Done
}

fn daemon_set(object: &Json) -> Progress {
    let wanted = status(object, "desiredNumberScheduled");
    let updated = status(object, "updatedNumberScheduled");
    let available = status(object, "numberAvailable");
    if updated < wanted {
        return Progress::Waits(format!("{updated} of {wanted} pods are new"));
    }
    if available < wanted {
        return Progress::Waits(format!("{available} of {wanted} pods are available"));
    }
    Progress::Done
}

fn stateful_set(object: &Json) -> Progress {
    let wanted = replicas(object);
    let (ready, updated) = (
        status(object, "readyReplicas"),
        status(object, "updatedReplicas"),
    );
    if ready < wanted {
        return Progress::Waits(format!("{ready} of {wanted} replicas are ready"));
    }
    let partition = &object["spec"]["updateStrategy"]["rollingUpdate"]["partition"];
    let kept = partition.as_i64().unwrap_or(0);
    if kept > 0 {
        let new = (wanted - kept).max(0);
        if updated < new {
            return Progress::Waits(format!("{updated} of {new} replicas are new"));
        }
        return Progress::Done;
    }
    let revision = |key: &str| object["status"][key].as_str();
    if revision("updateRevision") != revision("currentRevision") {
        return Progress::Waits(format!("{updated} of {wanted} replicas are new"));
    }
    Progress::Done
}
