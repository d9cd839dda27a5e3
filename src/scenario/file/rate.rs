//! `rate = "25/s"`, or `rate = { auto = "45%", at_most = "50/s" }`.

use std::ops::RangeInclusive;

use super::{Value, share};
use crate::scenario::load::automatic::{Automatic, RATE_MIN};

/// Requests a second that one stream may ask for.
const RATE_MAX: f64 = 2000.0;
/// Shares of a worker's processors that a load may take.
const SHARES: RangeInclusive<f64> = 0.05..=0.95;

/// Requests a second of each stream (the most, if it is left to the host), and how it is found.
pub(super) fn rate(value: &Value<'_, '_>) -> Option<(f64, Option<Automatic>)> {
    let Some(table) = value.if_table() else {
        return Some((fixed(value)?, None));
    };
    table.allow(&["auto", "at_most"]);
    let share = table.require("auto").and_then(|value| {
        let share = share(&value)?;
        if !SHARES.contains(&share) {
            value.problem("from 5% to 95% of a worker's processors", None);
            return None;
        }
        Some(share)
    });
    let at_most = table.require("at_most").and_then(|value| {
        let rate = fixed(&value)?;
        if rate < RATE_MIN {
            value.problem(format!("an automatic rate is at least {RATE_MIN}/s"), None);
            return None;
        }
        Some(rate)
    });
    let (share, at_most) = (share?, at_most?);
    Some((at_most, Some(Automatic { share, at_most })))
}

fn fixed(value: &Value<'_, '_>) -> Option<f64> {
    let rate = value.rate()?;
    if rate > RATE_MAX {
        value.problem(
            format!("at most {RATE_MAX} requests a second a stream"),
            None,
        );
        return None;
    }
    Some(rate)
}
