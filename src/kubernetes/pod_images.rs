//! The images that an object would have run: a pod's, or those of the template that pods are made from.

use serde_json::Value;

/// The lists of a pod's spec that hold containers.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Where a kind has the spec of its pods: every kind that makes some.
const POD_SPECS: &[(&str, &[&str])] = &[
    ("Pod", &["spec"]),
    ("PodTemplate", &["template", "spec"]),
    ("ReplicationController", &["spec", "template", "spec"]),
    ("ReplicaSet", &["spec", "template", "spec"]),
    ("Deployment", &["spec", "template", "spec"]),
    ("StatefulSet", &["spec", "template", "spec"]),
    ("DaemonSet", &["spec", "template", "spec"]),
    ("Job", &["spec", "template", "spec"]),
    (
        "CronJob",
        &["spec", "jobTemplate", "spec", "template", "spec"],
    ),
];

/// An image, and who wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodImage<'a> {
    /// Path of the field, `spec.template.spec.containers[0].image`.
    pub field: String,
    /// For a person: ``container `web` ``.
    pub user: String,
    /// The image as it is written.
    pub image: &'a str,
}

/// Every image that an object of this kind names, in the order of its containers; what is no text or empty is left out.
#[must_use]
pub fn of<'a>(kind: &str, object: &'a Value) -> Vec<PodImage<'a>> {
    let Some((_, path)) = POD_SPECS.iter().find(|(known, _)| *known == kind) else {
        return Vec::new();
    };
    let Some(spec) = path
        .iter()
        .try_fold(object, |inside, field| inside.get(field))
    else {
        return Vec::new();
    };
    let path = path.join(".");
    let mut found = Vec::new();
    for list in CONTAINERS {
        for (number, container) in elements(spec, list) {
            let name = container
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if let Some(image) = text(container.get("image")) {
                found.push(PodImage {
                    field: format!("{path}.{list}[{number}].image"),
                    user: format!("container `{name}`"),
                    image,
                });
            }
        }
    }
    for (number, volume) in elements(spec, "volumes") {
        let name = volume
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if let Some(image) = text(volume.pointer("/image/reference")) {
            found.push(PodImage {
                field: format!("{path}.volumes[{number}].image.reference"),
                user: format!("volume `{name}`"),
                image,
            });
        }
    }
    found
}

fn elements<'a>(spec: &'a Value, list: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    spec.get(list)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
}

fn text(value: Option<&Value>) -> Option<&str> {
    value
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_container_and_every_template_is_looked_at() {
        let spec = json!({
            "initContainers": [{"name": "i", "image": "a"}],
            "containers": [{"name": "c"}, {"name": "d", "image": "b"}, 5],
            "ephemeralContainers": [{"name": "e", "image": "c"}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "image": {"reference": "d"}}],
        });
        for (kind, path) in POD_SPECS {
            let mut object = spec.clone();
            for field in path.iter().rev() {
                object = json!({ *field: object });
            }
            let fields: Vec<String> = of(kind, &object)
                .into_iter()
                .map(|one| format!("{} {} {}", one.field, one.user, one.image))
                .collect();
            let path = path.join(".");
            assert_eq!(
                fields,
                [
                    format!("{path}.initContainers[0].image container `i` a"),
                    format!("{path}.containers[1].image container `d` b"),
                    format!("{path}.ephemeralContainers[0].image container `e` c"),
                    format!("{path}.volumes[1].image.reference volume `w` d"),
                ],
                "{kind}"
            );
            assert!(of(kind, &json!({"spec": 5})).is_empty(), "{kind}");
        }
        assert!(of("Service", &json!({ "spec": spec })).is_empty());
    }
}
