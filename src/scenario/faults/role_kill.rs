//! `agent.kill`, `proxy.kill`: our own services on a machine, killed as by a crash.
//!
//! Without `for` systemd starts the service again, which it does after a second. With `for` it is kept down until then. Its machine
//! starts it without us, too.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::orders::{HEAL_SLACK, healed_on_machines, on_machines, seconds};
use super::{
    Capability, ControlError, Controls, FaultAction, FaultType, Lasts, Means, Strikes, kept,
    restored,
};
use crate::cluster::machine::{Order, Role};
use crate::scenario::fault::Effect;
use crate::scenario::injection::Injection;

/// The node agent.
pub(super) static AGENT: FaultType = FaultType {
    name: "agent.kill",
    needs: Capability::new("agent.kill", Means::Guest),
    strikes: Strikes::Node,
    lasts: Lasts::OnceOrFor,
    settings: &[],
    read: |_| Some(Arc::new(RoleKill { role: Role::Agent })),
    restore: restored::<RoleKill>,
};

/// The service proxy.
pub(super) static PROXY: FaultType = FaultType {
    name: "proxy.kill",
    needs: Capability::new("proxy.kill", Means::Guest),
    strikes: Strikes::Node,
    lasts: Lasts::OnceOrFor,
    settings: &[],
    read: |_| Some(Arc::new(RoleKill { role: Role::Proxy })),
    restore: restored::<RoleKill>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RoleKill {
    role: Role,
}

impl FaultAction for RoleKill {
    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> BoxFuture<'a, Result<Effect, ControlError>> {
        let down_s = if injection.duration.is_zero() {
            0
        } else {
            seconds(injection.duration + HEAL_SLACK)
        };
        on_machines(injection, controls, |_| Order::KillRole {
            role: self.role,
            down_s,
            name: injection.step.clone(),
        })
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> BoxFuture<'a, Result<Effect, ControlError>> {
        healed_on_machines(injection, controls, |_| Order::StartRole {
            role: self.role,
            name: injection.step.clone(),
        })
    }
}
