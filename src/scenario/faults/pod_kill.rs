//! `pod.kill`: SIGKILL to all processes of the pods' containers, by the kernel of their machine and not by the API.
//!
//! Without `for` they are killed once, and nothing is to be healed: what runs them starts them again, or does not. With `for`, whatever
//! they start is killed too until then.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::orders::{Ordered, seconds};
use super::{Capability, FaultType, Lasts, Means, Strikes, restored};
use crate::cluster::machine::Order;
use crate::scenario::injection::Injection;

pub(super) static KILL: FaultType = FaultType {
    name: "pod.kill",
    needs: Capability::new("pod.kill", Means::Guest),
    strikes: Strikes::Pods,
    lasts: Lasts::OnceOrFor,
    settings: &[],
    read: |_| Some(Arc::new(PodKill {})),
    restore: restored::<PodKill>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct PodKill {}

impl Ordered for PodKill {
    fn begins(&self, injection: &Injection, pods: Vec<String>) -> Order {
        Order::KillPods {
            pods,
            again_s: seconds(injection.duration),
            name: injection.step.clone(),
        }
    }

    fn ends(&self, injection: &Injection, _: Vec<String>) -> Option<Order> {
        (!injection.duration.is_zero()).then(|| Order::StopKilling {
            name: injection.step.clone(),
        })
    }
}
