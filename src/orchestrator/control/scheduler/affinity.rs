//! Which nodes a pod may have and would rather have: node selectors and affinity, affinity and anti-affinity to other pods, spreading.
//!
//! Sources: `component-helpers/scheduling/corev1/nodeaffinity`, `pkg/scheduler/framework/plugins/{interpodaffinity,podtopologyspread}`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Taint,
    TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Room, tolerates};
use crate::orchestrator::control::world::{World, label_selector_selects};

/// Whether the node has the pod's selector and one of its required terms.
pub(in crate::orchestrator::control) fn node_matches(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selected =
        |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    spec.node_selector.iter().flatten().all(selected)
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| term_matches(term, node))
        })
}

/// The weights of the preferred terms that the node has.
pub(super) fn node_preference(spec: &PodSpec, node: &Node) -> i64 {
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred = affinity.and_then(|affinity| {
        affinity
            .preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let matching = preferred
        .into_iter()
        .flatten()
        .filter(|term| term_matches(&term.preference, node));
    matching.map(|term| i64::from(term.weight)).sum()
}

/// A term without requirements selects nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|wanted| {
            meets(
                wanted,
                labels
                    .and_then(|labels| labels.get(&wanted.key))
                    .map(String::as_str),
            )
        })
        && fields.iter().all(|wanted| {
            wanted.key == "metadata.name" && meets(wanted, node.metadata.name.as_deref())
        })
}

fn meets(wanted: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = |found: &str| values.iter().any(|value| value == found);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|value| number(value));
    match wanted.operator.as_str() {
        "In" => found.is_some_and(listed),
        "NotIn" => !found.is_some_and(listed),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => found
            .and_then(number)
            .zip(bound)
            .is_some_and(|(found, bound)| found > bound),
        "Lt" => found
            .and_then(number)
            .zip(bound)
            .is_some_and(|(found, bound)| found < bound),
        _ => false,
    }
}

/// Whether the pod's labels satisfy the selector; none selects nothing, an empty one everything.
fn label_matches(selector: Option<&LabelSelector>, pod: &Pod) -> bool {
    selector.is_some_and(|selector| label_selector_selects(selector, &pod.metadata))
}

/// Whether `other` has what `pod` has of these labels. Those that `pod` has not are not looked at.
fn same_labels(keys: Option<&[String]>, pod: &Pod, other: &Pod) -> bool {
    let of = |pod: &'_ Pod, key: &str| pod.metadata.labels.as_ref()?.get(key).cloned();
    let keys = keys.unwrap_or_default().iter();
    keys.filter_map(|key| Some((key, of(pod, key)?)))
        .all(|(key, own)| of(other, key) == Some(own))
}

/// Whether `other` has none of what `pod` has of these labels.
fn other_labels(keys: Option<&[String]>, pod: &Pod, other: &Pod) -> bool {
    let keys = keys.unwrap_or_default();
    let has = |key: &&String| {
        let labels = pod.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.contains_key(*key))
    };
    !keys
        .iter()
        .filter(has)
        .any(|key| same_labels(Some(std::slice::from_ref(key)), pod, other))
}

/// An empty selector selects every namespace.
fn selects_namespace(world: &World, selector: &LabelSelector, name: Option<&str>) -> bool {
    let key = (String::new(), name.unwrap_or_default().to_owned());
    let found = world.namespaces.get(&key);
    *selector == LabelSelector::default()
        || found.is_some_and(|found| label_selector_selects(selector, &found.metadata))
}

/// Whether `other` is one of the pods that a term of `pod` speaks of.
fn speaks_of(world: &World, term: &PodAffinityTerm, pod: &Pod, other: &Pod) -> bool {
    let namespaces = term.namespaces.as_deref().unwrap_or_default();
    let namespace = other.metadata.namespace.as_deref();
    let named = namespaces
        .iter()
        .any(|name| Some(name.as_str()) == namespace);
    let selected = term
        .namespace_selector
        .as_ref()
        .is_some_and(|selector| selects_namespace(world, selector, namespace));
    let own = namespaces.is_empty()
        && term.namespace_selector.is_none()
        && namespace == pod.metadata.namespace.as_deref();
    (named || selected || own)
        && label_matches(term.label_selector.as_ref(), other)
        && same_labels(term.match_label_keys.as_deref(), pod, other)
        && other_labels(term.mismatch_label_keys.as_deref(), pod, other)
}

/// The value of a node's topology label.
fn domain<'a>(room: &Room<'a>, key: &str) -> Option<&'a str> {
    room.node
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(key))
        .map(String::as_str)
}

fn required_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.pod_affinity.as_ref());
    affinity
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

fn required_anti_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
    affinity
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

