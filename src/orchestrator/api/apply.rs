//! Server-side apply, and who owns which field.
//!
//! Who applies an object owns the fields that it holds. A later apply of the same manager takes out what it no longer holds, if
//! nobody else owns it; a field that has another owner and another value is a conflict, unless the manager insists. Every other
//! write takes the fields that it changes from their owners (kubernetes.io/docs/reference/using-api/server-side-apply).
//!
//! As in Kubernetes before 1.18, an object has owners only from its first apply on: what was there then belongs to
//! `before-first-apply`, and objects that nobody applies cost nothing. Writes of this server's own controllers are not recorded.

mod fields;
mod managers;
mod merge;
pub(super) mod topology;

use serde_json::Value;

use super::kinds::{Kind, Subresource};
use super::registry::now;
use super::status::{Cause, Status};
use fields::{Fields, Twice, readable};
use managers::{Manager, Operation, subresource_name};

/// Fields that nobody owns: they are the server's, or name the object.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "resourceVersion"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
];

/// One apply.
pub(super) struct Apply<'a> {
    /// Of which kind.
    pub(super) kind: &'static Kind,
    /// Of the whole object, or of its status.
    pub(super) subresource: Option<Subresource>,
    /// Who applies.
    pub(super) manager: &'a str,
    /// Whether fields are taken from other managers.
    pub(super) force: bool,
    /// What is applied.
    pub(super) applied: &'a Value,
}

impl Apply<'_> {
    /// The object as it is to be created.
    pub(super) fn created(&self) -> Result<Value, Status> {
        let mut object = self.applied.clone();
        let own = self.own(self.fields()?);
        managers::write(&mut object, vec![own]);
        Ok(object)
    }

    /// The object as it becomes. 409 with its causes if fields belong to others.
    pub(super) fn onto(&self, live: &Value) -> Result<Value, Status> {
        let definition = self.kind.definition();
        let root = topology::of(self.kind, definition.as_deref());
        let mut own = self.own(self.fields()?);
        let mut others = owners(self.kind, live);
        let last = others
            .iter()
            .position(|manager| manager.is(&own))
            .map(|place| others.remove(place));
        let changed = self.of_part(Fields::changed(root, Some(live), self.applied));
        let conflicts: Vec<(&Manager, Vec<String>)> = others
            .iter()
            .map(|manager| (manager, manager.fields.common(&changed)))
            .filter(|(_, paths)| !paths.is_empty())
            .collect();
        if !conflicts.is_empty() && !self.force {
            return Err(self.conflict(live, &conflicts));
        }
        for manager in &mut others {
            manager.fields.remove(&changed);
        }
        let mut next = live.clone();
        merge::merge(root, &mut next, &self.applied_part());
        if let Some(last) = last {
            let mut kept = own.fields.clone();
            for manager in &others {
                kept.add(&manager.fields);
            }
            merge::prune(root, &mut next, &last.fields, &kept);
            if last.fields == own.fields {
                own.time = last.time;
            }
        }
        // An apply names its revision, or none.
        match self.applied.pointer("/metadata/resourceVersion") {
            Some(revision) => next["metadata"]["resourceVersion"] = revision.clone(),
            None => drop_revision(&mut next),
        }
        others.push(own);
        managers::write(&mut next, others);
        Ok(next)
    }

    fn own(&self, fields: Fields) -> Manager {
        Manager {
            name: self.manager.to_owned(),
            operation: Operation::Apply,
            api_version: self.kind.api_version(),
            subresource: subresource_name(self.subresource),
            time: now(),
            fields,
        }
    }

    /// What is applied, without what this endpoint does not write.
    fn applied_part(&self) -> Value {
        let mut part = self.applied.clone();
        if let Some(map) = part.as_object_mut() {
            if self.subresource == Some(Subresource::Status) {
                map.retain(|field, _| field == "status");
            } else if self.kind.has(Subresource::Status) {
                map.shift_remove("status");
            }
        }
        part
    }

    /// The fields that the manager will own.
    fn fields(&self) -> Result<Fields, Status> {
        let definition = self.kind.definition();
        let root = topology::of(self.kind, definition.as_deref());
        let fields = Fields::of(root, self.applied).map_err(|Twice(step)| {
            let element = readable(&step);
            Status::bad_request(format!("the applied object has two elements {element}"))
        })?;
        Ok(self.of_part(fields))
    }

    fn of_part(&self, mut fields: Fields) -> Fields {
        only_part(&mut fields, self.kind, self.subresource);
        fields
    }

    fn conflict(&self, live: &Value, conflicts: &[(&Manager, Vec<String>)]) -> Status {
        let name = live.pointer("/metadata/name").and_then(Value::as_str);
        let mut causes = Vec::new();
        let mut told = Vec::new();
        for (manager, paths) in conflicts {
            let with = manager.described();
            causes.extend(paths.iter().map(|path| Cause {
                reason: "FieldManagerConflict",
                field: path.clone(),
                message: format!("conflict with {with}"),
            }));
            told.push(match paths.as_slice() {
                [path] => format!("conflict with {with}: {path}"),
                paths => format!("conflicts with {with}:\n- {}", paths.join("\n- ")),
            });
        }
        let plural = if causes.len() == 1 { "" } else { "s" };
        let message = format!(
            "Apply failed with {} conflict{plural}: {}",
            causes.len(),
            told.join("\n")
        );
        Status::apply_conflict(self.kind, name.unwrap_or_default(), message, causes)
    }
}

