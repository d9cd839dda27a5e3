//! What this host lacks, and how it is mended: the doctor's judgement. Debian's packages only; nothing is ever downgraded but
//! `qemu-utils`, which pins QEMU's version where a backport of it is installed, and that only as the plan has shown it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::qemu::{self, MINIMUM_VERSION};
use crate::model::vagrant::{Hypervisor, VagrantSpec};
use crate::shell::CommandError;
use crate::shell::local::Command;

/// Memory for the default cluster: three machines of 512 MiB, what QEMU adds, and ourselves.
const MEMORY_BYTES: u64 = 2500 << 20;
/// Disk for box, images and three machines.
const DISK_BYTES: u64 = 5 << 30;
/// The only packages that may be downgraded, after it was shown.
const MAY_DOWNGRADE: [&str; 1] = ["qemu-utils"];
/// How long apt may take.
const APT_LIMIT: Duration = Duration::from_mins(15);
/// A program that is needed, the package that has it, and what for.
const PROGRAMS: [(&str, &str, &str); 5] = [
    (
        "mmdebstrap",
        "mmdebstrap",
        "to build the box and the images",
    ),
    ("mkfs.erofs", "erofs-utils", "to build the box"),
    ("zstd", "zstd", "to build the box"),
    ("ssh", "openssh-client", "for `flightcage ssh`"),
    ("apt-get", "apt", "to build the box"),
];

/// The same for Vagrant's machines on libvirt.
const LIBVIRT_PROGRAMS: [(&str, &str, &str); 4] = [
    (
        "libvirtd",
        "libvirt-daemon-system",
        "to hold Vagrant's machines",
    ),
    (
        "virsh",
        "libvirt-clients",
        "to switch the power of Vagrant's machines",
    ),
    (
        "dnsmasq",
        "dnsmasq-base",
        "for the network of Vagrant's machines",
    ),
    ("qemu-img", "qemu-utils", "to package the box for Vagrant"),
];

/// Whether a finding stops a demonstration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Good,
    /// It works, worse than it could.
    Note,
    /// It cannot work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name for scripts, for instance `qemu`.
    pub id: String,
    /// What was found: a lower-case fragment.
    pub what: String,
    /// The command or sentence that mends it.
    pub mend: Option<String>,
    /// The Debian package that mends it.
    pub package: Option<String>,
    /// How bad it is.
    pub severity: Severity,
}

impl Finding {
    /// Whether it is about how much of something is free, compared with what the default cluster needs.
    pub fn is_amount(&self) -> bool {
        matches!(self.id.as_str(), "memory" | "disk")
    }
}

/// What `apt-get install` would do, by its own simulation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AptPlan {
    /// The packages to ask for, with `=VERSION` where it matters. Empty: nothing is to be done.
    pub packages: Vec<String>,
    /// What would be newly installed or upgraded.
    pub installs: Vec<String>,
    /// What would be downgraded, `NAME OLD -> NEW`; to be shown before anybody agrees.
    pub downgrades: Vec<String>,
}

/// Why the host cannot be mended.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// apt failed.
    #[error("mend the host")]
    Apt(#[from] CommandError),
    /// We are not root, and cannot become it without a question.
    #[error(
        "installing packages needs root, and `sudo` {0}; run as root: apt-get install --no-install-recommends {1}"
    )]
    NotRoot(&'static str, String),
    /// The simulation would do what we never do.
    #[error("apt would remove or downgrade {0}; install the packages by hand")]
    Harmful(String),
}

/// Looks at everything that a demonstration needs, good findings included. Changes nothing.
pub async fn diagnose(state_dir: &Path) -> Vec<Finding> {
    let mut findings = vec![judge_qemu(qemu::version().await)];
    findings.extend(PROGRAMS.map(|(program, package, purpose)| {
        judge_program(program, package, purpose, on_path(program))
    }));
    if !rustix::process::geteuid().is_root() {
        findings.push(judge_program(
            "newuidmap",
            "uidmap",
            "to build the box without root",
            on_path("newuidmap"),
        ));
    }
    let fetched = judge_program(
        "gpgv",
        "gpgv",
        "to verify the signatures of fetched boxes",
        on_path("gpgv"),
    );
    // The default box is built: without it everything but `box fetch` works.
    let severity = if fetched.severity == Severity::Problem {
        Severity::Note
    } else {
        fetched.severity
    };
    findings.push(Finding {
        severity,
        ..fetched
    });
    if let Some(free) = qemu::available_memory() {
        findings.push(judge_amount(
            "memory",
            free,
            MEMORY_BYTES,
            "end other programs",
        ));
    }
    if let Some(free) = qemu::free_disk(state_dir) {
        findings.push(judge_amount(
            "disk",
            free,
            DISK_BYTES,
            "free some space, or set FLIGHTCAGE_HOME to a larger disk",
        ));
    }
    findings.push(judge_kvm(
        &std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm"),
    ));
    findings
}

