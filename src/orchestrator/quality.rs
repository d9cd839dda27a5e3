//! Quality-of-service classes of pods, and what follows from them.
//!
//! Sources: `pkg/apis/core/v1/helper/qos/qos.go` and `pkg/kubelet/qos/policy.go`.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A pod's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// Every container has limits of CPU and memory, and requests that equal them.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

/// What the kernel kills last, short of the system itself.
const GUARANTEED_SCORE: i32 = -997;
const BEST_EFFORT_SCORE: i32 = 1000;

impl Quality {
    /// The class of a pod.
    #[must_use]
    pub fn of(spec: &PodSpec) -> Self {
        let (mut anything, mut everything) = (false, true);
        for container in spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
        {
            for name in ["cpu", "memory"] {
                let (request, limit) = (
                    quantity(container, name, Kind::Request),
                    quantity(container, name, Kind::Limit),
                );
                anything |= request.is_some() || limit.is_some();
                // A request that is not said is the limit.
                everything &=
                    limit.is_some() && request.is_none_or(|request| Some(request) == limit);
            }
        }
        match (anything, everything) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// `oom_score_adj` of a container: whoever asked for the greater part of the node's memory is killed the later.
    #[must_use]
    pub fn oom_score_adjust(self, requested_bytes: u64, node_bytes: u64) -> i32 {
        match self {
            Self::Guaranteed => GUARANTEED_SCORE,
            Self::BestEffort => BEST_EFFORT_SCORE,
            Self::Burstable => {
                let share = requested_bytes
                    .saturating_mul(1000)
                    .checked_div(node_bytes)
                    .unwrap_or(0);
                let score = BEST_EFFORT_SCORE - i32::try_from(share.min(1000)).unwrap_or(1000);
                score.clamp(BEST_EFFORT_SCORE + GUARANTEED_SCORE, BEST_EFFORT_SCORE - 1)
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Request,
    Limit,
}

/// A quantity that is not zero; two spellings of one quantity are compared as written, as the API keeps them.
fn quantity<'a>(container: &'a Container, name: &str, kind: Kind) -> Option<&'a Quantity> {
    let resources = container.resources.as_ref()?;
    let quantities = match kind {
        Kind::Request => resources.requests.as_ref(),
        Kind::Limit => resources.limits.as_ref(),
    };
    quantities?.get(name).filter(|quantity| quantity.0 != "0")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(resources: &[serde_json::Value]) -> Quality {
        let containers: Vec<_> = resources
            .iter()
            .map(|resources| json!({"name": "c", "resources": resources}))
            .collect();
        Quality::of(&serde_json::from_value(json!({"containers": containers})).unwrap())
    }

    #[test]
    fn classes() {
        let whole = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
        let equal = json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "1", "memory": "64Mi"}});
        let less = json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "100m"}});
        for (resources, wanted) in [
            (vec![json!({})], Quality::BestEffort),
            (vec![json!({"requests": {"cpu": "0"}})], Quality::BestEffort),
            (vec![whole.clone()], Quality::Guaranteed),
            (vec![equal, whole.clone()], Quality::Guaranteed),
            (vec![whole.clone(), json!({})], Quality::Burstable),
            (vec![less], Quality::Burstable),
            (
                vec![json!({"requests": {"memory": "1Mi"}})],
                Quality::Burstable,
            ),
        ] {
            assert_eq!(class(&resources), wanted, "{resources:?}");
        }
    }

    #[test]
    fn scores() {
        let node = 400 << 20;
        assert_eq!(Quality::Guaranteed.oom_score_adjust(0, node), -997);
        assert_eq!(Quality::BestEffort.oom_score_adjust(0, node), 1000);
        for (requested, wanted) in [(0, 999), (node / 4, 750), (node, 3), (node * 9, 3)] {
            assert_eq!(
                Quality::Burstable.oom_score_adjust(requested, node),
                wanted,
                "{requested}"
            );
        }
        assert_eq!(Quality::Burstable.oom_score_adjust(1, 0), 999);
    }
}
