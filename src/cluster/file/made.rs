//! Machines that the provider makes: what all have, and what one has instead or besides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use super::text_beside;
use crate::machines::boxes::{BoxDefinition, fragment};
use crate::model::addresses::node_address;
use crate::model::cluster::{ClusterSpec, MachineSpec, ProviderKind, Role};
use crate::model::names::is_name;
use crate::model::reader::{Table, Value, suggestion};

/// Less guest memory than this does not boot the box.
const MEMORY_BYTES_MIN: u64 = 256 << 20;
/// Less disk than this does not hold the images.
const DISK_BYTES_MIN: u64 = 1 << 30;
/// More guest memory than any machine has that emulates others.
const MEMORY_BYTES_MAX: u64 = 4 << 40;
/// Largest disk that a file system of four-KiB blocks and a qcow2 image of default clusters hold well.
const DISK_BYTES_MAX: u64 = 64 << 40;
/// What a taint may do to pods.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// Linux's limit is 2048 bytes for all of the command line, which is the box's mostly.
const KERNEL_ARGUMENTS_BYTES_MAX: usize = 1024;
/// Keys of `[cluster]` that a node may also have.
pub(super) const SHARED: [&str; 7] = [
    "memory",
    "disk",
    "cpus",
    "labels",
    "taints",
    "kernel_arguments",
    "ignition",
];

/// Reads what the machines are made of. Problems are on the table's list.
pub(super) fn read(table: &Table<'_, '_>, spec: &mut ClusterSpec) {
    // Read once for all machines: a wrong size is one problem.
    let mut first = spec.machines[0].clone();
    machine(table, &mut first);
    for machine in &mut spec.machines {
        let (name, role) = (machine.name.clone(), machine.role);
        *machine = MachineSpec {
            name,
            role,
            ..first.clone()
        };
        // What is wanted of all is wanted of those that run pods.
        if role == Role::Controller {
            machine.taints.clear();
        }
    }
    if let Some(value) = table.get("box")
        && let Some(text) = value.string()
    {
        let path = Path::new(table.file())
            .parent()
            .unwrap_or(Path::new(""))
            .join(text);
        let is_definition = path
            .extension()
            .is_some_and(|extension| extension == "toml");
        let path = std::path::absolute(&path)
            .unwrap_or(path)
            .display()
            .to_string();
        spec.box_name = if is_definition { path } else { text.to_owned() };
        // Other providers have boxes of their own.
        if spec.provider == ProviderKind::Qemu
            && let Err(error) = BoxDefinition::load(&spec.box_name)
        {
            let known = BoxDefinition::builtin_names();
            value.problem(
                format!("`{text}` is no box: {error}"),
                suggestion(text, &known),
            );
        }
    }
    let mut seen = BTreeSet::new();
    for value in table
        .get("node")
        .and_then(|value| value.array())
        .unwrap_or_default()
    {
        node(&value, spec, &mut seen);
    }
    unique_addresses(table, spec);
}

/// One `[[cluster.node]]`: sizes replace, the rest is added to what all have.
fn node(value: &Value<'_, '_>, spec: &mut ClusterSpec, seen: &mut BTreeSet<String>) {
    let Some(table) = value.table() else { return };
    let known: Vec<&str> = ["name", "address"].into_iter().chain(SHARED).collect();
    table.allow(&known);
    let Some(name_value) = table.require("name") else {
        return;
    };
    let Some(name) = name_value.string() else {
        return;
    };
    if !seen.insert(name.to_owned()) {
        name_value.problem(format!("node `{name}` is there twice"), None);
    }
    let names: Vec<String> = spec
        .machines
        .iter()
        .map(|machine| machine.name.to_string())
        .collect();
    let Some(found) = spec
        .machines
        .iter_mut()
        .find(|machine| machine.name.as_str() == name)
    else {
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        name_value.problem(format!("unknown node `{name}`"), suggestion(name, &known));
        return;
    };
    machine(&table, found);
    found.address = table
        .get("address")
        .and_then(|value| address(&value))
        .or(found.address);
}

fn machine(table: &Table<'_, '_>, machine: &mut MachineSpec) {
    size(table, machine);
    machine.labels.extend(labels(table));
    machine.taints.extend(strings(table, "taints", taint));
    machine
        .kernel_arguments
        .extend(strings(table, "kernel_arguments", kernel_argument));
    let length: usize = machine
        .kernel_arguments
        .iter()
        .map(|argument| argument.len() + 1)
        .sum();
    if let Some(value) = table
        .get("kernel_arguments")
        .filter(|_| length > KERNEL_ARGUMENTS_BYTES_MAX)
    {
        value.problem(
            format!("`kernel_arguments` are longer than {KERNEL_ARGUMENTS_BYTES_MAX} bytes"),
            None,
        );
    }
    for value in table
        .get("ignition")
        .and_then(|value| value.array())
        .unwrap_or_default()
    {
        machine.ignition.extend(ignition(&value));
    }
}

