//! The three patches: JSON patch (RFC 6902), merge patch (RFC 7386), and Kubernetes' strategic merge patch.
//!
//! A patch comes from outside: what it does is bounded (`limits`), and it takes time in proportion to the object and itself, since
//! elements of lists are looked up in maps.

use std::collections::{HashMap, HashSet};

use json_patch::PatchOperation;
use json_patch::jsonptr::Pointer;
use serde_json::{Map, Value};

use super::bounds;
use super::kinds::{self, Kind};
use super::limits::{
    JSON_PATCH_COPIED_BYTES, JSON_PATCH_OPERATIONS, JSON_PATCH_WORK, OBJECT_DEPTH,
};
use super::status::Status;
use crate::model::json;
use crate::orchestrator::measure::{Measure, measure};

/// A patch as it was sent.
#[derive(Debug, Clone)]
pub enum Patch {
    /// `application/json-patch+json`: a list of operations.
    Json(Value),
    /// `application/merge-patch+json`: null deletes, lists are replaced.
    Merge(Value),
    /// `application/strategic-merge-patch+json`: lists with a merge key are merged.
    Strategic(Value),
}

impl Patch {
    /// Applies itself to `object`, which is changed only if it succeeds.
    pub fn apply(&self, kind: &Kind, object: &Value) -> Result<Value, Status> {
        let mut patched = object.clone();
        match self {
            Self::Json(operations) => apply_json(&mut patched, operations)?,
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Strategic(patch) => {
                let (Value::Object(target), Value::Object(patch)) = (&mut patched, patch) else {
                    return Err(Status::bad_request(
                        "a strategic merge patch must be an object",
                    ));
                };
                merge_map(kind, "", target, patch)?;
            }
        }
        bounds::check_object(&patched)?;
        Ok(patched)
    }
}

/// One operation after the other, each only after what it will cost is known: between two of them the object is within bounds.
fn apply_json(object: &mut Value, operations: &Value) -> Result<(), Status> {
    let count = operations.as_array().map_or(0, Vec::len);
    if count > JSON_PATCH_OPERATIONS {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS}, got {count}"
        )));
    }
    let operations: json_patch::Patch = json::from_value(operations)
        .map_err(|_| Status::bad_request("error decoding patch: it is not a list of operations"))?;
    let mut spent = Spent::default();
    for operation in &operations.0 {
        spent.on(operation, object)?;
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|error| {
            let mut status = Status::bad_request(format!(
                "the server rejected our request due to an error in our request: {error}"
            ));
            status.code = 422;
            status.reason = "Invalid";
            status
        })?;
    }
    Ok(())
}

/// What a JSON patch has cost so far.
#[derive(Default)]
struct Spent {
    copied_bytes: usize,
    work: usize,
}

