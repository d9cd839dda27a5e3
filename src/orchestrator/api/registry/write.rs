//! Creating and changing objects: metadata, generations, the split between spec and status.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{RACE_RETRIES, Registry, account};
use crate::orchestrator::api::kinds::parts::causes::clipped;
use crate::orchestrator::api::kinds::{self, Generation, Kind, StatusOnCreate, Subresource};
use crate::orchestrator::api::status::Status;
use crate::orchestrator::api::{bounds, defaults, honoured, images, tokens, validation};
use crate::orchestrator::store::{Entry, Expected, Revision, StoreError};

/// Whether a write is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orchestrator::api) enum Run {
    /// It is.
    Real,
    /// Everything but that: `dryRun=All`.
    Dry,
}

/// Longest prefix that `generateName` keeps, so that five random characters fit (names/generate.go).
const GENERATE_PREFIX_BYTES: usize = 58;
/// Kubernetes' alphabet of generated names: no vowels, no look-alikes (util/rand).
const GENERATE_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The time as Kubernetes writes it.
pub(in crate::orchestrator::api) fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// `metadata`, which is made an object if it is none.
pub(super) fn metadata(object: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let slot = object.entry("metadata").or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("it was made an object above")
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(super) async fn create(
    registry: &Registry,
    kind: &'static Kind,
    namespace: Option<&str>,
    object: Value,
    run: Run,
) -> Result<Arc<Value>, Status> {
    let mut object = envelope(kind, namespace, object)?;
    if kind.namespaced
        && let Some(namespace) = namespace
    {
        admit_namespace(registry, namespace)?;
        if kind.is(&kinds::POD) && registry.gives_tokens {
            tokens::mount_token(registry, namespace, &mut object)?;
        }
    }
    let generate = text(&object, "/metadata/generateName").to_owned();
    let named = !text(&object, "/metadata/name").is_empty();
    initialise(kind, &mut object);
    let entered = registry.customs.enter(kind).await;
    admit_kind(registry, kind)?;
    for _ in 0..RACE_RETRIES {
        if !named && !generate.is_empty() {
            let name = generated_name(&generate);
            metadata(
                object
                    .as_object_mut()
                    .expect("envelope checked that it is an object"),
            )
            .insert("name".to_owned(), json!(name));
        }
        let mut ready = object.clone();
        if kind.is(&kinds::POD) {
            account::pull_secrets(registry, namespace, &mut ready);
        }
        // Held until the write is committed, so that no two Services get one address.
        let guard = if kind.strategy.allocate.is_some() {
            Some(registry.allocation.lock().await)
        } else {
            None
        };
        let name = text(&ready, "/metadata/name").to_owned();
        let key = kind.key(namespace, &name);
        // Before validation: that a Service's own address is taken is no news when the Service exists.
        if named && registry.store.get(&key).is_some() {
            return Err(Status::already_exists(kind, &name));
        }
        prepare(registry, kind, &mut ready, None)?;
        if run == Run::Dry {
            return match registry.store.get(&key) {
                Some(_) => Err(Status::already_exists(kind, &name)),
                None => Ok(Arc::new(ready)),
            };
        }
        let written = registry
            .store
            .put(&key, ready, Expected::Absent, kind.strategy.durability)
            .await;
        drop(guard);
        match written {
            Ok(entry) => {
                registry.written(kind);
                drop(entered);
                return Ok(entry.value);
            }
            Err(StoreError::Conflict { .. }) if !named => {}
            Err(StoreError::Conflict { .. }) => return Err(Status::already_exists(kind, &name)),
            Err(error) => return Err(Status::from_store(&error, kind, &name)),
        }
    }
    Err(Status::already_exists(kind, &generate))
}

/// `kind` and `apiVersion` are right or filled in; so is the namespace.
fn envelope(kind: &Kind, namespace: Option<&str>, mut object: Value) -> Result<Value, Status> {
    let Some(map) = object.as_object_mut() else {
        return Err(Status::bad_request("the body must be a JSON object"));
    };
    for (field, wanted) in [
        ("kind", kind.kind.to_owned()),
        ("apiVersion", kind.api_version()),
    ] {
        match map.get(field).and_then(Value::as_str) {
            None | Some("") => {
                map.insert(field.to_owned(), Value::String(wanted));
            }
            Some(given) if given == wanted => {}
            Some(given) => {
                let message = format!(
                    "{field} `{}` in the body does not match `{wanted}` of the request's path",
                    clipped(given)
                );
                return Err(Status::bad_request(message));
            }
        }
    }
    // kind and apiVersion first, as everybody prints them.
    let mut ordered = Map::new();
    for field in ["kind", "apiVersion"] {
        ordered.insert(
            field.to_owned(),
            map.shift_remove(field).unwrap_or_default(),
        );
    }
    let meta = metadata(map);
    match (kind.namespaced, namespace) {
        (true, Some(namespace)) => match meta.get("namespace").and_then(Value::as_str) {
            None | Some("") => {
                meta.insert("namespace".to_owned(), json!(namespace));
            }
            Some(given) if given == namespace => {}
            Some(_) => {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        },
        (true, None) => {
            return Err(Status::bad_request(
                "an object of this kind needs a namespace",
            ));
        }
        (false, _) => {
            meta.shift_remove("namespace");
        }
    }
    ordered.append(map);
    Ok(Value::Object(ordered))
}

/// A kind whose definition goes takes no new objects; one whose definition is gone is not there any more.
fn admit_kind(registry: &Registry, kind: &'static Kind) -> Result<(), Status> {
    let Some(custom) = kind.custom else {
        return Ok(());
    };
    let served = registry.served();
    let mut known = served.kinds().iter();
    if !known.any(|known| std::ptr::eq(*known, kind)) {
        return Err(Status::no_such_path());
    }
    if custom.is_terminating() {
        let mut status = Status::method_not_allowed();
        "create not allowed while custom resource definition is terminating"
            .clone_into(&mut status.message);
        return Err(status);
    }
    Ok(())
}

fn admit_namespace(registry: &Registry, namespace: &str) -> Result<(), Status> {
    let found = registry.get(&kinds::NAMESPACE, None, namespace)?;
    if found.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(Status::forbidden(format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        )));
    }
    Ok(())
}

