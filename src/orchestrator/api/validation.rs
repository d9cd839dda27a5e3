//! Kubernetes' validation (k8s.io/kubernetes/pkg/apis/core/validation), for the kinds served here: every wrong field at once.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::kinds::{self, Kind};
use super::status::Cause;

/// Objects larger than this do not fit etcd either (Secret and ConfigMap data).
const MAX_DATA_BYTES: usize = 1 << 20;

/// What is wrong with `object`, which has its defaults; `old` is what it replaces.
#[must_use]
pub fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut found = Causes(Vec::new());
    metadata(kind, object, &mut found);
    if kind.is(&kinds::POD) {
        pod(object, old, &mut found);
    } else if kind.is(&kinds::REPLICATION_CONTROLLER) {
        replication_controller(object, &mut found);
    } else if kind.is(&kinds::SERVICE) {
        service(object, &mut found);
    } else if kind.is(&kinds::SECRET) {
        secret(object, old, &mut found);
    } else if kind.is(&kinds::CONFIG_MAP) {
        data_keys(object, "data", &mut found);
        data_keys(object, "binaryData", &mut found);
    }
    found.0
}

struct Causes(Vec<Cause>);

impl Causes {
    fn required(&mut self, field: impl Into<String>, why: &str) {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        self.0.push(Cause {
            reason: "FieldValueRequired",
            field: field.into(),
            message,
        });
    }

    fn invalid(&mut self, field: impl Into<String>, value: &Value, why: &str) {
        self.0.push(Cause {
            reason: "FieldValueInvalid",
            field: field.into(),
            message: format!("Invalid value: {value}: {why}"),
        });
    }

    fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.0.push(Cause {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {value}"),
        });
    }

    fn unsupported(&mut self, field: impl Into<String>, value: &Value, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|one| format!("\"{one}\"")).collect();
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            list.join(", ")
        );
        self.0.push(Cause {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message,
        });
    }

    fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        self.0.push(Cause {
            reason: "FieldValueForbidden",
            field: field.into(),
            message: format!("Forbidden: {why}"),
        });
    }

    /// The value must be one of these.
    fn one_of(&mut self, field: impl Into<String>, value: Option<&Value>, supported: &[&str]) {
        match value {
            Some(value) if value.as_str().is_some_and(|text| supported.contains(&text)) => {}
            Some(value) => self.unsupported(field, value, supported),
            None => self.required(field, ""),
        }
    }
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    object
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_subdomain(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && is_label(&part[..part.len().min(63)])
            && part.bytes().all(|byte| byte != b'_')
    };
    name.len() <= 253 && name.split('.').all(part)
}

/// A qualified name's last part, and a label's value when not empty.
fn is_label_text(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(inner)
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

fn is_qualified_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, rest)) => is_subdomain(prefix) && is_label_text(rest),
        None => is_label_text(name),
    }
}

fn metadata(kind: &Kind, object: &Value, found: &mut Causes) {
    let name = text(object, "/metadata/name");
    if name.is_empty() {
        found.required("metadata.name", "name or generateName is required");
    } else if kind.is(&kinds::SERVICE) {
        if !is_label(name) || name.starts_with(|first: char| first.is_ascii_digit()) {
            found.invalid("metadata.name", &Value::from(name), LABEL_1035);
        }
    } else if kind.is(&kinds::NAMESPACE) {
        if !is_label(name) {
            found.invalid("metadata.name", &Value::from(name), LABEL);
        }
    } else if !is_subdomain(name) {
        found.invalid("metadata.name", &Value::from(name), SUBDOMAIN);
    }
    let meta = object.get("metadata").unwrap_or(&Value::Null);
    labels(meta, "labels", "metadata.labels", found);
    for key in meta
        .get("annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
    {
        if !is_qualified_name(&key.to_lowercase()) {
            found.invalid(
                "metadata.annotations",
                &Value::from(key.as_str()),
                "name part must consist of alphanumeric characters, '-', '_' or '.'",
            );
        }
    }
}

fn labels(object: &Value, field: &str, path: &str, found: &mut Causes) {
    for (key, value) in object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if !is_qualified_name(key) {
            found.invalid(path, &Value::from(key.as_str()), "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
        }
        if !value
            .as_str()
            .is_some_and(|text| text.is_empty() || is_label_text(text))
        {
            found.invalid(path, value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
        }
    }
}

fn pod(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    pod_spec(spec, "spec", found);
    if let Some(before) = old.and_then(|old| old.get("spec"))
        && frozen(before) != frozen(spec)
    {
        found.forbidden("spec", "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)");
    }
}

/// A pod's spec without what may change.
fn frozen(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "terminationGracePeriodSeconds",
        ] {
            map.shift_remove(field);
        }
        for field in ["containers", "initContainers"] {
            for container in map
                .get_mut(field)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                container["image"] = Value::Null;
            }
        }
    }
    spec
}