impl Spent {
    /// Adds what `operation` will cost; refuses it when that is too much, or when it would nest too deeply.
    fn on(&mut self, operation: &PatchOperation, object: &Value) -> Result<(), Status> {
        let path = operation.path();
        let mut depth = path.count();
        match operation {
            PatchOperation::Add(add) => depth += measure(&add.value).depth,
            PatchOperation::Replace(replace) => depth += measure(&replace.value).depth,
            PatchOperation::Copy(copy) => {
                let source = self.look(&copy.from, object);
                depth += source.depth;
                self.copied_bytes = self.copied_bytes.saturating_add(source.bytes);
            }
            PatchOperation::Move(moved) => {
                depth += self.look(&moved.from, object).depth;
                self.shift(&moved.from, object);
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => {}
        }
        self.shift(path, object);
        if depth > OBJECT_DEPTH {
            return Err(bounds::too_deep());
        }
        if self.copied_bytes > JSON_PATCH_COPIED_BYTES {
            return Err(Status::too_large(format!(
                "the copies of a JSON patch may add {JSON_PATCH_COPIED_BYTES} bytes at most"
            )));
        }
        if self.work > JSON_PATCH_WORK {
            return Err(Status::too_large(
                "the JSON patch takes too much work: split it",
            ));
        }
        Ok(())
    }

    /// The value to be copied or moved, which is walked through for it.
    fn look(&mut self, from: &Pointer, object: &Value) -> Measure {
        let source = object
            .pointer(from.as_str())
            .map(measure)
            .unwrap_or_default();
        self.work = self.work.saturating_add(source.values);
        source
    }

    /// Elements of a list that move up or down for one that comes or goes.
    fn shift(&mut self, path: &Pointer, object: &Value) {
        let parent = path
            .parent()
            .and_then(|parent| object.pointer(parent.as_str()));
        let moved = parent.and_then(Value::as_array).map_or(1, Vec::len);
        self.work = self.work.saturating_add(moved);
    }
}

/// How a list of this field merges.
enum ListMerge {
    /// Objects, by the value of this key.
    By(&'static str),
    /// A set of plain values.
    Set,
    /// The new list takes the place of the old one.
    Replace,
}

/// The merge keys of Kubernetes' types (`patchMergeKey` in k8s.io/api/core/v1/types.go), by the field's name.
fn list_merge(kind: &Kind, parent: &str, field: &str) -> ListMerge {
    match (parent, field) {
        (
            _,
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "volumes"
            | "env"
            | "imagePullSecrets"
            | "secrets",
        ) => ListMerge::By("name"),
        ("containers" | "initContainers" | "ephemeralContainers", "ports") => {
            ListMerge::By("containerPort")
        }
        ("spec", "ports") if kind.is(&kinds::SERVICE) => ListMerge::By("port"),
        (_, "volumeMounts") => ListMerge::By("mountPath"),
        (_, "volumeDevices") => ListMerge::By("devicePath"),
        (_, "hostAliases") => ListMerge::By("ip"),
        ("status", "podIPs" | "hostIPs") => ListMerge::By("ip"),
        (_, "topologySpreadConstraints") => ListMerge::By("topologyKey"),
        ("status", "conditions" | "addresses") => ListMerge::By("type"),
        ("metadata", "ownerReferences") => ListMerge::By("uid"),
        ("metadata", "finalizers") => ListMerge::Set,
        ("spec", "finalizers" | "podCIDRs") => ListMerge::Set,
        _ => ListMerge::Replace,
    }
}

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";

fn merge_map(
    kind: &Kind,
    parent: &str,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), Status> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            *target = patch
                .iter()
                .filter(|(key, _)| !key.starts_with('$'))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        // It is not repeated: it may be a Secret's value.
        Some(_) => {
            return Err(Status::bad_request(
                "a patch directive is not one of replace, delete, merge",
            ));
        }
    }
    if let Some(Value::Array(keys)) = patch.get(RETAIN_KEYS) {
        let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
        target.retain(|key, _| keys.contains(key.as_str()));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVE) {
            if let (Some(Value::Array(list)), Value::Array(gone)) = (target.get_mut(field), value) {
                let gone: HashSet<String> = gone.iter().map(identity).collect();
                list.retain(|item| !gone.contains(&identity(item)));
            }
        } else if !key.starts_with('$') {
            merge_field(kind, parent, key, value, target)?;
        }
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(ORDER)
            && let (Some(Value::Array(list)), Value::Array(order)) = (target.get_mut(field), value)
        {
            reorder(&list_merge(kind, parent, field), list, order);
        }
    }
    Ok(())
}

fn merge_field(
    kind: &Kind,
    parent: &str,
    field: &str,
    value: &Value,
    target: &mut Map<String, Value>,
) -> Result<(), Status> {
    match value {
        Value::Null => {
            target.shift_remove(field);
        }
        Value::Object(patch) => {
            if !matches!(target.get(field), Some(Value::Object(_))) {
                target.insert(field.to_owned(), Value::Object(Map::new()));
            }
            if let Some(Value::Object(inner)) = target.get_mut(field) {
                merge_map(kind, field, inner, patch)?;
            }
            if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                target.shift_remove(field);
            }
        }
        Value::Array(patch) => {
            if !matches!(target.get(field), Some(Value::Array(_))) {
                target.insert(field.to_owned(), Value::Array(Vec::new()));
            }
            if let Some(Value::Array(list)) = target.get_mut(field) {
                merge_list(kind, parent, field, list, patch)?;
            }
        }
        plain => {
            target.insert(field.to_owned(), plain.clone());
        }
    }
    Ok(())
}

/// What a value is looked up by in a map: equal values have equal texts.
fn identity(value: &Value) -> String {
    value.to_string()
}

fn merge_list(
    kind: &Kind,
    parent: &str,
    field: &str,
    list: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), Status> {
    match list_merge(kind, parent, field) {
        ListMerge::Replace => *list = patch.to_vec(),
        ListMerge::Set => {
            let mut present: HashSet<String> = list.iter().map(identity).collect();
            list.extend(
                patch
                    .iter()
                    .filter(|item| present.insert(identity(item)))
                    .cloned(),
            );
        }
        ListMerge::By(_) if patch.iter().any(|item| directive(item) == Some("replace")) => {
            *list = patch
                .iter()
                .filter(|item| directive(item).is_none())
                .cloned()
                .collect();
        }
        ListMerge::By(merge_key) => merge_elements(kind, field, merge_key, list, patch)?,
    }
    Ok(())
}

fn directive(item: &Value) -> Option<&str> {
    item.get(DIRECTIVE).and_then(Value::as_str)
}

