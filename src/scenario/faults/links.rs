//! `net.cut`, `net.partition`, `net.delay`, `net.shape`: rules on links between machines.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    Capability, Controls, Doing, FaultAction, FaultType, Lasts, LinkOrder, Means, Strikes, kept,
    restored, transpose,
};
use crate::model::link::LinkRule;
use crate::model::reader::Table;
use crate::model::units::parse_bit_rate;
use crate::scenario::fault::Effect;
use crate::scenario::file::share;
use crate::scenario::injection::Injection;

const NET_CUT: Capability = Capability::new("net.cut", Means::Links);
const NET_SHAPE: Capability = Capability::new("net.shape", Means::Links);
/// How much longer than asked for a rule may act if nobody is left to heal it.
const HEAL_SLACK: Duration = Duration::from_secs(5);

/// Nothing passes: between a machine and all others and the gateway, or between two.
pub(super) static CUT: FaultType = FaultType {
    name: "net.cut",
    needs: NET_CUT,
    strikes: Strikes::Links,
    lasts: Lasts::For,
    settings: &[],
    read: |_| Some(Arc::new(LinkFault::cut())),
    restore: restored::<LinkFault>,
};

/// Nothing passes between groups of machines.
pub(super) static PARTITION: FaultType = FaultType {
    name: "net.partition",
    needs: NET_CUT,
    strikes: Strikes::Groups,
    lasts: Lasts::For,
    settings: &[],
    read: |_| Some(Arc::new(LinkFault::cut())),
    restore: restored::<LinkFault>,
};

/// Frames come later.
pub(super) static DELAY: FaultType = FaultType {
    name: "net.delay",
    needs: NET_SHAPE,
    strikes: Strikes::Links,
    lasts: Lasts::For,
    settings: &["delay", "jitter"],
    read: delay,
    restore: restored::<LinkFault>,
};

/// Frames come later, get lost, come twice, overtake each other, or wait for a slow link.
pub(super) static SHAPE: FaultType = FaultType {
    name: "net.shape",
    needs: NET_SHAPE,
    strikes: Strikes::Links,
    lasts: Lasts::For,
    settings: &["delay", "jitter", "loss", "duplicate", "reorder", "rate"],
    read: shape,
    restore: restored::<LinkFault>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LinkFault {
    rule: LinkRule,
}

impl LinkFault {
    fn cut() -> Self {
        Self {
            rule: LinkRule::cut(),
        }
    }
}

fn delay(table: &Table<'_, '_>) -> Option<Arc<dyn FaultAction>> {
    if table.require("delay").is_none() {
        // The jitter is looked at all the same.
        let _ = table.get("jitter").map(|value| value.duration());
        return None;
    }
    shape(table)
}

fn shape(table: &Table<'_, '_>) -> Option<Arc<dyn FaultAction>> {
    let duration = |key: &str| {
        table
            .get(key)
            .map_or(Some(Duration::ZERO), |value| value.duration())
    };
    let chance = |key: &str| table.get(key).map_or(Some(0.0), |value| share(&value));
    let rate = transpose(
        table
            .get("rate")
            .map(|value| value.parsed("a rate such as \"1mbit/s\"", parse_bit_rate)),
    );
    let (delay, jitter) = (duration("delay"), duration("jitter"));
    let (loss, duplicate, reorder) = (chance("loss"), chance("duplicate"), chance("reorder"));
    let rule = LinkRule {
        cut: false,
        delay: delay?,
        jitter: jitter?,
        loss: loss?,
        duplicate: duplicate?,
        reorder: reorder?,
        rate: rate?,
    };
    if rule == LinkRule::default() {
        table.problem(
            "the fault does nothing to its links",
            Some("`delay = \"50ms\"`, `loss = \"1%\"` and others".into()),
        );
        return None;
    }
    match rule.validate() {
        Ok(()) => Some(Arc::new(LinkFault { rule })),
        Err(error) => {
            table.problem(error.to_string(), None);
            None
        }
    }
}

impl FaultAction for LinkFault {
    fn words(&self) -> Option<String> {
        (!self.rule.cut).then(|| self.rule.to_string())
    }

    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        Box::pin(async move {
            let order = LinkOrder {
                links: injection.place.links(),
                rule: self.rule,
                lasts: injection.duration + HEAL_SLACK,
                tag: injection.step.clone(),
            };
            controls.set_links(&order).await
        })
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        Box::pin(async move {
            let links = injection.place.links();
            let left = controls.heal_links(&links, &injection.step).await?;
            Ok(Effect::now(left == 0, format!("{left} rules left")))
        })
    }
}
