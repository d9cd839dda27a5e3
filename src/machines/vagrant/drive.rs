//! Runs the real `vagrant` in a cluster's folder, and reads what it says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::names::NodeName;
use crate::model::vagrant::Hypervisor;
use crate::shell::local::Command;
use crate::shell::{CommandError, Output};

/// The program, found on PATH.
pub(super) const VAGRANT: &str = "vagrant";
/// Time limit of a command that only asks.
const ASK_LIMIT: Duration = Duration::from_mins(2);
/// Time limit of a command that boots machines or fetches a box.
const WORK_LIMIT: Duration = Duration::from_mins(30);

/// Vagrant, in one folder.
#[derive(Debug, Clone)]
pub(super) struct Vagrant {
    folder: PathBuf,
    hypervisor: Hypervisor,
}

/// How Vagrant says a machine is logged in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// The SSH server.
    pub(super) address: SocketAddr,
    /// The user.
    pub(super) user: String,
    /// The private key.
    pub(super) key: PathBuf,
}

impl Vagrant {
    /// In the folder of a Vagrantfile.
    #[must_use]
    pub(super) fn new(folder: &Path, hypervisor: Hypervisor) -> Self {
        Self {
            folder: folder.to_owned(),
            hypervisor,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        Command::new(VAGRANT)
            .args(arguments)
            .directory(&self.folder)
            // A Vagrantfile above, or the user's own choice of one, is not ours.
            .env("VAGRANT_CWD", &self.folder.to_string_lossy())
            .env("VAGRANT_VAGRANTFILE", "Vagrantfile")
            .env("VAGRANT_DEFAULT_PROVIDER", self.hypervisor.as_str())
            // Nothing of ours calls home.
            .env("VAGRANT_CHECKPOINT_DISABLE", "1")
            .env("VAGRANT_BOX_UPDATE_CHECK_DISABLE", "1")
            .env("VAGRANT_NO_COLOR", "1")
    }

    async fn ask(&self, arguments: &[&str]) -> Result<Output, CommandError> {
        self.command(arguments).limit(ASK_LIMIT).run().await
    }

    async fn work(&self, arguments: &[&str]) -> Result<Output, CommandError> {
        self.command(arguments).limit(WORK_LIMIT).run().await
    }

    /// Whether Vagrant has a box of this name for the hypervisor.
    ///
    /// # Errors
    /// When Vagrant fails.
    pub(super) async fn has_box(&self, name: &str) -> Result<bool, CommandError> {
        let listed = self.ask(&["box", "list", "--machine-readable"]).await?;
        Ok(lists_box(&listed.text(), name, self.hypervisor))
    }

    /// Adds a box from a file.
    ///
    /// # Errors
    /// When Vagrant refuses it.
    pub(super) async fn add_box(&self, name: &str, file: &Path) -> Result<(), CommandError> {
        let file = file.to_string_lossy();
        self.work(&[
            "box",
            "add",
            "--force",
            "--provider",
            self.hypervisor.as_str(),
            "--name",
            name,
            &file,
        ])
        .await
        .map(drop)
    }

    /// Makes, or starts again, these machines; all of the folder if there are none. `line` gets what Vagrant says.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub(super) async fn up(
        &self,
        nodes: &[NodeName],
        line: impl FnMut(&str) + Send,
    ) -> Result<(), CommandError> {
        let mut arguments = vec![
            "up",
            "--provider",
            self.hypervisor.as_str(),
            "--no-color",
            "--no-tty",
        ];
        arguments.extend(nodes.iter().map(NodeName::as_str));
        self.command(&arguments)
            .limit(WORK_LIMIT)
            .run_with_lines(line)
            .await
            .map(drop)
    }

    /// Takes a machine's power away.
    ///
    /// # Errors
    /// When Vagrant fails.
    pub(super) async fn halt(&self, node: &NodeName) -> Result<(), CommandError> {
        self.work(&["halt", "--force", node.as_str()])
            .await
            .map(drop)
    }

    /// Stops a machine where it is.
    ///
    /// # Errors
    /// When Vagrant fails.
    pub(super) async fn suspend(&self, node: &NodeName) -> Result<(), CommandError> {
        self.work(&["suspend", node.as_str()]).await.map(drop)
    }

    /// Lets a stopped machine go on.
    ///
    /// # Errors
    /// When Vagrant fails.
    pub(super) async fn resume(&self, node: &NodeName) -> Result<(), CommandError> {
        self.work(&["resume", node.as_str()]).await.map(drop)
    }

    /// Removes these machines, their disks, and the networks that no machine is left on; absent ones are fine.
    ///
    /// # Errors
    /// When Vagrant fails.
    pub(super) async fn destroy(&self, nodes: &[NodeName]) -> Result<(), CommandError> {
        let mut arguments = vec!["destroy", "--force"];
        arguments.extend(nodes.iter().map(NodeName::as_str));
        self.work(&arguments).await.map(drop)
    }

    /// How each running machine is logged in to. Fails while one of them is off.
    ///
    /// # Errors
    /// When Vagrant fails or says what is not understood.
    pub(super) async fn ssh_config(
        &self,
        nodes: &[NodeName],
    ) -> Result<BTreeMap<NodeName, Login>, CommandError> {
        let mut arguments = vec!["ssh-config"];
        arguments.extend(nodes.iter().map(NodeName::as_str));
        Ok(read_ssh_config(&self.ask(&arguments).await?.text()))
    }