fn merge_elements(
    kind: &Kind,
    field: &str,
    merge_key: &str,
    list: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), Status> {
    let mut elements: Vec<Option<Value>> = std::mem::take(list).into_iter().map(Some).collect();
    // Where the elements with a key are; more than one only in a list that no patch made.
    let mut places: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, element) in elements.iter().enumerate() {
        if let Some(key) = element.as_ref().and_then(|element| element.get(merge_key)) {
            places.entry(identity(key)).or_default().push(place);
        }
    }
    for item in patch {
        let Value::Object(item_map) = item else {
            return Err(Status::bad_request(format!(
                "an element of `{field}` in the patch is not an object"
            )));
        };
        let Some(wanted) = item_map.get(merge_key) else {
            return Err(Status::bad_request(format!(
                "an element of `{field}` in the patch has no merge key `{merge_key}`"
            )));
        };
        let wanted = identity(wanted);
        if directive(item) == Some("delete") {
            for place in places.remove(&wanted).unwrap_or_default() {
                elements[place] = None;
            }
            continue;
        }
        let first = places.get(&wanted).and_then(|places| places.first());
        match first.and_then(|place| elements[*place].as_mut()) {
            Some(Value::Object(present)) => merge_map(kind, field, present, item_map)?,
            _ => {
                let mut fresh = Map::new();
                merge_map(kind, field, &mut fresh, item_map)?;
                places.entry(wanted).or_default().push(elements.len());
                elements.push(Some(Value::Object(fresh)));
            }
        }
    }
    *list = elements.into_iter().flatten().collect();
    Ok(())
}

