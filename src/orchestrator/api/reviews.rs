//! Reviews: questions that are asked by creating an object, which is answered and not kept.
//!
//! Everybody may ask about themselves; about others only administrators, and whom a role lets.

use serde_json::{Value, json};

use super::authorize::{self, Attempt, Identity};
use super::kinds;
use super::rbac;
use super::registry::Registry;
use super::status::Status;
use super::tokens::{self, Tokens};

/// One kind of review.
#[derive(Debug, PartialEq, Eq)]
pub struct Review {
    /// API group.
    pub group: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its path segment.
    pub plural: &'static str,
    /// Whether it stands in a namespace.
    pub namespaced: bool,
    question: Question,
}

/// The version of every review.
pub const VERSION: &str = "v1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// May I?
    OwnAccess,
    /// May somebody?
    Access,
    /// What may I?
    OwnRules,
    /// Who am I?
    Own,
    /// Whose token is this?
    Token,
}

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    question: Question,
) -> Review {
    Review {
        group,
        kind,
        plural,
        namespaced: false,
        question,
    }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// Every review.
pub static ALL: &[Review] = &[
    review(
        AUTHENTICATION,
        "TokenReview",
        "tokenreviews",
        Question::Token,
    ),
    review(
        AUTHENTICATION,
        "SelfSubjectReview",
        "selfsubjectreviews",
        Question::Own,
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        Question::OwnAccess,
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        Question::OwnRules,
    ),
    review(
        AUTHORIZATION,
        "SubjectAccessReview",
        "subjectaccessreviews",
        Question::Access,
    ),
    Review {
        namespaced: true,
        ..review(
            AUTHORIZATION,
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            Question::Access,
        )
    },
];

/// The review at the rest of a path behind its group and version, and its namespace.
#[must_use]
pub fn find(
    group: &str,
    version: &str,
    rest: &[&str],
) -> Option<(&'static Review, Option<String>)> {
    let (plural, namespace) = match rest {
        [plural] => (plural, None),
        ["namespaces", namespace, plural] => (plural, Some((*namespace).to_owned())),
        _ => return None,
    };
    let found = ALL
        .iter()
        .find(|review| review.group == group && review.plural == *plural && version == VERSION)?;
    (found.namespaced == namespace.is_some()).then_some((found, namespace))
}

/// Refuses who may not ask this.
pub(super) fn permit(
    registry: &Registry,
    who: &Identity,
    review: &Review,
    namespace: Option<&str>,
) -> Result<(), Status> {
    let allowed = if who.is_person() {
        let asked = rbac::Attributes {
            verb: "create",
            group: review.group,
            resource: review.plural,
            namespace,
            ..rbac::Attributes::default()
        };
        rbac::may(registry, who, &asked)
    } else {
        who.is_master() || ![Question::Access, Question::Token].contains(&review.question)
    };
    if !allowed {
        let place = match namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        return Err(Status::forbidden(format!(
            "{}.{} is forbidden: User \"{}\" cannot create resource \"{}\" in API group \"{}\" {place}",
            review.plural, review.group, who.user, review.plural, review.group
        )));
    }
    Ok(())
}

/// The review with its answer.
pub(super) fn answer(
    (registry, tokens): (&Registry, &Tokens),
    who: &Identity,
    review: &Review,
    namespace: Option<&str>,
    mut body: Value,
) -> Result<Value, Status> {
    let api_version = format!("{}/{VERSION}", review.group);
    let right = |field: &str, wanted: &str| {
        let given = body.get(field).unwrap_or(&Value::Null);
        given.is_null() || given == "" || given == wanted
    };
    if !body.is_object() || !right("kind", review.kind) || !right("apiVersion", &api_version) {
        return Err(Status::bad_request(format!(
            "the body must be a {} of {api_version}",
            review.kind
        )));
    }
    let spec = body.get("spec").cloned().unwrap_or_default();
    let status = match review.question {
        Question::Own => json!({"userInfo": user_info(who)}),
        Question::Token => tokens.review(registry, &spec, tokens::now()),
        Question::OwnRules => rules(
            registry,
            who,
            spec["namespace"].as_str().unwrap_or_default(),
        ),
        Question::OwnAccess => access(registry, who, &spec)?,
        Question::Access => {
            let asked = &spec["resourceAttributes"]["namespace"];
            if namespace.is_some_and(|namespace| *asked != namespace) {
                return Err(Status::bad_request(
                    "spec.resourceAttributes.namespace must match the namespace of the request",
                ));
            }
            access(registry, &subject(&spec)?, &spec)?
        }
    };
    body["kind"] = json!(review.kind);
    body["apiVersion"] = json!(api_version);
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body["status"] = status;
    Ok(body)
}

/// Whom a SubjectAccessReview is about.
fn subject(spec: &Value) -> Result<Identity, Status> {
    let user = spec["user"].as_str().unwrap_or_default().to_owned();
    let groups: Vec<String> = spec["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|group| group.as_str().map(str::to_owned))
        .collect();
    if user.is_empty() && groups.is_empty() {
        return Err(Status::bad_request(
            "spec: at least one of user or group must be specified",
        ));
    }
    Ok(Identity { user, groups })
}

fn user_info(who: &Identity) -> Value {
    let mut groups = who.groups.clone();
    groups.push("system:authenticated".to_owned());
    json!({"username": who.user, "groups": groups})
}

fn access(registry: &Registry, who: &Identity, spec: &Value) -> Result<Value, Status> {
    let allowed = match (
        spec["resourceAttributes"].as_object(),
        spec["nonResourceAttributes"].as_object(),
    ) {
        (Some(_), None) => may(registry, who, &spec["resourceAttributes"]),
        (None, Some(_)) => may_path(registry, who, &spec["nonResourceAttributes"]),
        _ => {
            return Err(Status::bad_request(
                "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    Ok(json!({"allowed": allowed}))
}

fn may(registry: &Registry, who: &Identity, asked: &Value) -> bool {
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    let named = |field: &str| Some(text(field)).filter(|text| !text.is_empty());
    if who.is_master() {
        return true;
    }
    if who.is_person() {
        let asked = rbac::Attributes {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: named("namespace"),
            name: text("name"),
            path: None,
        };
        return rbac::may(registry, who, &asked);
    }
    let Some(kind) = kinds::ALL
        .iter()
        .find(|kind| kind.group == text("group") && kind.plural == text("resource"))
    else {
        return false;
    };
    let subresource = match named("subresource") {
        None => None,
        Some(name) => {
            let parts = kind.subresources().iter();
            match parts.copied().find(|part| part.name() == name) {
                None => return false,
                found => found,
            }
        }
    };
    let attempt = Attempt {
        namespace: named("namespace"),
        name: named("name"),
        subresource,
        verb: text("verb"),
        ..Attempt::to_create(kind, None)
    };
    authorize::authorize(registry, who, &attempt).is_ok()
}

/// Paths that every part of the cluster may read.
const OPEN: &[&str] = &[
    "/api", "/apis", "/healthz", "/livez", "/openapi", "/readyz", "/version",
];

fn may_path(registry: &Registry, who: &Identity, asked: &Value) -> bool {
    let path = asked["path"].as_str().unwrap_or_default();
    if who.is_person() {
        let asked = rbac::Attributes {
            verb: asked["verb"].as_str().unwrap_or_default(),
            path: Some(path),
            ..rbac::Attributes::default()
        };
        return rbac::may(registry, who, &asked);
    }
    let below = |open: &&str| {
        path.strip_prefix(*open)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    who.is_master() || (asked["verb"] == "get" && OPEN.iter().any(below))
}

/// What somebody may do in a namespace. Rules for single objects cannot be listed, so that of nodes the answer is incomplete.
fn rules(registry: &Registry, who: &Identity, namespace: &str) -> Value {
    if who.is_master() {
        return json!({
            "incomplete": false,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        });
    }
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    if who.is_person() {
        let all = rbac::rules_of(registry, who, namespace);
        let (of_paths, of_resources): (Vec<_>, Vec<_>) =
            all.iter().partition(|rule| rule.is_of_paths());
        let written = |rules: Vec<&rbac::Rule>| -> Vec<Value> {
            rules.into_iter().map(rbac::Rule::write).collect()
        };
        return json!({
            "incomplete": false,
            "resourceRules": written(of_resources),
            "nonResourceRules": written(of_paths),
        });
    }
    let resource_rules: Vec<Value> = kinds::ALL
        .iter()
        .filter_map(|kind| {
            let verbs: Vec<&str> = super::discovery::VERBS
                .iter()
                .copied()
                .filter(|verb| {
                    let namespace = namespace.filter(|_| kind.namespaced);
                    let attempt = Attempt {
                        verb,
                        ..Attempt::to_create(kind, namespace)
                    };
                    authorize::authorize(registry, who, &attempt).is_ok()
                })
                .collect();
            (!verbs.is_empty()).then(
                || json!({"verbs": verbs, "apiGroups": [kind.group], "resources": [kind.plural]}),
            )
        })
        .collect();
    let paths: Vec<String> = OPEN
        .iter()
        .flat_map(|path| [(*path).to_owned(), format!("{path}/*")])
        .collect();
    json!({
        "incomplete": true,
        "resourceRules": resource_rules,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": paths}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::registry::tests::registry;

    fn who(user: &str, group: &str) -> Identity {
        Identity {
            user: user.to_owned(),
            groups: vec![group.to_owned()],
        }
    }

    fn tokens() -> Tokens {
        Tokens::ephemeral().expect("random bytes")
    }

    fn named(kind: &str) -> &'static Review {
        ALL.iter()
            .find(|review| review.kind == kind)
            .expect("a review")
    }

    #[tokio::test]
    async fn access_is_told_as_it_is_enforced() {
        let registry = registry().await;
        let allowed = |who: &Identity, verb: &str, resource: &str, name: &str| {
            let spec =
                json!({"resourceAttributes": {"verb": verb, "resource": resource, "name": name}});
            let body = json!({"spec": spec});
            let review = named("SelfSubjectAccessReview");
            answer((&registry, &tokens()), who, review, None, body).expect("answered")["status"]["allowed"]
                == json!(true)
        };
        let (admin, node) = (
            who("admin", "system:masters"),
            who("system:node:w1", "system:nodes"),
        );
        assert!(allowed(&admin, "delete", "birds", ""));
        assert!(allowed(&node, "patch", "nodes", "w1"));
        assert!(!allowed(&node, "patch", "nodes", "w2"));
        assert!(!allowed(&node, "list", "secrets", "") && !allowed(&node, "get", "birds", ""));
    }

    #[tokio::test]
    async fn only_an_administrator_asks_about_others() {
        let registry = registry().await;
        let (admin, node) = (
            who("admin", "system:masters"),
            who("system:node:w1", "system:nodes"),
        );
        let review = named("SubjectAccessReview");
        assert_eq!(
            permit(&registry, &node, review, None)
                .expect_err("refused")
                .code,
            403
        );
        assert!(
            permit(&registry, &admin, review, None).is_ok()
                && permit(&registry, &node, named("SelfSubjectReview"), None).is_ok()
        );
        let body = json!({"spec": {"user": "system:node:w1", "groups": ["system:nodes"],
            "resourceAttributes": {"verb": "list", "resource": "services"}}});
        let answered =
            answer((&registry, &tokens()), &admin, review, None, body).expect("answered");
        assert_eq!(answered["status"], json!({"allowed": true}));
        for wrong in [
            json!([]),
            json!({}),
            json!({"kind": "Pod"}),
            json!({"spec": {"user": "u"}}),
        ] {
            let refused =
                answer((&registry, &tokens()), &admin, review, None, wrong).expect_err("refused");
            assert_eq!(refused.code, 400);
        }
    }

    #[tokio::test]
    async fn who_asks_is_told() {
        let registry = registry().await;
        let node = who("system:node:w1", "system:nodes");
        let review = named("SelfSubjectReview");
        let answered =
            answer((&registry, &tokens()), &node, review, None, json!({})).expect("answered");
        assert_eq!(
            answered["status"]["userInfo"],
            json!({"username": "system:node:w1", "groups": ["system:nodes", "system:authenticated"]})
        );
        let review = named("SelfSubjectRulesReview");
        let answered =
            answer((&registry, &tokens()), &node, review, None, json!({})).expect("answered");
        assert_eq!(answered["status"]["incomplete"], json!(true));
        let rules = answered["status"]["resourceRules"].to_string();
        assert!(rules.contains("services") && !rules.contains("secrets"));
    }
}
