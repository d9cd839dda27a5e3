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

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Client, ClientError, DeleteParams, ListParams, Patch, Propagation, Reflector};
use crate::model::json;

/// How many replicas the new controller is to have in the end.
pub const DESIRED_REPLICAS: &str = "kubectl.kubernetes.io/desired-replicas";
/// Which controller the new one replaces, `name:uid`.
pub const UPDATE_SOURCE: &str = "kubectl.kubernetes.io/update-source-id";
/// How many replicas the old controller had.
pub const ORIGINAL_REPLICAS: &str = "kubectl.kubernetes.io/original-replicas";

/// A pod condition of Flightcage's own orchestrator: `False` while a liveness probe's last answer was a failure.
const ANSWERS: &str = "flightcage.dev/Answers";
/// A new pod that was restarted counts as available after being ready for so long.
const AFTER_RESTART: SignedDuration = SignedDuration::from_secs(60);

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

/// What has just happened; it prints as kubectl printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The new controller was created.
    Created(String),
    /// The new controller existed; an interrupted update goes on.
    Continuing(String),
    /// What is going to happen.
    Plan {
        /// The new controller.
        new: String,
        /// Its replicas now.
        from: i32,
        /// Its replicas in the end.
        to: i32,
        /// The old controller.
        old: String,
        /// Its replicas now.
        old_from: i32,
    },
    /// A controller is scaled up.
    ScalingUp(String, i32),
    /// A controller is scaled down.
    ScalingDown(String, i32),
    /// The old controller is deleted.
    Deleting(String),
    /// The new controller gets the old one's name.
    Renaming(String, String),
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(name) => write!(formatter, "Created {name}"),
            Self::Continuing(name) => write!(formatter, "Continuing update with existing controller {name}."),
            Self::Plan { new, from, to, old, old_from } => {
                write!(formatter, "Scaling up {new} from {from} to {to}, scaling down {old} from {old_from} to 0")
            }
            Self::ScalingUp(name, replicas) => write!(formatter, "Scaling {name} up to {replicas}"),
            Self::ScalingDown(name, replicas) => write!(formatter, "Scaling {name} down to {replicas}"),
            Self::Deleting(name) => write!(formatter, "Update succeeded. Deleting {name}"),
            Self::Renaming(from, to) => write!(formatter, "Renaming {from} to {to}"),
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

/// Why the update did not end.
#[derive(Debug, thiserror::Error)]
pub enum RollingUpdateError {
    /// The API server refused, or is away. The update can be resumed by running it again.
    #[error("rolling update of `{controller}`: {doing}")]
    Client {
        /// The old controller.
        controller: String,
        /// What was being done.
        doing: &'static str,
        /// What the server said.
        #[source]
        source: Box<ClientError>,
    },
    /// The two controllers cannot replace each other.
    #[error("rolling update of `{controller}`: {problem}")]
    Invalid {
        /// The old controller.
        controller: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Nothing moved for too long.
    #[error(
        "rolling update of `{controller}`: no progress for {} s: `{new}` has {new_replicas} replicas of which {new_available} are \
         available, `{controller}` has {old_replicas}{seen}; run it again to resume, or roll back",
        timeout.as_secs()
    )]
    NoProgress {
        /// The old controller.
        controller: String,
        /// The new one.
        new: String,
        /// Replicas asked of the new one.
        new_replicas: i32,
        /// Those that are available.
        new_available: i32,
        /// Replicas asked of the old one.
        old_replicas: i32,
        /// For how long nothing moved.
        timeout: Duration,
        /// What was seen of the new pods last.
        seen: String,
    },
}

/// Where an update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Replicas the new controller is to have.
    pub desired: i32,
    /// Pods above that at most.
    pub max_surge: i32,
    /// Pods below that at most.
    pub max_unavailable: i32,
    /// Replicas asked of the old controller.
    pub old: i32,
    /// Replicas asked of the new controller.
    pub new: i32,
    /// The new controller's available pods.
    pub new_available: i32,
    /// Whose turn it is.
    pub turn: Turn,
}

