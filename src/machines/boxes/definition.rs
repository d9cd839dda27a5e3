//! What a box is made of: a TOML file in `boxes/`, and the files it names beside it.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::BoxError;
use super::image::{self, ImageOrigin};
use crate::model::definition::{
    self, DefinitionFile, RootFile, Source, checked, hexadecimal, packages, patterns, required,
    source_of, words,
};
use crate::model::reader::{Table, suggestion};

/// The definitions and their files that the binary carries, by path below `boxes/`.
const EMBEDDED: &[(&str, &str)] = &[
    (
        "flightcage-os.toml",
        include_str!("../../../boxes/flightcage-os.toml"),
    ),
    (
        "flightcage-os/init",
        include_str!("../../../boxes/flightcage-os/init"),
    ),
    (
        "flightcage-os/sshd_config",
        include_str!("../../../boxes/flightcage-os/sshd_config"),
    ),
    (
        "flightcage-os/flightcage-sshd.service",
        include_str!("../../../boxes/flightcage-os/flightcage-sshd.service"),
    ),
    ("flatcar.toml", include_str!("../../../boxes/flatcar.toml")),
    (
        "fedora-coreos.toml",
        include_str!("../../../boxes/fedora-coreos.toml"),
    ),
    (
        "flightcage-os/flightcage-journal.service",
        include_str!("../../../boxes/flightcage-os/flightcage-journal.service"),
    ),
    (
        "flightcage-os/journal",
        include_str!("../../../boxes/flightcage-os/journal"),
    ),
];

/// Turns the unpacked packages into a box; part of the box's hash.
pub(super) const ASSEMBLE: &str = include_str!("../../../boxes/assemble.sh");
/// Architectures that a box may be of, as QEMU calls them.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];
/// Where CoreOS looks for its configuration, and our own box with it.
const COREOS_CONFIG: &str = "opt/com.coreos/config";

/// A box, read and checked. Its text is what it is: two definitions of the same content have the same [`BoxDefinition::hash`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxDefinition {
    /// The file's stem.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// What its machines' processors are, `x86_64` or `aarch64`.
    pub architecture: String,
    /// How a first boot is configured.
    pub first_boot: FirstBootChannel,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a box comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built here from Debian packages: a kernel, an initramfs and a read-only root.
    Debian(Box<DebianRoot>),
    /// A disk image that somebody publishes, which boots itself.
    Image(Box<ImageOrigin>),
}

/// How Ignition gets its configuration, and what that has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstBootChannel {
    /// The fw_cfg file that it looks for.
    pub fw_cfg: String,
    /// The specification that its configuration is written in, such as `3.3.0`.
    pub version: String,
    /// Who applies the network's configuration.
    pub network: NetworkStyle,
    /// systemd units that would disturb a test: automatic updates and reboots.
    pub mask: Vec<String>,
    /// Files beyond the machine's identity.
    pub files: Vec<RootFile>,
}

impl FirstBootChannel {
    /// What our own box takes.
    #[must_use]
    pub fn flightcage() -> Self {
        let (fw_cfg, version) = (COREOS_CONFIG.to_owned(), "3.3.0".to_owned());
        Self {
            fw_cfg,
            version,
            network: NetworkStyle::Flightcage,
            mask: Vec::new(),
            files: Vec::new(),
        }
    }
}

/// Who applies the network's configuration in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkStyle {
    /// The initramfs of our own box.
    Flightcage,
    /// systemd-networkd: Flatcar.
    Networkd,
    /// NetworkManager: Fedora CoreOS.
    NetworkManager,
}

/// What is built from Debian packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianRoot {
    /// Debian's release name.
    pub suite: String,
    /// The package that holds the kernel.
    pub kernel_package: String,
    /// Kernel command line, without the console; one line.
    pub kernel_arguments: String,
    /// Packages of the root.
    pub packages: Vec<String>,
    /// Kernel modules kept in the root, by path below `kernel/`; a folder stands for all in it.
    pub modules: Vec<String>,
    /// Kernel modules that the initramfs loads, in order.
    pub initramfs_modules: Vec<String>,
    /// The initramfs's first process, a script for busybox.
    pub init: String,
    /// Shell patterns, relative to the root, of what is removed from it.
    pub remove: Vec<String>,
    /// systemd units enabled.
    pub enable: Vec<String>,
    /// systemd units masked.
    pub mask: Vec<String>,
    /// Files put into the root.
    pub files: Vec<RootFile>,
}

