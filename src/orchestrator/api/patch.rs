//! The three patches: JSON patch (RFC 6902), merge patch (RFC 7386), and Kubernetes' strategic merge patch.

use serde_json::{Map, Value};

use super::kinds::{self, Kind};
use super::status::Status;

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
            Self::Json(operations) => {
                let operations: json_patch::Patch = serde_json::from_value(operations.clone())
                    .map_err(|error| {
                        Status::bad_request(format!("error decoding patch: {error}"))
                    })?;
                json_patch::patch(&mut patched, &operations).map_err(|error| {
                    let mut status = Status::bad_request(format!(
                        "the server rejected our request due to an error in our request: {error}"
                    ));
                    status.code = 422;
                    status.reason = "Invalid";
                    status
                })?;
            }
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
        Ok(patched)
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
        Some(other) => {
            return Err(Status::bad_request(format!(
                "unknown patch directive `{other}`"
            )));
        }
    }
    if let Some(Value::Array(keys)) = patch.get(RETAIN_KEYS) {
        target.retain(|key, _| keys.iter().any(|kept| kept.as_str() == Some(key)));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVE) {
            if let (Some(Value::Array(list)), Value::Array(gone)) = (target.get_mut(field), value) {
                list.retain(|item| !gone.contains(item));
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

fn merge_list(
    kind: &Kind,
    parent: &str,
    field: &str,
    list: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), Status> {
    let directive = |item: &Value| {
        item.get(DIRECTIVE)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    match list_merge(kind, parent, field) {
        ListMerge::Replace => *list = patch.to_vec(),
        ListMerge::Set => {
            for item in patch {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        ListMerge::By(merge_key) => {
            if patch
                .iter()
                .any(|item| directive(item).as_deref() == Some("replace"))
            {
                *list = patch
                    .iter()
                    .filter(|item| directive(item).is_none())
                    .cloned()
                    .collect();
                return Ok(());
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
                if directive(item).as_deref() == Some("delete") {
                    list.retain(|present| present.get(merge_key) != Some(wanted));
                    continue;
                }
                match list
                    .iter_mut()
                    .find(|present| present.get(merge_key) == Some(wanted))
                {
                    Some(Value::Object(present)) => merge_map(kind, field, present, item_map)?,
                    _ => {
                        let mut fresh = Map::new();
                        merge_map(kind, field, &mut fresh, item_map)?;
                        list.push(Value::Object(fresh));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Puts the elements named in `order` into that order; others keep their places behind.
fn reorder(how: &ListMerge, list: &mut [Value], order: &[Value]) {
    let place = |item: &Value| {
        let found = match how {
            ListMerge::By(key) => order
                .iter()
                .position(|wanted| wanted.get(key) == item.get(key)),
            ListMerge::Set | ListMerge::Replace => order.iter().position(|wanted| wanted == item),
        };
        found.unwrap_or(usize::MAX)
    };
    list.sort_by_key(place);
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
}