fn initialise(kind: &Kind, object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let has_spec = map.contains_key("spec");
    let meta = metadata(map);
    for field in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    ] {
        meta.shift_remove(field);
    }
    drop_no_owners(meta);
    meta.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    meta.insert("creationTimestamp".to_owned(), json!(now()));
    meta.shift_remove("generation");
    let definition = kind.definition();
    if (has_spec || definition.is_some()) && kind.strategy.generation == Generation::Counted {
        meta.insert("generation".to_owned(), json!(1));
    }
    let is_dropped = match definition {
        Some(definition) => definition.has_status(),
        None => kind.strategy.status_on_create == StatusOnCreate::Dropped,
    };
    if is_dropped {
        map.shift_remove("status");
    }
}

fn generated_name(prefix: &str) -> String {
    let mut end = prefix.len().min(GENERATE_PREFIX_BYTES);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let random = uuid::Uuid::new_v4();
    // The version and variant bits sit in bytes 6 and 8; the first five are random.
    let suffix: String = random.as_bytes()[..5]
        .iter()
        .map(|byte| char::from(GENERATE_ALPHABET[usize::from(*byte) % GENERATE_ALPHABET.len()]))
        .collect();
    format!("{}{suffix}", &prefix[..end])
}

/// Defaults, allocates and validates `object`; `old` is what it replaces.
fn prepare(
    registry: &Registry,
    kind: &'static Kind,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    bounds::check_object(object)?;
    defaults::apply(kind, object);
    let mut causes = match kind.strategy.allocate {
        Some(allocate) => allocate(&registry.list(kind, None).0, object, old),
        None => Vec::new(),
    };
    causes.extend(validation::check(kind, object, old));
    let is_new = old.is_none_or(|old| old.get("spec") != object.get("spec"));
    if is_new && !registry.accepts_unenforced {
        let unenforced = honoured::look(kind, object)
            .into_iter()
            .filter(|one| one.protects);
        causes.extend(unenforced.map(|one| one.cause()));
    }
    let name = text(object, "/metadata/name").to_owned();
    if !causes.is_empty() {
        return Err(Status::invalid(kind, &name, causes));
    }
    if is_new {
        images::admit(&registry.images, kind, object, &name)?;
    }
    Ok(())
}

