//! `pod.freeze`: pods stand still, as after SIGSTOP, and nobody is told. Thawed at the end; their machine thaws them without us, too.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::orders::{HEAL_SLACK, healed_on_machines, on_machines, seconds};
use super::{
    Capability, ControlError, Controls, FaultAction, FaultType, Lasts, Means, Strikes, kept,
    restored,
};
use crate::cluster::machine::Order;
use crate::scenario::fault::Effect;
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

impl FaultAction for PodFreeze {
    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> BoxFuture<'a, Result<Effect, ControlError>> {
        on_machines(injection, controls, |pods| Order::FreezePods {
            pods,
            hold_s: seconds(injection.duration + HEAL_SLACK),
            name: injection.step.clone(),
        })
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> BoxFuture<'a, Result<Effect, ControlError>> {
        healed_on_machines(injection, controls, |pods| Order::ThawPods {
            pods,
            name: injection.step.clone(),
        })
    }
}
