//! v1 Service.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{self, AGE, Column, NAME, column, number, or_none, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, children, set};
use super::parts::names::{
    self, LABEL, is_label, is_subdomain, labels, list, port_name, port_number, text,
};
use super::parts::selector;
use super::parts::warnings::no_warnings;
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

mod allocation;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<Service>,
    default: defaults,
    name: names::label_1035,
    validate,
    columns: COLUMNS,
    selectable_fields: &["spec.clusterIP", "spec.type"],
    selector: selector::equality,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: Some(allocation::allocate),
    warnings: no_warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Type", |service| json!(text(service, "/spec/type"))),
    column("Cluster-IP", |service| {
        json!(or_none(text(service, "/spec/clusterIP")))
    }),
    column("External-IP", service_external),
    column("Port(s)", service_ports),
    AGE,
    wide("Selector", |service| {
        json!(or_none(&selector::equality(service)))
    }),
];

fn defaults(map: &mut Object) {
    let Some(spec) = child(map, "spec") else {
        return;
    };
    set(Some(spec), "type", json!("ClusterIP"));
    set(Some(spec), "sessionAffinity", json!("None"));
    let kind = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    for port in children(spec, "ports") {
        set(Some(port), "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or_default();
        if port
            .get("targetPort")
            .is_none_or(|target| target.is_null() || *target == json!(0) || *target == json!(""))
        {
            port.insert("targetPort".to_owned(), number);
        }
    }
    if kind != "ExternalName" {
        set(Some(spec), "internalTrafficPolicy", json!("Cluster"));
        set(Some(spec), "ipFamilies", json!(["IPv4"]));
        set(Some(spec), "ipFamilyPolicy", json!("SingleStack"));
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        set(Some(spec), "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(Some(spec), "allocateLoadBalancerNodePorts", json!(true));
    }
    set(Some(map), "status", json!({"loadBalancer": {}}));
}

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
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

fn service_external(service: &Value) -> Value {
    let ingress: Vec<&str> = cells::list(service, "/status/loadBalancer/ingress")
        .iter()
        .map(|one| {
            if text(one, "/ip").is_empty() {
                text(one, "/hostname")
            } else {
                text(one, "/ip")
            }
        })
        .collect();
    let own: Vec<&str> = cells::list(service, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match text(service, "/spec/type") {
        "LoadBalancer" if ingress.is_empty() && own.is_empty() => json!("<pending>"),
        "LoadBalancer" => json!([ingress, own].concat().join(",")),
        "ExternalName" => json!(text(service, "/spec/externalName")),
        _ => json!(or_none(&own.join(","))),
    }
}

fn service_ports(service: &Value) -> Value {
    let ports: Vec<String> = cells::list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let node = number(port, "/nodePort");
            let node = if node == 0 {
                String::new()
            } else {
                format!(":{node}")
            };
            format!(
                "{}{node}/{}",
                number(port, "/port"),
                text(port, "/protocol")
            )
        })
        .collect();
    json!(or_none(&ports.join(",")))
}