fn pod_spec(spec: &Value, path: &str, found: &mut Causes) {
    found.one_of(
        format!("{path}.restartPolicy"),
        spec.get("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    found.one_of(
        format!("{path}.dnsPolicy"),
        spec.get("dnsPolicy"),
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    );
    let grace = spec.get("terminationGracePeriodSeconds");
    if let Some(grace) = grace.filter(|grace| grace.as_i64().is_none_or(|seconds| seconds < 0)) {
        found.invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            grace,
            "must be greater than or equal to 0",
        );
    }
    let mut volumes = BTreeSet::new();
    for (number, volume) in list(spec, "volumes") {
        name_of(
            volume,
            &format!("{path}.volumes[{number}].name"),
            &mut volumes,
            found,
        );
    }
    if list(spec, "containers").next().is_none() {
        found.required(format!("{path}.containers"), "");
    }
    let mut names = BTreeSet::new();
    for field in ["initContainers", "containers"] {
        for (number, one) in list(spec, field) {
            let path = format!("{path}.{field}[{number}]");
            name_of(one, &format!("{path}.name"), &mut names, found);
            container(one, &path, &volumes, found);
        }
    }
}

/// A required DNS-1123 label that is unique in its list.
fn name_of(object: &Value, path: &str, seen: &mut BTreeSet<String>, found: &mut Causes) {
    let name = text(object, "/name");
    if name.is_empty() {
        found.required(path, "");
    } else if !is_label(name) {
        found.invalid(path, &Value::from(name), LABEL);
    } else if !seen.insert(name.to_owned()) {
        found.duplicate(path, &Value::from(name));
    }
}

