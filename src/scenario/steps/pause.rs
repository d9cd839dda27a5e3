//! `pause = "10s"`: nothing, for so long.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::sleep;

use super::{StepAction, StepContext, StepType};
use crate::model::reader::Value;
use crate::scenario::file::{Nodes, positive};

pub(super) const PAUSE: StepType = StepType { key: "pause", read };

/// A longer pause is a mistake: what takes so long can be waited for.
const PAUSE_MAX: Duration = Duration::from_mins(10);

fn read(value: &Value<'_, '_>, _: &Nodes) -> Option<Arc<dyn StepAction>> {
    let lasts = positive(value)?;
    if lasts > PAUSE_MAX {
        value.problem(
            format!("a pause is at most {} s", PAUSE_MAX.as_secs()),
            Some("wait for what is meant to happen meanwhile: `wait = { … }`".into()),
        );
        return None;
    }
    value.warn(
        "a pause is too long on a fast host and too short on a slow one",
        Some("a `wait` for what is meant to happen meanwhile says what, and ends when it has happened".into()),
    );
    Some(Arc::new(Pause { lasts }))
}

#[derive(Debug)]
struct Pause {
    lasts: Duration,
}

impl StepAction for Pause {
    fn plan(&self) -> String {
        format!("do nothing for {} s", self.lasts.as_secs_f64())
    }

    fn within(&self) -> Option<Duration> {
        Some(self.lasts)
    }

    fn run<'a>(&'a self, _: &'a StepContext<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            sleep(self.lasts).await;
            Ok(())
        })
    }
}