fn size(table: &Table<'_, '_>, machine: &mut MachineSpec) {
    let within = |key: &str, least: u64, most: u64, [least_text, most_text]: [&str; 2]| {
        let value = table.get(key)?;
        let bytes = value.size()?;
        if bytes < least {
            value.problem(
                format!("`{key}` is too small"),
                Some(format!("at least \"{least_text}\"")),
            );
            return None;
        }
        if bytes > most {
            value.problem(
                format!("`{key}` is too large"),
                Some(format!("at most \"{most_text}\"")),
            );
            return None;
        }
        Some(bytes)
    };
    if let Some(bytes) = within(
        "memory",
        MEMORY_BYTES_MIN,
        MEMORY_BYTES_MAX,
        ["256MiB", "4TiB"],
    ) {
        machine.memory_bytes = bytes;
    }
    if let Some(bytes) = within("disk", DISK_BYTES_MIN, DISK_BYTES_MAX, ["1GiB", "64TiB"]) {
        machine.disk_bytes = bytes;
    }
    if let Some(cpus) = table.get("cpus").and_then(|value| value.integer(1..=64)) {
        machine.cpus = u32::try_from(cpus).expect("at most 64");
    }
}

/// Nothing, or what is wrong and what would be right.
type Judgement = Result<(), (String, String)>;

/// The strings of a list that `is_right` accepts; it says what is wrong with the others, and what would be right.
fn strings(table: &Table<'_, '_>, key: &str, is_right: fn(&str) -> Judgement) -> Vec<String> {
    let values = table
        .get(key)
        .and_then(|value| value.array())
        .unwrap_or_default();
    let named = values
        .into_iter()
        .filter_map(|value| Some((value, value.string()?)));
    named
        .filter_map(|(value, text)| match is_right(text) {
            Ok(()) => Some(text.to_owned()),
            Err((what, help)) => {
                value.problem(what, Some(help));
                None
            }
        })
        .collect()
}

/// The `labels` table of Node labels.
pub(super) fn labels(table: &Table<'_, '_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let Some(written) = table.get("labels").and_then(|value| value.table()) else {
        return labels;
    };
    for (key, span, value) in written.entries() {
        let Some(text) = value.string() else { continue };
        if !is_label_key(key) {
            written.problem_with_help(
                span,
                format!("`{key}` is not a label's name"),
                Some("such as `disk` or `\"example.org/disk\"`, in Kubernetes' letters".into()),
            );
        } else if !(text.is_empty() || is_label_word(text)) {
            value.problem(
                format!("`{text}` is not a label's value"),
                Some("at most 63 letters, digits, `-`, `_`, `.`".into()),
            );
        } else {
            labels.insert(key.to_owned(), text.to_owned());
        }
    }
    labels
}

/// Kubernetes' rule for names and values of labels: `apimachinery/pkg/util/validation`.
fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    text.len() <= 63
        && ends
            .iter()
            .all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_label_key(key: &str) -> bool {
    let Some((prefix, name)) = key.split_once('/') else {
        return is_label_word(key);
    };
    prefix.len() <= 253 && prefix.split('.').all(is_name) && is_label_word(name)
}

fn taint(text: &str) -> Judgement {
    let (key_value, effect) = text.rsplit_once(':').unwrap_or((text, ""));
    let (key, value) = key_value.split_once('=').unwrap_or((key_value, ""));
    if !is_label_key(key) || !(value.is_empty() || is_label_word(value)) {
        return Err((
            format!("`{text}` is not a taint"),
            "`key=value:Effect`, such as \"dedicated=web:NoSchedule\"".into(),
        ));
    }
    if !EFFECTS.contains(&effect) {
        let help = suggestion(effect, &EFFECTS).unwrap_or_default();
        return Err((
            format!("taint `{text}` has no effect that Kubernetes knows"),
            help,
        ));
    }
    Ok(())
}

fn kernel_argument(text: &str) -> Judgement {
    if text.starts_with("console=") {
        return Err((
            format!("`{text}` is the provider's to say"),
            "every machine's console is kept: `flightcage console NODE`".into(),
        ));
    }
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) || text.contains('"') {
        return Err((
            format!("`{text}` is not one word of a kernel's command line"),
            "one string for each, such as \"loglevel=7\"".into(),
        ));
    }
    Ok(())
}

fn address(value: &Value<'_, '_>) -> Option<Ipv4Addr> {
    let text = value.string()?;
    let example = Some("10.77.0.11 to 10.77.0.250, the machines' part of the fabric".to_owned());
    match text.parse::<Ipv4Addr>() {
        Ok(address)
            if address.octets()[..3] == node_address(0).octets()[..3]
                && (11..=250).contains(&address.octets()[3]) =>
        {
            Some(address)
        }
        Ok(_) => {
            value.problem(
                format!("{text} is not an address of a machine in the fabric"),
                example,
            );
            None
        }
        Err(_) => {
            value.problem(format!("`{text}` is not an IPv4 address"), example);
            None
        }
    }
}

