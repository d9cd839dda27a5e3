//! Requests for one object or a part of it.

use std::collections::BTreeMap;

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::apply::{self, Apply};
use super::super::authorize::{self, Attempt};
use super::super::kinds::{Kind, Subresource};
use super::super::patch::Patch;
use super::super::registry::{Run, scale};
use super::super::selectors::Selector;
use super::super::status::Status;
use super::super::{logs, rbac, strict, tokens};
use super::answers::{respond, warned};
use super::call::{Call, field_validation, requested_revision};
use super::collections::{delete_options, reach, start_watch};
use super::{Server, json_response};

/// The media type of server-side apply; its body may be JSON, which is YAML.
const APPLY: &str = "application/apply-patch+yaml";

/// Kinds whose deletion is answered with the object that is gone, not with a Status (`ReturnDeletedObject` in
/// k8s.io/kubernetes/pkg/registry): typed clients read one or the other.
const RETURNED: &[&str] = &[
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ResourceQuota",
    "Service",
    "ServiceAccount",
    "StorageClass",
];

/// The verb of a request for an object, if its user may.
pub(super) fn permitted_on_object(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    subresource: Option<Subresource>,
) -> Result<&'static str, Status> {
    let verb = match call.method {
        Method::GET if call.flag("watch") => "watch",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::POST => "create",
        _ => return Err(Status::method_not_allowed()),
    };
    let attempt = Attempt {
        verb,
        kind,
        namespace,
        name: Some(name),
        subresource,
        required_node: None,
        required_name: None,
    };
    authorize::authorize(&server.registry, &call.who, &attempt)?;
    Ok(verb)
}

