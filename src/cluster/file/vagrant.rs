//! `[cluster.vagrant]`: how Vagrant makes the machines of `provider = "vagrant"`.
//!
//! ```toml
//! [cluster]
//! provider = "vagrant"
//! [cluster.vagrant]
//! provider = "libvirt"                   # or "virtualbox"
//! box = "debian/bookworm64"              # any box with SSH and systemd; without it: our own, packaged for libvirt
//! box_version = "12.20250126.1"
//! box_url = "https://…"
//! network = "192.168.56.0/24"            # of the machines; 10.77.0.0/24 with libvirt
//! settings = { machine_type = "q35" }    # as in the provider's block of a Vagrantfile
//! ```

use std::net::Ipv4Addr;

use crate::machines::boxes::{BoxDefinition, Origin};
use crate::machines::vagrant::reserved_settings;
use crate::model::cluster::ClusterSpec;
use crate::model::reader::{Table, Value, suggestion};
use crate::model::vagrant::{Hypervisor, Setting, VagrantBox, VagrantSpec};

/// The last octet of the first machine's address, as in the fabric.
const FIRST_MACHINE: u8 = 11;
/// The prefix length of a network of machines.
const PREFIX: &str = "/24";

/// Reads the table of `[cluster]`, which need not be there, into `spec`. Problems are on the table's list.
pub(super) fn vagrant(cluster: &Table<'_, '_>, spec: &mut ClusterSpec) {
    let mut vagrant = VagrantSpec::default();
    let mut network = None;
    if let Some(table) = cluster.get("vagrant").and_then(|value| value.table()) {
        table.allow(&[
            "provider",
            "box",
            "box_version",
            "box_url",
            "network",
            "settings",
        ]);
        vagrant.hypervisor = table
            .get("provider")
            .and_then(|value| hypervisor(&value))
            .unwrap_or_default();
        vagrant.vagrant_box = vagrant_box(&table);
        network = table.get("network").and_then(|value| network_of(&value));
        settings(&table, &mut vagrant);
        if vagrant.hypervisor == Hypervisor::VirtualBox
            && vagrant.vagrant_box.is_none()
            && table.get("box").is_none()
        {
            table.problem_at_start(
                "VirtualBox needs a `box`",
                Some("Flightcage's own box is packaged for libvirt only".into()),
            );
        }
    }
    let [a, b, c, _] = network
        .unwrap_or_else(|| vagrant.hypervisor.default_network())
        .octets();
    for (last, machine) in (FIRST_MACHINE..).zip(&mut spec.machines) {
        let last = machine.address.map_or(last, |written| written.octets()[3]);
        machine.address = Some(Ipv4Addr::new(a, b, c, last));
    }
    if vagrant.vagrant_box.is_none()
        && vagrant.hypervisor == Hypervisor::Libvirt
        && let Some(written) = cluster.get("box")
    {
        let built = BoxDefinition::load(&spec.box_name)
            .is_ok_and(|definition| matches!(definition.origin, Origin::Debian(_)));
        if !built {
            let help = "Vagrant's own boxes are named by `box` in [cluster.vagrant]";
            written.problem(
                format!("`{}` is no box that Flightcage builds", spec.box_name),
                Some(help.into()),
            );
        }
    }
    spec.vagrant = Some(vagrant);
}

fn hypervisor(value: &Value<'_, '_>) -> Option<Hypervisor> {
    let text = value.string()?;
    let known = Hypervisor::ALL
        .into_iter()
        .find(|hypervisor| hypervisor.as_str() == text);
    if known.is_none() {
        value.problem(
            format!("unknown provider `{text}` of Vagrant"),
            suggestion(text, &Hypervisor::ALL.map(Hypervisor::as_str)),
        );
    }
    known
}

fn vagrant_box(table: &Table<'_, '_>) -> Option<VagrantBox> {
    let text = |key: &str| table.get(key).and_then(|value| not_empty(&value, key));
    let (name, version, url) = (text("box"), text("box_version"), text("box_url"));
    if table.get("box").is_none() {
        for (key, span, _) in table.entries() {
            if ["box_version", "box_url"].contains(&key) {
                table.problem_with(span, format!("`{key}` belongs to a `box`"));
            }
        }
    }
    Some(VagrantBox {
        name: name?,
        version,
        url,
    })
}

fn not_empty(value: &Value<'_, '_>, key: &str) -> Option<String> {
    let text = value.string()?;
    if text.is_empty() || text.chars().any(char::is_control) {
        value.problem(format!("`{key}` is empty or has control characters"), None);
        return None;
    }
    Some(text.to_owned())
}

