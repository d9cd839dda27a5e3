//! `node.memory`: memory of a machine is taken by a process that holds it. It ends by itself, with or without us.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::orders::{Ordered, seconds};
use super::{Capability, FaultAction, FaultType, Lasts, Means, Strikes, restored};
use crate::cluster::machine::{Amount, Order};
use crate::model::reader::{Table, Value};
use crate::scenario::file::share;
use crate::scenario::injection::Injection;

/// How much longer than asked it holds the memory if nobody ends it: taking that much takes a while.
const END_SLACK: Duration = Duration::from_secs(10);

pub(super) static MEMORY: FaultType = FaultType {
    name: "node.memory",
    needs: Capability::new("node.memory", Means::OwnMachine),
    strikes: Strikes::Machines,
    lasts: Lasts::For,
    settings: &["size", "share"],
    read,
    restore: restored::<NodeMemory>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NodeMemory {
    amount: Amount,
}

fn read(table: &Table<'_, '_>) -> Option<Arc<dyn FaultAction>> {
    let amount = match (table.get("size"), table.get("share")) {
        (Some(value), None) => size(&value).map(Amount::Bytes),
        (None, Some(value)) => permille(&value).map(Amount::Permille),
        _ => {
            let help = "`size = \"128MiB\"`, or `share = \"30%\"` of all that it has";
            table.problem("say how much memory, in one way", Some(help.into()));
            None
        }
    }?;
    Some(Arc::new(NodeMemory { amount }))
}

fn size(value: &Value<'_, '_>) -> Option<u64> {
    let bytes = value.size()?;
    if bytes == 0 {
        value.problem("must be more than nothing", None);
        return None;
    }
    Some(bytes)
}

fn permille(value: &Value<'_, '_>) -> Option<u64> {
    let permille = (share(value)? * 1000.0).round();
    if permille < 1.0 {
        value.problem("must be more than nothing", None);
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 1 to 1000"
    )]
    let permille = permille as u64;
    Some(permille)
}

impl Ordered for NodeMemory {
    fn words(&self) -> Option<String> {
        Some(match self.amount {
            Amount::Bytes(bytes) => format!("{}", bytesize::ByteSize::b(bytes).display().iec()),
            Amount::Permille(permille) => {
                format!("{}.{}% of its memory", permille / 10, permille % 10)
            }
        })
    }

    fn begins(&self, injection: &Injection, _: Vec<String>) -> Order {
        Order::TakeMemory {
            amount: self.amount,
            for_s: seconds(injection.duration + END_SLACK),
            name: injection.step.clone(),
        }
    }

    fn ends(&self, injection: &Injection, _: Vec<String>) -> Option<Order> {
        Some(Order::LeaveMemory {
            name: injection.step.clone(),
        })
    }
}