/// Up and down take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The new controller is scaled up.
    Up,
    /// The old controller is scaled down.
    Down,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Scale the new controller up to so many.
    ScaleUp(i32),
    /// Scale the old controller down to so many.
    ScaleDown(i32),
    /// Nothing now.
    Wait,
    /// Both are where they should be.
    Finish,
}

/// The algorithm: `scaleUp` and `scaleDown` of kubectl.
pub fn next(state: &State) -> Action {
    if state.new == state.desired && state.old == 0 {
        return Action::Finish;
    }
    match state.turn {
        Turn::Up => scale_up(state),
        Turn::Down => scale_down(state),
    }
}

fn scale_up(state: &State) -> Action {
    if state.new == state.desired {
        return Action::Wait;
    }
    if state.new > state.desired {
        // Somebody scaled it by hand meanwhile; kubectl never would.
        return Action::ScaleUp(state.desired);
    }
    let room = if state.old == 0 { state.desired - state.new } else { state.desired + state.max_surge - state.old - state.new };
    if room <= 0 { Action::Wait } else { Action::ScaleUp((state.new + room).min(state.desired)) }
}

fn scale_down(state: &State) -> Action {
    if state.old == 0 {
        return Action::Wait;
    }
    let min_available = if state.desired == 0 { 0 } else { (state.desired - state.max_unavailable).max(0) };
    let new_unavailable = state.new - state.new_available;
    let spare = state.old + state.new - min_available - new_unavailable;
    if spare <= 0 {
        return Action::Wait;
    }
    if state.new == state.desired && state.new_available == state.desired {
        return Action::ScaleDown(0);
    }
    Action::ScaleDown((state.old - spare).max(0))
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
    let mut new: ReplicationController = json::from_value(&new)
        .map_err(|error| invalid(old_name, format!("the new object is not a ReplicationController: {error}")))?;
    let failed = failed(old_name, "read the old controller");
    let old: ReplicationController = client.get(namespace, old_name).await.map_err(failed)?;
    let mut options = options.clone();
    if new.metadata.name.as_deref() == Some(old_name) {
        options.keep_name = true;
        new.metadata.name = Some(format!("{old_name}-next"));
    }
    check(old_name, &old, &new, &options)?;
    let source = source_id(&old);
    let new_name = new.metadata.name.clone().unwrap_or_default();
    let found: Option<ReplicationController> =
        client.get_optional(namespace, &new_name).await.map_err(self::failed(old_name, "look for the new controller"))?;
    let (new, desired) = match found {
        Some(existing) => {
            let desired = annotation(&existing, DESIRED_REPLICAS).and_then(|text| text.parse().ok());
            match desired.filter(|_| annotation(&existing, UPDATE_SOURCE) == Some(source.as_str())) {
                Some(desired) => {
                    on_progress(Progress::Continuing(new_name));
                    (existing, desired)
                }
                None => {
                    let problem = format!(
                        "`{new_name}` exists already and is not an update of `{old_name}`: delete it or use another name"
                    );
                    return Err(invalid(old_name, problem));
                }
            }
        }
        None => {
            let old_replicas = replicas(&old);
            let desired = new.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(old_replicas);
            if desired <= 0 {
                return Err(invalid(old_name, format!("`{new_name}` must ask for at least one replica")));
            }
            let annotations = new.metadata.annotations.get_or_insert_default();
            annotations.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
            annotations.insert(UPDATE_SOURCE.to_owned(), source);
            new.spec.get_or_insert_default().replicas = Some(0);
            new.metadata.namespace = Some(namespace.to_owned());
            let made = client.create(namespace, &new).await.map_err(self::failed(old_name, "create the new controller"))?;
            on_progress(Progress::Created(new_name));
            (made, desired)
        }
    };
    if annotation(&old, ORIGINAL_REPLICAS).is_none() {
        let patch = annotate(&[(ORIGINAL_REPLICAS, Some(replicas(&old).to_string()))]);
        patch_controller(client, namespace, old_name, old_name, patch).await?;
    }
    let rename_to = options.keep_name.then(|| old_name.to_owned());
    Box::pin(Roll { client, namespace, old, new, desired, options, rename_to }.run(&mut on_progress)).await
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
    let Some(original) = annotation(&back, ORIGINAL_REPLICAS).and_then(|text| text.parse::<i32>().ok()) else {
        let problem = format!("couldn't find original replica count of `{old_name}`: no update of it was begun");
        return Err(invalid(old_name, problem));
    };
    let marks = annotate(&[(DESIRED_REPLICAS, Some(original.to_string())), (UPDATE_SOURCE, Some(source_id(&away)))]);
    let back = patch_controller(client, namespace, old_name, old_name, marks).await?;
    let options = Options { keep_name: false, ..options.clone() };
    let roll = Roll { client, namespace, old: away, new: back, desired: original, options, rename_to: None };
    Box::pin(roll.run(&mut on_progress)).await
}

