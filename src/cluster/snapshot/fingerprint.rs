//! What a saved memory depends on: restored on anything else it would crash, or be another cluster than the one that was asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::AUTOMATIC;
use crate::machines::provider::Acceleration;
use crate::model::cluster::ClusterSpec;

/// The parts without which a saved memory cannot run at all.
const FATAL: [&str; 5] = ["QEMU", "QEMU arguments", "acceleration", "box", "processor"];

/// Digits of the key in an automatic snapshot's name.
const NAME_DIGITS: usize = 16;

/// What a fingerprint is made of.
#[derive(Debug, Clone, Copy)]
pub struct Ingredients<'a> {
    /// Hash of the files that machines start from.
    pub box_content: &'a str,
    /// Every image that the mirror holds, by name.
    pub images: &'a str,
    /// Hash of the binary that is installed in the machines.
    pub binary: &'a str,
    /// What was asked for.
    pub spec: &'a ClusterSpec,
    /// QEMU as it names itself.
    pub qemu: &'a str,
    /// How machines execute code.
    pub acceleration: Acceleration,
    /// The host's processor.
    pub processor: &'a str,
    /// QEMU's arguments, without the paths that differ between homes.
    pub arguments: &'a str,
}

/// A part that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The part.
    pub part: String,
    /// What it was when the memory was saved.
    pub saved: String,
    /// What it is here.
    pub here: String,
    /// Whether the memory cannot run here because of it.
    pub is_fatal: bool,
}

/// The parts by name, each a hash or short enough to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// Takes it.
    #[must_use]
    pub fn new(of: &Ingredients<'_>) -> Self {
        let spec = serde_json::to_vec(of.spec).expect("a specification is plain data");
        let acceleration = match of.acceleration {
            Acceleration::Kvm => "kvm",
            Acceleration::Tcg => "tcg",
        };
        let parts = [
            ("box", of.box_content.to_owned()),
            ("images", hash(of.images.as_bytes())),
            ("binary", of.binary.to_owned()),
            ("cluster specification", hash(&spec)),
            ("QEMU", of.qemu.to_owned()),
            ("acceleration", acceleration.to_owned()),
            ("processor", of.processor.to_owned()),
            ("QEMU arguments", hash(of.arguments.as_bytes())),
        ];
        Self(
            parts
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    }

    /// The name of an automatic snapshot with this fingerprint.
    #[must_use]
    pub fn automatic_name(&self) -> String {
        let all = serde_json::to_vec(&self.0).expect("texts are JSON");
        format!("{AUTOMATIC}{}", &hash(&all)[..NAME_DIGITS])
    }

    /// The parts that differ, in words.
    #[must_use]
    pub fn difference(&self, now: &Self) -> Option<String> {
        let differs = |name: &&String| self.0.get(*name) != now.0.get(*name);
        let names: Vec<&str> = self
            .0
            .keys()
            .chain(now.0.keys().filter(|name| !self.0.contains_key(*name)))
            .filter(differs)
            .map(String::as_str)
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The parts that differ, with what they were and are.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let value = |of: &Self, name: &str| of.0.get(name).cloned().unwrap_or_default();
        let names: std::collections::BTreeSet<&String> =
            self.0.keys().chain(now.0.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.0.get(*name) != now.0.get(*name))
            .map(|name| Difference {
                part: name.clone(),
                saved: value(self, name),
                here: value(now, name),
                is_fatal: FATAL.contains(&name.as_str()),
            })
            .collect()
    }

    /// The parts that differ and without which a saved memory cannot run at all; the others are a matter of taste.
    #[must_use]
    pub fn fatal_difference(&self, now: &Self) -> Option<String> {
        let names: Vec<&str> = FATAL
            .into_iter()
            .filter(|name| self.0.get(*name) != now.0.get(*name))
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ingredient_counts() {
        let spec = ClusterSpec::with_workers("test".parse().expect("a name"), 2);
        let other_spec = ClusterSpec::with_workers("test".parse().expect("a name"), 3);
        let base = Ingredients {
            box_content: "b",
            images: "i",
            binary: "f",
            spec: &spec,
            qemu: "7.2.22",
            acceleration: Acceleration::Tcg,
            processor: "p",
            arguments: "-m 512M",
        };
        let fingerprint = Fingerprint::new(&base);
        let check = |other: Ingredients<'_>, name: &str, fatal: bool| {
            let other = Fingerprint::new(&other);
            assert_eq!(fingerprint.difference(&other).as_deref(), Some(name));
            assert_eq!(
                fingerprint.fatal_difference(&other).is_some(),
                fatal,
                "{name}"
            );
            assert_ne!(fingerprint.automatic_name(), other.automatic_name());
            let differences = fingerprint.differences(&other);
            let [difference] = differences.as_slice() else {
                panic!("{name}: one part differs");
            };
            assert_eq!(
                (difference.part.as_str(), difference.is_fatal),
                (name, fatal)
            );
            assert_ne!(difference.saved, difference.here);
        };
        assert_eq!(fingerprint.difference(&Fingerprint::new(&base)), None);
        check(
            Ingredients {
                box_content: "x",
                ..base
            },
            "box",
            true,
        );
        check(
            Ingredients {
                images: "x",
                ..base
            },
            "images",
            false,
        );
        check(
            Ingredients {
                binary: "x",
                ..base
            },
            "binary",
            false,
        );
        check(
            Ingredients {
                spec: &other_spec,
                ..base
            },
            "cluster specification",
            false,
        );
        check(
            Ingredients {
                qemu: "8.2",
                ..base
            },
            "QEMU",
            true,
        );
        check(
            Ingredients {
                acceleration: Acceleration::Kvm,
                ..base
            },
            "acceleration",
            true,
        );
        check(
            Ingredients {
                processor: "x",
                ..base
            },
            "processor",
            true,
        );
        check(
            Ingredients {
                arguments: "-m 1G",
                ..base
            },
            "QEMU arguments",
            true,
        );
    }
}
