//! `up`, `down`, `status`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::failure::Failure;
use super::journal;
use super::scenarios::read_cluster_file;
use super::snapshots::Automatic;
use super::terminal::{Live, say};
use super::{File, doctor};
use crate::cluster::client::DaemonClient;
use crate::cluster::home::{ClusterPaths, Home};
use crate::cluster::life::{self, Boot, Cluster, LifeError, Lifetime, is_ready};
use crate::kubernetes::client::ListParams;
use crate::machines::provider::{Acceleration, Power};
use crate::model::cluster::{ClusterSpec, ProviderKind, Role};
use crate::model::names::ClusterName;

/// Arguments of `up`.
#[derive(Debug, Args)]
pub(super) struct Up {
    /// Cluster file; without it: a controller and two workers of 512 MiB.
    #[arg(short, long, value_name = "FILE")]
    file: Option<File>,
    #[command(flatten)]
    automatic: Automatic,
}

impl Up {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let spec = wanted(self.file.as_deref(), &name).await?;
        let home = open_home()?;
        let live = Live::new();
        let cluster =
            bring_up(&home, spec, self.automatic.boot(Lifetime::UntilDown), &live).await?;
        live.finish();
        print_status(&cluster.paths, false).await?;
        say(&format!(
            "\nUse it:  export KUBECONFIG={}",
            cluster.paths.kubeconfig().display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// The cluster of a file, or else the usual one, which this host is able to run.
pub(super) async fn wanted(
    file: Option<&Path>,
    name: &ClusterName,
) -> Result<ClusterSpec, Failure> {
    let spec = match file {
        Some(file) => read_cluster_file(file, name)?,
        None => ClusterSpec::with_workers(name.clone(), 2),
    };
    if spec.provider == ProviderKind::Qemu {
        doctor::require_able_host().await?;
    }
    Ok(spec)
}

/// Brings a cluster up; Ctrl-C and SIGTERM take down what was begun.
pub(super) async fn bring_up(
    home: &Home,
    spec: ClusterSpec,
    boot: Boot,
    live: &std::sync::Arc<Live>,
) -> Result<Cluster, Failure> {
    let paths = home.cluster(&spec.name);
    let watched = DaemonClient::new(paths.clone())?;
    let brought = tokio::select! {
        () = journal::tell_sightings(&watched, live) => unreachable!("telling never ends by itself"),
        brought = life::up(home, spec, boot, live.reporter()) => brought,
        () = interrupted() => {
            live.finish();
            life::down(&paths).await?;
            return Err(Failure::new("interrupted; what was begun is taken down"));
        }
    };
    brought.map_err(|error| {
        live.finish();
        Failure::from(error)
    })
}

/// Resolves on Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

pub(super) fn open_home() -> Result<Home, Failure> {
    Home::open().map_err(|error| {
        Failure::new("open the directory that holds Flightcage's state")
            .because(error)
            .hint("set FLIGHTCAGE_HOME to a directory you can write")
    })
}

/// The paths of a cluster that is up, or a failure that says how to bring it up.
pub(super) async fn connect(name: ClusterName) -> Result<Cluster, Failure> {
    let paths = open_home()?.cluster(&name);
    Cluster::connect(paths).await.map_err(|error| match error {
        error @ LifeError::Paused(_) => Failure::from(error),
        error => Failure::from(error).hint(format!("`flightcage up --name {name}` brings it up")),
    })
}

pub(super) async fn down(name: ClusterName) -> Result<ExitCode, Failure> {
    life::down(&open_home()?.cluster(&name)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// As one JSON object, for programs.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        print_status(&open_home()?.cluster(&name), self.json).await?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) async fn print_status(paths: &ClusterPaths, as_json: bool) -> Result<(), Failure> {
    let status = DaemonClient::new(paths.clone())?
        .status()
        .await
        .map_err(|error| {
            Failure::from(error).hint(format!(
                "`flightcage up --name {}` brings it up",
                paths.name()
            ))
        })?;
    let nodes = nodes(paths, status.paused).await?;
    let ready = |name: &str| {
        nodes
            .iter()
            .any(|node| node.metadata.name.as_deref() == Some(name) && is_ready(node))
    };
    let rows: Vec<_> = status
        .spec
        .machines
        .iter()
        .enumerate()
        .map(|(index, machine)| {
            let found = status
                .machines
                .iter()
                .find(|found| found.name == machine.name);
            let power = found.map_or(Power::Off, |found| found.power);
            let role = if machine.role == Role::Controller {
                "controller"
            } else {
                "worker"
            };
            let ready = power == Power::On && ready(machine.name.as_str());
            (
                machine.name.to_string(),
                role,
                ready,
                status.spec.address(index).to_string(),
                power,
            )
        })
        .collect();
    let accel = match status.acceleration {
        Some(Acceleration::Kvm) => "kvm",
        Some(Acceleration::Tcg) => "tcg",
        None => "none",
    };
    let troubles = DaemonClient::new(paths.clone())?
        .sightings(0)
        .await
        .unwrap_or_default();
    if as_json {
        let nodes: Vec<_> = rows
            .iter()
            .map(|(name, role, ready, address, power)| {
                json!({ "name": name, "role": role, "ready": ready, "address": address, "power": power })
            })
            .collect();
        let status = json!({
            "name": paths.name(), "provider": status.spec.provider, "accel": accel, "nodes": nodes,
            "services": status.services, "restored_from": status.restored_from, "troubles": troubles,
            "paused": status.paused,
        });
        say(&serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    say(&headline(
        paths.name(),
        status.spec.provider,
        accel,
        status.paused,
    ));
    for (name, role, ready, address, power) in rows {
        let power = match power {
            Power::On => "on",
            Power::Off => "off",
            Power::Frozen => "frozen",
        };
        let ready = match (status.paused, ready) {
            (true, _) => "paused",
            (false, true) => "Ready",
            (false, false) => "NotReady",
        };
        say(&format!(
            "  {name:<10} {role:<11} {address:<12} {power:<7} {ready}"
        ));
    }
    for service in status.services {
        for port in service.ports {
            say(&format!(
                "  {}/{} {} {} on {}",
                service.namespace, service.name, port.name, port.port, port.host
            ));
        }
    }
    journal::print_recent(&troubles);
    Ok(())
}

/// The cluster's nodes as its API tells them. A cluster whose API is away is shown all the same: its nodes are not ready as far as anybody
/// can tell. One that is paused is not asked, since it would not answer.
async fn nodes(paths: &ClusterPaths, paused: bool) -> Result<Vec<Node>, Failure> {
    if paused {
        return Ok(Vec::new());
    }
    let client = Cluster::connect(paths.clone()).await?.client;
    let listed = client.list::<Node>("", &ListParams::default()).await;
    Ok(listed.map(|listed| listed.items).unwrap_or_default())
}

fn headline(name: &ClusterName, provider: ProviderKind, accel: &str, paused: bool) -> String {
    let what = format!("cluster {name} ({provider}, {accel})");
    if paused {
        format!("{what}, paused: `flightcage resume --name {name}` lets it go on")
    } else {
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_says_when_a_cluster_is_paused_and_what_to_do() {
        let name = "test".parse().unwrap();
        let headline = |paused| headline(&name, ProviderKind::Qemu, "tcg", paused);
        assert_eq!(headline(false), "cluster test (qemu, tcg)");
        assert_eq!(
            headline(true),
            "cluster test (qemu, tcg), paused: `flightcage resume --name test` lets it go on"
        );
    }
}
