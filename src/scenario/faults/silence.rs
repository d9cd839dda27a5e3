//! `registry.down`, `dns.fail`: machines get no answer any more from a service of the cluster, nor do their pods. Their machines let it
//! through again without us, too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::orders::{HEAL_SLACK, Ordered, seconds};
use super::{Capability, FaultType, Lasts, Means, Strikes, restored};
use crate::cluster::machine::{Order, Served};
use crate::scenario::injection::Injection;

/// The registry mirror.
pub(super) static REGISTRY: FaultType = FaultType {
    name: "registry.down",
    needs: Capability::new("registry.down", Means::Guest),
    strikes: Strikes::Machines,
    lasts: Lasts::For,
    settings: &[],
    read: |_| {
        Some(Arc::new(Silence {
            service: Served::Registry,
        }))
    },
    restore: restored::<Silence>,
};

/// The cluster's DNS.
pub(super) static DNS: FaultType = FaultType {
    name: "dns.fail",
    needs: Capability::new("dns.fail", Means::Guest),
    strikes: Strikes::Machines,
    lasts: Lasts::For,
    settings: &[],
    read: |_| {
        Some(Arc::new(Silence {
            service: Served::Dns,
        }))
    },
    restore: restored::<Silence>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Silence {
    service: Served,
}

impl Ordered for Silence {
    fn begins(&self, injection: &Injection, _: Vec<String>) -> Order {
        Order::Silence {
            service: self.service,
            hold_s: seconds(injection.duration + HEAL_SLACK),
            name: injection.step.clone(),
        }
    }

    fn ends(&self, injection: &Injection, _: Vec<String>) -> Option<Order> {
        Some(Order::Hear {
            service: self.service,
            name: injection.step.clone(),
        })
    }
}
