//! One run of an update: scales both controllers as [`next`] says, then cleans up.

use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::time::Instant;

use super::controller::{
    DESIRED_REPLICAS, ORIGINAL_REPLICAS, UPDATE_SOURCE, annotate, name, patch_controller, replicas,
    selector,
};
use super::decide::{Action, State, Turn, next};
use super::error::{RollingUpdateError, failed};
use super::pods::Pods;
use super::progress::Progress;
use super::watched::Watched;
use super::{Options, Summary};
use crate::kubernetes::client::{Client, DeleteParams, Propagation};

/// What is to be done; both controllers exist.
pub(super) struct Plan<'a> {
    pub(super) client: &'a Client,
    pub(super) namespace: &'a str,
    pub(super) old: ReplicationController,
    pub(super) new: ReplicationController,
    pub(super) desired: i32,
    pub(super) options: Options,
    pub(super) rename_to: Option<String>,
}

/// A plan that is carried out.
struct Roll<'a> {
    plan: Plan<'a>,
    watched: Watched,
    state: State,
    /// Without progress until then, the update is given up.
    deadline: Instant,
}

impl Plan<'_> {
    pub(super) async fn run(
        self,
        on_progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<Summary, RollingUpdateError> {
        let watched = Watched::start(self.client, self.namespace).await;
        let state = State {
            desired: self.desired,
            max_surge: self.options.max_surge,
            max_unavailable: self.options.max_unavailable,
            old: replicas(&self.old),
            new: replicas(&self.new),
            new_available: 0,
            turn: Turn::Up,
        };
        on_progress(Progress::Plan {
            new: name(&self.new),
            from: state.new,
            to: self.desired,
            old: name(&self.old),
            old_from: state.old,
        });
        let deadline = Instant::now() + self.options.timeout;
        let mut roll = Roll {
            plan: self,
            watched,
            state,
            deadline,
        };
        while !roll.scale_up(on_progress).await? {
            tokio::time::sleep(roll.plan.options.update_period).await;
            roll.scale_down(on_progress).await?;
        }
        roll.clean_up(on_progress).await
    }
}

