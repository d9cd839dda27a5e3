//! Nobody gives away what it does not hold (`pkg/registry/rbac/{clusterrole,role,clusterrolebinding,rolebinding}/policybased`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::policy::{self, aggregates};
use super::rules::{Attributes, Rule, missing};
use super::{AUTHENTICATED, may, rules_of};
use crate::orchestrator::api::authorize::Identity;
use crate::orchestrator::api::kinds::{self, Kind};
use crate::orchestrator::api::limits::{FIELDS_IN_MESSAGE, ROLE_PERMISSIONS};
use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::api::status::Status;

/// Refuses a role or a binding, new or changed, that gives away what its writer does not hold. Other kinds pass.
pub(in crate::orchestrator::api) fn admit(
    registry: &Registry,
    who: &Identity,
    kind: &Kind,
    namespace: Option<&str>,
    object: &Value,
) -> Result<(), Status> {
    // Nodes and proxies have no access to these kinds.
    if who.is_master() {
        return Ok(());
    }
    let namespace = namespace.filter(|_| kind.namespaced);
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    let name = name.unwrap_or_default();
    let attempt = Attempted {
        registry,
        who,
        kind,
        namespace,
        name,
    };
    if kind.is(&kinds::ROLE) || kind.is(&kinds::CLUSTER_ROLE) {
        attempt.role(object)
    } else if kind.is(&kinds::ROLE_BINDING) || kind.is(&kinds::CLUSTER_ROLE_BINDING) {
        attempt.binding(object)
    } else {
        Ok(())
    }
}

struct Attempted<'a> {
    registry: &'a Registry,
    who: &'a Identity,
    kind: &'a Kind,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl Attempted<'_> {
    fn role(&self, role: &Value) -> Result<(), Status> {
        let escalate = Attributes {
            verb: "escalate",
            group: self.kind.group,
            resource: self.kind.plural,
            namespace: self.namespace,
            name: self.name,
            ..Attributes::default()
        };
        if may(self.registry, self.who, &escalate) {
            return Ok(());
        }
        let mut wanted = Rule::read_all(role);
        if aggregates(role) {
            // What it will select nobody knows.
            let all = || vec!["*".to_owned()];
            wanted.push(Rule {
                verbs: all(),
                groups: all(),
                resources: all(),
                ..Rule::default()
            });
            wanted.push(Rule {
                verbs: all(),
                paths: all(),
                ..Rule::default()
            });
        }
        self.held(&wanted)
    }

    fn binding(&self, binding: &Value) -> Result<(), Status> {
        let reference = binding.get("roleRef").unwrap_or(&Value::Null);
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let role = if text("kind") == "ClusterRole" {
            &kinds::CLUSTER_ROLE
        } else {
            &kinds::ROLE
        };
        let bind = Attributes {
            verb: "bind",
            group: role.group,
            resource: role.plural,
            namespace: self.namespace,
            name: text("name"),
            ..Attributes::default()
        };
        if may(self.registry, self.who, &bind) {
            return Ok(());
        }
        let policy = policy::current(self.registry);
        match policy.referred(reference, self.namespace) {
            Some(rules) => self.held(&rules),
            None => Err(Status::not_found(role, text("name"))),
        }
    }

    fn held(&self, wanted: &[Rule]) -> Result<(), Status> {
        let permissions = wanted.iter().map(Rule::combinations);
        if permissions.fold(0, usize::saturating_add) > ROLE_PERMISSIONS {
            return Err(self.refusal(&format!(
                "it has more than {ROLE_PERMISSIONS} single permissions: write it with fewer, or as several roles"
            )));
        }
        let own = rules_of(self.registry, self.who, self.namespace);
        let lacking = missing(&own, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let mut groups = self.who.groups.clone();
        groups.push(AUTHENTICATED.to_owned());
        let groups: Vec<String> = groups.iter().map(|group| format!("{group:?}")).collect();
        Err(self.refusal(&format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            self.who.user,
            groups.join(" "),
            shown(lacking)
        )))
    }

    fn refusal(&self, why: &str) -> Status {
        Status::forbidden(format!(
            "{} {:?} is forbidden: {why}",
            self.kind.resource(),
            self.name
        ))
    }
}

/// Single permissions of one thing on one line.
fn shown(single: Vec<Rule>) -> String {
    let mut compact: BTreeMap<(Vec<String>, Vec<String>, Vec<String>, Vec<String>), Vec<String>> =
        BTreeMap::new();
    for rule in single {
        let of = (rule.groups, rule.resources, rule.names, rule.paths);
        compact.entry(of).or_default().extend(rule.verbs);
    }
    let left_out = compact.len().saturating_sub(FIELDS_IN_MESSAGE);
    let mut lines: Vec<String> = compact
        .into_iter()
        .take(FIELDS_IN_MESSAGE)
        .map(|((groups, resources, names, paths), verbs)| {
            Rule {
                verbs,
                groups,
                resources,
                names,
                paths,
            }
            .compact()
        })
        .collect();
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
    lines.join("\n")
}
