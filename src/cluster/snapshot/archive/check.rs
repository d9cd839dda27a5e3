//! What an archive may say of itself. Whatever is not on the list is refused, and all of it at once.

use std::collections::BTreeSet;

use super::{MAX_TEXT_BYTES, shown};
use crate::cluster::snapshot::{FORMAT, FileFact, Manifest};
use crate::model::cluster::{ClusterSpec, ProviderKind};
use crate::model::names::NodeName;

/// Largest memory or disk file.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// Most machines of a cluster, and most files of its identity.
const MAX_MACHINES: usize = 100;
const MAX_FILES: usize = 2_000;
/// Largest memory and disk that a machine may be said to have.
const MAX_MEMORY_BYTES: u64 = 1 << 40;
const MAX_DISK_BYTES: u64 = 1 << 46;
/// Longest name of a key's or a certificate's file.
const MAX_NAME_BYTES: usize = 80;

/// What of a snapshot a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A key, a certificate, the ports.
    Identity,
    /// What a machine was made from.
    Record,
    /// A machine's memory or disk.
    Contents,
}

/// All that is wrong with what an archive says it holds.
pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    if manifest.version != FORMAT {
        return vec![format!(
            "its snapshot is of version {}, this flightcage reads {FORMAT}",
            manifest.version
        )];
    }
    let mut problems = of_specification(&manifest.spec);
    if manifest.files.len() > MAX_FILES {
        problems.push(format!("it names more than {MAX_FILES} files"));
        return problems;
    }
    let mut names = BTreeSet::new();
    for file in &manifest.files {
        if !names.insert(file.path.as_str()) {
            problems.push(format!("it names {} twice", shown(&file.path)));
        }
        problems.extend(of_file(file, &manifest.spec));
    }
    let missing = required(&manifest.spec).filter(|name| !names.contains(name.as_str()));
    problems.extend(missing.map(|name| format!("it lacks `{name}`")));
    problems
}

fn of_specification(spec: &ClusterSpec) -> Vec<String> {
    let mut problems = Vec::new();
    let foreign = spec.machines.iter().any(|machine| machine.host.is_some());
    if spec.provider != ProviderKind::Qemu || spec.vagrant.is_some() || foreign {
        problems.push("its machines are not of the qemu provider".to_owned());
    }
    if spec.machines.is_empty() || spec.machines.len() > MAX_MACHINES {
        problems.push(format!(
            "it has {} machines; 1 to {MAX_MACHINES} are possible",
            spec.machines.len()
        ));
    }
    let mut names = BTreeSet::new();
    for machine in &spec.machines {
        if !names.insert(&machine.name) {
            problems.push(format!("it has two machines `{}`", machine.name));
        }
        if machine.memory_bytes > MAX_MEMORY_BYTES || machine.disk_bytes > MAX_DISK_BYTES {
            problems.push(format!("its machine `{}` is larger than any", machine.name));
        }
    }
    problems
}

fn of_file(file: &FileFact, spec: &ClusterSpec) -> Vec<String> {
    let name = shown(&file.path);
    let Some(part) = part(&file.path, spec) else {
        return vec![format!("{name} is no part of a snapshot")];
    };
    let limit = match part {
        Part::Identity | Part::Record => MAX_TEXT_BYTES,
        Part::Contents => MAX_FILE_BYTES,
    };
    let mut problems = Vec::new();
    if file.bytes > limit {
        problems.push(format!(
            "{name} has {} bytes; at most {limit} are taken",
            file.bytes
        ));
    }
    if file.data_bytes > file.bytes {
        problems.push(format!("{name} holds more than its length"));
    }
    problems
}

/// What a path is a part of, if it is one of those that a snapshot of this cluster has.
fn part(path: &str, spec: &ClusterSpec) -> Option<Part> {
    let words: Vec<&str> = path.split('/').collect();
    match words[..] {
        ["cluster", "ports.json"] => Some(Part::Identity),
        ["cluster", "pki" | "ssh", name] => is_plain(name).then_some(Part::Identity),
        ["machines", node, file] => {
            let node: NodeName = node.parse().ok()?;
            spec.index_of(&node)?;
            match file {
                "machine.json" => Some(Part::Record),
                "memory" | "disk" => Some(Part::Contents),
                _ => None,
            }
        }
        _ => None,
    }
}

fn is_plain(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with('.')
        && name.bytes().all(letter)
}

/// Without these no cluster comes back. A machine that was off has no memory.
fn required(spec: &ClusterSpec) -> impl Iterator<Item = String> {
    let identity = [
        "cluster/pki/ca.crt",
        "cluster/pki/ca.key",
        "cluster/ssh/id_ed25519",
    ];
    let machines = spec.machines.iter().flat_map(|machine| {
        ["disk", "machine.json"].map(|file| format!("machines/{}/{file}", machine.name))
    });
    identity.into_iter().map(str::to_owned).chain(machines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_snapshot_has_is_a_part_of_one() {
        let spec = ClusterSpec::with_workers("test".parse().unwrap(), 1);
        for (path, expected) in [
            ("cluster/ports.json", Some(Part::Identity)),
            ("cluster/pki/node-w1.key", Some(Part::Identity)),
            ("cluster/ssh/host_w1.pub", Some(Part::Identity)),
            ("machines/w1/machine.json", Some(Part::Record)),
            ("machines/c1/memory", Some(Part::Contents)),
            ("machines/w1/disk", Some(Part::Contents)),
        ] {
            assert_eq!(part(path, &spec), expected, "{path}");
        }
        for path in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "cluster",
            "cluster/",
            "cluster/pki",
            "cluster/pki/",
            "cluster/pki/..",
            "cluster/pki/.ssh",
            "cluster/pki/a/b",
            "cluster/pki/a b",
            "cluster/./ports.json",
            "cluster//ports.json",
            "/cluster/ports.json",
            "machines/w9/disk",
            "machines/../disk",
            "machines/w1/disk/",
            "machines/w1/../../../x",
            "machines/w1/memory\0",
            "manifest.json",
            "manifest.sum",
            "seal.json",
            "used",
        ] {
            assert_eq!(part(path, &spec), None, "{path:?}");
        }
    }
}