/// Looks at what Vagrant needs besides, to make a cluster's machines with this hypervisor. Changes nothing.
pub async fn diagnose_vagrant(vagrant: &VagrantSpec) -> Vec<Finding> {
    let judge = |(program, package, purpose): (&str, &str, &str)| {
        judge_program(program, package, purpose, on_path(program))
    };
    let mut findings = vec![judge(("vagrant", "vagrant", "to make the machines"))];
    match vagrant.hypervisor {
        Hypervisor::Libvirt => {
            findings.extend(LIBVIRT_PROGRAMS.map(judge));
            let plugins = Command::new("vagrant")
                .env("VAGRANT_CHECKPOINT_DISABLE", "1")
                .args(["plugin", "list"])
                .run()
                .await;
            let found = plugins.is_ok_and(|listed| listed.text().contains("vagrant-libvirt"));
            findings.push(judge_program(
                "vagrant-libvirt",
                "vagrant-libvirt",
                "for Vagrant to use libvirt",
                found,
            ));
        }
        Hypervisor::VirtualBox if on_path("VBoxManage") => {
            findings.push(finding(
                "virtualbox",
                "VBoxManage".to_owned(),
                None,
                Severity::Good,
            ));
        }
        Hypervisor::VirtualBox => {
            let mut missing = finding(
                "virtualbox",
                "VirtualBox is not installed".to_owned(),
                None,
                Severity::Problem,
            );
            missing.mend =
                Some("install VirtualBox from its makers: Debian has no package".to_owned());
            findings.push(missing);
        }
    }
    findings
}

/// The packages that the findings ask for, and what installing them would do. Changes nothing.
///
/// # Errors
/// When apt cannot simulate it, or it would remove or downgrade what we never touch.
pub async fn plan(findings: &[Finding]) -> Result<AptPlan, HostError> {
    let mut packages: Vec<String> = findings
        .iter()
        .filter(|f| f.severity == Severity::Problem)
        .filter_map(|f| f.package.clone())
        .collect();
    packages.sort();
    packages.dedup();
    if packages.is_empty() {
        return Ok(AptPlan::default());
    }
    let simulate = |packages: &[String]| {
        Command::new("apt-get")
            .env("LC_ALL", "C")
            .args([
                "-s",
                "install",
                "-y",
                "--no-install-recommends",
                "--allow-downgrades",
            ])
            .args(packages)
    };
    let blocked = match simulate(&packages).run().await {
        Ok(output) => match read_simulation(packages.clone(), &output.text()) {
            Ok(plan) => return Ok(plan),
            Err(harmful) => harmful,
        },
        Err(blocked) => blocked.into(),
    };
    // A newer qemu-utils blocks it, or would be removed: it has to become the version that belongs to the QEMU on offer.
    let wants_qemu = packages.iter().any(|name| name == "qemu-system-x86");
    let Some(version) = candidate_of("qemu-system-x86").await.filter(|_| wants_qemu) else {
        return Err(blocked);
    };
    packages.push(format!("qemu-utils={version}"));
    match simulate(&packages).run().await {
        Ok(output) => read_simulation(packages, &output.text()),
        // What stood in the way at first is what is to be told.
        Err(_) => Err(blocked),
    }
}

/// Whether packages can be installed without a question; before anything is begun.
///
/// # Errors
/// When we are not root, and `sudo` is absent or wants a password.
pub async fn require_root(findings: &[Finding]) -> Result<(), HostError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut packages: Vec<&str> = findings
        .iter()
        .filter(|f| f.severity == Severity::Problem)
        .filter_map(|f| f.package.as_deref())
        .collect();
    packages.dedup();
    let why = match Command::new("sudo").args(["-n", "true"]).output().await {
        Ok(output) if output.status == 0 => return Ok(()),
        Ok(_) => "wants a password",
        Err(_) => "is not installed",
    };
    Err(HostError::NotRoot(why, packages.join(" ")))
}