/// Leaves the fields that a write through `subresource` can change.
fn only_part(fields: &mut Fields, kind: &Kind, subresource: Option<Subresource>) {
    match subresource {
        Some(Subresource::Status) => fields.below.retain(|step, _| step == "f:status"),
        _ if kind.has(Subresource::Status) => fields.forget(&["status"]),
        _ => {}
    }
    for path in UNOWNED {
        fields.forget(path);
    }
}

fn drop_revision(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("resourceVersion");
    }
}

/// The owners of an object that is applied; before the first apply it has one.
fn owners(kind: &Kind, live: &Value) -> Vec<Manager> {
    let known = managers::read(live);
    if !known.is_empty() {
        return known;
    }
    let definition = kind.definition();
    let root = topology::of(kind, definition.as_deref());
    // A list with two elements of one key is nobody's: it cannot be told which of them is owned.
    let mut fields = Fields::of(root, live).unwrap_or_default();
    only_part(&mut fields, kind, None);
    let created = live.pointer("/metadata/creationTimestamp");
    vec![Manager {
        name: "before-first-apply".to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: String::new(),
        time: created
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        fields,
    }]
}

/// Another write than an apply: who writes owns what it changes. `changed` may bring its own list of owners, as clients do that
/// rename one; `[{}]` forgets them all, and an object that was never applied gets none.
pub(super) fn track(
    kind: &'static Kind,
    subresource: Option<Subresource>,
    manager: &str,
    live: &Value,
    mut changed: Value,
) -> Value {
    if !changed.is_object() {
        return changed;
    }
    let sent = changed
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let reset =
        sent.is_some_and(|sent| matches!(sent.as_slice(), [one] if one == &serde_json::json!({})));
    let mut known = match (reset, managers::read(&changed)) {
        (true, _) => Vec::new(),
        (false, sent) if !sent.is_empty() && !managers::read(live).is_empty() => sent,
        (false, _) => managers::read(live),
    };
    if known.is_empty() {
        managers::write(&mut changed, Vec::new());
        return changed;
    }
    let definition = kind.definition();
    let root = topology::of(kind, definition.as_deref());
    let mut fields = Fields::changed(root, Some(live), &changed);
    only_part(&mut fields, kind, subresource);
    let mut own = Manager {
        name: manager.to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: subresource_name(subresource),
        time: now(),
        fields,
    };
    // Of the status endpoint's object only the status counts, and the other way round.
    let whole = written(kind, subresource, live, &changed);
    for manager in &mut known {
        if !manager.is(&own) {
            manager.fields.remove(&own.fields);
        }
        manager.fields.keep_present(root, &whole);
    }
    match known.iter_mut().find(|manager| manager.is(&own)) {
        Some(present) => {
            if !own.fields.is_empty() {
                present.time = std::mem::take(&mut own.time);
            }
            present.fields.add(&own.fields);
        }
        None => known.push(own),
    }
    managers::write(&mut changed, known);
    changed
}