pub(super) async fn update(
    registry: &Registry,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    subresource: Option<Subresource>,
    change: &(dyn Fn(&Value) -> Result<Value, Status> + Send + Sync),
    run: Run,
) -> Result<Arc<Value>, Status> {
    let entered = if kind.custom.is_some() {
        None
    } else {
        Some(registry.customs.enter(kind).await)
    };
    for _ in 0..RACE_RETRIES {
        let current = registry.entry(kind, namespace, name)?;
        let changed = change(&current.value)?;
        let named_revision = text(&changed, "/metadata/resourceVersion").to_owned();
        if !named_revision.is_empty() && named_revision != current.revision.to_string() {
            return Err(Status::modified(kind, name));
        }
        let wanted = envelope(kind, namespace, changed)?;
        let mut next = merge_parts(kind, subresource, &current.value, wanted, name)?;
        let guard = if kind.strategy.allocate.is_some() {
            Some(registry.allocation.lock().await)
        } else {
            None
        };
        prepare(registry, kind, &mut next, Some(&current.value))?;
        bump_generation(kind, &current.value, &mut next);
        if next == *current.value || run == Run::Dry {
            return Ok(if run == Run::Dry {
                Arc::new(next)
            } else {
                current.value
            });
        }
        let written = store_changed(registry, kind, &current, next).await;
        drop(guard);
        match written {
            Ok(entry) => {
                registry.written(kind);
                drop(entered);
                return Ok(entry.value);
            }
            // A writer that named a revision has had its answer above; this one lost a race it does not know of.
            Err(StoreError::Conflict {
                current: Some(_), ..
            }) => {}
            Err(error) => return Err(Status::from_store(&error, kind, name)),
        }
    }
    Err(Status::modified(kind, name))
}

/// Writes `next`; an object that was only waiting for its finalizers goes when the last one is removed.
async fn store_changed(
    registry: &Registry,
    kind: &Kind,
    current: &Entry,
    next: Value,
) -> Result<Entry, StoreError> {
    let finalizers = |object: &Value| {
        object
            .pointer("/metadata/finalizers")
            .and_then(Value::as_array)
            .map_or(0, Vec::len)
    };
    let held_otherwise = kind.strategy.deletion.held;
    let waiting = next.pointer("/metadata/deletionTimestamp").is_some();
    let grace = next
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let released = finalizers(&current.value) > 0 || held_otherwise(&current.value);
    let held = finalizers(&next) > 0 || held_otherwise(&next);
    if waiting && grace == 0 && released && !held {
        return registry
            .store
            .delete(&current.key, current.revision, kind.strategy.durability)
            .await;
    }
    registry
        .store
        .put(
            &current.key,
            next,
            Expected::At(current.revision),
            kind.strategy.durability,
        )
        .await
}

/// An empty list of owners is the same as none.
fn drop_no_owners(metadata: &mut Map<String, Value>) {
    let owners = metadata.get("managedFields").and_then(Value::as_array);
    if owners.is_none_or(Vec::is_empty) {
        metadata.shift_remove("managedFields");
    }
}