/// A private /24, as its first address.
fn network_of(value: &Value<'_, '_>) -> Option<Ipv4Addr> {
    let text = value.string()?;
    let network = text
        .strip_suffix(PREFIX)
        .and_then(|address| address.parse::<Ipv4Addr>().ok());
    let network = network.filter(|network| network.is_private() && network.octets()[3] == 0);
    if network.is_none() {
        value.problem(
            format!("`{text}` is not a private network of 254 addresses"),
            Some("such as \"192.168.56.0/24\"".into()),
        );
    }
    network
}

fn settings(table: &Table<'_, '_>, vagrant: &mut VagrantSpec) {
    let Some(settings) = table.get("settings").and_then(|value| value.table()) else {
        return;
    };
    for (key, span, value) in settings.entries() {
        let is_method = key.starts_with(|c: char| c.is_ascii_lowercase())
            && key
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_method {
            settings.problem_with_help(
                span,
                format!("`{key}` is not a setting's name"),
                Some("such as `machine_type`".into()),
            );
        } else if reserved_settings(vagrant.hypervisor).contains(&key) {
            settings.problem_with(span, format!("Flightcage sets `{key}` itself"));
        } else if let Some(setting) = setting(&value) {
            vagrant.settings.insert(key.to_owned(), setting);
        }
    }
}

fn setting(value: &Value<'_, '_>) -> Option<Setting> {
    if let Some(flag) = value.if_boolean() {
        return Some(Setting::Flag(flag));
    }
    if let Some(number) = value.if_integer() {
        return Some(Setting::Number(number));
    }
    value.string().map(|text| Setting::Text(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use crate::cluster::file::parse;
    use crate::model::cluster::{ClusterSpec, ProviderKind};
    use crate::model::vagrant::{Hypervisor, Setting};

    fn check(text: &str) -> Result<ClusterSpec, Vec<String>> {
        parse("f", text, &"test".parse().unwrap()).map_err(|refusal| {
            refusal
                .problems()
                .iter()
                .map(|problem| problem.to_string().split_off(2))
                .collect()
        })
    }

    #[test]
    fn without_a_table_it_is_libvirt_with_our_own_box() {
        let spec = check("[cluster]\nprovider = \"vagrant\"\n").unwrap();
        assert_eq!(
            (spec.provider, spec.uses_own_box(), spec.uses_qemu()),
            (ProviderKind::Vagrant, true, true)
        );
        assert_eq!(spec.address(2).to_string(), "10.77.0.13");
        assert_eq!(spec.vagrant.unwrap().hypervisor, Hypervisor::Libvirt);
    }

    #[test]
    fn everything_can_be_said() {
        let spec = check(
            "[cluster]\nprovider = \"vagrant\"\nworkers = 1\n[cluster.vagrant]\nprovider = \"virtualbox\"\nbox = \"debian/bookworm64\"\n\
             box_version = \"12.1\"\nsettings = { linked_clone = false, cpus = 2, default_nic_type = \"virtio\" }\n",
        )
        .unwrap();
        assert_eq!(
            (
                spec.address(0).to_string(),
                spec.uses_own_box(),
                spec.uses_qemu()
            ),
            ("192.168.56.11".into(), false, false)
        );
        let vagrant = spec.vagrant.unwrap();
        assert_eq!(
            vagrant.vagrant_box.unwrap().version.as_deref(),
            Some("12.1")
        );
        assert_eq!(
            vagrant.settings.into_values().collect::<Vec<_>>(),
            [
                Setting::Number(2),
                Setting::Text("virtio".into()),
                Setting::Flag(false)
            ]
        );
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let problems = check(
            "[cluster]\nprovider = \"vagrant\"\n[cluster.vagrant]\nprovider = \"libvrit\"\nbox_url = \"x\"\nnetwork = \"8.8.8.0/24\"\n\
             sttings = {}\n[cluster.vagrant.settings]\n\"memory = 1; `id`\" = 1\nqemuargs = \"x\"\nvideo = 1.5\n",
        );
        assert_eq!(
            problems.unwrap_err(),
            [
                "4:12: unknown provider `libvrit` of Vagrant",
                "5:1: `box_url` belongs to a `box`",
                "6:11: `8.8.8.0/24` is not a private network of 254 addresses",
                "7:1: unknown key `sttings`",
                "9:1: `memory = 1; `id`` is not a setting's name",
                "10:1: Flightcage sets `qemuargs` itself",
                "11:9: expected a string, found a float",
            ]
        );
        assert_eq!(
            check("[cluster]\n[cluster.vagrant]\n").unwrap_err(),
            ["2:1: `vagrant` is for machines that Vagrant makes"]
        );
        assert_eq!(
            check(
                "[cluster]\nprovider = \"vagrant\"\n[cluster.vagrant]\nprovider = \"virtualbox\"\n"
            )
            .unwrap_err(),
            ["3:1: VirtualBox needs a `box`"]
        );
    }
}
