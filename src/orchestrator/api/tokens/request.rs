//! authentication.k8s.io/v1 TokenRequest: `POST …/serviceaccounts/NAME/token` (`pkg/registry/core/serviceaccount/storage/token.go`).

use serde_json::{Value, json};

use super::claims::{Bound, Claims, Kubernetes};
use super::{ISSUER, Tokens};
use crate::orchestrator::api::authorize::Identity;
use crate::orchestrator::api::kinds::{self, Kind};
use crate::orchestrator::api::limits::TOKEN_AUDIENCES;
use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::api::status::Status;

/// What a request gets that says nothing (`pkg/apis/authentication/v1/defaults.go`).
const DEFAULT_SECONDS: i64 = 3600;
/// The shortest time (`pkg/apis/authentication/validation/validation.go`).
const SHORTEST_SECONDS: i64 = 600;
/// The longest (the same file).
const LONGEST_SECONDS: i64 = 1 << 32;

fn invalid(field: &str, value: &Value, why: &str) -> Status {
    let mut status = Status::bad_request(format!(
        "TokenRequest.authentication.k8s.io \"\" is invalid: {field}: Invalid value: {value}: {why}"
    ));
    (status.code, status.reason) = (422, "Invalid");
    status
}

/// What is asked for, read and found right.
struct Asked {
    audiences: Vec<String>,
    seconds: i64,
    bound: Option<(&'static Kind, Value)>,
}

fn read(body: &Value) -> Result<Asked, Status> {
    for (field, wanted) in [
        ("kind", "TokenRequest"),
        ("apiVersion", "authentication.k8s.io/v1"),
    ] {
        let given = body.get(field).unwrap_or(&Value::Null);
        if !body.is_object() || !(given.is_null() || given == "" || given == wanted) {
            return Err(Status::bad_request(
                "the body must be a TokenRequest of authentication.k8s.io/v1",
            ));
        }
    }
    let absent = Value::Null;
    let spec = body.get("spec").unwrap_or(&absent);
    let audiences: Vec<String> = match spec.get("audiences").unwrap_or(&absent) {
        Value::Null => Vec::new(),
        Value::Array(list) if list.len() <= TOKEN_AUDIENCES => list
            .iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| Status::bad_request("spec.audiences must be a list of texts"))?,
        _ => {
            return Err(Status::bad_request(format!(
                "spec.audiences must be a list of at most {TOKEN_AUDIENCES} texts"
            )));
        }
    };
    let seconds = match spec.get("expirationSeconds").unwrap_or(&absent) {
        Value::Null => DEFAULT_SECONDS,
        given => given
            .as_i64()
            .ok_or_else(|| Status::bad_request("spec.expirationSeconds must be a whole number"))?,
    };
    if seconds < SHORTEST_SECONDS {
        let why = "may not specify a duration less than 10 minutes";
        return Err(invalid("spec.expirationSeconds", &json!(seconds), why));
    }
    if seconds > LONGEST_SECONDS {
        let why = "may not specify a duration larger than 2^32 seconds";
        return Err(invalid("spec.expirationSeconds", &json!(seconds), why));
    }
    let bound = match spec.get("boundObjectRef").unwrap_or(&absent) {
        Value::Null => None,
        reference => {
            let kind = match (reference["kind"].as_str(), reference["apiVersion"].as_str()) {
                (Some("Pod"), Some("v1")) => &kinds::POD,
                (Some("Secret"), Some("v1")) => &kinds::SECRET,
                (Some("Node"), Some("v1")) => &kinds::NODE,
                _ => {
                    return Err(Status::bad_request(
                        "cannot bind token to objects other than Pod, Secret and Node of v1",
                    ));
                }
            };
            Some((kind, reference.clone()))
        }
    };
    Ok(Asked {
        audiences: if audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            audiences
        },
        seconds,
        bound,
    })
}

fn uid(object: &Value) -> String {
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
    uid.unwrap_or_default().to_owned()
}

/// The account of a pod.
fn account_of(pod: &Value) -> &str {
    let name = pod.pointer("/spec/serviceAccountName");
    name.and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .unwrap_or("default")
}

