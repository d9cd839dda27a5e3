//! Indexed completions: each pod has a number of its own below `completions`, and each number has to succeed once.
//!
//! As Kubernetes' `pkg/controller/job/indexed_job_utils.go`: the numbers that have succeeded are written into `status.completedIndexes`,
//! `0,2-4`, before their pods are let go.

use std::collections::BTreeSet;
use std::iter::Peekable;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// The pod's number: an annotation, and a label for selectors.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The same for its containers.
const VARIABLE: &str = "JOB_COMPLETION_INDEX";

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// The number of a pod, if it is one of the Job's.
pub(super) fn index_of(pod: &Pod, completions: i32) -> Option<i32> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let index = annotations.get(INDEX)?.parse().ok()?;
    (0..completions).contains(&index).then_some(index)
}

/// Reads `0,2-4`; what is no number of the Job's, or no number, is left out.
pub(super) fn read(text: &str, completions: i32) -> BTreeSet<i32> {
    let ranges = text.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: i32 = first.trim().parse().ok()?;
        let last: i32 = last.trim().parse().ok()?;
        Some(first.max(0)..=last.min(completions - 1))
    });
    ranges.flatten().collect()
}

/// Writes numbers as [`read`] reads them: those that follow one another as a range.
pub(super) fn write(indexes: &BTreeSet<i32>) -> String {
    let mut left = indexes.iter().copied().peekable();
    let mut ranges = Vec::new();
    while let Some(first) = left.next() {
        let last = run_of(first, &mut left);
        ranges.push(match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
    }
    ranges.join(",")
}

/// The last of the numbers that follow `first` without a gap.
fn run_of(first: i32, left: &mut Peekable<impl Iterator<Item = i32>>) -> i32 {
    let mut last = first;
    while left.next_if_eq(&(last + 1)).is_some() {
        last += 1;
    }
    last
}

/// Gives a pod that is to be created its number, in its name, its host name, and its containers' environment.
pub(super) fn number(pod: &mut Value, job: &str, index: i32) {
    let text = index.to_string();
    let metadata = &mut pod["metadata"];
    metadata["generateName"] = json!(format!("{job}-{index}-"));
    metadata["annotations"][INDEX] = json!(text);
    metadata["labels"][INDEX] = json!(text);
    pod["spec"]["hostname"] = json!(format!("{job}-{index}"));
    let variable = json!({"name": VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}}});
    for field in ["initContainers", "containers"] {
        let containers = pod["spec"].get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            match container["env"].as_array_mut() {
                Some(env) if env.iter().any(|one| one["name"] == VARIABLE) => {}
                Some(env) => env.push(variable.clone()),
                None => container["env"] = json!([variable]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_ranges_and_read_again() {
        for (indexes, text) in [
            (vec![], ""),
            (vec![3], "3"),
            (vec![0, 1], "0,1"),
            (vec![0, 2, 3, 4, 7, 8], "0,2-4,7,8"),
        ] {
            let indexes: BTreeSet<i32> = indexes.into_iter().collect();
            assert_eq!(write(&indexes), text);
            assert_eq!(read(text, 9), indexes);
        }
        assert_eq!(read("x,-1,2-9,1-0", 4), BTreeSet::from([2, 3]));
    }

    #[test]
    fn a_pod_learns_its_number() {
        let mut pod = json!({"metadata": {"labels": {}, "annotations": {}}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "env": [{"name": "A", "value": "1"}]}, {"name": "c", "env": [{"name": VARIABLE, "value": "own"}]}]}});
        number(&mut pod, "sum", 7);
        assert_eq!(pod["metadata"]["generateName"], "sum-7-");
        assert_eq!(pod["spec"]["hostname"], "sum-7");
        let containers = &pod["spec"]["containers"];
        assert_eq!(containers[0]["env"][0]["name"], VARIABLE);
        assert_eq!(containers[1]["env"][1]["name"], VARIABLE);
        assert_eq!(
            containers[2]["env"],
            json!([{"name": VARIABLE, "value": "own"}])
        );
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        assert_eq!((index_of(&pod, 8), index_of(&pod, 7)), (Some(7), None));
    }
}