impl BoxDefinition {
    /// Names of the boxes that the binary carries.
    pub fn builtin_names() -> Vec<&'static str> {
        EMBEDDED
            .iter()
            .filter_map(|(path, _)| path.strip_suffix(".toml"))
            .collect()
    }

    /// Loads a box by the name of a built-in one, or by the path of a `.toml` file, whose `source`s are looked for beside it.
    pub fn load(name_or_path: &str) -> Result<Self, BoxError> {
        if let Some(text) = embedded(&format!("{name_or_path}.toml")) {
            return Self::parse(name_or_path, text, &|path| {
                embedded(path).map(str::to_owned)
            });
        }
        let path = Path::new(name_or_path);
        if path.extension().is_none_or(|extension| extension != "toml") {
            return Err(BoxError::Unknown {
                name: name_or_path.to_owned(),
                known: Self::builtin_names().join(", "),
            });
        }
        let file = DefinitionFile::read(path).map_err(|source| BoxError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse_file(name_or_path, &file.name, &file.text, &|source| {
            file.beside(source)
        })
    }

    /// Reads a definition; `source` hands over the files that it names. Every problem is told at once.
    pub fn parse(name: &str, text: &str, source: Source<'_>) -> Result<Self, BoxError> {
        Self::parse_file(&format!("{name}.toml"), name, text, source)
    }

    /// The same; problems name `file`.
    fn parse_file(
        file: &str,
        name: &str,
        text: &str,
        source: Source<'_>,
    ) -> Result<Self, BoxError> {
        definition::parse(file, text, |table| Self::read(name, table, source)).map_err(|problems| {
            BoxError::Invalid {
                name: name.to_owned(),
                problems: Box::new(problems),
            }
        })
    }

    fn read(name: &str, table: &Table<'_, '_>, source: Source<'_>) -> Self {
        let is_image = table.get("image").is_some();
        let (origin, first_boot) = if is_image {
            table.allow(&["description", "architecture", "image", "ignition", "file"]);
            (
                Origin::Image(Box::new(image::read(table, source))),
                first_boot(table, source),
            )
        } else {
            let root = DebianRoot::read(table, source);
            (
                Origin::Debian(Box::new(root)),
                FirstBootChannel::flightcage(),
            )
        };
        let description = required(table, "description");
        Self {
            name: name.to_owned(),
            description,
            architecture: architecture(table),
            first_boot,
            origin,
        }
    }

    /// The content's hash, in hexadecimal: it names the built box in the cache.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{self:?}\n{ASSEMBLE}"));
        hexadecimal(&hash.finalize()[..16])
    }
}

impl DebianRoot {
    fn read(table: &Table<'_, '_>, source: Source<'_>) -> Self {
        table.allow(&[
            "description",
            "architecture",
            "suite",
            "kernel_package",
            "kernel_arguments",
            "packages",
            "modules",
            "initramfs_modules",
            "init",
            "remove",
            "enable",
            "mask",
            "file",
        ]);
        Self {
            suite: required(table, "suite"),
            kernel_package: required(table, "kernel_package"),
            kernel_arguments: kernel_arguments(table),
            packages: packages(table, "packages"),
            modules: words(table, "modules"),
            initramfs_modules: words(table, "initramfs_modules"),
            init: table
                .require("init")
                .map(|value| source_of(value, source))
                .unwrap_or_default(),
            remove: patterns(table, "remove"),
            enable: words(table, "enable"),
            mask: words(table, "mask"),
            files: definition::files(table, source),
        }
    }
}

fn embedded(path: &str) -> Option<&'static str> {
    EMBEDDED
        .iter()
        .find(|(name, _)| *name == path)
        .map(|(_, text)| *text)
}

fn architecture(table: &Table<'_, '_>) -> String {
    let Some(value) = table.require("architecture") else {
        return String::new();
    };
    let text = value.string().unwrap_or_default();
    if !ARCHITECTURES.contains(&text) {
        value.problem(
            format!("`{text}` is not an architecture"),
            Some(format!("one of {}", ARCHITECTURES.join(", "))),
        );
    }
    text.to_owned()
}

