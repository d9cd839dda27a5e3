//! Faults that our binary on the machines begins and ends, as it is ordered: on each machine of a fault's place, all at once.

use std::fmt;
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use serde_json::Value as Json;
use tokio::time::Instant;

use super::{ControlError, Controls, Doing, FaultAction, kept};
use crate::cluster::machine::Order;
use crate::model::names::NodeName;
use crate::scenario::fault::Effect;
use crate::scenario::injection::Injection;

/// How much longer than asked for something may act if nobody is left to heal it.
pub(super) const HEAL_SLACK: Duration = Duration::from_secs(15);

/// Whole seconds, rather more than less.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// A fault by orders. `pods` are the uids of the place's pods on one machine; none if the place is a machine.
pub(super) trait Ordered: fmt::Debug + Serialize + Send + Sync {
    /// The settings in a few words, if the kind's name does not say it all.
    fn words(&self) -> Option<String> {
        None
    }
    /// What begins it on a machine.
    fn begins(&self, injection: &Injection, pods: Vec<String>) -> Order;
    /// What ends it there; `None` if nothing is to be healed.
    fn ends(&self, injection: &Injection, pods: Vec<String>) -> Option<Order>;
}

impl<T: Ordered> FaultAction for T {
    fn words(&self) -> Option<String> {
        Ordered::words(self)
    }

    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        let machines = injection.place.machines().into_iter();
        let orders = machines.map(|(node, pods)| (node, self.begins(injection, pods)));
        Box::pin(on_machines(orders.collect(), controls))
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        let machines = injection.place.machines().into_iter();
        let orders = machines.map(|(node, pods)| Some((node, self.ends(injection, pods)?)));
        let orders: Option<Vec<_>> = orders.collect();
        Box::pin(async move {
            match orders {
                Some(orders) => on_machines(orders, controls).await,
                None => Ok(Effect::now(true, "nothing is to be healed")),
            }
        })
    }
}

/// Gives each machine its order. It has taken effect when it first has on any machine, and is seen if it is on all; if any machine
/// fails, the others have still done it.
async fn on_machines(
    orders: Vec<(NodeName, Order)>,
    controls: &dyn Controls,
) -> Result<Effect, ControlError> {
    let ordered = orders
        .iter()
        .map(|(node, order)| one(controls, node, order));
    let done = join_all(ordered).await.into_iter();
    let done: Vec<Effect> = done.collect::<Result<_, _>>()?;
    let at = done.iter().map(|effect| effect.at).min();
    let words: Vec<&str> = done.iter().map(|effect| effect.measured.as_str()).collect();
    Ok(Effect {
        at: at.ok_or("its place is on no machine")?,
        verified: done.iter().all(|effect| effect.verified),
        measured: words.join("; "),
    })
}

async fn one(
    controls: &dyn Controls,
    node: &NodeName,
    order: &Order,
) -> Result<Effect, ControlError> {
    let seen = controls.order(node, order).await?;
    Ok(Effect {
        at: Instant::now() - seen.acted_for(),
        verified: seen.verified,
        measured: format!("{node}: {}", seen.measured),
    })
}