pub(super) async fn object(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    subresource: Option<Subresource>,
) -> Result<Response, Status> {
    let selected = format!("metadata.name={name}");
    let verb = permitted_on_object(server, call, kind, namespace, name, subresource)?;
    let manager = call.manager();
    match (verb, subresource) {
        ("watch", None) => {
            let selector = Selector::parse(kind, None, Some(&selected))?;
            start_watch(server, call, kind, namespace.map(str::to_owned), selector).await
        }
        ("get", None | Some(Subresource::Status)) => {
            if let Some(revision) = requested_revision(call)? {
                reach(&server.registry, revision).await?;
            }
            let found = server.registry.get(kind, namespace, name)?;
            respond(call, kind, StatusCode::OK, &found, &[])
        }
        ("get", Some(Subresource::Log)) => {
            let query: BTreeMap<String, String> = call.query.iter().cloned().collect();
            logs::log(server, namespace, name, &query).await
        }
        ("get", Some(Subresource::Scale)) => {
            let found = server.registry.get(kind, namespace, name)?;
            Ok(json_response(
                StatusCode::OK,
                scale::from_object(kind, &found).to_string().into_bytes(),
            ))
        }
        ("update" | "patch", Some(Subresource::Scale)) => {
            let change = |current: &Value| {
                let present = scale::from_object(kind, current);
                let wanted = if verb == "update" {
                    call.object()?
                } else {
                    read_patch(call, kind)?.apply(kind, &present)?
                };
                let scaled = scale::apply(kind, current, &wanted)?;
                Ok(apply::track(kind, subresource, &manager, current, scaled))
            };
            let changed = server
                .registry
                .change(kind, namespace, name, None, &change, call.run()?)
                .await?;
            Ok(json_response(
                StatusCode::OK,
                scale::from_object(kind, &changed).to_string().into_bytes(),
            ))
        }
        ("update", None | Some(Subresource::Status)) => {
            let mut body = call.object_of(kind)?;
            let warnings = strict::check(kind, &mut body, field_validation(call)?)?;
            let change = |current: &Value| {
                let part = (kind, subresource);
                authorize::admit_changed(&server.registry, &call.who, part, current, &body)?;
                let body = body.clone();
                Ok(apply::track(kind, subresource, &manager, current, body))
            };
            let stored = server
                .registry
                .change(kind, namespace, name, subresource, &change, call.run()?)
                .await?;
            let warnings = warned(kind, subresource, &stored, warnings);
            respond(call, kind, StatusCode::OK, &stored, &warnings)
        }
        ("patch", None | Some(Subresource::Status)) if call.content_type() == APPLY => {
            applied(server, call, kind, namespace, name, subresource).await
        }
        ("patch", None | Some(Subresource::Status)) => {
            let patch = read_patch(call, kind)?;
            let validation = field_validation(call)?;
            let change = |current: &Value| {
                let mut patched = patch.apply(kind, current)?;
                strict::check(kind, &mut patched, validation)?;
                let part = (kind, subresource);
                authorize::admit_changed(&server.registry, &call.who, part, current, &patched)?;
                Ok(apply::track(kind, subresource, &manager, current, patched))
            };
            let stored = server
                .registry
                .change(kind, namespace, name, subresource, &change, call.run()?)
                .await?;
            let warnings = warned(kind, subresource, &stored, Vec::new());
            respond(call, kind, StatusCode::OK, &stored, &warnings)
        }
        ("delete", None) => delete(server, call, kind, namespace, name).await,
        ("create", Some(Subresource::Binding)) => {
            let body = call.object()?;
            let node = body
                .pointer("/target/name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if node.is_empty() {
                return Err(Status::bad_request("target.name: Required value"));
            }
            server
                .registry
                .bind(namespace.unwrap_or_default(), name, node)
                .await?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(json_response(
                StatusCode::CREATED,
                done.to_string().into_bytes(),
            ))
        }
        ("create", Some(Subresource::Token)) => {
            let account = (namespace.unwrap_or_default(), name);
            let body = call.object()?;
            let (registry, now) = (&server.registry, tokens::now());
            let issued = server
                .tokens
                .request(registry, &call.who, account, &body, now)?;
            Ok(json_response(
                StatusCode::CREATED,
                issued.to_string().into_bytes(),
            ))
        }
        ("create", Some(Subresource::Eviction)) => {
            let body = call.object()?;
            let dry_run = call.run()? == Run::Dry;
            server
                .registry
                .evict(namespace.unwrap_or_default(), name, &body, dry_run)
                .await?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(json_response(
                StatusCode::CREATED,
                done.to_string().into_bytes(),
            ))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Server-side apply: changes the object, or creates it.
async fn applied(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    subresource: Option<Subresource>,
) -> Result<Response, Status> {
    let registry = &server.registry;
    if call.parameter("fieldManager").is_none_or(str::is_empty) {
        return Err(Status::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let mut body = call.yaml()?;
    let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(Status::bad_request("the applied object needs metadata"));
    };
    match metadata.shift_remove("managedFields") {
        None | Some(Value::Null) => {}
        Some(list) if list == json!([]) => {}
        Some(_) => return Err(Status::bad_request("metadata.managedFields must be nil")),
    }
    let warnings = strict::check(kind, &mut body, field_validation(call)?)?;
    body["metadata"]["name"] = match body.pointer("/metadata/name") {
        None => json!(name),
        Some(given) if *given == json!(name) => json!(name),
        Some(given) => {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
    };
    let manager = call.manager();
    let apply = Apply {
        kind,
        subresource,
        manager: &manager,
        force: call.flag("force"),
        applied: &body,
    };
    let change = |current: &Value| {
        let next = apply.onto(current)?;
        let part = (kind, subresource);
        authorize::admit_changed(registry, &call.who, part, current, &next)?;
        Ok(next)
    };
    let run = call.run()?;
    // Somebody else may create it in between, once.
    for last in [false, true] {
        let changed = registry
            .change(kind, namespace, name, subresource, &change, run)
            .await;
        match changed {
            Ok(stored) => {
                let warnings = warned(kind, subresource, &stored, warnings);
                return respond(call, kind, StatusCode::OK, &stored, &warnings);
            }
            Err(status) if !status.is_not_found() || subresource.is_some() => return Err(status),
            Err(_) => {}
        }
        authorize::authorize(registry, &call.who, &Attempt::to_create(kind, namespace))?;
        authorize::admit_created(registry, &call.who, kind, &body)?;
        rbac::admit(registry, &call.who, kind, namespace, &body)?;
        let object = apply.created()?;
        let created = match run {
            Run::Real => registry.create(kind, namespace, object).await,
            Run::Dry => registry.create_dry(kind, namespace, object).await,
        };
        match created {
            Ok(stored) => {
                let warnings = warned(kind, None, &stored, warnings);
                return respond(call, kind, StatusCode::CREATED, &stored, &warnings);
            }
            Err(status) if status.reason == "AlreadyExists" && !last => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::modified(kind, name))
}

fn read_patch(call: &Call, kind: &Kind) -> Result<Patch, Status> {
    match call.content_type() {
        // Nothing says how what a definition defines would be merged.
        "application/strategic-merge-patch+json" if kind.custom.is_some() => {
            Err(Status::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ))
        }
        "application/json-patch+json" => Ok(Patch::Json(call.json("patch")?)),
        "application/merge-patch+json" => Ok(Patch::Merge(call.json("patch")?)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(call.json("patch")?)),
        other => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml; not `{other}`"
        ))),
    }
}

async fn delete(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Response, Status> {
    let options = delete_options(call)?;
    let left = server
        .registry
        .delete(kind, namespace, name, options)
        .await?;
    let begun = left.pointer("/metadata/deletionTimestamp").is_some();
    if begun || (kind.custom.is_none() && RETURNED.contains(&kind.kind)) {
        return respond(call, kind, StatusCode::OK, &left, &[]);
    }
    let done = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": name, "group": kind.group, "kind": kind.plural, "uid": left.pointer("/metadata/uid")},
    });
    Ok(json_response(StatusCode::OK, done.to_string().into_bytes()))
}
