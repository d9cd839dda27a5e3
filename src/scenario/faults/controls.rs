//! The levers that a target gives to faults.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::cluster::guest::Guest;
use crate::cluster::machine::{Order, Seen};
use crate::machines::provider::{DiskFault, PowerAction};
use crate::model::link::{LinkRule, Links};
use crate::model::names::NodeName;
use crate::scenario::fault::Effect;

/// Why a lever did not move.
pub type ControlError = Box<dyn std::error::Error + Send + Sync>;

/// A lever being moved.
pub type Doing<'a, T> = BoxFuture<'a, Result<T, ControlError>>;

/// A rule for links.
#[derive(Debug, Clone)]
pub struct LinkOrder {
    /// Which links.
    pub links: Links,
    /// What they do.
    pub rule: LinkRule,
    /// For so long, if nobody heals them.
    pub lasts: Duration,
    /// Tells the rule from others of the same links.
    pub tag: String,
}

/// What faults can do to a target's machines. Faults call it; `cli` implements it over the daemon. Every verb is idempotent and may
/// be cancelled; what it then did is undone from the journal.
pub trait Controls: Send + Sync {
    /// Switches a machine's power. It returns when the machine's process is gone, stopped or running.
    fn power<'a>(&'a self, node: &'a NodeName, action: PowerAction) -> Doing<'a, ()>;
    /// Sets a rule of links and measures what it does.
    fn set_links<'a>(&'a self, order: &'a LinkOrder) -> Doing<'a, Effect>;
    /// Removes the rules of this tag and returns how many are left.
    fn heal_links<'a>(&'a self, links: &'a Links, tag: &'a str) -> Doing<'a, usize>;
    /// Lets a machine's disk be slow or fail, or be right again, and measures that.
    fn disk<'a>(&'a self, node: &'a NodeName, fault: Option<DiskFault>) -> Doing<'a, Effect>;
    /// A session as a machine's administrator.
    fn guest<'a>(&'a self, node: &'a NodeName) -> Doing<'a, Guest>;
    /// Lets our binary on a machine carry out an order, and measure what came of it.
    fn order<'a>(&'a self, node: &'a NodeName, order: &'a Order) -> Doing<'a, Seen>;
}
