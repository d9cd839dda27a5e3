//! Renders `Vagrantfile.tera`: one machine a node, the same addresses as in the fabric, and what the cluster file sets.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use tera::{Context, Kwargs, State, Tera};

use crate::model::addresses::{self, mac_text};
use crate::model::cluster::ClusterSpec;
use crate::model::vagrant::{Hypervisor, Setting, VagrantBox, VagrantSpec};

/// The template, also at the repository's root.
const TEMPLATE: &str = include_str!("../../../Vagrantfile.tera");
/// How long Vagrant waits for a machine's SSH server: emulated ones take minutes when many boot at once.
const BOOT_TIMEOUT_S: u64 = 600;
/// How long one attempt of Vagrant's to log in may take: an emulated machine that still boots is slow to shake hands.
const CONNECT_TIMEOUT_S: u64 = 60;

/// What a Vagrantfile is rendered from, beside the cluster's specification.
#[derive(Debug, Clone)]
pub struct Vagrantfile<'a> {
    /// The cluster.
    pub spec: &'a ClusterSpec,
    /// How Vagrant is to make it.
    pub vagrant: &'a VagrantSpec,
    /// What the cluster's own box is called among Vagrant's, for a specification without a box of Vagrant's.
    pub own_box: &'a str,
    /// Where the machines' first-boot configurations and consoles lie.
    pub machines: &'a Path,
    /// The cluster's private SSH key, for its own box.
    pub private_key: &'a Path,
    /// The kernel command line of the cluster's own box, without the console.
    pub kernel_arguments: &'a str,
    /// Whether guests may use KVM. Otherwise QEMU translates them.
    pub kvm: bool,
}

#[derive(Serialize)]
struct MachineContext {
    name: String,
    address: Ipv4Addr,
    cluster_mac: String,
    management_mac: String,
    memory_mib: u64,
    cpus: u32,
    disk_gib: u64,
    console: PathBuf,
    fw_cfg: String,
    full_name: String,
    command_line: String,
}

#[derive(Serialize)]
struct SettingContext<'a> {
    key: &'a str,
    value: Value,
}

impl Vagrantfile<'_> {
    /// The file's text.
    ///
    /// # Errors
    /// When the template is wrong, which the tests would have told.
    pub fn render(&self) -> Result<String, tera::Error> {
        let mut tera = Tera::default();
        tera.register_filter("ruby", ruby_filter);
        // Nothing is escaped but by `ruby`.
        tera.autoescape_on(Vec::<&str>::new());
        tera.add_raw_template("Vagrantfile", TEMPLATE)?;
        tera.render("Vagrantfile", &self.context())
    }

    fn context(&self) -> Context {
        let (spec, vagrant) = (self.spec, self.vagrant);
        let machines: Vec<_> = spec
            .machines
            .iter()
            .enumerate()
            .map(|(index, _)| self.machine(index))
            .collect();
        let own = VagrantBox {
            name: self.own_box.to_owned(),
            version: None,
            url: None,
        };
        let settings: Vec<_> = vagrant
            .settings
            .iter()
            .map(|(key, value)| SettingContext {
                key,
                value: json(value),
            })
            .collect();
        let mut context = Context::new();
        context.insert("cluster", spec.name.as_str());
        context.insert("box", vagrant.vagrant_box.as_ref().unwrap_or(&own));
        context.insert("own_box", &vagrant.vagrant_box.is_none());
        context.insert("boot_timeout_s", &BOOT_TIMEOUT_S);
        context.insert("connect_timeout_s", &CONNECT_TIMEOUT_S);
        context.insert("private_key", &self.private_key);
        context.insert("hypervisor", vagrant.hypervisor.as_str());
        context.insert("network_name", &format!("flightcage-{}", spec.name));
        context.insert("host_address", &host_address(spec.address(0)));
        context.insert("prefix", &self.prefix());
        context.insert("driver", if self.kvm { "kvm" } else { "qemu" });
        context.insert("machines", &machines);
        context.insert("settings", &settings);
        context
    }

    /// What the hypervisor's names of the machines begin with.
    fn prefix(&self) -> String {
        format!("flightcage-{}-", self.spec.name)
    }

    fn machine(&self, index: usize) -> MachineContext {
        let machine = &self.spec.machines[index];
        let directory = self.machines.join(machine.name.as_str());
        MachineContext {
            name: machine.name.to_string(),
            address: self.spec.address(index),
            cluster_mac: mac_text(addresses::node_mac(index)),
            management_mac: mac_text(addresses::ssh_mac(index)).replace(':', ""),
            memory_mib: machine.memory_bytes >> 20,
            cpus: machine.cpus,
            // Vagrant counts in whole gibibytes; a disk is never smaller than was asked for.
            disk_gib: machine.disk_bytes.div_ceil(1 << 30),
            console: directory.join(super::CONSOLE),
            fw_cfg: fw_cfg(&directory.join(super::IGNITION)),
            command_line: command_line(self.kernel_arguments, &machine.kernel_arguments),
            full_name: format!("{}{}", self.prefix(), machine.name),
        }
    }
}

