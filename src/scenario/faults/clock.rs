//! `clock.step`: the machine's clock jumps.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    Capability, ControlError, Controls, Doing, FaultAction, FaultType, Lasts, Means, Strikes, kept,
    restored,
};
use crate::model::reader::Table;
use crate::model::units::{InvalidQuantity, parse_duration};
use crate::scenario::fault::Effect;
use crate::scenario::injection::Injection;

/// Farthest that a clock may be stepped.
const MAX_STEP: Duration = Duration::from_hours(24 * 365);

pub(super) static STEP: FaultType = FaultType {
    name: "clock.step",
    needs: Capability::new("clock.step", Means::OwnMachine),
    strikes: Strikes::Node,
    lasts: Lasts::For,
    settings: &["by"],
    read,
    restore: restored::<ClockStep>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ClockStep {
    /// Negative: back.
    by_ms: i64,
}

fn read(table: &Table<'_, '_>) -> Option<Arc<dyn FaultAction>> {
    let by_ms = table
        .require("by")?
        .parsed("a signed duration such as \"+30s\" or \"-2m\"", parse_step)?;
    Some(Arc::new(ClockStep { by_ms }))
}

impl FaultAction for ClockStep {
    fn words(&self) -> Option<String> {
        Some(format!("{:+} ms", self.by_ms))
    }

    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        Box::pin(set(injection, controls, self.by_ms))
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        Box::pin(set(injection, controls, 0))
    }
}

async fn set(
    injection: &Injection,
    controls: &dyn Controls,
    by_ms: i64,
) -> Result<Effect, ControlError> {
    let guest = controls.guest(injection.node()?).await?;
    let (clock, verified) = guest.set_clock(by_ms).await?;
    Ok(Effect::now(
        verified,
        format!(
            "the clock is off by {:+.0} ms, ±{:.0} ms",
            clock.offset_ms, clock.error_ms
        ),
    ))
}

/// Milliseconds of `+30s` or `-2m`.
fn parse_step(text: &str) -> Result<i64, InvalidQuantity> {
    let refuse = || InvalidQuantity {
        text: text.to_owned(),
        wanted: "a step with its sign and unit, such as `+30s` or `-2m`, at most a year",
    };
    let (sign, rest) = match text.trim().split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(refuse()),
    };
    let step = parse_duration(rest).map_err(|_| refuse())?;
    let ms = i64::try_from(step.as_millis()).map_err(|_| refuse())?;
    if step <= MAX_STEP && ms > 0 {
        Ok(sign * ms)
    } else {
        Err(refuse())
    }
}