/// Whether any pod that the term speaks of is in the same domain as the room.
fn present(
    world: &World,
    rooms: &[Room<'_>],
    room: &Room<'_>,
    term: &PodAffinityTerm,
    pod: &Pod,
) -> bool {
    let Some(here) = domain(room, &term.topology_key) else {
        return false;
    };
    let same = rooms
        .iter()
        .filter(|other| domain(other, &term.topology_key) == Some(here));
    same.flat_map(|other| &other.pods)
        .any(|other| speaks_of(world, term, pod, other))
}

/// Why pods that are there already keep this one away, in the scheduler's own words.
pub(super) fn pods_refuse(
    world: &World,
    rooms: &[Room<'_>],
    room: &Room<'_>,
    pod: &Pod,
) -> Option<&'static str> {
    for term in required_affinity(pod) {
        // The first pod of a group that wants to be together may go anywhere the label exists.
        let anywhere = rooms
            .iter()
            .flat_map(|room| &room.pods)
            .any(|other| speaks_of(world, term, pod, other));
        let first = !anywhere
            && speaks_of(world, term, pod, pod)
            && domain(room, &term.topology_key).is_some();
        if !first && !present(world, rooms, room, term, pod) {
            return Some("node(s) didn't match pod affinity rules");
        }
    }
    if required_anti_affinity(pod)
        .iter()
        .any(|term| present(world, rooms, room, term, pod))
    {
        return Some("node(s) didn't match pod anti-affinity rules");
    }
    // The same holds the other way round.
    let unwanted = |other: &Room<'_>, there: &Pod| {
        required_anti_affinity(there).iter().any(|term| {
            let here = domain(room, &term.topology_key);
            here.is_some()
                && here == domain(other, &term.topology_key)
                && speaks_of(world, term, there, pod)
        })
    };
    if rooms
        .iter()
        .any(|other| other.pods.iter().any(|there| unwanted(other, there)))
    {
        return Some("node(s) didn't satisfy existing pods anti-affinity rules");
    }
    None
}

/// The weights of the pod's preferred affinities that hold here, less those of its preferred anti-affinities.
pub(super) fn pod_preference(world: &World, rooms: &[Room<'_>], room: &Room<'_>, pod: &Pod) -> i64 {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let towards = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let towards = towards.and_then(|towards| {
        towards
            .preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let away = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let away = away.and_then(|away| {
        away.preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let sum = |terms: Option<&Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm>>| -> i64 {
        let present = terms
            .into_iter()
            .flatten()
            .filter(|term| present(world, rooms, room, &term.pod_affinity_term, pod));
        present.map(|term| i64::from(term.weight)).sum()
    };
    sum(towards) - sum(away)
}

/// Whether a node counts for a constraint: those that the pod could have by selector and affinity do, or all; and those whose taints it
/// does not bear do, unless it says otherwise.
fn counts(constraint: &TopologySpreadConstraint, spec: &PodSpec, node: &Node) -> bool {
    let by_affinity =
        constraint.node_affinity_policy.as_deref() == Some("Ignore") || node_matches(spec, node);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let repelling = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerations.iter().any(|one| tolerates(one, taint))
    };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let by_taints = constraint.node_taints_policy.as_deref() != Some("Honor")
        || !taints
            .unwrap_or_default()
            .iter()
            .any(|taint| repelling(&taint));
    by_affinity && by_taints
}

/// How much more of the pods that a constraint speaks of this room's domain would have than the emptiest; `None` without the label. With
/// fewer domains than it asks for, an empty one is thought of.
fn skew(
    rooms: &[Room<'_>],
    room: &Room<'_>,
    constraint: &TopologySpreadConstraint,
    pod: &Pod,
) -> Option<i64> {
    let here = domain(room, &constraint.topology_key)?;
    let mut by_domain: BTreeMap<&str, i64> = BTreeMap::new();
    for other in rooms.iter().filter(|other| {
        pod.spec
            .as_ref()
            .is_some_and(|spec| counts(constraint, spec, other.node))
    }) {
        let Some(there) = domain(other, &constraint.topology_key) else {
            continue;
        };
        let same = |one: &&&Pod| {
            one.metadata.namespace == pod.metadata.namespace
                && one.metadata.deletion_timestamp.is_none()
                && label_matches(constraint.label_selector.as_ref(), one)
                && same_labels(constraint.match_label_keys.as_deref(), pod, one)
        };
        *by_domain.entry(there).or_default() +=
            i64::try_from(other.pods.iter().filter(same).count()).unwrap_or(i64::MAX);
    }
    let domains = i32::try_from(by_domain.len()).unwrap_or(i32::MAX);
    let least = if domains < constraint.min_domains.unwrap_or(1) {
        0
    } else {
        by_domain.values().min().copied().unwrap_or(0)
    };
    let own = i64::from(label_matches(constraint.label_selector.as_ref(), pod));
    Some(by_domain.get(here).copied().unwrap_or(0) + own - least)
}

fn constraints(pod: &Pod) -> &[TopologySpreadConstraint] {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.topology_spread_constraints.as_deref())
        .unwrap_or_default()
}

/// Whether a spreading that must hold would not.
pub(super) fn spread_refuses(
    rooms: &[Room<'_>],
    room: &Room<'_>,
    pod: &Pod,
) -> Option<&'static str> {
    for constraint in constraints(pod)
        .iter()
        .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
    {
        match skew(rooms, room, constraint, pod) {
            None => {
                return Some(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            }
            Some(skew) if skew > i64::from(constraint.max_skew) => {
                return Some("node(s) didn't match pod topology spread constraints");
            }
            Some(_) => {}
        }
    }
    None
}

/// How far beyond its skews a spreading that should hold would be.
pub(super) fn spread_excess(rooms: &[Room<'_>], room: &Room<'_>, pod: &Pod) -> i64 {
    let wished = constraints(pod)
        .iter()
        .filter(|constraint| constraint.when_unsatisfiable == "ScheduleAnyway");
    wished
        .map(|constraint| skew(rooms, room, constraint, pod).map_or(100, |skew| skew.max(0)))
        .sum()
}
