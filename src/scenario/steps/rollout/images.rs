//! The images of a template and of its pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value as Json, json};

use crate::kubernetes::client::Patch;

/// The lists of a pod's specification that hold containers.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The change that gives containers of a workload's template other images. A container that is not there, or images that are there
/// already, would make it roll out something else or nothing.
pub(super) fn patch(object: &Json, images: &[(String, String)]) -> Result<Patch, String> {
    let spec = &object["spec"]["template"]["spec"];
    let present = of_template(spec);
    let unknown: Vec<&str> = images
        .iter()
        .map(|(container, _)| container.as_str())
        .filter(|container| !present.contains_key(*container))
        .collect();
    if !unknown.is_empty() {
        let known: Vec<&str> = present.keys().map(String::as_str).collect();
        return Err(format!(
            "there is no container `{}`, but `{}`",
            unknown.join("`, `"),
            known.join("`, `")
        ));
    }
    if images.iter().all(|(name, image)| present[name] == *image) {
        return Err("its containers have these images already: nothing would roll out".to_owned());
    }
    let mut change = json!({});
    for list in LISTS {
        let names = spec[list].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(|one| one["name"].as_str()).collect();
        let changed: Vec<Json> = images
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(name, image)| json!({ "name": name, "image": image }))
            .collect();
        if !changed.is_empty() {
            change[list] = Json::Array(changed);
        }
    }
    // Lists of containers are merged by name.
    let change = json!({ "spec": { "template": { "spec": change } } });
    Ok(Patch::Strategic(change))
}

/// By container: the image that a template gives it.
pub(super) fn of_template(spec: &Json) -> BTreeMap<String, String> {
    let lists = LISTS.iter().filter_map(|list| spec[*list].as_array());
    let image = |container: &Json| {
        let text = |key: &str| container[key].as_str().map(str::to_owned);
        Some((text("name")?, text("image")?))
    };
    lists.flatten().filter_map(image).collect()
}

/// The same of a pod.
pub(super) fn of_pod(pod: &Pod) -> BTreeMap<String, String> {
    let Some(spec) = &pod.spec else {
        return BTreeMap::new();
    };
    let inits = spec.init_containers.iter().flatten();
    let containers = spec.containers.iter().chain(inits);
    containers
        .map(|one| (one.name.clone(), one.image.clone().unwrap_or_default()))
        .collect()
}

/// A selector as list parameters have it: `a=b,c in (d,e),!f`.
pub(super) fn selector_text(selector: &Json) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let rules = selector["matchExpressions"].as_array();
    let rules = rules.into_iter().flatten().filter_map(|rule| {
        let key = rule["key"].as_str()?;
        let values = rule["values"].as_array().into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Json::as_str).collect();
        let values = values.join(",");
        match rule["operator"].as_str()? {
            "In" => Some(format!("{key} in ({values})")),
            "NotIn" => Some(format!("{key} notin ({values})")),
            "Exists" => Some(key.to_owned()),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    });
    labels.chain(rules).collect::<Vec<_>>().join(",")
}
