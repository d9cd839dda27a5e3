//! What the roles and bindings of the cluster come to, by subject; made anew when one of them has changed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::AUTHENTICATED;
use super::rules::Rule;
use crate::orchestrator::api::authorize::Identity;
use crate::orchestrator::api::kinds::{self, Kind};
use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::store::Revision;

/// The kinds that make it up.
static KINDS: [&Kind; 4] = [
    &kinds::ROLE,
    &kinds::ROLE_BINDING,
    &kinds::CLUSTER_ROLE,
    &kinds::CLUSTER_ROLE_BINDING,
];

/// The policy, and the revision up to which it is complete.
#[derive(Debug, Default)]
pub(in crate::orchestrator::api) struct Cache(Mutex<Option<(Revision, Arc<Policy>)>>);

/// Who is granted what.
#[derive(Debug, Default)]
pub(super) struct Policy {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    roles: HashMap<(String, String), Arc<[Rule]>>,
}

/// What a binding gives one of its subjects.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    /// Only there; `None` is everywhere.
    namespace: Option<String>,
    pub(super) rules: Arc<[Rule]>,
}

impl Grant {
    /// Whether it counts for what is asked there.
    pub(super) fn holds_in(&self, namespace: Option<&str>) -> bool {
        self.namespace.is_none() || self.namespace.as_deref() == namespace
    }
}

/// The policy of now.
pub(super) fn current(registry: &Registry) -> Arc<Policy> {
    let mut kept = registry
        .policy
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some((complete, policy)) = kept.as_mut()
        && let Some(upto) = unchanged(registry, *complete)
    {
        *complete = upto;
        return policy.clone();
    }
    // Read before the objects: what is written meanwhile is read again.
    let revision = registry.revision();
    let policy = Arc::new(Policy::of(registry));
    *kept = Some((revision, policy.clone()));
    policy
}

/// Up to where nothing of the policy has changed since; `None` if something has, or nobody knows any more.
fn unchanged(registry: &Registry, since: Revision) -> Option<Revision> {
    let mut upto = registry.revision();
    if upto == since {
        return Some(since);
    }
    for kind in KINDS {
        let (changes, complete) = registry.events(kind, None, since, 1).ok()?;
        if !changes.is_empty() {
            return None;
        }
        upto = upto.min(complete);
    }
    Some(upto)
}

impl Policy {
    fn of(registry: &Registry) -> Self {
        let mut policy = Self {
            cluster_roles: cluster_roles(&registry.list(&kinds::CLUSTER_ROLE, None).0),
            ..Self::default()
        };
        for role in registry.list(&kinds::ROLE, None).0 {
            let key = (
                text(&role, "/metadata/namespace").to_owned(),
                text(&role, "/metadata/name").to_owned(),
            );
            policy.roles.insert(key, Rule::read_all(&role).into());
        }
        for binding in registry.list(&kinds::CLUSTER_ROLE_BINDING, None).0 {
            policy.bind(&binding, None);
        }
        for binding in registry.list(&kinds::ROLE_BINDING, None).0 {
            policy.bind(&binding, Some(text(&binding, "/metadata/namespace")));
        }
        policy
    }

    /// The rules of the role that a binding there refers to; `None` if there is no such role.
    pub(super) fn referred(
        &self,
        reference: &Value,
        namespace: Option<&str>,
    ) -> Option<Arc<[Rule]>> {
        let name = text(reference, "/name").to_owned();
        match (text(reference, "/kind"), namespace) {
            ("ClusterRole", _) => self.cluster_roles.get(&name).cloned(),
            ("Role", Some(namespace)) => self.roles.get(&(namespace.to_owned(), name)).cloned(),
            _ => None,
        }
    }

    fn bind(&mut self, binding: &Value, namespace: Option<&str>) {
        let reference = binding.get("roleRef").unwrap_or(&Value::Null);
        let Some(rules) = self.referred(reference, namespace) else {
            return;
        };
        let subjects = binding.get("subjects").and_then(Value::as_array);
        for subject in subjects.into_iter().flatten() {
            let grant = Grant {
                namespace: namespace.map(str::to_owned),
                rules: rules.clone(),
            };
            let name = text(subject, "/name");
            let (of, name) = match text(subject, "/kind") {
                "User" => (&mut self.users, name.to_owned()),
                "Group" => (&mut self.groups, name.to_owned()),
                "ServiceAccount" => {
                    let own = text(subject, "/namespace");
                    let user = format!("system:serviceaccount:{own}:{name}");
                    (&mut self.users, user)
                }
                _ => continue,
            };
            of.entry(name).or_default().push(grant);
        }
    }

    /// Everything that they are granted, wherever.
    pub(super) fn grants<'a>(&'a self, who: &'a Identity) -> impl Iterator<Item = &'a Grant> {
        let own = self.users.get(&who.user);
        let groups = who.groups.iter().map(String::as_str);
        let groups = groups.filter(|group| *group != AUTHENTICATED);
        let of_groups = groups
            .chain([AUTHENTICATED])
            .filter_map(move |group| self.groups.get(group));
        own.into_iter().chain(of_groups).flatten()
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default()
}

/// Every cluster role with its rules; those of a role that aggregates are what it selects, and what these select.
fn cluster_roles(roles: &[Arc<Value>]) -> HashMap<String, Arc<[Rule]>> {
    let mut all = HashMap::new();
    for role in roles {
        let rules: Arc<[Rule]> = if aggregates(role) {
            gather(role, roles).into()
        } else {
            Rule::read_all(role).into()
        };
        all.insert(text(role, "/metadata/name").to_owned(), rules);
    }
    all
}

/// Whether a role takes its rules from others.
pub(super) fn aggregates(role: &Value) -> bool {
    role.get("aggregationRule")
        .is_some_and(|rule| !rule.is_null())
}

fn gather(role: &Value, roles: &[Arc<Value>]) -> Vec<Rule> {
    let mut seen = HashSet::from([text(role, "/metadata/name")]);
    let (mut waiting, mut found) = (vec![role], Vec::new());
    let mut known = HashSet::new();
    while let Some(next) = waiting.pop() {
        if !aggregates(next) {
            let rules = Rule::read_all(next).into_iter();
            found.extend(rules.filter(|rule| known.insert(rule.clone())));
            continue;
        }
        for other in roles {
            if selects(next, other) && seen.insert(text(other, "/metadata/name")) {
                waiting.push(other);
            }
        }
    }
    found
}

fn selects(role: &Value, other: &Value) -> bool {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors");
    let mut selectors = selectors.and_then(Value::as_array).into_iter().flatten();
    selectors.any(|selector| matches(selector, other))
}

/// Whether a label selector, as an object has it, selects another.
fn matches(selector: &Value, other: &Value) -> bool {
    let label = |key: &str| {
        let labels = other.pointer("/metadata/labels");
        labels.and_then(|labels| labels.get(key)?.as_str())
    };
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let mut equal = equal.into_iter().flatten();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    let mut expressions = expressions.into_iter().flatten();
    equal.all(|(key, wanted)| label(key) == wanted.as_str())
        && expressions.all(|expression| {
            let found = label(text(expression, "/key"));
            let values = expression.get("values").and_then(Value::as_array);
            let listed = found.is_some_and(|found| {
                let mut values = values.into_iter().flatten();
                values.any(|value| value == found)
            });
            match text(expression, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
