//! What faults order our binary on the machines to do: on each machine of a fault's place, all at once.

use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;

use super::{ControlError, Controls};
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

/// Gives each machine of the place its order, made from the uids of its pods there if the place is pods. It has taken effect when it
/// first has on any machine, and is seen if it is on all; if any machine fails, the others have still done it.
pub(super) fn on_machines<'a>(
    injection: &'a Injection,
    controls: &'a dyn Controls,
    order: impl Fn(Vec<String>) -> Order,
) -> BoxFuture<'a, Result<Effect, ControlError>> {
    let machines = injection.place.machines().into_iter();
    let orders: Vec<_> = machines.map(|(node, pods)| (node, order(pods))).collect();
    Box::pin(async move {
        let done = join_all(
            orders
                .iter()
                .map(|(node, order)| one(controls, node, order)),
        );
        let done: Vec<_> = done.await.into_iter().collect::<Result<_, _>>()?;
        let at = done.iter().map(|effect| effect.at).min();
        let words: Vec<&str> = done.iter().map(|effect| effect.measured.as_str()).collect();
        Ok(Effect {
            at: at.ok_or_else(|| format!("`{}` is on no machine", injection.place))?,
            verified: done.iter().all(|effect| effect.verified),
            measured: words.join("; "),
        })
    })
}

/// The same at a fault's end, where what is not seen is an error: it is tried again, and stays in the journal.
pub(super) fn healed_on_machines<'a>(
    injection: &'a Injection,
    controls: &'a dyn Controls,
    order: impl Fn(Vec<String>) -> Order,
) -> BoxFuture<'a, Result<Effect, ControlError>> {
    let done = on_machines(injection, controls, order);
    Box::pin(async move {
        let effect = done.await?;
        if effect.verified {
            Ok(effect)
        } else {
            Err(effect.measured.into())
        }
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
