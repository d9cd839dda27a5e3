//! Tools of the machine, and transient units of systemd that end by themselves.
//!
//! Units of a fault are named after what it does and the step it belongs to, so that whoever heals it finds them without a note.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::order::Order;
use super::{MachineError, doing, failed};

/// Where the tools are, also for a user whose path lacks them.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a tool of iproute2 or systemd.
pub(super) fn tool(words: &[&str]) -> Result<String, MachineError> {
    let (program, arguments) = words.split_first().expect("a command has a program");
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", PATH)
        .output();
    let output = output.map_err(doing(format!("run `{}`", words.join(" "))))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(format!(
        "`{}`: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

fn own_binary() -> Result<String, MachineError> {
    let binary = fs::read_link("/proc/self/exe").map_err(doing("find our own binary"))?;
    Ok(binary.display().to_string())
}

/// Starts a transient unit, with these options of systemd-run, for a verb of our binary's `machine`.
fn start_unit(unit: &str, options: &[&str], verb: &[&str]) -> Result<(), MachineError> {
    let name = format!("--unit={unit}");
    let binary = own_binary()?;
    let run = ["systemd-run", "--quiet", "--collect", &name];
    tool(&[&run[..], options, &[&binary, "machine"], verb].concat()).map(drop)
}

/// The same after so many seconds.
fn start_after(unit: &str, seconds: u64, verb: &[&str]) -> Result<(), MachineError> {
    let after = format!("--on-active={seconds}");
    start_unit(unit, &[&after, "--timer-property=AccuracySec=1s"], verb)
}

/// Starts the timer that heals a fault by a verb of our binary, and returns its name.
pub(super) fn start_timer(what: &str, seconds: u64, verb: &str) -> Result<String, MachineError> {
    let name = format!("flightcage-{what}-{}", uuid::Uuid::new_v4().simple());
    start_after(&name, seconds, &[verb])?;
    Ok(name)
}

pub(super) fn stop_timers(names: &BTreeSet<String>) {
    for name in names {
        // One that has fired is gone.
        let _ = tool(&["systemctl", "stop", "--quiet", &format!("{name}.timer")]);
    }
}

/// The timers of a kind that wait.
pub(super) fn timers(what: &str) -> BTreeSet<String> {
    let listed = tool(&[
        "systemctl",
        "list-units",
        "--plain",
        "--no-legend",
        "--all",
        &format!("flightcage-{what}-*.timer"),
    ]);
    let name = |line: &str| {
        line.split_whitespace()
            .next()?
            .strip_suffix(".timer")
            .map(str::to_owned)
    };
    listed
        .unwrap_or_default()
        .lines()
        .filter_map(name)
        .collect()
}

/// The unit of a fault: of what it does, and of its step's name.
pub(super) fn fault_unit(what: &str, name: &str) -> Result<String, MachineError> {
    let right = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    // It becomes a part of a unit's name, in which a step's cannot have the `_`.
    if name.is_empty() || !name.bytes().all(right) {
        return Err(failed(format!("`{name}` is not a step's name")));
    }
    Ok(format!("flightcage-fault_{what}_{name}"))
}

/// Ends every unit of a fault that there is.
pub(super) fn stop_all_faults() {
    for kind in ["timer", "service"] {
        let all = format!("flightcage-fault_*.{kind}");
        let _ = tool(&["systemctl", "stop", "--quiet", &all]);
    }
}

/// Lets an order be carried out after so many seconds, in place of what this unit was to do.
pub(super) fn start_deadline(unit: &str, seconds: u64, order: &Order) -> Result<(), MachineError> {
    stop_deadline(unit);
    start_after(unit, seconds, &["fault", "--order", &order.to_text()])
}

/// Takes a deadline away. One that has come is gone.
pub(super) fn stop_deadline(unit: &str) {
    let _ = tool(&["systemctl", "stop", "--quiet", &format!("{unit}.timer")]);
}

/// Starts a service that carries out an order and ends after so many seconds at the latest.
pub(super) fn start_service(
    unit: &str,
    seconds: u64,
    properties: &[&str],
    order: &Order,
) -> Result<(), MachineError> {
    let ends = format!("--property=RuntimeMaxSec={seconds}");
    let options = [&[ends.as_str()], properties].concat();
    start_unit(unit, &options, &["fault", "--order", &order.to_text()])
}

/// Stops a service. One that is not there is fine.
pub(super) fn stop_service(unit: &str) {
    let _ = tool(&["systemctl", "stop", "--quiet", &format!("{unit}.service")]);
}

/// Whether a service runs.
pub(super) fn is_active(unit: &str) -> bool {
    let service = format!("{unit}.service");
    tool(&["systemctl", "is-active", "--quiet", &service]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_name_tells_steps_apart_and_lets_nothing_else_in() {
        assert_eq!(
            fault_unit("pod-kill", "a-b").unwrap(),
            "flightcage-fault_pod-kill_a-b"
        );
        for wrong in ["", "a_b", "*", "a b", "../a"] {
            assert!(fault_unit("pod-kill", wrong).is_err(), "{wrong}");
        }
    }
}
