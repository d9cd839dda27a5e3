//! `container.oom`: the memory limit of pods' containers is hit, and the kernel kills for it as it does when they ask for too much.
//!
//! Without `for` once, and nothing is to be healed: their limits are put back at once. With `for`, whatever comes back hits its limit
//! too until then.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::orders::{Ordered, seconds};
use super::{Capability, FaultType, Lasts, Means, Strikes, restored};
use crate::cluster::machine::Order;
use crate::scenario::injection::Injection;

pub(super) static OOM: FaultType = FaultType {
    name: "container.oom",
    needs: Capability::new("container.oom", Means::Guest),
    strikes: Strikes::Pods,
    lasts: Lasts::OnceOrFor,
    settings: &[],
    read: |_| Some(Arc::new(ContainerOom {})),
    restore: restored::<ContainerOom>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ContainerOom {}

impl Ordered for ContainerOom {
    fn begins(&self, injection: &Injection, pods: Vec<String>) -> Order {
        Order::ExhaustPods {
            pods,
            again_s: seconds(injection.duration),
            name: injection.step.clone(),
        }
    }

    fn ends(&self, injection: &Injection, pods: Vec<String>) -> Option<Order> {
        (!injection.duration.is_zero()).then(|| Order::StopExhausting {
            pods,
            name: injection.step.clone(),
        })
    }
}