fn container(container: &Value, path: &str, volumes: &BTreeSet<String>, found: &mut Causes) {
    let image = text(container, "/image");
    if image.is_empty() {
        found.required(format!("{path}.image"), "");
    } else if image.trim() != image {
        found.invalid(
            format!("{path}.image"),
            &Value::from(image),
            "must not have leading or trailing whitespace",
        );
    }
    found.one_of(
        format!("{path}.imagePullPolicy"),
        container.get("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    let mut names = BTreeSet::new();
    for (number, port) in list(container, "ports") {
        let path = format!("{path}.ports[{number}]");
        port_number(
            port.get("containerPort"),
            &format!("{path}.containerPort"),
            found,
        );
        found.one_of(
            format!("{path}.protocol"),
            port.get("protocol"),
            &["SCTP", "TCP", "UDP"],
        );
        if let Some(name) = port.get("name").filter(|name| *name != "") {
            port_name(name, &format!("{path}.name"), found);
            if !names.insert(name.to_string()) {
                found.duplicate(format!("{path}.name"), name);
            }
        }
    }
    for (number, variable) in list(container, "env") {
        let name = text(variable, "/name");
        let path = format!("{path}.env[{number}].name");
        let right = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() {
            found.required(path, "");
        } else if !name.bytes().all(right) || name.starts_with(|first: char| first.is_ascii_digit())
        {
            found.invalid(path, &Value::from(name), "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')");
        }
    }
    let mut paths = BTreeSet::new();
    for (number, mount) in list(container, "volumeMounts") {
        let path = format!("{path}.volumeMounts[{number}]");
        let (name, target) = (text(mount, "/name"), text(mount, "/mountPath"));
        if name.is_empty() {
            found.required(format!("{path}.name"), "");
        } else if !volumes.contains(name) {
            let message = format!("Not found: \"{name}\"");
            found.0.push(Cause {
                reason: "FieldValueNotFound",
                field: format!("{path}.name"),
                message,
            });
        }
        if target.is_empty() {
            found.required(format!("{path}.mountPath"), "");
        } else if !paths.insert(target.to_owned()) {
            found.invalid(
                format!("{path}.mountPath"),
                &Value::from(target),
                "must be unique",
            );
        }
    }
    for kind in ["limits", "requests"] {
        for (name, quantity) in container
            .pointer(&format!("/resources/{kind}"))
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if !is_quantity(quantity) {
                found.invalid(
                    format!("{path}.resources.{kind}[{name}]"),
                    quantity,
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                );
            }
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found_probe) = container.get(field).filter(|probe| probe.is_object()) {
            probe(found_probe, &format!("{path}.{field}"), field, found);
        }
    }
}

fn is_quantity(value: &Value) -> bool {
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Number(_) => return true,
        _ => return false,
    };
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = digits
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let right =
        number.bytes().any(|byte| byte.is_ascii_digit()) && number.matches('.').count() <= 1;
    let exponent = suffix
        .strip_prefix(['e', 'E'])
        .is_some_and(|power| power.parse::<i32>().is_ok());
    let known = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    right && (known.contains(&suffix) || exponent)
}

fn probe(probe: &Value, path: &str, which: &str, found: &mut Causes) {
    let handlers: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .filter(|name| probe.get(name).is_some_and(|one| !one.is_null()))
        .collect();
    if handlers.is_empty() {
        found.required(path, "must specify a handler type");
    }
    for extra in handlers.iter().skip(1) {
        found.forbidden(
            format!("{path}.{extra}"),
            "may not specify more than 1 handler type",
        );
    }
    for handler in ["httpGet", "tcpSocket"] {
        if let Some(inner) = probe.get(handler).filter(|inner| inner.is_object()) {
            let path = format!("{path}.{handler}.port");
            match inner.get("port") {
                Some(name @ Value::String(_)) => port_name(name, &path, found),
                number => port_number(number, &path, found),
            }
        }
    }
    if probe
        .get("exec")
        .is_some_and(|exec| list(exec, "command").next().is_none())
    {
        found.required(format!("{path}.exec.command"), "");
    }
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if let Some(value) = probe
            .get(field)
            .filter(|value| value.as_i64().is_none_or(|seconds| seconds < 0))
        {
            found.invalid(
                format!("{path}.{field}"),
                value,
                "must be greater than or equal to 0",
            );
        }
    }
    if which != "readinessProbe"
        && let Some(value) = probe.get("successThreshold").filter(|value| **value != 1)
    {
        found.invalid(format!("{path}.successThreshold"), value, "must be 1");
    }
}

fn port_number(value: Option<&Value>, path: &str, found: &mut Causes) {
    match value {
        None | Some(Value::Null) => found.required(path, ""),
        Some(value)
            if value
                .as_i64()
                .is_some_and(|number| (1..=65535).contains(&number)) => {}
        Some(value) => found.invalid(path, value, "must be between 1 and 65535, inclusive"),
    }
}

/// IANA_SVC_NAME.
fn port_name(name: &Value, path: &str, found: &mut Causes) {
    let text = name.as_str().unwrap_or_default();
    let right = is_label(text)
        && text.len() <= 15
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.contains("--");
    if !right {
        found.invalid(path, name, "must be no more than 15 characters, contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), with at least one letter (a-z)");
    }
}