fn kernel_arguments(table: &Table<'_, '_>) -> String {
    let text = required(table, "kernel_arguments");
    if let Some(value) = table.get("kernel_arguments")
        && text
            .split_whitespace()
            .any(|word| word.starts_with("console="))
    {
        value.problem(
            "`kernel_arguments` names a console: the provider adds its own",
            None,
        );
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The `[ignition]` table of a published image.
fn first_boot(table: &Table<'_, '_>, source: Source<'_>) -> FirstBootChannel {
    let files = definition::files(table, source);
    let fallback = FirstBootChannel {
        files: files.clone(),
        ..FirstBootChannel::flightcage()
    };
    let Some(ignition) = table.require("ignition").and_then(|value| value.table()) else {
        return fallback;
    };
    ignition.allow(&["fw_cfg", "version", "network", "mask"]);
    let fw_cfg = required(&ignition, "fw_cfg");
    if let Some(value) = ignition.get("fw_cfg")
        && !fw_cfg.starts_with("opt/")
    {
        value.problem(
            format!("`{fw_cfg}` is not a fw_cfg file of users"),
            Some("one below `opt/`, for instance `opt/com.coreos/config`".into()),
        );
    }
    let version = required(&ignition, "version");
    if let Some(value) = ignition.get("version")
        && !is_supported(&version)
    {
        value.problem(
            format!("`{version}` is not a specification that is written here"),
            Some("3.0.0 to 3.5.0".into()),
        );
    }
    let styles = [
        ("networkd", NetworkStyle::Networkd),
        ("network-manager", NetworkStyle::NetworkManager),
        // A disk image made from our own box.
        ("flightcage", NetworkStyle::Flightcage),
    ];
    let network = ignition.require("network").and_then(|value| {
        let text = value.string()?;
        let style = styles
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, style)| *style);
        if style.is_none() {
            let names = styles.map(|(name, _)| name);
            value.problem(
                format!("`{text}` applies no network configuration"),
                suggestion(text, &names),
            );
        }
        style
    });
    let mask = checked(&ignition, "mask", "a systemd unit", |unit| {
        unit.contains('.') && !unit.contains('/')
    });
    FirstBootChannel {
        fw_cfg,
        version,
        network: network.unwrap_or(NetworkStyle::Networkd),
        mask,
        files,
    }
}

/// What is rendered uses nothing that 3.0.0 does not have, but for kernel arguments (3.3.0).
fn is_supported(version: &str) -> bool {
    ["3.0.0", "3.1.0", "3.2.0", "3.3.0", "3.4.0", "3.5.0"].contains(&version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carried_boxes_are_right() {
        for name in BoxDefinition::builtin_names() {
            let definition = BoxDefinition::load(name).unwrap();
            if let Origin::Debian(root) = definition.origin {
                assert!(root.init.starts_with("#!/bin/busybox sh\n"), "{name}");
                assert!(!root.kernel_arguments.contains('\n'));
            }
        }
    }

    #[test]
    fn the_hash_follows_the_content() {
        let one = BoxDefinition::load("flightcage-os").unwrap();
        let mut other = one.clone();
        assert_eq!(one.hash(), other.hash());
        let Origin::Debian(root) = &mut other.origin else {
            panic!("it is built")
        };
        root.files[0].content.push('x');
        assert_ne!(one.hash(), other.hash());
    }

    #[test]
    fn problems_are_told_together_with_their_places() {
        let text = "description = \"x\"\nsuite = \"bookworm\"\narchitecture = \"vax\"\nkernel_arguments = \"console=tty0\"\ninit = \"nowhere\"\n";
        let error = BoxDefinition::parse("b", text, &|_| None).unwrap_err();
        let BoxError::Invalid { problems, .. } = error else {
            panic!("{error}")
        };
        let said: Vec<(usize, &str)> = problems
            .problems()
            .iter()
            .map(|problem| (problem.line, problem.message.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                (1, "`kernel_package` is missing"),
                (3, "`vax` is not an architecture"),
                (
                    4,
                    "`kernel_arguments` names a console: the provider adds its own"
                ),
                (
                    5,
                    "`nowhere` is not there: it is looked for beside the definition"
                ),
            ]
        );
    }

    #[test]
    fn an_unknown_box_names_the_known_ones() {
        assert!(
            BoxDefinition::load("nobox")
                .unwrap_err()
                .to_string()
                .contains("flightcage-os")
        );
    }
}
