//! The task that runs the controllers: it builds the [`World`], decides, and writes through the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::detection::detect;
use super::nodes::Brake;
use super::reconcile;
use super::world::{Action, Key, Liveness, Objects, Target, World, seen_whole};
use crate::model::json;
use crate::orchestrator::api::barrier::Barrier;
use crate::orchestrator::api::heartbeats::Heartbeats;
use crate::orchestrator::api::kinds::{self, Kind, Subresource};
use crate::orchestrator::api::patch::Patch;
use crate::orchestrator::api::registry::{DeleteOptions, Propagation, Registry};
use crate::orchestrator::api::status::Status;
use crate::orchestrator::api::tunnels::Tunnels;

/// So many writes are under way at once; the store commits them together.
const WRITES_AT_ONCE: usize = 32;
/// So often a snapshot is taken again because something was written meanwhile.
const SNAPSHOT_RETRIES: usize = 8;
/// When a write was refused, the decision is made again after this pause, which doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);
/// More rounds with writes than this within a second are a fault of ours: the disk is spared.
const BUSY_ROUNDS_PER_SECOND: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// Events are kept so long (Kubernetes' `--event-ttl`), and looked through so often.
const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);
const EVENT_SWEEP: Duration = Duration::from_mins(1);

/// What the controllers need to run.
#[derive(Clone)]
pub struct Control {
    /// Objects.
    pub registry: Arc<Registry>,
    /// Who beats.
    pub heartbeats: Arc<Heartbeats>,
    /// Through which nodes are asked about each other.
    pub tunnels: Arc<Tunnels>,
    /// By which balancers learn at once which nodes are silent, and drains what may yet be written.
    pub barrier: Arc<Barrier>,
    /// When evictions stop.
    pub brake: Brake,
    /// The cluster's certificate authority as PEM, which every namespace has.
    pub root_ca: Arc<str>,
}

impl Control {
    /// Runs all controllers until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let (liveness_out, liveness) = watch::channel(BTreeMap::new());
        let detecting = detect(
            &self.registry,
            &self.heartbeats,
            &self.tunnels,
            self.brake,
            liveness_out,
        );
        let telling = tell_balancers(&self.barrier, liveness.clone());
        let controlling = control(&self, liveness);
        let sweeping = sweep_events(&self.registry);
        tokio::select! {
            () = cancel.cancelled() => {}
            () = detecting => {}
            () = telling => {}
            () = controlling => {}
            () = sweeping => {}
        }
    }
}

/// The reaction of traffic: no write, nothing that would have to be taken back.
async fn tell_balancers(
    barrier: &Barrier,
    mut liveness: watch::Receiver<BTreeMap<String, Liveness>>,
) {
    loop {
        let nodes = liveness.borrow_and_update().clone();
        let at_least = |least: Liveness| {
            nodes
                .iter()
                .filter(|(_, liveness)| **liveness >= least)
                .map(|(node, _)| node.clone())
                .collect::<BTreeSet<_>>()
        };
        barrier.set_silent_nodes(at_least(Liveness::Suspect), at_least(Liveness::Silent));
        if liveness.changed().await.is_err() {
            return;
        }
    }
}

/// Decides and writes whenever anything has changed.
async fn control(control: &Control, mut liveness: watch::Receiver<BTreeMap<String, Liveness>>) {
    let (registry, barrier) = (&control.registry, &control.barrier);
    let mut revisions = registry.subscribe();
    let mut cache = Cache::default();
    let mut retry = RETRY_FIRST;
    let mut pace = Pace {
        since: Instant::now(),
        rounds: 0,
    };
    loop {
        revisions.borrow_and_update();
        let beating = liveness.borrow_and_update().clone();
        barrier.deciding();
        let mut world = cache.world(registry, beating);
        world.brake = control.brake;
        world.root_ca = control.root_ca.clone();
        let decision = reconcile(&world);
        let mut wake = decision
            .recheck
            .map(|at| Instant::now() + until(world.now, at));
        if decision.actions.is_empty() {
            barrier.decided();
        } else {
            let written = apply_all(registry, decision.actions).await;
            barrier.decided();
            if written {
                retry = RETRY_FIRST;
            } else {
                let again = Instant::now() + retry;
                wake = Some(wake.map_or(again, |wake| wake.min(again)));
                retry = (retry * 2).min(RETRY_LAST);
            }
            pace.keep().await;
        }
        let deadline = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = deadline => {}
            changed = revisions.changed() => if changed.is_err() { return },
            changed = liveness.changed() => if changed.is_err() { return },
        }
    }
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    // A recheck in the past would be a busy loop.
    Duration::try_from(at.duration_since(now))
        .unwrap_or_default()
        .max(Duration::from_millis(10))
}

struct Pace {
    since: Instant,
    rounds: u32,
}

