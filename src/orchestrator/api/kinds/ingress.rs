//! networking.k8s.io/v1 Ingress: kept as it is, for a controller that the user deploys.

use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, list, number, or_none, text};
use super::parts::decode::through;
use super::parts::fields::{Object, set};
use super::parts::warnings::not_enforced;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<Ingress>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Class", |ingress| {
        json!(or_none(text(ingress, "/spec/ingressClassName")))
    }),
    column("Hosts", |ingress| json!(hosts(ingress))),
    column("Address", |ingress| json!(addresses(ingress))),
    column("Ports", |ingress| {
        let tls = !list(ingress, "/spec/tls").is_empty();
        json!(if tls { "80, 443" } else { "80" })
    }),
    AGE,
];

fn hosts(ingress: &Value) -> String {
    let hosts: Vec<&str> = list(ingress, "/spec/rules")
        .iter()
        .map(|rule| text(rule, "/host"))
        .filter(|host| !host.is_empty())
        .collect();
    if hosts.is_empty() {
        "*".to_owned()
    } else {
        hosts.join(",")
    }
}

fn addresses(ingress: &Value) -> String {
    let addresses: Vec<&str> = list(ingress, "/status/loadBalancer/ingress")
        .iter()
        .map(|one| match text(one, "/ip") {
            "" => text(one, "/hostname"),
            ip => ip,
        })
        .collect();
    addresses.join(",")
}

fn defaults(object: &mut Object) {
    set(Some(object), "status", json!({"loadBalancer": {}}));
}

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    let rules = list(spec, "/rules");
    match spec
        .get("defaultBackend")
        .filter(|backend| backend.is_object())
    {
        Some(backend) => backend_is_right(backend, "spec.defaultBackend", found),
        None if rules.is_empty() => found.invalid(
            "spec",
            spec,
            "either `defaultBackend` or `rules` must be specified",
        ),
        None => {}
    }
    for (number, rule) in rules.iter().enumerate() {
        let Some(http) = rule.get("http").filter(|http| http.is_object()) else {
            continue;
        };
        let path = format!("spec.rules[{number}].http.paths");
        let paths = list(http, "/paths");
        if paths.is_empty() {
            found.required(path.as_str(), "");
        }
        for (number, one) in paths.iter().enumerate() {
            path_is_right(one, &format!("{path}[{number}]"), found);
        }
    }
}

fn path_is_right(one: &Value, path: &str, found: &mut Causes) {
    match one.get("pathType").filter(|kind| !kind.is_null()) {
        Some(kind) => found.one_of(
            format!("{path}.pathType"),
            Some(kind),
            &["Exact", "ImplementationSpecific", "Prefix"],
        ),
        None => found.required(format!("{path}.pathType"), "pathType must be specified"),
    }
    let exact = ["Exact", "Prefix"].contains(&text(one, "/pathType"));
    if exact && !text(one, "/path").starts_with('/') {
        let value = one.get("path").cloned().unwrap_or_else(|| json!(""));
        found.invalid(format!("{path}.path"), &value, "must be an absolute path");
    }
    let backend = one.get("backend").unwrap_or(&Value::Null);
    backend_is_right(backend, &format!("{path}.backend"), found);
}

fn backend_is_right(backend: &Value, path: &str, found: &mut Causes) {
    let service = backend.get("service").filter(|service| service.is_object());
    let resource = backend.get("resource").filter(|one| one.is_object());
    match (service, resource) {
        (Some(_), Some(_)) => found.invalid(
            path,
            backend,
            "cannot set both resource and service backends",
        ),
        (None, None) => found.required(path, "resource or service backend is required"),
        (Some(service), None) => {
            let path = format!("{path}.service");
            if text(service, "/name").is_empty() {
                found.required(format!("{path}.name"), "");
            }
            let named = !text(service, "/port/name").is_empty();
            if !named && number(service, "/port/number") == 0 {
                found.required(format!("{path}.port"), "port name or number is required");
            }
        }
        (None, Some(_)) => {}
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced(
        "Ingress",
        "nothing serves it unless an ingress controller is deployed; Services of type LoadBalancer are served",
    )
}
