//! `pod.kill`: SIGKILL to all processes of the pods' containers, by the kernel of their machine and not by the API.
//!
//! Without `for` they are killed once, and nothing is to be healed: what runs them starts them again, or does not. With `for`, whatever
//! they start is killed too until then.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::orders::{healed_on_machines, on_machines, seconds};
use super::{
    Capability, ControlError, Controls, FaultAction, FaultType, Lasts, Means, Strikes, kept,
    restored,
};
use crate::cluster::machine::Order;
use crate::scenario::fault::Effect;
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

impl FaultAction for PodKill {
    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> BoxFuture<'a, Result<Effect, ControlError>> {
        on_machines(injection, controls, |pods| Order::KillPods {
            pods,
            again_s: seconds(injection.duration),
            name: injection.step.clone(),
        })
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> BoxFuture<'a, Result<Effect, ControlError>> {
        if injection.duration.is_zero() {
            return ready(Ok(Effect::now(true, "nothing is to be healed"))).boxed();
        }
        healed_on_machines(injection, controls, |_| Order::StopKilling {
            name: injection.step.clone(),
        })
    }
}