struct Roll<'a> {
    client: &'a Client,
    namespace: &'a str,
    old: ReplicationController,
    new: ReplicationController,
    desired: i32,
    options: Options,
    rename_to: Option<String>,
}

/// What is watched meanwhile.
struct Watched {
    controllers: Reflector<ReplicationController>,
    pods: Reflector<Pod>,
}

impl Roll<'_> {
    async fn run(self, on_progress: &mut (impl FnMut(Progress) + Send)) -> Result<Summary, RollingUpdateError> {
        let watched = Watched {
            controllers: self.client.reflect(self.namespace, ListParams::all()),
            pods: self.client.reflect(self.namespace, ListParams::all()),
        };
        watched.controllers.wait_synced().await;
        watched.pods.wait_synced().await;
        let mut state = State {
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
        let mut deadline = Instant::now() + self.options.timeout;
        loop {
            state.turn = Turn::Up;
            match next(&state) {
                Action::Finish => break,
                Action::ScaleUp(to) => {
                    on_progress(Progress::ScalingUp(name(&self.new), to));
                    state.new = to;
                    self.scale(&watched, &self.new, to, &state).await?;
                    deadline = Instant::now() + self.options.timeout;
                }
                _ => {}
            }
            tokio::time::sleep(self.options.update_period).await;
            state.turn = Turn::Down;
            loop {
                state.new_available = self.available(&watched);
                match next(&state) {
                    Action::Finish => break,
                    Action::ScaleDown(to) => {
                        on_progress(Progress::ScalingDown(name(&self.old), to));
                        state.old = to;
                        self.scale(&watched, &self.old, to, &state).await?;
                        deadline = Instant::now() + self.options.timeout;
                        break;
                    }
                    // The old one is at nothing and the new one may still grow.
                    _ if state.old == 0 => break,
                    _ => self.changed(&watched, deadline, &state).await?,
                }
            }
        }
        self.clean_up(&watched, &state, on_progress).await
    }

    /// Scales a controller and waits until it has seen it and has so many pods.
    async fn scale(
        &self,
        watched: &Watched,
        controller: &ReplicationController,
        to: i32,
        state: &State,
    ) -> Result<(), RollingUpdateError> {
        let patch = json!({"spec": {"replicas": to}});
        let scaled = patch_controller(self.client, self.namespace, &name(&self.old), &name(controller), patch).await?;
        let generation = scaled.metadata.generation.unwrap_or(0);
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let seen = watched.controllers.get(self.namespace, &name(controller));
            let status = seen.as_ref().and_then(|seen| seen.status.as_ref());
            if status.is_some_and(|status| status.replicas == to && status.observed_generation.unwrap_or(0) >= generation) {
                return Ok(());
            }
            self.changed(watched, deadline, state).await?;
        }
    }

    /// Waits for any change, or a little longer than a pod needs to become available by age alone.
    async fn changed(&self, watched: &Watched, deadline: Instant, state: &State) -> Result<(), RollingUpdateError> {
        if Instant::now() >= deadline {
            return Err(RollingUpdateError::NoProgress {
                controller: name(&self.old),
                new: name(&self.new),
                new_replicas: state.new,
                new_available: state.new_available,
                old_replicas: state.old,
                timeout: self.options.timeout,
                seen: self.trouble(watched),
            });
        }
        let (mut controllers, mut pods) = (watched.controllers.subscribe(), watched.pods.subscribe());
        // A new receiver takes what is there already for a change.
        controllers.mark_unchanged();
        pods.mark_unchanged();
        // What was published before this moment may be newer than what was looked at; so it is looked at again soon anyway.
        let soon = (Instant::now() + Duration::from_millis(250)).min(deadline);
        tokio::select! {
            _ = controllers.changed() => {}
            _ = pods.changed() => {}
            () = tokio::time::sleep_until(soon) => {}
        }
        Ok(())
    }

    /// What keeps the new pods from being available, in their containers' own words.
    fn trouble(&self, watched: &Watched) -> String {
        let selector = selector(&self.new);
        let pods = watched.pods.objects();
        let statuses = pods.values().filter(|pod| self.is_ours(pod, &selector)).flat_map(|pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            statuses.map(|status| (pod.metadata.name.clone().unwrap_or_default(), status))
        });
        let troubles: Vec<String> = statuses
            .filter_map(|(pod, status)| {
                let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
                let waiting = waiting.map(|waiting| {
                    let words = [waiting.reason.as_deref(), waiting.message.as_deref()];
                    words.into_iter().flatten().collect::<Vec<_>>().join(": ")
                });
                let restarts = (status.restart_count > 0).then(|| format!("restarted {} times", status.restart_count));
                Some(format!("`{pod}`: {}", waiting.or(restarts)?))
            })
            .collect();
        if troubles.is_empty() { String::new() } else { format!(" ({})", troubles.join("; ")) }
    }

    fn is_ours(&self, pod: &Pod, selector: &BTreeMap<String, String>) -> bool {
        let labels = pod.metadata.labels.as_ref();
        pod.metadata.namespace.as_deref() == Some(self.namespace)
            && pod.metadata.deletion_timestamp.is_none()
            && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    }

    /// Pods of the new controller that have been ready for long enough, and that no liveness probe has found wanting: one whose
    /// last failed is as good as gone, and one that was restarted has to be ready for [`AFTER_RESTART`] first, or the old pods would
    /// be given up for new ones that come and go.
    fn available(&self, watched: &Watched) -> i32 {
        let selector = selector(&self.new);
        let ready_for = SignedDuration::try_from(self.options.min_ready).unwrap_or(SignedDuration::MAX);
        let now = Timestamp::now();
        let available = |pod: &Pod| {
            let status = pod.status.as_ref();
            let conditions = || status.into_iter().flat_map(|status| status.conditions.iter().flatten());
            let restarted = status
                .is_some_and(|status| status.container_statuses.iter().flatten().any(|container| container.restart_count > 0));
            let ready_for = if restarted { ready_for.max(AFTER_RESTART) } else { ready_for };
            self.is_ours(pod, &selector)
                && !conditions().any(|condition| condition.type_ == ANSWERS && condition.status == "False")
                && conditions().any(|condition| {
                    let since = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
                    let long_enough = ready_for.is_zero() || now.duration_since(since) >= ready_for;
                    condition.type_ == "Ready" && condition.status == "True" && long_enough
                })
        };
        let pods = watched.pods.objects();
        i32::try_from(pods.values().filter(|pod| available(pod)).count()).unwrap_or(i32::MAX)
    }

    async fn clean_up(
        &self,
        watched: &Watched,
        state: &State,
        on_progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<Summary, RollingUpdateError> {
        let (old, new) = (name(&self.old), name(&self.new));
        let deadline = Instant::now() + self.options.timeout;
        while self.available(watched) < self.desired {
            self.changed(watched, deadline, state).await?;
        }
        let marks = annotate(&[(DESIRED_REPLICAS, None), (UPDATE_SOURCE, None), (ORIGINAL_REPLICAS, None)]);
        let left = patch_controller(self.client, self.namespace, &old, &new, marks).await?;
        on_progress(Progress::Deleting(old.clone()));
        let params = DeleteParams {
            propagation: Some(Propagation::Background),
            uid: self.old.metadata.uid.clone(),
            ..DeleteParams::default()
        };
        self.delete(watched, &self.old, &params, state).await?;
        let mut controller = new.clone();
        if let Some(rename_to) = &self.rename_to {
            on_progress(Progress::Renaming(new.clone(), rename_to.clone()));
            self.rename(watched, left, rename_to, state).await?;
            controller.clone_from(rename_to);
        }
        Ok(Summary { controller, replicas: self.desired, replaced: old })
    }

    /// The pods lose their owner and are adopted by its namesake.
    async fn rename(
        &self,
        watched: &Watched,
        controller: ReplicationController,
        to: &str,
        state: &State,
    ) -> Result<(), RollingUpdateError> {
        let params = DeleteParams { propagation: Some(Propagation::Orphan), ..DeleteParams::default() };
        self.delete(watched, &controller, &params, state).await?;
        let mut renamed = ReplicationController { status: None, ..controller };
        renamed.metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(to.to_owned()),
            namespace: Some(self.namespace.to_owned()),
            labels: renamed.metadata.labels.take(),
            annotations: renamed.metadata.annotations.take(),
            ..Default::default()
        };
        self.client.create(self.namespace, &renamed).await.map_err(failed(to, "create the new controller under the old name"))?;
        Ok(())
    }

    /// Deletes a controller and waits until it is gone.
    async fn delete(
        &self,
        watched: &Watched,
        controller: &ReplicationController,
        params: &DeleteParams,
        state: &State,
    ) -> Result<(), RollingUpdateError> {
        let name = name(controller);
        match self.client.delete::<ReplicationController>(self.namespace, &name, params).await {
            Err(error) if !error.is_not_found() => return Err(failed(&name, "delete a controller")(error)),
            _ => {}
        }
        let deadline = Instant::now() + self.options.timeout;
        let there =
            || watched.controllers.get(self.namespace, &name).is_some_and(|seen| seen.metadata.uid == controller.metadata.uid);
        while there() {
            self.changed(watched, deadline, state).await?;
        }
        Ok(())
    }
}