impl Roll<'_> {
    /// The new controller's turn. Returns whether both controllers are where they should be.
    async fn scale_up(
        &mut self,
        on_progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<bool, RollingUpdateError> {
        self.state.turn = Turn::Up;
        match next(&self.state) {
            Action::Finish => return Ok(true),
            Action::ScaleUp(to) => {
                on_progress(Progress::ScalingUp(name(&self.plan.new), to));
                self.state.new = to;
                self.scale(name(&self.plan.new), to).await?;
            }
            Action::ScaleDown(_) | Action::Wait => {}
        }
        Ok(false)
    }

    /// The old controller's turn: waits until it can give up pods, unless it has none.
    async fn scale_down(
        &mut self,
        on_progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), RollingUpdateError> {
        self.state.turn = Turn::Down;
        loop {
            self.state.new_available = self.available();
            match next(&self.state) {
                Action::Finish => return Ok(()),
                Action::ScaleDown(to) => {
                    on_progress(Progress::ScalingDown(name(&self.plan.old), to));
                    self.state.old = to;
                    return self.scale(name(&self.plan.old), to).await;
                }
                // The new one may still grow.
                _ if self.state.old == 0 => return Ok(()),
                _ => self.changed().await?,
            }
        }
    }

    /// Scales a controller and waits until it has seen it and has so many pods.
    async fn scale(&mut self, controller: String, to: i32) -> Result<(), RollingUpdateError> {
        let Plan {
            client,
            namespace,
            ref old,
            ..
        } = self.plan;
        let scaled = patch_controller(
            client,
            namespace,
            &name(old),
            &controller,
            json!({"spec": {"replicas": to}}),
        )
        .await?;
        let generation = scaled.metadata.generation.unwrap_or(0);
        self.renew_deadline();
        loop {
            let seen = self.watched.controllers.get(namespace, &controller);
            let status = seen.as_ref().and_then(|seen| seen.status.as_ref());
            if status.is_some_and(|status| {
                status.replicas == to && status.observed_generation.unwrap_or(0) >= generation
            }) {
                self.renew_deadline();
                return Ok(());
            }
            self.changed().await?;
        }
    }

    fn renew_deadline(&mut self) {
        self.deadline = Instant::now() + self.plan.options.timeout;
    }

    /// Waits for any change, or a little longer than a pod needs to become available by age alone.
    async fn changed(&self) -> Result<(), RollingUpdateError> {
        if Instant::now() < self.deadline {
            self.watched.changed(self.deadline).await;
            return Ok(());
        }
        Err(RollingUpdateError::NoProgress {
            controller: name(&self.plan.old),
            new: name(&self.plan.new),
            new_replicas: self.state.new,
            new_available: self.state.new_available,
            old_replicas: self.state.old,
            timeout: self.plan.options.timeout,
            seen: self.new_pods().trouble(),
        })
    }

    fn available(&self) -> i32 {
        self.new_pods().available(self.plan.options.min_ready)
    }

    fn new_pods(&self) -> Pods<'_> {
        Pods {
            all: self.watched.pods.objects(),
            namespace: self.plan.namespace,
            selector: selector(&self.plan.new),
        }
    }

    async fn clean_up(
        &mut self,
        on_progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<Summary, RollingUpdateError> {
        let (old, new) = (name(&self.plan.old), name(&self.plan.new));
        self.renew_deadline();
        while self.available() < self.plan.desired {
            self.changed().await?;
        }
        let marks = annotate(&[
            (DESIRED_REPLICAS, None),
            (UPDATE_SOURCE, None),
            (ORIGINAL_REPLICAS, None),
        ]);
        let left =
            patch_controller(self.plan.client, self.plan.namespace, &old, &new, marks).await?;
        on_progress(Progress::Deleting(old.clone()));
        let uid = self.plan.old.metadata.uid.clone();
        let params = DeleteParams {
            propagation: Some(Propagation::Background),
            uid: uid.clone(),
            ..DeleteParams::default()
        };
        self.delete(&old, uid, &params).await?;
        let controller = match self.plan.rename_to.clone() {
            Some(to) => {
                on_progress(Progress::Renaming(new, to.clone()));
                self.rename(left, &to).await?;
                to
            }
            None => new,
        };
        Ok(Summary {
            controller,
            replicas: self.plan.desired,
            replaced: old,
        })
    }

    /// The pods lose their owner and are adopted by its namesake.
    async fn rename(
        &mut self,
        controller: ReplicationController,
        to: &str,
    ) -> Result<(), RollingUpdateError> {
        let params = DeleteParams {
            propagation: Some(Propagation::Orphan),
            ..DeleteParams::default()
        };
        self.delete(&name(&controller), controller.metadata.uid.clone(), &params)
            .await?;
        let Plan {
            client, namespace, ..
        } = self.plan;
        let metadata = ObjectMeta {
            name: Some(to.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: controller.metadata.labels,
            annotations: controller.metadata.annotations,
            ..ObjectMeta::default()
        };
        let renamed = ReplicationController {
            metadata,
            spec: controller.spec,
            status: None,
        };
        client
            .create(namespace, &renamed)
            .await
            .map_err(failed(to, "create the new controller under the old name"))?;
        Ok(())
    }

    /// Deletes a controller and waits until the one with this UID is gone.
    async fn delete(
        &mut self,
        name: &str,
        uid: Option<String>,
        params: &DeleteParams,
    ) -> Result<(), RollingUpdateError> {
        let Plan {
            client, namespace, ..
        } = self.plan;
        match client
            .delete::<ReplicationController>(namespace, name, params)
            .await
        {
            Err(error) if !error.is_not_found() => {
                return Err(failed(name, "delete a controller")(error));
            }
            _ => {}
        }
        self.renew_deadline();
        while self
            .watched
            .controllers
            .get(namespace, name)
            .is_some_and(|seen| seen.metadata.uid == uid)
        {
            self.changed().await?;
        }
        Ok(())
    }
}