impl Pace {
    async fn keep(&mut self) {
        if self.since.elapsed() > Duration::from_secs(1) {
            *self = Self {
                since: Instant::now(),
                rounds: 0,
            };
        }
        self.rounds += 1;
        if self.rounds > BUSY_ROUNDS_PER_SECOND {
            tracing::warn!("controllers write without end; slowing down");
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }
}

/// Whether every write was accepted; a conflict is no failure, since the next snapshot shows what won.
async fn apply_all(registry: &Registry, actions: Vec<Action>) -> bool {
    let writes = actions.into_iter().map(|action| async move {
        let what = describe(&action);
        match apply(registry, action).await {
            Ok(()) => {
                tracing::debug!(what, "done");
                true
            }
            Err(status) if status.is_conflict() || status.is_not_found() => true,
            Err(status) => {
                tracing::warn!(what, status = %status.to_value()["message"], "refused");
                false
            }
        }
    });
    futures::stream::iter(writes)
        .buffered(WRITES_AT_ONCE)
        .fold(true, |all, one| async move { all && one })
        .await
}

async fn apply(registry: &Registry, action: Action) -> Result<(), Status> {
    match action {
        Action::Create {
            kind,
            namespace,
            object,
        } => {
            registry
                .create(kind_of(registry, kind)?, some(&namespace), object)
                .await?;
        }
        Action::Patch {
            target,
            status,
            mut patch,
        } => {
            let kind = kind_of(registry, target.kind)?;
            patch["metadata"]["uid"] = json!(target.uid);
            let (subresource, patch) = if status {
                (Some(Subresource::Status), Patch::Strategic(patch))
            } else {
                patch["metadata"]["resourceVersion"] = json!(target.resource_version);
                (None, Patch::Merge(patch))
            };
            registry
                .patch(
                    kind,
                    some(&target.namespace),
                    &target.name,
                    subresource,
                    patch,
                )
                .await?;
        }
        Action::Replace { target, object } => {
            registry
                .update(
                    kind_of(registry, target.kind)?,
                    some(&target.namespace),
                    &target.name,
                    None,
                    object,
                )
                .await?;
        }
        Action::Delete { target, force } => {
            let options = DeleteOptions {
                grace_period_seconds: force.then_some(0),
                uid: (!target.uid.is_empty()).then_some(target.uid),
                propagation: Some(Propagation::Background),
                ..DeleteOptions::default()
            };
            registry
                .delete(
                    kind_of(registry, target.kind)?,
                    some(&target.namespace),
                    &target.name,
                    options,
                )
                .await?;
        }
        Action::FinalizeNamespace(target) => {
            let patch = json!({"metadata": {"uid": target.uid}, "spec": {"finalizers": null}});
            registry
                .patch(
                    &kinds::NAMESPACE,
                    None,
                    &target.name,
                    None,
                    Patch::Merge(patch),
                )
                .await?;
            let options = DeleteOptions {
                uid: Some(target.uid),
                ..DeleteOptions::default()
            };
            registry
                .delete(&kinds::NAMESPACE, None, &target.name, options)
                .await?;
        }
        Action::Bind { target, node } => {
            registry
                .bind(&target.namespace, &target.name, &node)
                .await?;
        }
    }
    Ok(())
}

fn describe(action: &Action) -> String {
    let of = |target: &Target| format!("{} {}/{}", target.kind, target.namespace, target.name);
    match action {
        Action::Create {
            kind, namespace, ..
        } => format!("create {kind} in {namespace}"),
        Action::Patch { target, .. } => format!("patch {}", of(target)),
        Action::Replace { target, .. } => format!("replace {}", of(target)),
        Action::Delete { target, .. } => format!("delete {}", of(target)),
        Action::FinalizeNamespace(target) => format!("finalize {}", of(target)),
        Action::Bind { target, node } => format!("bind {} to {node}", of(target)),
    }
}

fn some(namespace: &str) -> Option<&str> {
    (!namespace.is_empty()).then_some(namespace)
}

/// The kind that controllers know by this name. That of a definition may be gone since the snapshot was taken.
fn kind_of(registry: &Registry, tag: &str) -> Result<&'static Kind, Status> {
    let custom = |tag: &str| {
        let served = registry.served();
        let mut kinds = served.custom().iter().copied();
        kinds.find(|kind| kind.tag() == tag)
    };
    kinds::named(tag)
        .or_else(|| custom(tag))
        .ok_or_else(Status::no_such_path)
}

/// Deletes old events, for ever.
async fn sweep_events(registry: &Registry) {
    loop {
        tokio::time::sleep(EVENT_SWEEP).await;
        let (events, _) = registry.list(&kinds::EVENT, None);
        let now = Timestamp::now();
        for event in events.iter().filter(|event| expired(event, now)) {
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
            let Some(name) = text("/metadata/name") else {
                continue;
            };
            // It may have been deleted meanwhile; it is looked at again in a minute.
            drop(
                registry
                    .delete(
                        &kinds::EVENT,
                        text("/metadata/namespace"),
                        name,
                        DeleteOptions::default(),
                    )
                    .await,
            );
        }
    }
}