/// Puts the elements named in `order` into that order; others keep their places behind.
fn reorder(how: &ListMerge, list: &mut [Value], order: &[Value]) {
    let key = |item: &Value| match how {
        ListMerge::By(key) => item.get(key).map(identity),
        ListMerge::Set | ListMerge::Replace => Some(identity(item)),
    };
    let mut places: HashMap<Option<String>, usize> = HashMap::new();
    for (place, wanted) in order.iter().enumerate() {
        places.entry(key(wanted)).or_insert(place);
    }
    list.sort_by_cached_key(|item| places.get(&key(item)).copied().unwrap_or(usize::MAX));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strategic(object: Value, patch: Value) -> Value {
        Patch::Strategic(patch)
            .apply(&kinds::POD, &object)
            .expect("applies")
    }

    #[test]
    fn lists_merge_by_their_keys() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x", "env": [{"name": "K", "value": "1"}]}, {"name": "b", "image": "y"}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "image": "z", "env": [{"name": "L", "value": "2"}]}]}});
        let expected = json!({"spec": {"containers": [
            {"name": "a", "image": "z", "env": [{"name": "K", "value": "1"}, {"name": "L", "value": "2"}]}, {"name": "b", "image": "y"}]}});
        assert_eq!(strategic(pod, patch), expected);
    }

    #[test]
    fn directives_delete_replace_and_order() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}, "hostNetwork": true}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}],
            "containers": [{"name": "c", "image": "i"}, {"$patch": "delete", "name": "a"}],
            "nodeSelector": {"$patch": "replace", "y": "2"}, "hostNetwork": null}});
        let expected = json!({"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "b"}], "nodeSelector": {"y": "2"}}});
        assert_eq!(strategic(pod, patch), expected);
        let pod = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}});
        let patch = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}], "volumes": null}});
        assert_eq!(
            strategic(pod, patch),
            json!({"spec": {"containers": [{"name": "z"}]}})
        );
    }

    #[test]
    fn finalizers_are_a_set() {
        let object = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}});
        assert_eq!(
            strategic(object, patch),
            json!({"metadata": {"finalizers": ["b", "c"]}})
        );
    }

    #[test]
    fn a_service_port_merges_by_port_and_a_missing_key_is_refused() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "http"}]}});
        let patch = Patch::Strategic(
            json!({"spec": {"ports": [{"port": 80, "nodePort": 30001}, {"port": 443}]}}),
        );
        let patched = patch.apply(&kinds::SERVICE, &service).expect("applies");
        assert_eq!(
            patched,
            json!({"spec": {"ports": [{"port": 80, "name": "http", "nodePort": 30001}, {"port": 443}]}})
        );
        let refused = Patch::Strategic(json!({"spec": {"ports": [{"name": "x"}]}}))
            .apply(&kinds::SERVICE, &service);
        assert_eq!(refused.expect_err("no merge key").code, 400);
    }

    #[test]
    fn json_and_merge_patches() {
        let object = json!({"a": {"b": 1}, "l": [1]});
        let patch = Patch::Json(
            json!([{"op": "replace", "path": "/a/b", "value": 2}, {"op": "add", "path": "/l/-", "value": 3}]),
        );
        assert_eq!(
            patch.apply(&kinds::POD, &object).expect("applies"),
            json!({"a": {"b": 2}, "l": [1, 3]})
        );
        let patch = Patch::Merge(json!({"a": null, "l": [9]}));
        assert_eq!(
            patch.apply(&kinds::POD, &object).expect("applies"),
            json!({"l": [9]})
        );
        let failing = Patch::Json(json!([{"op": "test", "path": "/a/b", "value": 7}]));
        assert_eq!(
            failing
                .apply(&kinds::POD, &object)
                .expect_err("test fails")
                .code,
            422
        );
    }

    fn refusal(patch: Value, object: &Value) -> u16 {
        Patch::Json(patch)
            .apply(&kinds::CONFIG_MAP, object)
            .expect_err("refused")
            .code
    }

    #[test]
    fn a_json_patch_cannot_nest_what_nobody_could_read_back() {
        let mut object = json!({"a": {}});
        let mut path = "/a".to_owned();
        for level in 0.. {
            path.push_str("/b");
            let patch = Patch::Json(json!([{"op": "add", "path": path, "value": {}}]));
            match patch.apply(&kinds::EVENT, &object) {
                Ok(deeper) => object = deeper,
                Err(status) => {
                    assert_eq!((status.code, level), (400, OBJECT_DEPTH - 1));
                    break;
                }
            }
        }
        assert!(serde_json::from_str::<Value>(&json!([[object]]).to_string()).is_ok());
        // One operation that would do it, a copy of what is deep into its own depth, and a value that comes deep.
        let deep = (0..40).fold(json!(1), |inner, _| json!({"b": inner}));
        let object = json!({"a": deep});
        let inner = format!("/a{}", "/b".repeat(30));
        assert_eq!(
            refusal(
                json!([{"op": "copy", "from": "/a", "path": inner}]),
                &object
            ),
            400
        );
        assert_eq!(
            refusal(
                json!([{"op": "add", "path": inner, "value": deep}]),
                &object
            ),
            400
        );
        let long = "/b".repeat(25_600);
        assert_eq!(
            refusal(json!([{"op": "add", "path": long, "value": 1}]), &object),
            400
        );
    }

    #[test]
    fn copies_operations_and_work_are_bounded() {
        let doubling: Vec<Value> = (0..24)
            .map(|_| json!({"op": "copy", "from": "/data", "path": "/data/x"}))
            .collect();
        let doubling = [
            vec![json!({"op": "add", "path": "/l", "value": ["x".repeat(1000)]})],
            (0..24)
                .map(|n| json!({"op": "copy", "from": "/l", "path": format!("/l/{}", n + 1)}))
                .collect(),
            doubling,
        ]
        .concat();
        let object = json!({"data": {"k": "v"}});
        assert!([400, 413].contains(&refusal(json!(doubling), &object)));
        let wide: Vec<Value> = (0..2000)
            .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/d{n}")}))
            .collect();
        let large = json!({"data": {"k": "v".repeat(1 << 20)}});
        assert_eq!(refusal(json!(wide), &large), 413);
        let many =
            vec![json!({"op": "test", "path": "/data/k", "value": "v"}); JSON_PATCH_OPERATIONS + 1];
        assert_eq!(refusal(json!(many), &object), 413);
        let shifting = vec![json!({"op": "add", "path": "/l/0", "value": 0}); 5000];
        let long = json!({"l": vec![0; 100_000]});
        assert_eq!(refusal(json!(shifting), &long), 413);
    }

    /// Elements that a list and a patch have in common were looked for one by one: a million times a million steps, which
    /// does not end while anybody waits.
    #[test]
    fn long_lists_merge_in_linear_time() {
        let count = 60_000;
        let node = |status: &str| {
            let conditions: Vec<Value> = (0..count)
                .map(|n| json!({"type": format!("t{n}"), "status": status}))
                .collect();
            json!({"status": {"conditions": conditions}})
        };
        let mut patch = node("True");
        patch["status"]["$setElementOrder/conditions"] = (0..count)
            .rev()
            .map(|n| json!({"type": format!("t{n}")}))
            .collect();
        let patched = Patch::Strategic(patch)
            .apply(&kinds::NODE, &node("False"))
            .expect("applies");
        let last = format!("t{}", count - 1);
        assert_eq!(
            patched["status"]["conditions"][0],
            json!({"type": last, "status": "True"})
        );
        let names =
            |from: u32| -> Vec<String> { (from..from + count).map(|n| format!("f{n}")).collect() };
        let patch = json!({"metadata": {"finalizers": names(1), "$deleteFromPrimitiveList/finalizers": names(2)}});
        let object = json!({"metadata": {"finalizers": names(0)}});
        let patched = strategic(object, patch);
        assert_eq!(patched["metadata"]["finalizers"], json!(["f0", "f1"]));
    }
}
