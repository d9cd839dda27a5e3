//! Validation of one container (k8s.io/kubernetes/pkg/apis/core/validation).

use std::collections::BTreeSet;

use serde_json::Value;

use super::causes::{Cause, Causes};
use super::names::{list, port_name, port_number, text};
use super::quantities;
use crate::model::signals;

pub(super) fn container(
    container: &Value,
    path: &str,
    volumes: &BTreeSet<String>,
    found: &mut Causes,
) {
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
    let signal = text(container, "/lifecycle/stopSignal");
    if !signal.is_empty() && signals::number(signal).is_none() {
        found.invalid(
            format!("{path}.lifecycle.stopSignal"),
            &Value::from(signal),
            "must be the name of a signal, such as SIGQUIT",
        );
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
            quantities::quantity(quantity, &format!("{path}.resources.{kind}[{name}]"), found);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found_probe) = container.get(field).filter(|probe| probe.is_object()) {
            probe(found_probe, &format!("{path}.{field}"), field, found);
        }
    }
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