/// Whether an Event is older than [`EVENT_TTL`]. What it says of its own time comes from outside: a time that is none, or in the future, does
/// not keep it; the time of its creation is the server's own.
fn expired(event: &Value, now: Timestamp) -> bool {
    let time = |pointer: &str| -> Option<Timestamp> {
        let time = event.pointer(pointer)?.as_str()?.parse().ok()?;
        (time <= now).then_some(time)
    };
    [
        "/lastTimestamp",
        "/series/lastObservedTime",
        "/eventTime",
        "/metadata/creationTimestamp",
    ]
    .into_iter()
    .filter_map(time)
    .max()
    .is_none_or(|last| now.duration_since(last) > EVENT_TTL)
}

macro_rules! cache {
    ($($field:ident: $type:ty = $kind:ident;)*) => {
        /// Objects as they were parsed last: only what has changed is parsed again.
        #[derive(Default)]
        struct Cache {
            $($field: Parsed<$type>,)*
            others: BTreeMap<&'static str, Parsed<Bare>>,
        }

        /// The kinds that controllers read whole.
        const WHOLE: &[&Kind] = &[$(&kinds::$kind),*];

        impl Cache {
            /// Every kind that is read whole, in the order of [`seen_whole`].
            fn read_whole(&mut self, registry: &Registry) -> World {
                $(let $field = self.$field.refresh(&registry.list(&kinds::$kind, None).0, typed);)*
                World { $($field,)* ..World::default() }
            }
        }
    };
}
seen_whole!(cache);

/// An object of which only the metadata matter.
#[derive(Default, serde::Deserialize)]
struct Bare {
    #[serde(default)]
    metadata: ObjectMeta,
}

struct Parsed<K>(BTreeMap<Key, (String, Arc<K>)>);

impl<K> Default for Parsed<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl Cache {
    /// All kinds at one revision.
    fn world(&mut self, registry: &Registry, liveness: BTreeMap<String, Liveness>) -> World {
        let mut world = World::default();
        for _ in 0..SNAPSHOT_RETRIES {
            let revision = registry.revision();
            world = self.read(registry);
            if registry.revision() == revision {
                break;
            }
        }
        world.now = Timestamp::now();
        world.liveness = liveness;
        world
    }

    fn read(&mut self, registry: &Registry) -> World {
        let mut others = Vec::new();
        let terminating = registry
            .list(&kinds::NAMESPACE, None)
            .0
            .iter()
            .any(|namespace| namespace.pointer("/metadata/deletionTimestamp").is_some());
        let served = registry.served();
        self.others.retain(|tag, _| {
            !tag.contains('.') || served.custom().iter().any(|kind| kind.tag() == *tag)
        });
        let all = kinds::ALL.iter().chain(served.custom());
        for kind in all.filter(|kind| !WHOLE.contains(kind)) {
            // Events are many, and matter only to a namespace that is to go.
            if kind.is(&kinds::EVENT) && !terminating {
                continue;
            }
            let parsed = self
                .others
                .entry(kind.tag())
                .or_default()
                .refresh(&registry.list(kind, None).0, bare);
            others.extend(
                parsed
                    .into_values()
                    .map(|object| (kind.tag(), Arc::new(object.metadata.clone()))),
            );
        }
        World {
            others,
            ..self.read_whole(registry)
        }
    }
}

impl<K> Parsed<K> {
    fn refresh(&mut self, values: &[Arc<Value>], parse: impl Fn(&Value) -> K) -> Objects<K> {
        let mut old = std::mem::take(&mut self.0);
        for value in values {
            let text = |field: &str| {
                value["metadata"][field]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            let key = (text("namespace"), text("name"));
            let revision = text("resourceVersion");
            let object = match old.remove(&key) {
                Some((known, object)) if known == revision => object,
                _ => Arc::new(parse(value)),
            };
            self.0.insert(key, (revision, object));
        }
        self.0
            .iter()
            .map(|(key, (_, object))| (key.clone(), object.clone()))
            .collect()
    }
}

/// An object that does not parse is kept with its metadata, so that it still counts.
fn typed<K: DeserializeOwned + Default + Metadata<Ty = ObjectMeta>>(value: &Value) -> K {
    json::from_value(value).unwrap_or_else(|error| {
        tracing::error!(kind = K::KIND, name = %value["metadata"]["name"], %error, "a stored object does not parse");
        let mut object = K::default();
        *object.metadata_mut() = bare(value).metadata;
        object
    })
}

fn bare(value: &Value) -> Bare {
    json::from_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_that_an_event_tells_keeps_it_for_ever() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().expect("a time");
        let event = |created: &str, last: Value| json!({"metadata": {"creationTimestamp": created}, "lastTimestamp": last});
        let (old, new) = ("2026-11-30T10:00:00Z", "2026-11-30T11:30:00Z");
        assert!(!expired(&event(new, Value::Null), now));
        assert!(!expired(&event(old, json!(new)), now), "it was seen again");
        assert!(expired(&event(old, json!(old)), now));
        for wrong in [
            json!(5),
            json!("never"),
            json!("2099-01-01T00:00:00Z"),
            json!({}),
        ] {
            assert!(expired(&event(old, wrong), now));
        }
    }
}
