//! Rolling update of ReplicationControllers, driven by the client, as kubectl had it until 1.17 (`rolling_updater.go`).
//!
//! ```text
//! new RC at 0, annotated ─► scale new up ─► wait the update period ─► scale old down ─┐
//!                              ▲                                                      │ until old = 0 and new = desired
//!                              └──────────────────────────────────────────────────────┘
//! ─► annotations off, old deleted (and new renamed, if the name is kept)
//! ```
//! All state is in annotations of the two controllers, so that a second run resumes the first, and [`rollback`] swaps their roles.
//! Where kubectl polled every three seconds, watches are used.

mod controller;
mod decide;
mod error;
mod pods;
mod progress;
mod roll;
mod watched;

use std::time::Duration;

use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::Value;

use self::controller::{
    DESIRED_REPLICAS, ORIGINAL_REPLICAS, UPDATE_SOURCE, annotate, annotation, name,
    patch_controller, replicas, selector, source_id,
};
pub use self::decide::{Action, State, Turn, next};
pub use self::error::RollingUpdateError;
use self::error::{failed, invalid};
pub use self::progress::Progress;
use self::roll::Plan;
use super::client::Client;
use crate::model::json;

/// How the update goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Pause between scaling up and scaling down.
    pub update_period: Duration,
    /// Without any progress for so long, the update is given up (and can be resumed).
    pub timeout: Duration,
    /// So many pods above the desired number at most.
    pub max_surge: i32,
    /// So many pods below the desired number at most.
    pub max_unavailable: i32,
    /// Rename the new controller to the old one's name in the end; forced if the new one has the same name.
    pub keep_name: bool,
    /// A pod counts as available after being ready for so long.
    pub min_ready: Duration,
}

impl Default for Options {
    /// kubectl's defaults.
    fn default() -> Self {
        Self {
            update_period: Duration::from_mins(1),
            timeout: Duration::from_mins(5),
            max_surge: 1,
            max_unavailable: 0,
            keep_name: false,
            min_ready: Duration::ZERO,
        }
    }
}

/// How the update ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The controller that is left.
    pub controller: String,
    /// Its replicas.
    pub replicas: i32,
    /// The controller that is gone.
    pub replaced: String,
}

/// Replaces the controller `old_name` by `new` (a manifest's value), pod by pod. Runs until it is done; running it again resumes.
pub async fn rolling_update(
    client: &Client,
    namespace: &str,
    old_name: &str,
    new: Value,
    options: &Options,
    mut on_progress: impl FnMut(Progress) + Send,
) -> Result<Summary, RollingUpdateError> {
    let mut new: ReplicationController = json::from_value(&new).map_err(|error| {
        invalid(
            old_name,
            format!("the new object is not a ReplicationController: {error}"),
        )
    })?;
    let old: ReplicationController = client
        .get(namespace, old_name)
        .await
        .map_err(failed(old_name, "read the old controller"))?;
    let mut options = options.clone();
    if new.metadata.name.as_deref() == Some(old_name) {
        options.keep_name = true;
        new.metadata.name = Some(format!("{old_name}-next"));
    }
    check(old_name, &old, &new, &options)?;
    let new_name = name(&new);
    let found = client
        .get_optional(namespace, &new_name)
        .await
        .map_err(failed(old_name, "look for the new controller"))?;
    let (new, desired) = match found {
        Some(existing) => {
            let desired = resumed(&old, &existing)?;
            on_progress(Progress::Continuing(new_name));
            (existing, desired)
        }
        None => {
            let desired = mark(&old, &mut new)?;
            new.metadata.namespace = Some(namespace.to_owned());
            let made = client
                .create(namespace, &new)
                .await
                .map_err(failed(old_name, "create the new controller"))?;
            on_progress(Progress::Created(new_name));
            (made, desired)
        }
    };
    if annotation(&old, ORIGINAL_REPLICAS).is_none() {
        let patch = annotate(&[(ORIGINAL_REPLICAS, Some(replicas(&old).to_string()))]);
        patch_controller(client, namespace, old_name, old_name, patch).await?;
    }
    let rename_to = options.keep_name.then(|| old_name.to_owned());
    Box::pin(
        Plan {
            client,
            namespace,
            old,
            new,
            desired,
            options,
            rename_to,
        }
        .run(&mut on_progress),
    )
    .await
}

