//! `node.power_off`, `node.freeze`, `node.reset`: a machine's power.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    Capability, ControlError, Controls, Doing, FaultAction, FaultType, Lasts, Means, Strikes, kept,
    restored,
};
use crate::machines::provider::PowerAction;
use crate::scenario::fault::Effect;
use crate::scenario::injection::Injection;

const NEEDS: Capability = Capability::new("node.power", Means::Power);

/// The plug is pulled; healed by power on.
pub(super) static POWER_OFF: FaultType = FaultType {
    name: "node.power_off",
    needs: NEEDS,
    strikes: Strikes::Node,
    lasts: Lasts::For,
    settings: &[],
    read: |_| Some(Arc::new(Power::Off)),
    restore: restored::<Power>,
};

/// The machine's process is stopped; healed by letting it run on.
pub(super) static FREEZE: FaultType = FaultType {
    name: "node.freeze",
    needs: NEEDS,
    strikes: Strikes::Node,
    lasts: Lasts::For,
    settings: &[],
    read: |_| Some(Arc::new(Power::Freeze)),
    restore: restored::<Power>,
};

/// The reset button; heals itself by booting.
pub(super) static RESET: FaultType = FaultType {
    name: "node.reset",
    needs: NEEDS,
    strikes: Strikes::Node,
    lasts: Lasts::For,
    settings: &[],
    read: |_| Some(Arc::new(Power::Reset)),
    restore: restored::<Power>,
};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Power {
    Off,
    Freeze,
    Reset,
}

impl FaultAction for Power {
    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        let action = match self {
            Self::Off => PowerAction::PowerOff,
            Self::Freeze => PowerAction::Freeze,
            Self::Reset => PowerAction::Reset,
        };
        Box::pin(switch(injection, controls, action))
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        let action = match self {
            Self::Off | Self::Reset => PowerAction::PowerOn,
            Self::Freeze => PowerAction::Thaw,
        };
        Box::pin(switch(injection, controls, action))
    }
}

async fn switch(
    injection: &Injection,
    controls: &dyn Controls,
    action: PowerAction,
) -> Result<Effect, ControlError> {
    // The provider answers when the process is gone, stopped or running: that is the verification.
    controls.power(injection.node()?, action).await?;
    Ok(Effect::now(true, words(action)))
}

fn words(action: PowerAction) -> &'static str {
    match action {
        PowerAction::PowerOff => "no process",
        PowerAction::PowerOn => "its process runs",
        PowerAction::Reset => "QEMU has reset it",
        PowerAction::Freeze => "every thread of its process is stopped",
        PowerAction::Thaw => "its process runs on",
    }
}
