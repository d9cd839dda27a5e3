//! The power of libvirt's machines, through `virsh`: Vagrant's own verbs ask the guest to shut down, and take seconds to start.

use std::time::Duration;

use crate::machines::provider::{Power, PowerAction, Problem};
use crate::model::vagrant::{Setting, VagrantSpec};
use crate::shell::CommandError;
use crate::shell::local::Command;

const VIRSH: &str = "virsh";
const SYSTEM: &str = "qemu:///system";
const SESSION: &str = "qemu:///session";
/// A libvirtd that takes longer than this is stuck.
const LIMIT: Duration = Duration::from_secs(30);

/// A connection to libvirtd, opened for every command.
#[derive(Debug, Clone)]
pub(super) struct Libvirt {
    uri: String,
}

/// Why a machine's power was not switched.
#[derive(Debug, thiserror::Error)]
pub(super) enum SwitchError {
    /// `virsh` failed.
    #[error(transparent)]
    Virsh(#[from] CommandError),
    /// It succeeded, and the machine is not as it should be.
    #[error("virsh succeeded, but the machine is {found:?}, not {wanted:?}")]
    Unchanged {
        /// What the machine is.
        found: Option<Power>,
        /// What it should be.
        wanted: Power,
    },
}

impl Libvirt {
    /// The libvirtd that the settings of a Vagrantfile lead to.
    pub(super) fn of(vagrant: &VagrantSpec) -> Self {
        let uri = match (
            vagrant.settings.get("uri"),
            vagrant.settings.get("qemu_use_session"),
        ) {
            (Some(Setting::Text(uri)), _) => uri.clone(),
            (_, Some(Setting::Flag(true))) => SESSION.to_owned(),
            _ => SYSTEM.to_owned(),
        };
        Self { uri }
    }

    fn command(&self, verb: &str, id: &str) -> Command {
        Command::new(VIRSH)
            .env("LC_ALL", "C")
            .args(["--connect", &self.uri, "--quiet", verb, id])
            .limit(LIMIT)
    }

    /// What keeps libvirtd from answering.
    pub(super) async fn problem(&self) -> Option<Problem> {
        let asked = Command::new(VIRSH)
            .env("LC_ALL", "C")
            .args(["--connect", &self.uri, "--quiet", "uri"])
            .limit(LIMIT);
        let install = "sudo apt-get install --no-install-recommends libvirt-daemon-system libvirt-clients dnsmasq-base";
        match asked.run().await {
            Ok(_) => None,
            Err(CommandError::Start { .. }) => Some(Problem {
                what: "`virsh` is not installed".to_owned(),
                mend: install.to_owned(),
            }),
            Err(error) => Some(Problem {
                what: format!("libvirtd does not answer at {}: {error}", self.uri),
                mend: format!("{install}; sudo adduser \"$USER\" libvirt, and log in again"),
            }),
        }
    }

    /// A machine's power; `None`: there is no such machine.
    pub(super) async fn power(&self, id: &str) -> Result<Option<Power>, CommandError> {
        let output = self.command("domstate", id).output().await?;
        if !output.success()
            && String::from_utf8_lossy(&output.stderr).contains("failed to get domain")
        {
            return Ok(None);
        }
        let output = output.check(&self.command("domstate", id).pasteable())?;
        Ok(Some(read_state(&output.text())))
    }

    /// Switches a machine's power and looks whether it is so. A state it is already in is fine.
    pub(super) async fn switch(&self, id: &str, action: PowerAction) -> Result<(), SwitchError> {
        let now = self.power(id).await?;
        let Some((verb, wanted)) = step(now, action) else {
            return Ok(());
        };
        self.command(verb, id).run().await?;
        let found = self.power(id).await?;
        if found == Some(wanted) {
            Ok(())
        } else {
            Err(SwitchError::Unchanged { found, wanted })
        }
    }
}

/// `virsh domstate`'s words.
fn read_state(text: &str) -> Power {
    match text.trim() {
        "running" | "idle" | "in shutdown" => Power::On,
        "paused" | "pmsuspended" => Power::Frozen,
        _ => Power::Off,
    }
}

/// virsh's verb for an action, and what the machine is after it. `None`: nothing is to be done.
fn step(now: Option<Power>, action: PowerAction) -> Option<(&'static str, Power)> {
    match (action, now) {
        (PowerAction::PowerOff, Some(Power::Off)) => None,
        (PowerAction::PowerOff, _) => Some(("destroy", Power::Off)),
        (PowerAction::PowerOn, Some(Power::On)) => None,
        (PowerAction::PowerOn | PowerAction::Thaw, Some(Power::Frozen)) => {
            Some(("resume", Power::On))
        }
        (PowerAction::PowerOn, _) | (PowerAction::Reset, Some(Power::Off)) => {
            Some(("start", Power::On))
        }
        (PowerAction::Reset, Some(Power::Frozen)) => Some(("reset", Power::Frozen)),
        (PowerAction::Reset, _) => Some(("reset", Power::On)),
        (PowerAction::Freeze, Some(Power::Frozen)) => None,
        (PowerAction::Freeze, _) => Some(("suspend", Power::Frozen)),
        (PowerAction::Thaw, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_it_is_already_in_needs_nothing() {
        let (on, off, frozen) = (Some(Power::On), Some(Power::Off), Some(Power::Frozen));
        for (now, action) in [
            (off, PowerAction::PowerOff),
            (on, PowerAction::PowerOn),
            (frozen, PowerAction::Freeze),
            (on, PowerAction::Thaw),
            (off, PowerAction::Thaw),
        ] {
            assert_eq!(step(now, action), None, "{now:?} {action:?}");
        }
        assert_eq!(
            step(frozen, PowerAction::PowerOff),
            Some(("destroy", Power::Off))
        );
        assert_eq!(step(frozen, PowerAction::Thaw), Some(("resume", Power::On)));
        assert_eq!(step(off, PowerAction::Reset), Some(("start", Power::On)));
    }

    #[test]
    fn the_uri_follows_from_the_settings() {
        let of = |settings: &[(&str, Setting)]| {
            let settings = settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect();
            Libvirt::of(&VagrantSpec {
                settings,
                ..VagrantSpec::default()
            })
            .uri
        };
        assert_eq!(of(&[]), SYSTEM);
        assert_eq!(of(&[("qemu_use_session", Setting::Flag(true))]), SESSION);
        assert_eq!(
            of(&[("uri", Setting::Text("qemu+ssh://x/system".into()))]),
            "qemu+ssh://x/system"
        );
    }
}