/// What a write may change: the status endpoint the status, the main one everything else.
fn merge_parts(
    kind: &'static Kind,
    subresource: Option<Subresource>,
    current: &Value,
    wanted: Value,
    name: &str,
) -> Result<Value, Status> {
    let given = text(&wanted, "/metadata/name");
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            clipped(given)
        )));
    }
    let given = text(&wanted, "/metadata/uid");
    if !given.is_empty() && given != text(current, "/metadata/uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            clipped(given),
            text(current, "/metadata/uid")
        );
        return Err(Status::conflict(kind, name, &why));
    }
    let owners = wanted.pointer("/metadata/managedFields").cloned();
    if subresource == Some(Subresource::Status) {
        let mut next = current.clone();
        if let Some(map) = next.as_object_mut() {
            if let Some(owners) = owners {
                metadata(map).insert("managedFields".to_owned(), owners);
                drop_no_owners(metadata(map));
            }
            match wanted.get("status") {
                Some(status) => map.insert("status".to_owned(), status.clone()),
                None => map.shift_remove("status"),
            };
        }
        return Ok(next);
    }
    let mut next = wanted;
    let map = next
        .as_object_mut()
        .expect("envelope checked that it is an object");
    let meta = metadata(map);
    meta.insert("name".to_owned(), json!(name));
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        match current.pointer(&format!("/metadata/{field}")) {
            Some(kept) => meta.insert(field.to_owned(), kept.clone()),
            None => meta.shift_remove(field),
        };
    }
    // Who says nothing of the owners leaves them as they are.
    if owners.is_none()
        && let Some(kept) = current.pointer("/metadata/managedFields")
    {
        meta.insert("managedFields".to_owned(), kept.clone());
    }
    drop_no_owners(meta);
    meta.shift_remove("selfLink");
    if kind.has(Subresource::Status) {
        match current.get("status") {
            Some(status) => map.insert("status".to_owned(), status.clone()),
            None => map.shift_remove("status"),
        };
    }
    Ok(next)
}

fn bump_generation(kind: &Kind, current: &Value, next: &mut Value) {
    let generation = current
        .pointer("/metadata/generation")
        .and_then(Value::as_i64);
    let Some(generation) = generation else { return };
    let is_changed = match kind.definition() {
        Some(definition) => definition.is_changed(current, next),
        None => current.get("spec") != next.get("spec"),
    };
    if is_changed && kind.strategy.generation == Generation::Counted {
        next["metadata"]["generation"] = json!(generation + 1);
    }
}

pub(super) async fn bind(
    registry: &Registry,
    namespace: &str,
    pod: &str,
    node: &str,
) -> Result<Arc<Value>, Status> {
    let kind = &kinds::POD;
    for _ in 0..RACE_RETRIES {
        let current = registry.entry(kind, Some(namespace), pod)?;
        if current
            .value
            .pointer("/metadata/deletionTimestamp")
            .is_some()
        {
            return Err(Status::conflict(
                kind,
                pod,
                &format!("pod {pod} is being deleted, cannot be assigned to a host"),
            ));
        }
        let assigned = text(&current.value, "/spec/nodeName");
        if !assigned.is_empty() {
            return Err(Status::conflict(
                kind,
                pod,
                &format!("pod {pod} is already assigned to node \"{assigned}\""),
            ));
        }
        let mut next = (*current.value).clone();
        next["spec"]["nodeName"] = json!(node);
        set_condition(&mut next, "PodScheduled", "True");
        match registry
            .store
            .put(
                &current.key,
                next,
                Expected::At(current.revision),
                kind.strategy.durability,
            )
            .await
        {
            Ok(entry) => return Ok(entry.value),
            Err(StoreError::Conflict {
                current: Some(Revision(_)),
                ..
            }) => {}
            Err(error) => return Err(Status::from_store(&error, kind, pod)),
        }
    }
    Err(Status::modified(kind, pod))
}

fn set_condition(object: &mut Value, kind: &str, status: &str) {
    let condition =
        json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": now()});
    if !object.get("status").is_some_and(Value::is_object) {
        object["status"] = json!({});
    }
    match object
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut)
    {
        Some(conditions) => {
            conditions.retain(|present| present.get("type").and_then(Value::as_str) != Some(kind));
            conditions.push(condition);
        }
        None => object["status"]["conditions"] = json!([condition]),
    }
}