/// No two machines have one address, whether written or following from the position.
fn unique_addresses(table: &Table<'_, '_>, spec: &ClusterSpec) {
    let mut owners: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
    for (index, machine) in spec.machines.iter().enumerate() {
        let Some(other) = owners.insert(spec.address(index), index) else {
            continue;
        };
        let other = &spec.machines[other].name;
        let nodes = table
            .get("node")
            .and_then(|value| value.array())
            .unwrap_or_default();
        let written = nodes
            .iter()
            .filter_map(|node| node.if_table()?.get("address"))
            .find(|value| {
                value
                    .if_string()
                    .and_then(|text| text.parse::<Ipv4Addr>().ok())
                    == Some(spec.address(index))
            });
        if let Some(written) = written {
            written.problem(
                format!(
                    "`{}` and `{other}` both have the address {}",
                    machine.name,
                    spec.address(index)
                ),
                None,
            );
        }
    }
}

/// The text of an Ignition configuration, from a file that is named relative to the cluster file.
fn ignition(value: &Value<'_, '_>) -> Option<String> {
    let (name, text) = text_beside(value)?;
    if let Err(error) = fragment::check(&text) {
        value.problem(format!("`{name}`: {error}"), None);
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn check(text: &str) -> Result<ClusterSpec, Vec<String>> {
        parse("f", text, &"test".parse().unwrap()).map_err(|refusal| {
            refusal
                .problems()
                .iter()
                .map(|problem| problem.to_string()[2..].to_owned())
                .collect()
        })
    }

    #[test]
    fn a_node_has_what_all_have_and_its_own() {
        let spec = check(
            "[cluster]\nlabels = { zone = \"a\" }\ntaints = [\"x=y:NoExecute\"]\nkernel_arguments = [\"loglevel=7\"]\n\
             [[cluster.node]]\nname = \"w2\"\naddress = \"10.77.0.50\"\nlabels = { \"example.org/disk\" = \"fast\" }\n\
             taints = [\"dedicated:NoSchedule\"]\nkernel_arguments = [\"nosmt\"]\n",
        )
        .unwrap();
        let [controller, first, second] = &spec.machines[..] else {
            panic!("three machines")
        };
        assert_eq!(
            (controller.taints.len(), controller.labels["zone"].as_str()),
            (0, "a")
        );
        assert_eq!(
            (first.taints.as_slice(), first.address),
            (["x=y:NoExecute".to_owned()].as_slice(), None)
        );
        assert_eq!(second.taints, ["x=y:NoExecute", "dedicated:NoSchedule"]);
        assert_eq!(second.kernel_arguments, ["loglevel=7", "nosmt"]);
        assert_eq!(second.labels.len(), 2);
        assert_eq!(spec.address(2), Ipv4Addr::new(10, 77, 0, 50));
    }

    #[test]
    fn wrong_values_are_told_together() {
        let text = "[cluster]\ncontrollers = 3\nlabels = { \"-x\" = \"y\", z = \"a b\" }\ntaints = [\"x=y:NoSchedul\"]\n\
                    kernel_arguments = [\"console=tty0\", \"a b\"]\nignition = [\"gone.ign\"]\n\
                    [[cluster.node]]\nname = \"w1\"\naddress = \"10.77.0.13\"\n[[cluster.node]]\nname = \"w1\"\naddress = \"192.0.2.1\"\n";
        let problems = check(text).unwrap_err();
        let begins = [
            "2:15: a cluster has one controller",
            "3:12: `-x` is not a label's name",
            "3:28: `a b` is not a label's value",
            "4:11: taint `x=y:NoSchedul` has no effect",
            "5:21: `console=tty0` is the provider's",
            "5:37: `a b` is not one word",
            "6:13: `gone.ign` cannot be read",
            "9:11: `w2` and `w1` both have the address 10.77.0.13",
            "11:8: node `w1` is there twice",
            "12:11: 192.0.2.1 is not an address",
        ];
        for (problem, begin) in problems.iter().zip(begins) {
            assert!(problem.starts_with(begin), "{problem}, not {begin}");
        }
        assert_eq!(problems.len(), begins.len(), "{problems:?}");
    }

    #[test]
    fn fragments_are_read_beside_the_file_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("good.ign"),
            r#"{"ignition":{"version":"3.3.0"}}"#,
        )
        .unwrap();
        std::fs::write(folder.path().join("bad.ign"), "{}").unwrap();
        let file = folder.path().join("flightcage.toml").display().to_string();
        let good = parse(
            &file,
            "[cluster]\nignition = [\"good.ign\"]\n",
            &"test".parse().unwrap(),
        )
        .unwrap();
        assert_eq!(good.machines[2].ignition.len(), 1);
        let bad = parse(
            &file,
            "[cluster]\nignition = [\"bad.ign\"]\n",
            &"test".parse().unwrap(),
        )
        .unwrap_err();
        assert!(
            bad.problems()[0].message.contains("ignition.version"),
            "{:?}",
            bad.problems()
        );
    }
}