/// Reads the package lists anew: a fresh machine has none, and nothing can be planned without them.
///
/// # Errors
/// When apt fails or `sudo` wants a password.
pub async fn refresh(mut line: impl FnMut(&str) + Send) -> Result<(), HostError> {
    apt(&["update", "-q"]).run_with_lines(&mut line).await?;
    Ok(())
}

/// Does what the plan says; `line` gets apt's words. Asks nothing.
///
/// # Errors
/// When apt fails, `sudo` wants a password, or apt would now do something else than the plan shows.
pub async fn fix(
    shown: &AptPlan,
    findings: &[Finding],
    mut line: impl FnMut(&str) + Send,
) -> Result<(), HostError> {
    if shown.packages.is_empty() {
        return Ok(());
    }
    apt(&["update", "-q"]).run_with_lines(&mut line).await?;
    let now = plan(findings).await?;
    if let Some(new) = now
        .downgrades
        .iter()
        .find(|name| !shown.downgrades.contains(name))
    {
        return Err(HostError::Harmful(format!(
            "{new}, which was not shown before"
        )));
    }
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    if !now.downgrades.is_empty() {
        arguments.push("--allow-downgrades");
    }
    apt(&arguments)
        .args(&now.packages)
        .run_with_lines(&mut line)
        .await?;
    Ok(())
}

fn apt(arguments: &[&str]) -> Command {
    let command = if rustix::process::geteuid().is_root() {
        Command::new("env")
    } else {
        Command::new("sudo").args(["-n", "env"])
    };
    command
        .args([
            "DEBIAN_FRONTEND=noninteractive",
            "LC_ALL=C",
            "apt-get",
            "-o",
            "DPkg::Lock::Timeout=120",
        ])
        .args(arguments)
        .limit(APT_LIMIT)
}

async fn candidate_of(package: &str) -> Option<String> {
    let output = Command::new("apt-cache")
        .env("LC_ALL", "C")
        .args(["policy", package])
        .output()
        .await
        .ok()?;
    let version = output
        .text()
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: ").map(str::to_owned))?;
    (version != "(none)").then_some(version)
}

/// Reads `apt-get -s`: its `Inst NAME [OLD] (NEW …)` and `Remv NAME` lines, and its paragraph on downgrades.
fn read_simulation(packages: Vec<String>, text: &str) -> Result<AptPlan, HostError> {
    let mut plan = AptPlan {
        packages,
        ..AptPlan::default()
    };
    let downgraded = paragraph(text, "The following packages will be DOWNGRADED:");
    let mut harmful: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Remv"), Some(name)) => harmful.push(name.to_owned()),
            (Some("Inst"), Some(name)) => {
                let versions = line.split_once(name).map_or("", |(_, rest)| rest);
                let old = between(versions, '[', ']');
                let new = between(versions, '(', ' ').unwrap_or_default();
                if !downgraded.contains(&name) {
                    plan.installs.push(format!("{name} {new}"));
                } else if MAY_DOWNGRADE.contains(&name) {
                    plan.downgrades
                        .push(format!("{name} {} -> {new}", old.unwrap_or_default()));
                } else {
                    harmful.push(name.to_owned());
                }
            }
            _ => (),
        }
    }
    if harmful.is_empty() {
        Ok(plan)
    } else {
        Err(HostError::Harmful(harmful.join(", ")))
    }
}

/// The words of the indented lines below `title`.
fn paragraph<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let below = text.lines().skip_while(|line| *line != title).skip(1);
    below
        .take_while(|line| line.starts_with(' '))
        .flat_map(str::split_whitespace)
        .collect()
}

fn between(text: &str, open: char, close: char) -> Option<&str> {
    text.split_once(open)?
        .1
        .split_once(close)
        .map(|(inside, _)| inside)
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps mkfs.* where an ordinary user's PATH may not lead.
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .any(|directory| directory.join(program).is_file())
}

