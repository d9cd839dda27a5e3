//! What rules allow, what they cover, and who may give them away.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::rules::{allowed, missing};
use super::*;
use crate::orchestrator::api::kinds::{self, Kind};
use crate::orchestrator::api::registry::DeleteOptions;
use crate::orchestrator::api::registry::tests::registry;

fn who(user: &str, groups: &[&str]) -> Identity {
    Identity {
        user: user.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    }
}

/// `VERB GROUP RESOURCE[/PART] [NAME]`, or `VERB /PATH`; a group of `-` is the core group.
fn asked(text: &str) -> Attributes<'_> {
    let parts: Vec<&str> = text.split(' ').collect();
    let verb = parts[0];
    if parts[1].starts_with('/') {
        return Attributes {
            verb,
            path: Some(parts[1]),
            ..Attributes::default()
        };
    }
    let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
    Attributes {
        verb,
        group: if parts[1] == "-" { "" } else { parts[1] },
        resource,
        subresource,
        name: parts.get(3).copied().unwrap_or_default(),
        ..Attributes::default()
    }
}

fn rules(rules: Value) -> Vec<Rule> {
    Rule::read_all(&json!({"rules": rules}))
}

#[test]
fn what_a_rule_allows() {
    let pods =
        json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]});
    let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    let scale = json!({"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]});
    let named = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]});
    let paths = json!({"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]});
    for (rule, question, wanted) in [
        (&pods, "get - pods p", true),
        (&pods, "list - pods", true),
        (&pods, "delete - pods p", false),
        (&pods, "get apps pods p", false),
        (&pods, "get - pods/log p", true),
        (&pods, "get - pods/exec p", false),
        (&pods, "get /pods", false),
        (&all, "impersonate - users u", true),
        (&all, "create - pods/exec p", true),
        (&all, "get /metrics", false),
        (&scale, "update apps deployments/scale d", true),
        (&scale, "update apps deployments d", false),
        (&scale, "get apps deployments/scale d", false),
        (&named, "get - secrets s", true),
        (&named, "get - secrets t", false),
        (&named, "list - secrets", false),
        (&named, "create - secrets", false),
        (&paths, "get /metrics", true),
        (&paths, "get /metrics/x", false),
        (&paths, "get /logs/a/b", true),
        (&paths, "get /log", false),
        (&paths, "post /metrics", false),
        (&json!({}), "get - pods p", false),
    ] {
        let rules = rules(json!([rule]));
        assert_eq!(
            allowed(&rules, &asked(question)),
            wanted,
            "{question}: {rule}"
        );
    }
}

#[test]
fn what_rules_cover() {
    let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let pods = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]);
    let one = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"]}]);
    let both = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    let logs = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["*/log"]}]);
    let log = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}]);
    let path = json!([{"verbs": ["get"], "nonResourceURLs": ["/a/*"]}]);
    let below = json!([{"verbs": ["get"], "nonResourceURLs": ["/a/b", "/a/b/*"]}]);
    for (held, wanted, covered) in [
        (&all, &pods, true),
        (&all, &below, true),
        (&all, &all, true),
        (&pods, &both, true),
        (&both, &pods, true),
        (&both, &one, true),
        (&one, &both, false),
        (&one, &one, true),
        (&both, &all, false),
        (&logs, &log, true),
        (&log, &logs, false),
        (&both, &log, false),
        (&path, &below, true),
        (&below, &path, false),
    ] {
        let lacking = missing(&rules(held.clone()), &rules(wanted.clone()));
        assert_eq!(lacking.is_empty(), covered, "{held} covers {wanted}");
    }
}

fn list(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let one = proptest::sample::select(of).prop_map(str::to_owned);
    proptest::collection::vec(one, 0..3)
}

prop_compose! {
    fn any_rule()(
        verbs in list(&["get", "list", "*"]),
        groups in list(&["", "apps", "*"]),
        resources in list(&["pods", "pods/log", "*/log", "*"]),
        names in list(&["a", "b"]),
        paths in list(&["/a", "/a/*", "*"]),
        of_paths in any::<bool>(),
    ) -> Rule {
        if of_paths {
            return Rule { verbs, paths, ..Rule::default() };
        }
        Rule { verbs, groups, resources, names, paths: Vec::new() }
    }
}