    /// Runs a command in a machine, over Vagrant's own SSH.
    ///
    /// # Errors
    /// When it fails.
    pub(super) async fn ssh(&self, node: &NodeName, command: &str) -> Result<Output, CommandError> {
        self.ask(&["ssh", node.as_str(), "--no-tty", "--command", command])
            .await
    }

    /// The machines' states in Vagrant's words, `running`, `shutoff`, `not_created` and so on.
    ///
    /// # Errors
    /// When Vagrant fails.
    pub(super) async fn status(&self) -> Result<BTreeMap<String, String>, CommandError> {
        Ok(read_status(
            &self.ask(&["status", "--machine-readable"]).await?.text(),
        ))
    }

    /// The hypervisor's own identifier of a machine, once it exists.
    #[must_use]
    pub(super) fn machine_id(&self, node: &NodeName) -> Option<String> {
        let file = self
            .folder
            .join(".vagrant/machines")
            .join(node.as_str())
            .join(self.hypervisor.as_str())
            .join("id");
        let id = std::fs::read_to_string(file).ok()?;
        (!id.trim().is_empty()).then(|| id.trim().to_owned())
    }
}

/// Reads `box list --machine-readable`: lines `TIME,TARGET,TYPE,DATA`, a `box-name` followed by its `box-provider`.
fn lists_box(text: &str, name: &str, hypervisor: Hypervisor) -> bool {
    let mut current = "";
    for line in text.lines() {
        let mut fields = line.splitn(4, ',').skip(2);
        match (fields.next(), fields.next()) {
            (Some("box-name"), Some(found)) => current = found,
            (Some("box-provider"), Some(provider))
                if current == name && provider == hypervisor.as_str() =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Reads `status --machine-readable`.
fn read_status(text: &str) -> BTreeMap<String, String> {
    let state = |line: &str| {
        let fields: Vec<&str> = line.splitn(4, ',').collect();
        match fields.as_slice() {
            [_, machine, "state", state] => Some(((*machine).to_owned(), (*state).to_owned())),
            _ => None,
        }
    };
    text.lines().filter_map(state).collect()
}

/// Reads `ssh-config`. A machine that has no address, user and key is left out.
fn read_ssh_config(text: &str) -> BTreeMap<NodeName, Login> {
    let mut logins = BTreeMap::new();
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines().map(str::trim).chain(["Host end-of-text"]) {
        let Some((key, value)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        // Values with spaces are quoted.
        let value = value.trim().trim_matches('"').to_owned();
        if key == "Host" {
            if let Some((node, login)) = login(&fields) {
                logins.insert(node, login);
            }
            fields.clear();
        }
        // The first of several identity files is the one that Vagrant tries first.
        fields.entry(key).or_insert(value);
    }
    logins
}

fn login(fields: &BTreeMap<&str, String>) -> Option<(NodeName, Login)> {
    let address: IpAddr = fields.get("HostName")?.parse().ok()?;
    let port: u16 = fields.get("Port")?.parse().ok()?;
    let login = Login {
        address: SocketAddr::from((address, port)),
        user: fields.get("User")?.clone(),
        key: fields.get("IdentityFile")?.into(),
    };
    Some((fields.get("Host")?.parse().ok()?, login))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As vagrant 2.3.4 with vagrant-libvirt 0.11.2 prints it.
    const SSH_CONFIG: &str = "Host c1\n  HostName 192.168.121.65\n  User core\n  Port 22\n  UserKnownHostsFile /dev/null\n  \
        StrictHostKeyChecking no\n  PasswordAuthentication no\n  IdentityFile /state/ssh/id\n  IdentitiesOnly yes\n  LogLevel FATAL\n\n\
        Host w1\n  HostName 127.0.0.1\n  User vagrant\n  Port 2222\n  IdentityFile \"/a b/key\"\n  IdentityFile /second\n";

    #[test]
    fn logins_are_read() {
        let logins = read_ssh_config(SSH_CONFIG);
        let login = |name: &str| {
            logins
                .get(&name.parse().expect("a name"))
                .cloned()
                .expect("it is there")
        };
        assert_eq!(
            login("c1"),
            Login {
                address: "192.168.121.65:22".parse().expect("an address"),
                user: "core".into(),
                key: "/state/ssh/id".into()
            }
        );
        assert_eq!(
            (login("w1").address.port(), login("w1").key.to_str()),
            (2222, Some("/a b/key"))
        );
        assert_eq!(
            read_ssh_config(
                "Host w2\n  HostName w2.example\n  User u\n  Port 22\n  IdentityFile k\n"
            ),
            BTreeMap::new()
        );
    }

    #[test]
    fn states_are_read() {
        let text = "1,c1,metadata,provider,libvirt\n1,c1,provider-name,libvirt\n1,c1,state,running\n1,w1,state,not_created\n\
            1,,ui,info,Current machine states\n";
        let states = read_status(text);
        assert_eq!(
            (states["c1"].as_str(), states["w1"].as_str(), states.len()),
            ("running", "not_created", 2)
        );
    }

    #[test]
    fn a_box_of_another_provider_is_another_box() {
        let text = "1,,box-name,flightcage-os-01\n1,,box-provider,virtualbox\n1,,box-version,0\n1,,box-name,debian\n1,,box-provider,libvirt\n";
        assert!(!lists_box(text, "flightcage-os-01", Hypervisor::Libvirt));
        assert!(lists_box(text, "flightcage-os-01", Hypervisor::VirtualBox));
        assert!(lists_box(text, "debian", Hypervisor::Libvirt));
    }
}
