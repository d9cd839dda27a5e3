//! `doctor`: is this host able, and what mends it.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::cluster::open_home;
use super::failure::Failure;
use super::terminal::{Live, confirm, is_interactive, say};
use super::{File, scenarios};
use crate::cluster::home::Home;
use crate::machines::host::{self, AptPlan, Finding, Severity};
use crate::machines::{acceleration, provider::Acceleration};
use crate::model::cluster::{ClusterSpec, ProviderKind};
use crate::model::names::ClusterName;
use crate::scenario::capacity::Capacity;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Install what is missing, after showing it.
    #[arg(long)]
    fix: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// As one JSON object, for programs.
    #[arg(long)]
    json: bool,
    /// Look at what this cluster file's provider needs as well.
    #[arg(short, long, value_name = "FILE")]
    file: Option<File>,
}

impl Doctor {
    pub(super) async fn run(self, name: &ClusterName) -> Result<ExitCode, Failure> {
        let home = open_home()?;
        let spec = self
            .file
            .as_ref()
            .map(|file| scenarios::read_cluster_file(file, name))
            .transpose()?;
        let spec = spec.as_ref();
        let mut findings = diagnose(&home, spec).await;
        if self.fix && has_problems(&findings) {
            let live = Live::new();
            mend(&findings, self.yes, &live).await?;
            live.finish();
            findings = diagnose(&home, spec).await;
        }
        let proof = if has_problems(&findings) {
            None
        } else {
            Some(acceleration::prove(&home.cache()).await?)
        };
        let capacity = match &proof {
            Some(proof) => Capacity::look(proof.acceleration == Acceleration::Tcg).await,
            None => None,
        };
        if self.json {
            let accel = proof
                .as_ref()
                .map_or("none", |proof| match proof.acceleration {
                    Acceleration::Kvm => "kvm",
                    Acceleration::Tcg => "tcg",
                });
            let reason = proof.as_ref().map(|proof| proof.reason.as_str());
            let report = json!({ "able": !has_problems(&findings), "accel": accel, "accel_reason": reason, "findings": findings,
                "load": capacity.map(|capacity| json!({ "enough": capacity.is_enough(), "what": capacity.to_string() })) });
            say(&serde_json::to_string_pretty(&report)?);
        } else {
            print(&findings);
            if let Some(proof) = &proof {
                say(&format!("  ok       acceleration: {}", proof.reason));
            }
            if let Some(capacity) = &capacity {
                let mark = if capacity.is_enough() { "ok" } else { "note" };
                say(&format!("  {mark:<8} load: {capacity}"));
            }
        }
        if has_problems(&findings) {
            return Err(Failure::new("this host is not able yet")
                .hint("`flightcage doctor --fix` mends what can be installed"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What every cluster needs, and what the provider of this one does.
async fn diagnose(home: &Home, spec: Option<&ClusterSpec>) -> Vec<Finding> {
    let mut findings = host::diagnose(&home.cache()).await;
    if let Some(spec) = spec
        && spec.provider == ProviderKind::Vagrant
    {
        findings.extend(host::diagnose_vagrant(&spec.vagrant.clone().unwrap_or_default()).await);
    }
    findings
}

fn has_problems(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.severity == Severity::Problem)
}

fn print(findings: &[Finding]) {
    for finding in findings {
        let mark = match finding.severity {
            Severity::Good => "ok",
            Severity::Note => "note",
            Severity::Problem => "problem",
        };
        say(&format!("  {mark:<8} {}: {}", finding.id, finding.what));
        if let (Some(mend), true) = (&finding.mend, finding.severity != Severity::Good) {
            say(&format!("           mend: {mend}"));
        }
    }
}

/// Shows what would be installed, asks unless `yes`, and installs it.
pub(super) async fn mend(findings: &[Finding], yes: bool, live: &Arc<Live>) -> Result<(), Failure> {
    if findings
        .iter()
        .all(|finding| finding.severity != Severity::Problem || finding.package.is_none())
    {
        // What is wrong is nothing that can be installed: the findings say it.
        return Ok(());
    }
    host::require_root(findings).await?;
    live.step("reading the package lists");
    host::refresh(|line| live.detail(line)).await?;
    let plan = host::plan(findings).await?;
    if plan.packages.is_empty() {
        return Ok(());
    }
    show(&plan, live);
    if !yes && !confirm("Install these?") {
        let hint = if is_interactive() {
            "nothing was changed"
        } else {
            "`--yes` agrees without a terminal; nothing was changed"
        };
        return Err(Failure::new("not installed").hint(hint));
    }
    live.step("installing packages");
    host::fix(&plan, findings, |line| live.detail(line)).await?;
    Ok(())
}

fn show(plan: &AptPlan, live: &Arc<Live>) {
    live.step(&format!("to install: {}", plan.packages.join(" ")));
    if plan.installs.len() > plan.packages.len() {
        live.step(&format!(
            "  with what they need: {} packages in all",
            plan.installs.len()
        ));
    }
    for downgrade in &plan.downgrades {
        live.step(&format!(
            "  to downgrade, because QEMU's parts must match: {downgrade}"
        ));
    }
}

/// Refuses to begin on a host that cannot end. Memory and disk are judged when it is known how much is needed: `up` admits the very
/// machines it was asked for, and those that run already need no more.
pub(super) async fn require_able_host() -> Result<(), Failure> {
    let findings = host::diagnose(&open_home()?.cache()).await;
    let stops = |finding: &Finding| finding.severity == Severity::Problem && !finding.is_amount();
    let problems: Vec<Finding> = findings.into_iter().filter(stops).collect();
    if problems.is_empty() {
        return Ok(());
    }
    print(&problems);
    Err(Failure::new("this host is not able yet").hint("`flightcage doctor --fix --yes` mends it"))
}

/// Makes the host able: `demo --yes` without asking, `demo` with a question.
pub(super) async fn make_able_host(yes: bool, live: &Arc<Live>) -> Result<(), Failure> {
    let findings = host::diagnose(&open_home()?.cache()).await;
    if has_problems(&findings) {
        mend(&findings, yes, live).await?;
    }
    require_able_host().await
}
