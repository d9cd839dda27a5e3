//! `Impersonate-User` and its like: a request on behalf of another (`apiserver/pkg/endpoints/filters/impersonation`).

use http::HeaderMap;

use super::{AUTHENTICATED, Attributes, may};
use crate::orchestrator::api::authorize::Identity;
use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::api::status::Status;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const ACCOUNT: &str = "system:serviceaccount:";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// On whose behalf a request with these headers is made, if on anybody's and if `who` may.
pub(in crate::orchestrator::api) fn impersonated(
    registry: &Registry,
    who: &Identity,
    headers: &HeaderMap,
) -> Result<Option<Identity>, Status> {
    let unreadable = || Status::bad_request("an Impersonate header is not readable text");
    let user = match headers.get(USER) {
        None => "",
        Some(user) => user.to_str().map_err(|_| unreadable())?,
    };
    let mut groups = Vec::new();
    for group in headers.get_all(GROUP) {
        groups.push(group.to_str().map_err(|_| unreadable())?.to_owned());
    }
    let uid = match headers.get(UID) {
        None => "",
        Some(uid) => uid.to_str().map_err(|_| unreadable())?,
    };
    let extra: Vec<&str> = headers
        .keys()
        .filter_map(|name| name.as_str().strip_prefix(EXTRA))
        .collect();
    if user.is_empty() {
        if groups.is_empty() && extra.is_empty() && uid.is_empty() {
            return Ok(None);
        }
        return Err(Status::bad_request(
            "requested impersonation of groups, UID or extra without a user",
        ));
    }
    let permitted = |attributes: Attributes<'_>| {
        let asked = Attributes {
            verb: "impersonate",
            ..attributes
        };
        // A node and a proxy speak for themselves.
        if who.is_master() || (who.is_person() && may(registry, who, &asked)) {
            return Ok(());
        }
        Err(refusal(who, &asked))
    };
    let account = user
        .strip_prefix(ACCOUNT)
        .and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => permitted(Attributes {
            resource: "serviceaccounts",
            namespace: Some(namespace),
            name,
            ..Attributes::default()
        })?,
        None => permitted(Attributes {
            resource: "users",
            name: user,
            ..Attributes::default()
        })?,
    }
    for group in &groups {
        permitted(Attributes {
            resource: "groups",
            name: group,
            ..Attributes::default()
        })?;
    }
    if !uid.is_empty() {
        permitted(Attributes {
            group: AUTHENTICATION,
            resource: "uids",
            name: uid,
            ..Attributes::default()
        })?;
    }
    for key in extra {
        for value in headers.get_all(format!("{EXTRA}{key}")) {
            permitted(Attributes {
                group: AUTHENTICATION,
                resource: "userextras",
                subresource: key,
                name: value.to_str().map_err(|_| unreadable())?,
                ..Attributes::default()
            })?;
        }
    }
    if groups.is_empty()
        && let Some((namespace, _)) = account
    {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    groups.retain(|group| group != AUTHENTICATED);
    Ok(Some(Identity {
        user: user.to_owned(),
        groups,
    }))
}

fn refusal(who: &Identity, asked: &Attributes<'_>) -> Status {
    let mut resource = asked.resource.to_owned();
    if !asked.subresource.is_empty() {
        resource = format!("{resource}/{}", asked.subresource);
    }
    let of_group = match asked.group {
        "" => String::new(),
        group => format!(".{group}"),
    };
    let place = match asked.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    Status::forbidden(format!(
        "{}{of_group} {:?} is forbidden: User {:?} cannot impersonate resource {resource:?} in API group {:?} {place}",
        asked.resource, asked.name, who.user, asked.group
    ))
}
