//! `pod.freeze`: pods stand still, as after SIGSTOP, and nobody is told. Thawed at the end; their machine thaws them without us, too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::orders::{HEAL_SLACK, Ordered, seconds};
use super::{Capability, FaultType, Lasts, Means, Strikes, restored};
use crate::cluster::machine::Order;
use crate::scenario::injection::Injection;

pub(super) static FREEZE: FaultType = FaultType {
    name: "pod.freeze",
    needs: Capability::new("pod.freeze", Means::Guest),
    strikes: Strikes::Pods,
    lasts: Lasts::For,
    settings: &[],
    read: |_| Some(Arc::new(PodFreeze {})),
    restore: restored::<PodFreeze>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct PodFreeze {}

impl Ordered for PodFreeze {
    fn begins(&self, injection: &Injection, pods: Vec<String>) -> Order {
        Order::FreezePods {
            pods,
            hold_s: seconds(injection.duration + HEAL_SLACK),
            name: injection.step.clone(),
        }
    }

    fn ends(&self, injection: &Injection, pods: Vec<String>) -> Option<Order> {
        Some(Order::ThawPods {
            pods,
            name: injection.step.clone(),
        })
    }
}
