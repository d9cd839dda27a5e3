//! `node.cpu`: a share of a machine's processors is taken by loops that do nothing. They end by themselves, with or without us.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::orders::{Ordered, seconds};
use super::{Capability, FaultAction, FaultType, Lasts, Means, Strikes, restored};
use crate::cluster::machine::Order;
use crate::model::reader::Table;
use crate::scenario::file::share;
use crate::scenario::injection::Injection;

/// Shares in thousandths: with more than the highest a machine could no longer be told anything.
const PERMILLE: RangeInclusive<f64> = 10.0..=950.0;
/// How much longer than asked they run if nobody ends them: time for whoever measures that they do.
const END_SLACK: Duration = Duration::from_secs(1);

pub(super) static CPU: FaultType = FaultType {
    name: "node.cpu",
    needs: Capability::new("node.cpu", Means::OwnMachine),
    strikes: Strikes::Machines,
    lasts: Lasts::For,
    settings: &["share"],
    read,
    restore: restored::<NodeCpu>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NodeCpu {
    /// Of all of the machine's processors together.
    permille: u64,
}

fn read(table: &Table<'_, '_>) -> Option<Arc<dyn FaultAction>> {
    let value = table.require("share")?;
    let permille = share(&value)? * 1000.0;
    if !PERMILLE.contains(&permille) {
        let help = "from \"1%\" to \"95%\" of all of its processors together";
        value.problem("not a share that can be taken", Some(help.into()));
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 10 to 950"
    )]
    let permille = permille.round() as u64;
    Some(Arc::new(NodeCpu { permille }))
}

impl Ordered for NodeCpu {
    fn words(&self) -> Option<String> {
        #[expect(clippy::cast_precision_loss, reason = "at most 950")]
        let percent = self.permille as f64 / 10.0;
        Some(format!("{percent}% of its processors"))
    }

    fn begins(&self, injection: &Injection, _: Vec<String>) -> Order {
        Order::TakeProcessor {
            permille: self.permille,
            for_s: seconds(injection.duration + END_SLACK),
            name: injection.step.clone(),
        }
    }

    fn ends(&self, injection: &Injection, _: Vec<String>) -> Option<Order> {
        Some(Order::LeaveProcessor {
            name: injection.step.clone(),
        })
    }
}