fn check(
    old_name: &str,
    old: &ReplicationController,
    new: &ReplicationController,
    options: &Options,
) -> Result<(), RollingUpdateError> {
    let (old_selector, new_selector) = (selector(old), selector(new));
    let differs = old_selector.iter().any(|(key, value)| new_selector.get(key).is_some_and(|other| other != value));
    let name = name(new);
    if name.is_empty() {
        return Err(invalid(old_name, "the new controller has no name".to_owned()));
    }
    if !differs {
        let problem = format!("`{name}` must specify a matching key with non-equal value in Selector for `{old_name}`");
        return Err(invalid(old_name, problem));
    }
    if options.max_surge <= 0 && options.max_unavailable <= 0 {
        return Err(invalid(old_name, "one of maxSurge or maxUnavailable must be specified".to_owned()));
    }
    Ok(())
}

async fn patch_controller(
    client: &Client,
    namespace: &str,
    updated: &str,
    name: &str,
    patch: Value,
) -> Result<ReplicationController, RollingUpdateError> {
    client.patch(namespace, name, &Patch::Merge(patch), None).await.map_err(failed(updated, "change a controller"))
}

fn annotate(marks: &[(&str, Option<String>)]) -> Value {
    let marks: serde_json::Map<String, Value> = marks.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    json!({"metadata": {"annotations": marks}})
}

