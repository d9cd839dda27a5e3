//! What a pod may learn of itself: its fields and its containers' resources, as text. Pure.
//!
//! Sources: `pkg/fieldpath/fieldpath.go`, `pkg/api/v1/resource/helpers.go` (`ExtractContainerResourceValue`),
//! `pkg/volume/downwardapi/downwardapi.go`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, Pod, PodSpec, ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity::{bytes, cpu_millis};

/// A file that shows something of its pod: path, contents, its own mode.
pub(super) type File = (String, Vec<u8>, Option<i32>);

/// A field of a pod's metadata that a volume may show; whole maps are a line an entry.
pub(super) fn field(pod: &Pod, path: &str) -> Option<String> {
    let metadata = &pod.metadata;
    let keyed = |prefix: &str| {
        path.strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")
    };
    let of = |map: &Option<BTreeMap<String, String>>, key: &str| {
        let value = map.as_ref().and_then(|map| map.get(key));
        value.cloned().unwrap_or_default()
    };
    if let Some(key) = keyed("metadata.labels") {
        return Some(of(&metadata.labels, key));
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(of(&metadata.annotations, key));
    }
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => Some(lines(metadata.labels.as_ref())),
        "metadata.annotations" => Some(lines(metadata.annotations.as_ref())),
        _ => None,
    }
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        let _ = writeln!(text, "{key}={value:?}");
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

/// The amount of a resource that a container may have or asks for, in units of the divisor, rounded up; what the node has when the
/// container does not say. `own` is the container that asks. An error says what is wrong.
pub(super) fn resource(
    spec: &PodSpec,
    own: Option<&Container>,
    wanted: &ResourceFieldSelector,
    node_memory_bytes: u64,
) -> Result<String, String> {
    let named = wanted.container_name.as_deref();
    let container = match named.filter(|name| !name.is_empty()) {
        None => own.ok_or("resourceFieldRef names no container")?,
        Some(name) => {
            let mut all = spec
                .init_containers
                .iter()
                .flatten()
                .chain(&spec.containers);
            all.find(|container| container.name == name)
                .ok_or_else(|| format!("there is no container `{name}`"))?
        }
    };
    let unsupported = || format!("resourceFieldRef {}", wanted.resource);
    let (kind, name) = wanted.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let quantity: Option<&Quantity> = match kind {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()?.get(name)),
        "requests" => resources.and_then(|resources| {
            let requested = resources.requests.as_ref().and_then(|all| all.get(name));
            requested.or_else(|| resources.limits.as_ref()?.get(name))
        }),
        _ => return Err(unsupported()),
    };
    let is_limit = kind == "limits";
    let (amount, read): (u64, fn(&Quantity) -> Option<u64>) = match name {
        "cpu" => {
            let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let all = if is_limit { cpus as u64 * 1000 } else { 0 };
            (quantity.and_then(cpu_millis).unwrap_or(all), cpu_millis)
        }
        "memory" => {
            let all = if is_limit { node_memory_bytes } else { 0 };
            (quantity.and_then(bytes).unwrap_or(all), bytes)
        }
        _ => return Err(unsupported()),
    };
    let one = if name == "cpu" { 1000 } else { 1 };
    let divisor = wanted.divisor.as_ref().and_then(read);
    let divisor = divisor.filter(|divisor| *divisor > 0).unwrap_or(one);
    Ok(amount.div_ceil(divisor).to_string())
}

/// The files of a volume that shows something of its pod.
pub(super) fn files(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    node_memory_bytes: u64,
) -> Result<Vec<File>, String> {
    let nothing = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&nothing);
    let file = |item: &DownwardAPIVolumeFile| {
        let text = if let Some(wanted) = &item.field_ref {
            field(pod, &wanted.field_path)
                .ok_or_else(|| format!("fieldRef {} is not supported", wanted.field_path))?
        } else if let Some(wanted) = &item.resource_field_ref {
            resource(spec, None, wanted, node_memory_bytes)?
        } else {
            return Err(format!("`{}` shows nothing", item.path));
        };
        Ok((item.path.clone(), text.into_bytes(), item.mode))
    };
    items.iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u",
            "labels": {"b": "2", "a": "say \"x\"\nand go"}, "annotations": {"k": "v"}},
            "spec": {"initContainers": [{"name": "i"}], "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "free"}]}}))
        .unwrap()
    }

    #[test]
    fn fields_are_text() {
        for (path, expected) in [
            ("metadata.name", Some("p")),
            (
                "metadata.labels",
                Some("a=\"say \\\"x\\\"\\nand go\"\nb=\"2\""),
            ),
            ("metadata.labels['b']", Some("2")),
            ("metadata.annotations['none']", Some("")),
            ("status.podIP", None),
        ] {
            assert_eq!(field(&pod(), path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn resources_are_counted_in_units_of_the_divisor_and_rounded_up() {
        let pod = pod();
        let spec = pod.spec.as_ref().unwrap();
        let check = |wanted: Value, expected: Result<&str, &str>| {
            let selector: ResourceFieldSelector = serde_json::from_value(wanted).unwrap();
            let found = resource(spec, spec.containers.first(), &selector, 512 << 20);
            match expected {
                Ok(expected) => assert_eq!(found.as_deref(), Ok(expected), "{selector:?}"),
                Err(part) => assert!(found.unwrap_err().contains(part), "{selector:?}"),
            }
        };
        check(json!({"resource": "limits.cpu"}), Ok("2"));
        check(
            json!({"resource": "limits.cpu", "divisor": "1m"}),
            Ok("1500"),
        );
        check(
            json!({"resource": "requests.cpu", "divisor": "1m"}),
            Ok("250"),
        );
        check(
            json!({"resource": "limits.memory", "divisor": "1Mi"}),
            Ok("64"),
        );
        check(
            json!({"resource": "limits.memory", "divisor": "0"}),
            Ok("67108864"),
        );
        check(
            json!({"resource": "requests.memory", "divisor": "1Mi"}),
            Ok("64"),
        );
        check(
            json!({"containerName": "free", "resource": "limits.memory", "divisor": "1Mi"}),
            Ok("512"),
        );
        check(
            json!({"containerName": "free", "resource": "requests.cpu"}),
            Ok("0"),
        );
        check(
            json!({"containerName": "gone", "resource": "limits.cpu"}),
            Err("no container `gone`"),
        );
        check(
            json!({"resource": "limits.ephemeral-storage"}),
            Err("limits.ephemeral-storage"),
        );
        check(json!({"resource": "cpu"}), Err("resourceFieldRef cpu"));
    }

    #[test]
    fn files_show_fields_and_resources() {
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.annotations"}},
            {"path": "in/cpu", "mode": 256, "resourceFieldRef": {"containerName": "c", "resource": "requests.cpu", "divisor": "1m"}}]))
        .unwrap();
        let made = files(&pod(), &items, 0).unwrap();
        assert_eq!(
            made,
            [
                ("labels".to_owned(), b"k=\"v\"".to_vec(), None),
                ("in/cpu".to_owned(), b"250".to_vec(), Some(256))
            ]
        );
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(
            json!([{"path": "x", "resourceFieldRef": {"resource": "limits.cpu"}}]),
        )
        .unwrap();
        assert!(
            files(&pod(), &items, 0)
                .unwrap_err()
                .contains("names no container")
        );
    }
}
