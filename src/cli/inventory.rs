//! `ls` and `prune`: everything of ours on this host, and clearing what is dead.

use std::process::ExitCode;

use clap::Args;

use super::cluster::open_home;
use super::failure::Failure;
use super::terminal::{confirm, is_interactive, say};
use crate::cluster::inventory::{self, Entry, Inventory, Reach, State};

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// As one JSON object, for programs.
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let inventory = inventory::look(&open_home()?)?;
        if self.json {
            say(&serde_json::to_string_pretty(&inventory)?);
        } else {
            print(&inventory);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(inventory: &Inventory) {
    if inventory.clusters.is_empty() {
        say("no clusters");
    }
    for entry in &inventory.clusters {
        let Entry {
            name,
            machines,
            wanted_machines,
            disk_bytes,
            daemon,
            ..
        } = entry;
        let state = match entry.state {
            State::Up => "up",
            State::Changing => "changing",
            State::Stopped => "stopped",
            State::Dead => "dead",
        };
        let daemon = daemon.map_or_else(|| "no daemon".to_owned(), |pid| format!("daemon {pid}"));
        let running = machines.len();
        say(&format!(
            "cluster {name:<16} {state:<9} {running}/{wanted_machines} machines  {daemon}  {}",
            mebibytes(*disk_bytes)
        ));
        entry
            .orphans
            .iter()
            .for_each(|orphan| say(&format!("  left over: {orphan}")));
    }
    for cache in &inventory.caches {
        say(&format!(
            "cache   {:<16} {}",
            cache.name,
            mebibytes(cache.disk_bytes)
        ));
    }
    inventory
        .abandoned
        .iter()
        .for_each(|path| say(&format!("  left over: {}", path.display())));
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Also clusters that are stopped, and the caches: boxes, images and snapshots are made anew by the next `up`.
    #[arg(long)]
    all: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Prune {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let home = open_home()?;
        let reach = if self.all { Reach::All } else { Reach::Dead };
        let inventory = inventory::look(&home)?;
        let prunable = inventory::prunable(&inventory, reach);
        if prunable.is_empty() {
            say("nothing is left to clear");
            return Ok(ExitCode::SUCCESS);
        }
        for (what, bytes) in &prunable {
            say(&format!("{what}  {}", mebibytes(*bytes)));
        }
        if !self.yes && !confirm("Clear these?") {
            let hint = if is_interactive() {
                "nothing was changed"
            } else {
                "`--yes` agrees without a terminal; nothing was changed"
            };
            return Err(Failure::new("not cleared").hint(hint));
        }
        inventory::prune(&home, &inventory, reach).await?;
        say(&format!(
            "cleared {}",
            mebibytes(prunable.iter().map(|(_, bytes)| bytes).sum())
        ));
        Ok(ExitCode::SUCCESS)
    }
}
