//! `disk.throttle`, `disk.error`, `disk.full`: a machine's disk.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    Capability, Controls, Doing, FaultAction, FaultType, Lasts, Means, Strikes, kept, restored,
    transpose,
};
use crate::machines::provider::{DiskFault, PowerAction};
use crate::model::reader::Table;
use crate::model::units::{InvalidQuantity, parse_size};
use crate::scenario::fault::Effect;
use crate::scenario::file::word;
use crate::scenario::injection::Injection;

const DISK_FAULT: Capability = Capability::new("disk.fault", Means::OwnMachine);

/// The machine's disk is slow.
pub(super) static THROTTLE: FaultType = FaultType {
    name: "disk.throttle",
    needs: DISK_FAULT,
    strikes: Strikes::Node,
    lasts: Lasts::For,
    settings: &["rate", "operations"],
    read: throttle,
    restore: restored::<Disk>,
};

/// The machine's disk fails.
pub(super) static ERROR: FaultType = FaultType {
    name: "disk.error",
    needs: DISK_FAULT,
    strikes: Strikes::Node,
    lasts: Lasts::For,
    settings: &["operations"],
    read: error,
    restore: restored::<Disk>,
};

/// The machine's file system is full.
pub(super) static FULL: FaultType = FaultType {
    name: "disk.full",
    needs: Capability::new("disk.full", Means::OwnMachine),
    strikes: Strikes::Node,
    lasts: Lasts::For,
    settings: &[],
    read: |_| Some(Arc::new(Full {})),
    restore: restored::<Full>,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Disk {
    does: DiskFault,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Full {}

fn throttle(table: &Table<'_, '_>) -> Option<Arc<dyn FaultAction>> {
    let bytes_per_second = table
        .get("rate")
        .map(|value| value.parsed("a rate such as \"1MiB/s\"", parse_byte_rate));
    let operations_per_second = table.get("operations").map(|value| value.rate());
    if bytes_per_second.is_none() && operations_per_second.is_none() {
        table.problem(
            "say how slow",
            Some("`rate = \"1MiB/s\"`, `operations = \"50/s\"` or both".into()),
        );
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of operations"
    )]
    let operations = operations_per_second.map(|rate| rate.map(|rate| rate.ceil() as u64));
    Some(Arc::new(Disk {
        does: DiskFault::Throttle {
            bytes_per_second: transpose(bytes_per_second)?,
            operations_per_second: transpose(operations)?,
        },
    }))
}

fn error(table: &Table<'_, '_>) -> Option<Arc<dyn FaultAction>> {
    let failing = |reads: bool, writes: bool| DiskFault::Error { reads, writes };
    let known = [
        ("all", failing(true, true)),
        ("reads", failing(true, false)),
        ("writes", failing(false, true)),
    ];
    let does = table.get("operations").map_or(Some(known[0].1), |value| {
        word(&value, "kind of operations", &known)
    })?;
    Some(Arc::new(Disk { does }))
}

fn parse_byte_rate(text: &str) -> Result<u64, InvalidQuantity> {
    let refuse = || InvalidQuantity {
        text: text.to_owned(),
        wanted: "a rate such as `1MiB/s`",
    };
    let size = text.trim().strip_suffix("/s").ok_or_else(refuse)?;
    parse_size(size)
        .ok()
        .filter(|bytes| *bytes > 0)
        .ok_or_else(refuse)
}

impl FaultAction for Disk {
    fn words(&self) -> Option<String> {
        Some(self.does.to_string())
    }

    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        Box::pin(async move { controls.disk(injection.node()?, Some(self.does)).await })
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        Box::pin(async move {
            let node = injection.node()?;
            let healed = controls.disk(node, None).await?;
            let errors = matches!(self.does, DiskFault::Error { .. });
            if errors && !controls.guest(node).await?.is_writable().await? {
                // A kernel whose journal could not be written mounts the file system anew only after a boot.
                controls.power(node, PowerAction::Reset).await?;
                return Ok(Effect::now(
                    healed.verified,
                    "its file system had become read-only: the machine was reset",
                ));
            }
            Ok(healed)
        })
    }
}

impl FaultAction for Full {
    fn settings(&self) -> Json {
        kept(self)
    }

    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        Box::pin(async move {
            let guest = controls.guest(injection.node()?).await?;
            let (left, verified) = guest.fill_disk().await?;
            let refused = if verified { "refused" } else { "not refused" };
            Ok(Effect::now(
                verified,
                format!("{} KiB left, a write is {refused}", left / 1024),
            ))
        })
    }

    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect> {
        Box::pin(async move {
            let guest = controls.guest(injection.node()?).await?;
            let (free, verified) = guest.empty_disk().await?;
            Ok(Effect::now(verified, format!("{} MiB free", free >> 20)))
        })
    }
}