/// The object as it will be: each endpoint writes its own part.
fn written(kind: &Kind, subresource: Option<Subresource>, live: &Value, changed: &Value) -> Value {
    let (mut whole, status) = if subresource == Some(Subresource::Status) {
        (live.clone(), changed.get("status"))
    } else if kind.has(Subresource::Status) {
        (changed.clone(), live.get("status"))
    } else {
        return changed.clone();
    };
    if let Some(map) = whole.as_object_mut() {
        match status {
            Some(status) => map.insert("status".to_owned(), status.clone()),
            None => map.shift_remove("status"),
        };
    }
    whole
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::kinds;

    fn apply<'a>(manager: &'a str, applied: &'a Value) -> Apply<'a> {
        Apply {
            kind: if applied["kind"] == "ConfigMap" {
                &kinds::CONFIG_MAP
            } else {
                &kinds::DEPLOYMENT
            },
            subresource: None,
            manager,
            force: false,
            applied,
        }
    }

    fn map(data: Value) -> Value {
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": data})
    }

    fn deployment(containers: Value) -> Value {
        json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": containers}}}})
    }

    fn owned(object: &Value, manager: &str) -> Value {
        let entries = object["metadata"]["managedFields"].as_array();
        let entry = entries
            .into_iter()
            .flatten()
            .find(|entry| entry["manager"] == manager);
        entry.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
    }

    #[test]
    fn who_applies_owns_and_what_is_no_longer_applied_goes() {
        let first = map(json!({"a": "1", "b": "2"}));
        let live = apply("x", &first).created().expect("created");
        assert_eq!(owned(&live, "x"), json!({"f:data": {"f:a": {}, "f:b": {}}}));
        let other = map(json!({"b": "2", "c": "3"}));
        let live = apply("y", &other)
            .onto(&live)
            .expect("no conflict: b is the same");
        // b has another owner now, so that it stays; a goes.
        let second = map(json!({}));
        let live = apply("x", &second).onto(&live).expect("applied");
        assert_eq!(live["data"], json!({"b": "2", "c": "3"}));
        assert_eq!(owned(&live, "x"), json!({"f:data": {}}));
    }

    #[test]
    fn another_value_is_a_conflict_until_it_is_forced() {
        let live = apply("x", &map(json!({"a": "1"})))
            .created()
            .expect("created");
        let mine = map(json!({"a": "2"}));
        let refused = apply("y", &mine).onto(&live).expect_err("a conflict");
        assert_eq!((refused.code, refused.reason), (409, "Conflict"));
        assert_eq!(
            refused.message,
            "Apply failed with 1 conflict: conflict with \"x\" using v1: .data.a"
        );
        let causes = refused.details.expect("details").causes;
        assert_eq!(
            (causes[0].reason, causes[0].field.as_str()),
            ("FieldManagerConflict", ".data.a")
        );
        let forced = Apply {
            force: true,
            ..apply("y", &mine)
        };
        let live = forced.onto(&live).expect("forced");
        assert_eq!(
            (&live["data"]["a"], owned(&live, "x")),
            (&json!("2"), Value::Null)
        );
    }

    #[test]
    fn what_was_there_before_has_an_owner_too() {
        let live = map(json!({"a": "1", "b": "2"}));
        assert!(apply("x", &map(json!({"a": "1"}))).onto(&live).is_ok());
        let refused = apply("x", &map(json!({"a": "2"}))).onto(&live);
        assert!(
            refused
                .expect_err("a conflict")
                .message
                .contains("before-first-apply")
        );
    }

    #[test]
    fn elements_of_lists_are_owned_by_their_keys() {
        let first =
            deployment(json!([{"name": "a", "image": "i:1", "ports": [{"containerPort": 80}]}]));
        let live = apply("x", &first).created().expect("created");
        let ports = owned(&live, "x")
            .pointer("/f:spec/f:template/f:spec/f:containers")
            .cloned();
        assert_eq!(
            ports,
            Some(
                json!({"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}})
            )
        );
        let sidecar = deployment(json!([{"name": "b", "image": "s:1"}]));
        let live = apply("y", &sidecar).onto(&live).expect("another container");
        let update = deployment(json!([{"name": "a", "image": "i:2"}]));
        let live = apply("x", &update).onto(&live).expect("its own");
        assert_eq!(
            live["spec"]["template"]["spec"]["containers"],
            json!([{"name": "a", "image": "i:2"}, {"name": "b", "image": "s:1"}])
        );
        let twice = deployment(json!([{"name": "a"}, {"name": "a"}]));
        assert_eq!(
            apply("x", &twice).onto(&live).expect_err("refused").code,
            400
        );
        let live = apply("x", &deployment(json!([])))
            .onto(&live)
            .expect("its own");
        assert_eq!(
            live["spec"]["template"]["spec"]["containers"],
            json!([{"name": "b", "image": "s:1"}])
        );
    }

    #[test]
    fn other_writes_take_what_they_change() {
        let live = apply("x", &map(json!({"a": "1", "b": "2"})))
            .created()
            .expect("created");
        let mut edited = live.clone();
        edited["data"] = json!({"a": "9"});
        let live = track(&kinds::CONFIG_MAP, None, "edit", &live, edited);
        assert_eq!(owned(&live, "edit"), json!({"f:data": {"f:a": {}}}));
        assert_eq!(owned(&live, "x"), Value::Null);
        let refused = apply("x", &map(json!({"a": "1"}))).onto(&live);
        assert_eq!(refused.expect_err("a conflict").code, 409);
        let mut reset = live.clone();
        reset["metadata"]["managedFields"] = json!([{}]);
        let live = track(&kinds::CONFIG_MAP, None, "edit", &live, reset);
        assert_eq!(live["metadata"]["managedFields"], json!([]));
        let untouched = track(
            &kinds::CONFIG_MAP,
            None,
            "edit",
            &live,
            map(json!({"z": "1"})),
        );
        assert_eq!(untouched["metadata"]["managedFields"], json!([]));
    }

    #[test]
    fn the_status_has_its_own_endpoint() {
        let mut body = deployment(json!([{"name": "a", "image": "i"}]));
        body["status"] = json!({"replicas": 3});
        let live = apply("x", &body)
            .onto(&deployment(json!([])))
            .expect("applied");
        assert!(live.get("status").is_none());
        let status = Apply {
            subresource: Some(Subresource::Status),
            ..apply("y", &body)
        };
        let live = status.onto(&live).expect("applied");
        assert_eq!(live["status"]["replicas"], json!(3));
        assert_eq!(owned(&live, "y"), json!({"f:status": {"f:replicas": {}}}));
    }

    #[test]
    fn many_who_update_become_one() {
        let mut live = apply("x", &map(json!({"a": "1"})))
            .created()
            .expect("created");
        for number in 0..20 {
            let mut changed = live.clone();
            changed["data"][format!("k{number}")] = json!("v");
            live = track(
                &kinds::CONFIG_MAP,
                None,
                &format!("m{number}"),
                &live,
                changed,
            );
        }
        let entries = live["metadata"]["managedFields"]
            .as_array()
            .expect("owners");
        assert_eq!(entries.len(), 11);
        assert_ne!(owned(&live, "ancient-changes"), Value::Null);
    }
}