fn replication_controller(object: &Value, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    if let Some(replicas) = spec
        .get("replicas")
        .filter(|replicas| replicas.as_i64().is_none_or(|count| count < 0))
    {
        found.invalid(
            "spec.replicas",
            replicas,
            "must be greater than or equal to 0",
        );
    }
    let selector = spec
        .get("selector")
        .and_then(Value::as_object)
        .filter(|selector| !selector.is_empty());
    if selector.is_none() {
        found.required("spec.selector", "");
    }
    let Some(template) = spec.get("template").filter(|template| template.is_object()) else {
        return found.required("spec.template", "");
    };
    let meta = template.get("metadata").unwrap_or(&Value::Null);
    labels(meta, "labels", "spec.template.metadata.labels", found);
    if let Some(selector) = selector {
        let matches = selector.iter().all(|(key, value)| {
            meta.pointer("/labels").and_then(|labels| labels.get(key)) == Some(value)
        });
        if !matches {
            let shown = meta
                .get("labels")
                .cloned()
                .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
            found.invalid(
                "spec.template.metadata.labels",
                &shown,
                "`selector` does not match template `labels`",
            );
        }
    }
    let Some(inner) = template.get("spec").filter(|inner| inner.is_object()) else {
        return found.required("spec.template.spec", "");
    };
    pod_spec(inner, "spec.template.spec", found);
    if let Some(policy) = inner
        .get("restartPolicy")
        .filter(|policy| **policy != "Always")
    {
        found.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
}

fn service(object: &Value, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    found.one_of(
        "spec.type",
        spec.get("type"),
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    found.one_of(
        "spec.sessionAffinity",
        spec.get("sessionAffinity"),
        &["ClientIP", "None"],
    );
    labels(spec, "selector", "spec.selector", found);
    let external = text(spec, "/type") == "ExternalName";
    let headless = text(spec, "/clusterIP") == "None";
    let count = list(spec, "ports").count();
    if count == 0 && !external && !headless {
        found.required("spec.ports", "");
    }
    if external && !is_subdomain(text(spec, "/externalName").trim_end_matches('.')) {
        found.required("spec.externalName", "");
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in list(spec, "ports") {
        let path = format!("spec.ports[{index}]");
        port_number(port.get("port"), &format!("{path}.port"), found);
        found.one_of(
            format!("{path}.protocol"),
            port.get("protocol"),
            &["SCTP", "TCP", "UDP"],
        );
        match port.get("targetPort") {
            Some(name @ Value::String(_)) => port_name(name, &format!("{path}.targetPort"), found),
            number => port_number(number, &format!("{path}.targetPort"), found),
        }
        let name = text(port, "/name");
        if name.is_empty() {
            if count > 1 {
                found.required(format!("{path}.name"), "");
            }
        } else if !is_label(name) {
            found.invalid(format!("{path}.name"), &Value::from(name), LABEL);
        } else if !names.insert(name) {
            found.duplicate(format!("{path}.name"), &Value::from(name));
        }
        if !numbers.insert((port["port"].to_string(), text(port, "/protocol").to_owned())) {
            found.duplicate(path, port);
        }
    }
}

fn secret(object: &Value, old: Option<&Value>, found: &mut Causes) {
    data_keys(object, "data", found);
    for (key, value) in object
        .get("data")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if value
            .as_str()
            .is_none_or(|text| STANDARD.decode(text).is_err())
        {
            // The value itself is never repeated: it is a secret.
            found.invalid(
                format!("data[{key}]"),
                &Value::from("<redacted>"),
                "must be base64",
            );
        }
    }
    if let Some(old) = old
        && old.get("type") != object.get("type")
    {
        found.invalid(
            "type",
            object.get("type").unwrap_or(&Value::Null),
            "field is immutable",
        );
    }
}

fn data_keys(object: &Value, field: &str, found: &mut Causes) {
    let mut total = 0;
    for (key, value) in object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        total += value.as_str().map_or(0, str::len);
        let right = !key.is_empty()
            && key.len() <= 253
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !right || key == "." || key.starts_with("..") {
            found.invalid(
                format!("{field}[{key}]"),
                &Value::from(key.as_str()),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            );
        }
    }
    if total > MAX_DATA_BYTES {
        let message = format!("Too long: may not be more than {MAX_DATA_BYTES} bytes");
        found.0.push(Cause {
            reason: "FieldValueTooLong",
            field: field.to_owned(),
            message,
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::defaults;

    fn fields(kind: &Kind, mut object: Value) -> Vec<String> {
        defaults::apply(kind, &mut object);
        check(kind, &object, None)
            .into_iter()
            .map(|cause| cause.field)
            .collect()
    }

    #[test]
    fn a_right_pod_passes_and_a_wrong_one_has_every_cause() {
        let right = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}}}]}});
        assert_eq!(fields(&kinds::POD, right), Vec::<String>::new());
        let wrong = json!({"metadata": {"name": "P_"}, "spec": {"restartPolicy": "Maybe", "containers": [
            {"name": "c", "ports": [{"containerPort": 0, "name": "toolongportname1"}], "env": [{"name": "1A"}],
             "livenessProbe": {"httpGet": {"port": 80}, "exec": {"command": ["x"]}}, "resources": {"limits": {"cpu": "lots"}}},
            {"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}});
        let expected = [
            "metadata.name",
            "spec.restartPolicy",
            "spec.containers[0].image",
            "spec.containers[0].ports[0].containerPort",
            "spec.containers[0].ports[0].name",
            "spec.containers[0].env[0].name",
            "spec.containers[0].resources.limits[cpu]",
            "spec.containers[0].resources.requests[cpu]",
            "spec.containers[0].livenessProbe.httpGet",
            "spec.containers[1].name",
            "spec.containers[1].volumeMounts[0].name",
        ];
        assert_eq!(fields(&kinds::POD, wrong), expected);
    }

    #[test]
    fn a_selector_must_match_its_template() {
        let rc = json!({"metadata": {"name": "r"}, "spec": {"selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "c"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        assert_eq!(
            fields(&kinds::REPLICATION_CONTROLLER, rc),
            [
                "spec.template.metadata.labels",
                "spec.template.spec.restartPolicy"
            ]
        );
    }

    #[test]
    fn services_and_secrets() {
        let service = json!({"metadata": {"name": "1s"}, "spec": {"ports": [{"port": 80}, {"port": 80, "name": "a"}, {"port": 70000, "name": "a"}]}});
        let expected = [
            "metadata.name",
            "spec.ports[0].name",
            "spec.ports[1]",
            "spec.ports[2].port",
            "spec.ports[2].targetPort",
            "spec.ports[2].name",
        ];
        assert_eq!(fields(&kinds::SERVICE, service), expected);
        let secret = json!({"metadata": {"name": "s"}, "data": {"purplebooth-co-uk.crt": "dg==", "b/d": "dg==", "c": "geheim!"}});
        let causes = check(&kinds::SECRET, &secret, None);
        assert_eq!(
            causes
                .iter()
                .map(|cause| cause.field.as_str())
                .collect::<Vec<_>>(),
            ["data[b/d]", "data[c]"]
        );
        assert!(causes.iter().all(|cause| !cause.message.contains("geheim")));
    }

    #[test]
    fn a_pods_spec_is_frozen_but_for_its_images() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        defaults::apply(&kinds::POD, &mut pod);
        let mut next = pod.clone();
        next["spec"]["containers"][0]["image"] = json!("i:2");
        assert!(check(&kinds::POD, &next, Some(&pod)).is_empty());
        next["spec"]["nodeName"] = json!("w1");
        assert_eq!(check(&kinds::POD, &next, Some(&pod)).len(), 1);
    }
}