/// Takes an interrupted update from `old_name` to `new_name` back: the old controller is scaled up to what it had, the new one
/// is scaled down and deleted.
pub async fn rollback(
    client: &Client,
    namespace: &str,
    old_name: &str,
    new_name: &str,
    options: &Options,
    mut on_progress: impl FnMut(Progress) + Send,
) -> Result<Summary, RollingUpdateError> {
    let read = |name: String| async move {
        let found: Result<ReplicationController, _> = client.get(namespace, &name).await;
        found.map_err(failed(old_name, "read the controllers"))
    };
    let back: ReplicationController = read(old_name.to_owned()).await?;
    let away: ReplicationController = read(new_name.to_owned()).await?;
    let Some(original) =
        annotation(&back, ORIGINAL_REPLICAS).and_then(|text| text.parse::<i32>().ok())
    else {
        let problem = format!(
            "couldn't find original replica count of `{old_name}`: no update of it was begun"
        );
        return Err(invalid(old_name, problem));
    };
    let marks = annotate(&[
        (DESIRED_REPLICAS, Some(original.to_string())),
        (UPDATE_SOURCE, Some(source_id(&away))),
    ]);
    let back = patch_controller(client, namespace, old_name, old_name, marks).await?;
    let options = Options {
        keep_name: false,
        ..options.clone()
    };
    let plan = Plan {
        client,
        namespace,
        old: away,
        new: back,
        desired: original,
        options,
        rename_to: None,
    };
    Box::pin(plan.run(&mut on_progress)).await
}

fn check(
    old_name: &str,
    old: &ReplicationController,
    new: &ReplicationController,
    options: &Options,
) -> Result<(), RollingUpdateError> {
    let (old_selector, new_selector) = (selector(old), selector(new));
    let differs = old_selector
        .iter()
        .any(|(key, value)| new_selector.get(key).is_some_and(|other| other != value));
    let name = name(new);
    if name.is_empty() {
        return Err(invalid(
            old_name,
            "the new controller has no name".to_owned(),
        ));
    }
    if !differs {
        let problem = format!(
            "`{name}` must specify a matching key with non-equal value in Selector for `{old_name}`"
        );
        return Err(invalid(old_name, problem));
    }
    if options.max_surge <= 0 && options.max_unavailable <= 0 {
        return Err(invalid(
            old_name,
            "one of maxSurge or maxUnavailable must be specified".to_owned(),
        ));
    }
    Ok(())
}

/// How many replicas an update that was begun before aimed at.
fn resumed(
    old: &ReplicationController,
    new: &ReplicationController,
) -> Result<i32, RollingUpdateError> {
    let desired = annotation(new, DESIRED_REPLICAS).and_then(|text| text.parse().ok());
    desired.filter(|_| annotation(new, UPDATE_SOURCE) == Some(source_id(old).as_str())).ok_or_else(|| {
        let (old, new) = (name(old), name(new));
        invalid(&old, format!("`{new}` exists already and is not an update of `{old}`: delete it or use another name"))
    })
}

/// Makes a manifest the beginning of an update: nothing runs, and it says what is to be.
fn mark(
    old: &ReplicationController,
    new: &mut ReplicationController,
) -> Result<i32, RollingUpdateError> {
    let desired = new
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or_else(|| replicas(old));
    if desired <= 0 {
        return Err(invalid(
            &name(old),
            format!("`{}` must ask for at least one replica", name(new)),
        ));
    }
    let annotations = new.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
    annotations.insert(UPDATE_SOURCE.to_owned(), source_id(old));
    new.spec.get_or_insert_default().replicas = Some(0);
    Ok(desired)
}
