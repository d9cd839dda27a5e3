//! Role-based access: who may do what, for everybody who is neither an administrator nor a node or a proxy.
//!
//! ```text
//! (user, groups) ► grants of their bindings ([`policy`]) ► rules ► [`rules::allowed`]
//! ```
//! Semantics are Kubernetes' (`plugin/pkg/auth/authorizer/rbac`, `pkg/registry/rbac/validation`). Invariants: what no rule allows is
//! refused; nobody gives away by a role or a binding what it does not hold itself, unless it may `escalate` or `bind`; the bindings are
//! read anew only after one of them has changed, so that a request costs what its own grants cost.

mod bootstrap;
mod defaults;
mod escalation;
mod impersonation;
mod policy;
mod rules;

use super::authorize::Identity;
use super::registry::Registry;

pub(super) use bootstrap::ensure;
pub(super) use escalation::admit;
pub(super) use impersonation::impersonated;
pub(super) use policy::Cache;
pub(super) use rules::{Attributes, Rule};

/// The group of everybody who has shown who they are.
pub(super) const AUTHENTICATED: &str = "system:authenticated";

/// Whether a rule of theirs lets them do it.
pub(super) fn may(registry: &Registry, who: &Identity, attributes: &Attributes<'_>) -> bool {
    let policy = policy::current(registry);
    policy
        .grants(who)
        .filter(|grant| grant.holds_in(attributes.namespace))
        .any(|grant| rules::allowed(&grant.rules, attributes))
}

/// Everything that their rules let them do in a namespace, or cluster-wide.
pub(super) fn rules_of(registry: &Registry, who: &Identity, namespace: Option<&str>) -> Vec<Rule> {
    let policy = policy::current(registry);
    let grants = policy.grants(who).filter(|grant| grant.holds_in(namespace));
    grants
        .flat_map(|grant| grant.rules.iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests;
