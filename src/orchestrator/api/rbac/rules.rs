//! Rules, and what they allow: pure functions (`pkg/apis/rbac/v1/evaluation_helpers.go`, `pkg/registry/rbac/validation/policy_comparator.go`).

use serde_json::{Map, Value, json};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::orchestrator::api) struct Attributes<'a> {
    /// `get`, `list`, `impersonate`, ….
    pub(in crate::orchestrator::api) verb: &'a str,
    /// API group; empty for the core group.
    pub(in crate::orchestrator::api) group: &'a str,
    /// Plural.
    pub(in crate::orchestrator::api) resource: &'a str,
    /// Part of it; empty for itself.
    pub(in crate::orchestrator::api) subresource: &'a str,
    /// Where.
    pub(in crate::orchestrator::api) namespace: Option<&'a str>,
    /// Which one; empty when none is named.
    pub(in crate::orchestrator::api) name: &'a str,
    /// A path that is no resource; then only it and the verb count.
    pub(in crate::orchestrator::api) path: Option<&'a str>,
}

/// One rule of a role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(in crate::orchestrator::api) struct Rule {
    pub(super) verbs: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) resources: Vec<String>,
    /// Empty: all.
    pub(super) names: Vec<String>,
    pub(super) paths: Vec<String>,
}

const FIELDS: [&str; 5] = [
    "verbs",
    "apiGroups",
    "resources",
    "resourceNames",
    "nonResourceURLs",
];

impl Rule {
    /// As it stands in a role. What is missing is empty, and allows nothing.
    pub(super) fn read(value: &Value) -> Self {
        let list = |field: &str| -> Vec<String> {
            let items = value.get(field).and_then(Value::as_array);
            let texts = items.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        let [verbs, groups, resources, names, paths] = FIELDS.map(list);
        Self {
            verbs,
            groups,
            resources,
            names,
            paths,
        }
    }

    /// All rules of a role.
    pub(super) fn read_all(role: &Value) -> Vec<Self> {
        let rules = role.get("rules").and_then(Value::as_array);
        rules.into_iter().flatten().map(Self::read).collect()
    }

    /// As it stands in a role, or in a SelfSubjectRulesReview.
    pub(in crate::orchestrator::api) fn write(&self) -> Value {
        let lists = [
            &self.verbs,
            &self.groups,
            &self.resources,
            &self.names,
            &self.paths,
        ];
        let mut object = Map::new();
        for (field, list) in FIELDS.iter().zip(lists) {
            if !list.is_empty() {
                object.insert((*field).to_owned(), json!(list));
            }
        }
        Value::Object(object)
    }

    /// Whether it is about paths that are no resources.
    pub(in crate::orchestrator::api) fn is_of_paths(&self) -> bool {
        !self.paths.is_empty()
    }

    /// As messages show it (`CompactString` of `pkg/apis/rbac/v1/helpers.go`).
    pub(super) fn compact(&self) -> String {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.paths),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let shown: Vec<String> = parts
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", quoted(list)))
            .collect();
        format!("{{{}}}", shown.join(", "))
    }

    /// How many single permissions it is, whether or not it is a rule as they have to be.
    pub(super) fn combinations(&self) -> usize {
        let names = self.names.len().max(1);
        let of_resources = [self.resources.len(), names]
            .into_iter()
            .fold(self.groups.len(), usize::saturating_mul);
        let things = of_resources.saturating_add(self.paths.len());
        things.saturating_mul(self.verbs.len())
    }

    /// The single permissions that it is: one verb, group, resource and name each, or one verb and path.
    pub(super) fn single(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut all = Vec::new();
        for verb in &self.verbs {
            for path in &self.paths {
                all.push(Self {
                    verbs: one(verb),
                    paths: one(path),
                    ..Self::default()
                });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let alone = Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        all.push(alone);
                        continue;
                    }
                    all.extend(self.names.iter().map(|name| Self {
                        names: one(name),
                        ..alone.clone()
                    }));
                }
            }
        }
        all
    }

    fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if let Some(path) = asked.path {
            return self.paths.iter().any(|rule| path_matches(rule, path));
        }
        has(&self.groups, asked.group)
            && self
                .resources
                .iter()
                .any(|rule| names_resource(rule, asked))
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }

    /// Whether it holds all of a single permission.
    fn covers(&self, single: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|one| has(own, one));
        let resource = |wanted: &String| {
            let part = wanted.split_once('/').map(|(_, part)| format!("*/{part}"));
            has(&self.resources, wanted) || part.is_some_and(|part| self.resources.contains(&part))
        };
        let names = self.names.is_empty()
            || (!single.names.is_empty()
                && single.names.iter().all(|name| self.names.contains(name)));
        let path = |wanted: &String| self.paths.iter().any(|own| path_matches(own, wanted));
        all(&self.verbs, &single.verbs)
            && all(&self.groups, &single.groups)
            && single.resources.iter().all(resource)
            && names
            && single.paths.iter().all(path)
    }
}

fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// Whether the list has it, or all.
fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

fn names_resource(rule: &str, asked: &Attributes<'_>) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => asked.subresource.is_empty() && rule == asked.resource,
        Some((resource, part)) => {
            !asked.subresource.is_empty()
                && part == asked.subresource
                && (resource == "*" || resource == asked.resource)
        }
    }
}

fn path_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(_) => path.starts_with(rule.trim_end_matches('*')),
        None => rule == path,
    }
}

/// Whether one of the rules allows it.
pub(super) fn allowed(rules: &[Rule], asked: &Attributes<'_>) -> bool {
    rules.iter().any(|rule| rule.allows(asked))
}

/// The single permissions of `wanted` that `held` does not have.
pub(super) fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let single = wanted.iter().flat_map(Rule::single);
    single
        .filter(|single| !held.iter().any(|rule| rule.covers(single)))
        .collect()
}
