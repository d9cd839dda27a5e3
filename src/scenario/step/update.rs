//! Steps that roll a ReplicationController over to another, and back.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::{Problem, Steps};
use crate::kubernetes::manifest;
use crate::kubernetes::rolling_update::{
    Options, Progress as UpdateProgress, RollingUpdateError, rollback, rolling_update,
};
use crate::scenario::deploy::NAMESPACE;
use crate::scenario::spec::UpdateEnd;

impl Steps<'_> {
    pub(super) async fn update(
        &self,
        index: usize,
        from: &str,
        to: &Path,
        (update_period, within, ends): (Duration, Duration, UpdateEnd),
    ) -> Result<(), Problem> {
        let manifests =
            manifest::load(&[to.to_owned()]).map_err(|error| Problem::Failed(error.to_string()))?;
        let new = manifests
            .into_iter()
            .find(|manifest| manifest.kind.kind == "ReplicationController");
        let Some(new) = new else {
            return Err(Problem::Failed(format!(
                "`{}` holds no ReplicationController",
                to.display()
            )));
        };
        // One that has to stop is given up well before the step is.
        let patience = if ends == UpdateEnd::Stopped {
            within / 2
        } else {
            within
        };
        let options = Options {
            update_period,
            timeout: patience,
            ..Options::default()
        };
        let new_name = new.name().to_owned();
        let on_progress = |progress: UpdateProgress| {
            self.run.tell(progress.to_string());
            if let UpdateProgress::ScalingUp(name, replicas) = &progress
                && *name == new_name
            {
                let replaced = u32::try_from(*replicas - 1).unwrap_or(0);
                self.states[index]
                    .send_modify(|state| state.replaced = state.replaced.max(replaced));
            }
        };
        let client = &self.run.environment.client;
        let done = timeout(
            within,
            rolling_update(client, NAMESPACE, from, new.value, &options, on_progress),
        )
        .await;
        match (done, ends) {
            (Ok(Ok(_)), UpdateEnd::Done) => Ok(()),
            (Ok(Ok(_)), UpdateEnd::Stopped) => Err(Problem::Failed(format!(
                "the rolling update of `{from}` should have stopped"
            ))),
            (Ok(Err(error @ RollingUpdateError::NoProgress { .. })), UpdateEnd::Stopped) => {
                self.run.tell(error.to_string());
                Ok(())
            }
            (Ok(Err(error)), _) => Err(Problem::Failed(error.to_string())),
            (Err(_), _) => Err(Problem::Failed(format!(
                "the rolling update of `{from}` did not end within {} s",
                within.as_secs()
            ))),
        }
    }

    pub(super) async fn roll_back(
        &self,
        old: &str,
        new: &str,
        within: Duration,
    ) -> Result<(), Problem> {
        let options = Options {
            update_period: Duration::ZERO,
            timeout: within,
            ..Options::default()
        };
        let client = &self.run.environment.client;
        let tell = |progress: UpdateProgress| self.run.tell(progress.to_string());
        let done = timeout(
            within,
            rollback(client, NAMESPACE, old, new, &options, tell),
        )
        .await;
        match done {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Problem::Failed(error.to_string())),
            Err(_) => Err(Problem::Failed(format!(
                "the way back to `{old}` did not end within {} s",
                within.as_secs()
            ))),
        }
    }
}