/// The kernel's command line, with what the cluster file adds for one machine.
pub(super) fn command_line(of_box: &str, added: &[String]) -> String {
    ["console=ttyS0", of_box]
        .into_iter()
        .chain(added.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The argument of QEMU's `-fw_cfg` that hands Ignition its configuration. A comma in a value is written twice.
fn fw_cfg(ignition: &Path) -> String {
    format!(
        "name=opt/com.coreos/config,file={}",
        ignition.display().to_string().replace(',', ",,")
    )
}

/// The first address of a machine's /24: the host's own end of the machines' network.
fn host_address(machine: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = machine.octets();
    Ipv4Addr::new(a, b, c, 1)
}

fn json(setting: &Setting) -> Value {
    match setting {
        Setting::Text(text) => Value::from(text.as_str()),
        Setting::Number(number) => Value::from(*number),
        Setting::Flag(flag) => Value::from(*flag),
    }
}

fn ruby_filter(value: &tera::Value, _: Kwargs, _: &State) -> tera::TeraResult<String> {
    serde_json::to_value(value)
        .map(|value| ruby(&value))
        .map_err(|error| tera::Error::message(error.to_string()))
}

/// A value as a Ruby literal. Single quotes: Ruby interpolates nothing in them.
pub(super) fn ruby(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        Value::Null => "nil".to_owned(),
        other => other.to_string(),
    }
}

/// The names of the hypervisor's settings that Flightcage needs as they are: they are refused in a cluster file.
#[must_use]
pub fn reserved_settings(hypervisor: Hypervisor) -> &'static [&'static str] {
    match hypervisor {
        Hypervisor::Libvirt => &[
            "serial",
            "storage",
            "qemuargs",
            "default_prefix",
            "management_network_mac",
            "kernel",
            "initrd",
        ],
        Hypervisor::VirtualBox => &["name", "customize"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(vagrant: &VagrantSpec, kvm: bool) -> String {
        let mut spec = ClusterSpec::with_workers("test".parse().expect("a name"), 1);
        spec.machines[1].kernel_arguments = vec!["loglevel=7".into()];
        let file = Vagrantfile {
            spec: &spec,
            vagrant,
            own_box: "flightcage-os-0123",
            machines: Path::new("/state/machines"),
            private_key: Path::new("/state/ssh/id"),
            kernel_arguments: "quiet panic=-1",
            kvm,
        };
        file.render().expect("the template is right")
    }

    #[test]
    fn libvirt_with_our_own_box() {
        insta::assert_snapshot!(render(&VagrantSpec::default(), false));
    }

    #[test]
    fn virtualbox_with_any_box_and_settings_that_are_hostile() {
        let settings = [
            (
                "default_nic_type".to_owned(),
                Setting::Text("virtio' + `id` + '\\".into()),
            ),
            ("check_guest_additions".to_owned(), Setting::Flag(false)),
        ];
        let vagrant_box = VagrantBox {
            name: "debian/bookworm64".into(),
            version: Some("12.1".into()),
            url: None,
        };
        let vagrant = VagrantSpec {
            hypervisor: Hypervisor::VirtualBox,
            vagrant_box: Some(vagrant_box),
            settings: settings.into(),
        };
        insta::assert_snapshot!(render(&vagrant, true));
    }
}