proptest! {
    /// Whoever holds what covers a rule may do whatever the rule allows.
    #[test]
    fn what_is_covered_is_held(
        held in proptest::collection::vec(any_rule(), 0..3),
        wanted in any_rule(),
        verb in proptest::sample::select(vec!["get", "list", "patch"]),
        group in proptest::sample::select(vec!["", "apps", "batch"]),
        resource in proptest::sample::select(vec!["pods", "jobs"]),
        subresource in proptest::sample::select(vec!["", "log", "exec"]),
        name in proptest::sample::select(vec!["", "a", "c"]),
        path in proptest::sample::select(vec!["", "/a", "/a/b", "/c"]),
    ) {
        let wanted = [wanted];
        let question = Attributes {
            verb,
            group,
            resource,
            subresource,
            name,
            namespace: None,
            path: Some(path).filter(|path| !path.is_empty()),
        };
        if missing(&held, &wanted).is_empty() && allowed(&wanted, &question) {
            prop_assert!(allowed(&held, &question), "{held:?} {wanted:?} {question:?}");
        }
        prop_assert!(missing(&wanted, &wanted).is_empty());
    }
}

async fn cluster() -> Arc<Registry> {
    let registry = registry().await;
    ensure(&registry).await.expect("the defaults are right");
    registry
}

