//! `vagrant`: the Vagrantfile of a cluster file.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::cluster::open_home;
use super::failure::Failure;
use super::terminal::say;
use super::{File, scenarios};
use crate::machines::boxes::{BoxDefinition, Origin};
use crate::machines::vagrant::{Vagrantfile, own_box_name};
use crate::model::cluster::{ClusterSpec, ProviderKind};
use crate::model::names::ClusterName;

/// Arguments of `vagrant`.
#[derive(Debug, Args)]
pub(super) struct VagrantCommand {
    #[command(subcommand)]
    verb: VagrantVerb,
}

#[derive(Debug, Subcommand)]
enum VagrantVerb {
    /// Print the Vagrantfile that `up` would write for a cluster file with `provider = "vagrant"`.
    Render {
        /// Cluster file; without it: a controller and two workers of 512 MiB, with libvirt.
        #[arg(short, long, value_name = "FILE")]
        file: Option<File>,
    },
}

impl VagrantCommand {
    pub(super) fn run(self, name: &ClusterName) -> Result<ExitCode, Failure> {
        let VagrantVerb::Render { file } = self.verb;
        let spec = match &file {
            Some(file) => scenarios::read_cluster_file(file, name)?,
            None => ClusterSpec {
                provider: ProviderKind::Vagrant,
                ..ClusterSpec::with_workers(name.clone(), 2)
            },
        };
        if spec.provider != ProviderKind::Vagrant {
            return Err(Failure::new("the cluster file's provider is not Vagrant")
                .hint("write `provider = \"vagrant\"` in its [cluster] table")
                .invalid());
        }
        let paths = open_home()?.cluster(name);
        let definition =
            BoxDefinition::load(&spec.box_name).map_err(|error| Failure::from(error).invalid())?;
        let file = Vagrantfile {
            vagrant: &spec.vagrant.clone().unwrap_or_default(),
            own_box: &own_box_name(&definition.hash()),
            machines: &paths.root().join("machines"),
            private_key: &paths.ssh_key(),
            kernel_arguments: match &definition.origin {
                Origin::Debian(root) => &root.kernel_arguments,
                Origin::Image(_) => "",
            },
            // What `up` proves; here nothing is started.
            kvm: std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .is_ok(),
            spec: &spec,
        };
        say(file.render()?.trim_end());
        Ok(ExitCode::SUCCESS)
    }
}
