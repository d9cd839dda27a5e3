//! `agent.kill`, `proxy.kill`: our own services on a machine, killed as by a crash.
//!
//! Without `for` systemd starts the service again, which it does after a second. With `for` it is kept down until then. Its machine
//! starts it without us, too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::orders::{HEAL_SLACK, Ordered, seconds};
use super::{Capability, FaultType, Lasts, Means, Strikes, restored};
use crate::cluster::machine::{Order, Role};
use crate::scenario::injection::Injection;

/// The node agent.
pub(super) static AGENT: FaultType = FaultType {
    name: "agent.kill",
    needs: Capability::new("agent.kill", Means::Guest),
    strikes: Strikes::Machines,
    lasts: Lasts::OnceOrFor,
    settings: &[],
    read: |_| Some(Arc::new(RoleKill { role: Role::Agent })),
    restore: restored::<RoleKill>,
};

/// The service proxy.
pub(super) static PROXY: FaultType = FaultType {
    name: "proxy.kill",
    needs: Capability::new("proxy.kill", Means::Guest),
    strikes: Strikes::Machines,
    lasts: Lasts::OnceOrFor,
    settings: &[],
    read: |_| Some(Arc::new(RoleKill { role: Role::Proxy })),
    restore: restored::<RoleKill>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RoleKill {
    role: Role,
}

impl Ordered for RoleKill {
    fn begins(&self, injection: &Injection, _: Vec<String>) -> Order {
        let down_s = if injection.duration.is_zero() {
            0
        } else {
            seconds(injection.duration + HEAL_SLACK)
        };
        Order::KillRole {
            role: self.role,
            down_s,
            name: injection.step.clone(),
        }
    }

    fn ends(&self, injection: &Injection, _: Vec<String>) -> Option<Order> {
        Some(Order::StartRole {
            role: self.role,
            name: injection.step.clone(),
        })
    }
}