async fn bind(
    registry: &Registry,
    name: &str,
    role: &str,
    subject: Value,
    namespace: Option<&str>,
) {
    let kind: &'static Kind = match namespace {
        Some(_) => &kinds::ROLE_BINDING,
        None => &kinds::CLUSTER_ROLE_BINDING,
    };
    let binding = json!({"metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}});
    registry
        .create(kind, namespace, binding)
        .await
        .expect("created");
}

#[tokio::test]
async fn the_defaults_come_back_and_stay() {
    let registry = cluster().await;
    let before = registry.revision();
    ensure(&registry).await.expect("a second start");
    assert_eq!(registry.revision(), before);
    let none = json!({"metadata": {"name": "system:discovery"}, "rules": []});
    registry
        .update(&kinds::CLUSTER_ROLE, None, "system:discovery", None, none)
        .await
        .expect("changed");
    let anybody = who("u", &[]);
    let api = asked("get /api/v1");
    assert!(!may(&registry, &anybody, &api));
    ensure(&registry).await.expect("a third start");
    assert!(may(&registry, &anybody, &api));
}

#[tokio::test]
async fn bindings_count_where_they_are_as_soon_as_they_are() {
    let registry = cluster().await;
    let user = json!({"kind": "User", "name": "jane"});
    let jane = who("jane", &[]);
    let there = |namespace: &'static str, question: &'static str| Attributes {
        namespace: Some(namespace),
        ..asked(question)
    };
    assert!(!may(&registry, &jane, &there("default", "get - pods p")));
    bind(&registry, "b", "view", user, Some("default")).await;
    assert!(may(&registry, &jane, &there("default", "get - pods p")));
    assert!(!may(
        &registry,
        &jane,
        &there("kube-system", "get - pods p")
    ));
    assert!(!may(&registry, &jane, &asked("list - pods")));
    // Aggregated by way of `edit`.
    let birds = who("x", &["birds"]);
    bind(
        &registry,
        "g",
        "admin",
        json!({"kind": "Group", "name": "birds"}),
        None,
    )
    .await;
    assert!(may(&registry, &birds, &asked("watch - pods")));
    assert!(may(&registry, &birds, &asked("create - pods/exec p")));
    assert!(!may(&registry, &birds, &asked("get - nodes n")));
    let account = json!({"kind": "ServiceAccount", "name": "a", "namespace": "default"});
    bind(&registry, "s", "cluster-admin", account, None).await;
    let account = who(
        "system:serviceaccount:default:a",
        &["system:serviceaccounts"],
    );
    assert!(may(&registry, &account, &asked("delete - nodes n")));
    assert!(may(&registry, &account, &asked("get /metrics")));
    registry
        .delete(
            &kinds::CLUSTER_ROLE_BINDING,
            None,
            "s",
            DeleteOptions::default(),
        )
        .await
        .expect("deleted");
    assert!(!may(&registry, &account, &asked("delete - nodes n")));
}

#[tokio::test]
async fn nobody_gives_away_what_it_does_not_hold() {
    let registry = cluster().await;
    let user = json!({"kind": "User", "name": "jane"});
    bind(&registry, "b", "admin", user, Some("default")).await;
    let jane = who("jane", &[]);
    let here = Some("default");
    let role = |resource: &str| {
        json!({"metadata": {"name": "r"}, "rules": [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": [resource]}]})
    };
    let kind = &kinds::ROLE;
    assert_eq!(admit(&registry, &jane, kind, here, &role("pods")), Ok(()));
    let refused = admit(&registry, &jane, kind, here, &role("nodes")).expect_err("refused");
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}"
    );
    let elsewhere = Some("kube-system");
    assert!(admit(&registry, &jane, kind, elsewhere, &role("pods")).is_err());
    let binding = |role: &str| json!({"metadata": {"name": "x"}, "roleRef": {"kind": "ClusterRole", "name": role}});
    let kind = &kinds::ROLE_BINDING;
    assert_eq!(
        admit(&registry, &jane, kind, here, &binding("view")),
        Ok(())
    );
    for role in ["cluster-admin", "none"] {
        assert!(admit(&registry, &jane, kind, here, &binding(role)).is_err());
    }
    let aggregated =
        json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": []}});
    assert!(admit(&registry, &jane, &kinds::CLUSTER_ROLE, None, &aggregated).is_err());
    let names: Vec<String> = (0..200).map(|number| format!("n{number}")).collect();
    let large = json!({"metadata": {"name": "l"}, "rules": [
        {"verbs": names, "apiGroups": names, "resources": names, "resourceNames": names, "nonResourceURLs": ["/a"]}]});
    let refused = admit(&registry, &jane, &kinds::ROLE, here, &large).expect_err("refused");
    assert!(refused.message.contains("single permissions"), "{refused}");
    let master = who("admin", &["system:masters"]);
    assert_eq!(
        admit(&registry, &master, &kinds::ROLE, here, &large),
        Ok(())
    );
}

#[tokio::test]
async fn on_behalf_of_others_only_with_leave() {
    let registry = cluster().await;
    let headers = |list: &[(&'static str, &str)]| -> http::HeaderMap {
        let pairs = list.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(*name);
            (name, value.parse().expect("a header"))
        });
        pairs.collect()
    };
    let master = who("admin", &["system:masters"]);
    let jane = who("jane", &[]);
    let none = headers(&[]);
    assert_eq!(impersonated(&registry, &jane, &none), Ok(None));
    let other = headers(&[("impersonate-user", "u"), ("impersonate-group", "g")]);
    let found = impersonated(&registry, &master, &other).expect("allowed");
    assert_eq!(found, Some(who("u", &["g"])));
    let refused = impersonated(&registry, &jane, &other).expect_err("refused");
    assert_eq!(
        refused.message,
        "users \"u\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    let node = who("system:node:w1", &["system:nodes"]);
    assert!(impersonated(&registry, &node, &other).is_err());
    let groups = headers(&[("impersonate-group", "system:masters")]);
    assert_eq!(
        impersonated(&registry, &master, &groups)
            .expect_err("no user")
            .code,
        400
    );
    let account = headers(&[("impersonate-user", "system:serviceaccount:default:a")]);
    let user = json!({"kind": "User", "name": "jane"});
    bind(&registry, "b", "edit", user, Some("default")).await;
    let found = impersonated(&registry, &jane, &account).expect("edit lets her");
    let groups = &found.expect("somebody").groups;
    assert!(groups.contains(&"system:serviceaccounts:default".to_owned()));
    let both = headers(&[
        ("impersonate-user", "system:serviceaccount:default:a"),
        ("impersonate-group", "system:masters"),
    ]);
    assert!(impersonated(&registry, &jane, &both).is_err());
}