fn judge_qemu(version: Option<(u32, u32)>) -> Finding {
    let package = Some("qemu-system-x86");
    match version {
        Some((major, minor)) if (major, minor) >= MINIMUM_VERSION => finding(
            "qemu",
            format!("QEMU {major}.{minor}"),
            None,
            Severity::Good,
        ),
        Some((major, minor)) => finding(
            "qemu",
            format!("QEMU {major}.{minor} is too old: 7.2 is the oldest that can join the fabric"),
            package,
            Severity::Problem,
        ),
        None => finding(
            "qemu",
            "qemu-system-x86_64 is not installed".to_owned(),
            package,
            Severity::Problem,
        ),
    }
}

fn judge_program(program: &str, package: &str, purpose: &str, found: bool) -> Finding {
    if found {
        finding(program, program.to_owned(), None, Severity::Good)
    } else {
        finding(
            program,
            format!("{program} is not installed; it is needed {purpose}"),
            Some(package),
            Severity::Problem,
        )
    }
}

fn judge_amount(id: &str, free: u64, needed: u64, mend: &str) -> Finding {
    let mut found = finding(
        id,
        format!("{} MiB of {id} free", free >> 20),
        None,
        Severity::Good,
    );
    if free < needed {
        found.severity = Severity::Problem;
        found.what = format!(
            "{} MiB of {id} are free, the default cluster needs {}",
            free >> 20,
            needed >> 20
        );
        found.mend = Some(mend.to_owned());
    }
    found
}

fn judge_kvm(opened: &std::io::Result<std::fs::File>) -> Finding {
    match opened {
        Ok(_) => finding(
            "kvm",
            "/dev/kvm opens; whether it executes guests is proven before machines start".to_owned(),
            None,
            Severity::Good,
        ),
        Err(error) => {
            let mut found = finding(
                "kvm",
                format!("/dev/kvm: {error}; machines run under TCG, several times slower"),
                None,
                Severity::Note,
            );
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                found.mend = Some("sudo usermod -aG kvm \"$USER\", and log in again".to_owned());
            }
            found
        }
    }
}

fn finding(id: &str, what: String, package: Option<&str>, severity: Severity) -> Finding {
    let mend =
        package.map(|package| format!("sudo apt-get install --no-install-recommends {package}"));
    Finding {
        id: id.to_owned(),
        what,
        mend,
        package: package.map(str::to_owned),
        severity,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWNGRADE: &str = "Reading package lists...\nThe following packages will be DOWNGRADED:\n  qemu-utils\n0 upgraded\n\
        Inst qemu-utils [1:10.0.2+ds-2+deb13u1~bpo12+1] (1:7.2+dfsg-7 Debian:12.11/oldstable [amd64])\n\
        Inst qemu-system-x86 (1:7.2+dfsg-7 Debian:12.11/oldstable [amd64])\nConf qemu-utils (1:7.2)\n";

    #[test]
    fn a_simulation_is_read() {
        let plan = read_simulation(vec!["qemu-system-x86".into()], DOWNGRADE)
            .expect("only qemu-utils goes down");
        assert_eq!(plan.installs, ["qemu-system-x86 1:7.2+dfsg-7"]);
        assert_eq!(
            plan.downgrades,
            ["qemu-utils 1:10.0.2+ds-2+deb13u1~bpo12+1 -> 1:7.2+dfsg-7"]
        );
    }

    #[test]
    fn other_downgrades_and_removals_are_refused() {
        let libc = DOWNGRADE.replace("qemu-utils", "libc6");
        assert!(
            matches!(read_simulation(Vec::new(), &libc), Err(HostError::Harmful(name)) if name == "libc6")
        );
        assert!(
            matches!(read_simulation(Vec::new(), "Remv vim [2:9]"), Err(HostError::Harmful(name)) if name == "vim")
        );
    }

    #[test]
    fn what_is_missing_names_its_package() {
        assert_eq!(judge_qemu(Some((7, 2))).severity, Severity::Good);
        assert_eq!(
            judge_qemu(Some((6, 2))).package.as_deref(),
            Some("qemu-system-x86")
        );
        assert_eq!(judge_qemu(None).severity, Severity::Problem);
        let missing = judge_program("mkfs.erofs", "erofs-utils", "to build the box", false);
        assert_eq!(
            missing.mend.as_deref(),
            Some("sudo apt-get install --no-install-recommends erofs-utils")
        );
        assert_eq!(
            judge_amount("memory", 1 << 20, 2 << 20, "more")
                .mend
                .as_deref(),
            Some("more")
        );
    }
}