impl Tokens {
    /// Answers a TokenRequest for the account `name`, of whom `authorize` has let in.
    pub(in crate::orchestrator::api) fn request(
        &self,
        registry: &Registry,
        who: &Identity,
        (namespace, name): (&str, &str),
        body: &Value,
        now: i64,
    ) -> Result<Value, Status> {
        let asked = read(body)?;
        let account = registry.get(&kinds::SERVICE_ACCOUNT, Some(namespace), name)?;
        let mut own = Kubernetes {
            namespace: namespace.to_owned(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: Bound {
                name: name.to_owned(),
                uid: uid(&account),
            },
        };
        let mut pod = None;
        if let Some((kind, reference)) = &asked.bound {
            let called = reference["name"].as_str().unwrap_or_default();
            let place = Some(namespace).filter(|_| kind.namespaced);
            let found = registry.get(kind, place, called)?;
            let there = uid(&found);
            let wanted = reference["uid"].as_str().unwrap_or_default();
            if !wanted.is_empty() && wanted != there {
                let why = format!(
                    "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
                );
                return Err(Status::conflict(kind, called, &why));
            }
            let bound = Bound {
                name: called.to_owned(),
                uid: there,
            };
            if kind.is(&kinds::POD) {
                if account_of(&found) != name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount \"{name}\" to pod running with different serviceaccount name."
                    )));
                }
                own.node = node_of(registry, &found);
                own.pod = Some(bound);
                pod = Some(found);
            } else if kind.is(&kinds::SECRET) {
                own.secret = Some(bound);
            } else {
                own.node = Some(bound);
            }
        }
        if let Some(node) = who.node() {
            admit_node(node, pod.as_deref(), &asked.audiences)?;
        }
        let claims = Claims {
            aud: asked.audiences.clone(),
            exp: now + asked.seconds,
            iat: now,
            iss: ISSUER.to_owned(),
            jti: Some(uuid::Uuid::new_v4().to_string()),
            kubernetes: own,
            nbf: now,
            sub: super::identity(namespace, name).user,
        };
        let token = self
            .sign(&claims)
            .ok_or_else(|| Status::internal("the token could not be signed"))?;
        let expires = jiff::Timestamp::from_second(claims.exp)
            .map_err(|_| Status::internal("the token's end is beyond time"))?;
        let spec = json!({
            "audiences": asked.audiences,
            "expirationSeconds": asked.seconds,
            "boundObjectRef": body.pointer("/spec/boundObjectRef").cloned().unwrap_or_default(),
        });
        Ok(json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "creationTimestamp": crate::orchestrator::api::registry::now(),
            },
            "spec": spec,
            "status": {
                "token": token,
                "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            },
        }))
    }
}

fn node_of(registry: &Registry, pod: &Value) -> Option<Bound> {
    let name = pod.pointer("/spec/nodeName")?.as_str()?;
    let node = registry.get(&kinds::NODE, None, name).ok()?;
    Some(Bound {
        name: name.to_owned(),
        uid: uid(&node),
    })
}

/// A node asks for its own pods, and for the audiences that they name (`plugin/pkg/admission/noderestriction`).
fn admit_node(node: &str, pod: Option<&Value>, audiences: &[String]) -> Result<(), Status> {
    let Some(pod) = pod else {
        return Err(Status::forbidden("node requested token not bound to a pod"));
    };
    if pod.pointer("/spec/nodeName").and_then(Value::as_str) != Some(node) {
        return Err(Status::forbidden(
            "node requested token bound to a pod scheduled on a different node",
        ));
    }
    let list = |value: &Value, pointer: &str| {
        let list = value.pointer(pointer).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let named: Vec<String> = list(pod, "/spec/volumes")
        .iter()
        .flat_map(|volume| list(volume, "/projected/sources"))
        .filter_map(|source| {
            let audience = source.pointer("/serviceAccountToken/audience")?.as_str()?;
            Some(audience.to_owned())
        })
        .collect();
    let foreign = audiences
        .iter()
        .find(|audience| *audience != ISSUER && !named.contains(audience));
    match foreign {
        None => Ok(()),
        Some(audience) => Err(Status::forbidden(format!(
            "audience {audience:?} not found in pod spec volume, {node} is not authorized to request tokens for this audience"
        ))),
    }
}