fn annotation<'a>(controller: &'a ReplicationController, key: &str) -> Option<&'a str> {
    controller.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn selector(controller: &ReplicationController) -> BTreeMap<String, String> {
    let spec = controller.spec.as_ref();
    let labels = || Some(spec?.template.as_ref()?.metadata.as_ref()?.labels.clone().unwrap_or_default());
    spec.and_then(|spec| spec.selector.clone()).or_else(labels).unwrap_or_default()
}

fn replicas(controller: &ReplicationController) -> i32 {
    controller.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn name(controller: &ReplicationController) -> String {
    controller.metadata.name.clone().unwrap_or_default()
}

fn source_id(controller: &ReplicationController) -> String {
    format!("{}:{}", name(controller), controller.metadata.uid.clone().unwrap_or_default())
}

fn invalid(controller: &str, problem: String) -> RollingUpdateError {
    RollingUpdateError::Invalid { controller: controller.to_owned(), problem }
}

fn failed(controller: &str, doing: &'static str) -> impl FnOnce(ClientError) -> RollingUpdateError {
    let controller = controller.to_owned();
    move |source| RollingUpdateError::Client { controller, doing, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(desired: i32, old: i32, new: i32, new_available: i32, turn: Turn) -> State {
        State { desired, max_surge: 1, max_unavailable: 0, old, new, new_available, turn }
    }

    #[test]
    fn two_replicas_go_one_by_one() {
        for (before, wanted) in [
            (state(2, 2, 0, 0, Turn::Up), Action::ScaleUp(1)),
            (state(2, 2, 1, 0, Turn::Down), Action::Wait),
            (state(2, 2, 1, 1, Turn::Down), Action::ScaleDown(1)),
            (state(2, 1, 1, 1, Turn::Up), Action::ScaleUp(2)),
            (state(2, 1, 2, 1, Turn::Down), Action::Wait),
            (state(2, 1, 2, 2, Turn::Down), Action::ScaleDown(0)),
            (state(2, 0, 2, 2, Turn::Up), Action::Finish),
            (state(3, 0, 1, 1, Turn::Up), Action::ScaleUp(3)),
            (state(1, 5, 1, 1, Turn::Down), Action::ScaleDown(0)),
        ] {
            assert_eq!(next(&before), wanted, "{before:?}");
        }
    }

    proptest! {
        /// With pods that become ready and fail at random, the limits hold at every step, and the update ends.
        #[test]
        fn limits_hold_and_it_ends(
            desired in 1..8_i32, old in 0..8_i32, max_surge in 0..3_i32, max_unavailable in 0..3_i32,
            readiness in prop::collection::vec(0..3_u8, 200),
        ) {
            prop_assume!(max_surge + max_unavailable > 0);
            let mut state = State { desired, max_surge, max_unavailable, old, new: 0, new_available: 0, turn: Turn::Up };
            let ceiling = (desired + max_surge).max(old);
            let floor = |state: &State, before: i32| (desired - max_unavailable).min(before) <= state.old + state.new_available;
            let mut quiet = readiness.into_iter();
            for _ in 0..500 {
                let before = state.old + state.new_available;
                match next(&state) {
                    Action::Finish => break,
                    Action::ScaleUp(to) => { prop_assert!(to > state.new && to <= desired); state.new = to; }
                    Action::ScaleDown(to) => {
                        prop_assert!(to < state.old && to >= 0);
                        state.old = to;
                        prop_assert!(floor(&state, before), "{state:?}");
                    }
                    Action::Wait => {}
                }
                prop_assert!(state.old + state.new <= ceiling, "{state:?}");
                state.turn = if state.turn == Turn::Up { Turn::Down } else { Turn::Up };
                match quiet.next() {
                    Some(0) => state.new_available = (state.new_available - 1).max(0),
                    Some(1) => {}
                    _ => state.new_available = (state.new_available + 1).min(state.new),
                }
            }
            prop_assert_eq!((state.old, state.new), (0, desired));
        }
    }
}
