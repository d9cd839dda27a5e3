//! Our own services on a machine, killed as by a crash.

use std::time::Duration;

use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::order::{Order, Seen};
use super::process;
use super::systemd::{fault_unit, start_deadline, stop_deadline, tool};
use super::{MachineError, doing, failed};

/// What the timer that starts it again is named after.
const WHAT: &str = "role-kill";
/// How often it is looked whether another process runs, and the pause between: systemd waits a second before it starts one.
const LOOKS: u32 = 100;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A service that runs on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The node agent.
    Agent,
    /// The service proxy.
    Proxy,
}

impl Role {
    fn unit(self) -> &'static str {
        match self {
            Self::Agent => "flightcage-agent.service",
            Self::Proxy => "flightcage-proxy.service",
        }
    }
}

/// Kills the main process of a role. systemd starts another, or, with `down_s`, does not for at most so long.
pub(super) async fn kill(role: Role, down_s: u64, name: &str) -> Result<Seen, MachineError> {
    let unit = role.unit();
    let Some(old) = main_process(unit)? else {
        if down_s > 0 && !is_up(unit) {
            let measured = format!("{unit} is down already");
            return Ok(Seen::new(true, measured, Instant::now()));
        }
        return Err(failed(format!("{unit} has no process to kill")));
    };
    if down_s > 0 {
        let start = Order::StartRole {
            role,
            name: name.to_owned(),
        };
        start_deadline(&fault_unit(WHAT, name)?, down_s, &start)?;
    }
    let pid = Pid::from_raw(old.pid).ok_or_else(|| failed("process 0 cannot be killed"))?;
    let since = Instant::now();
    kill_process(pid, Signal::KILL).map_err(doing(format!("kill process {}", old.pid)))?;
    if down_s > 0 {
        // Before systemd starts another: it waits a second for that.
        tool(&["systemctl", "stop", unit])?;
    }
    if process::wait_gone(std::slice::from_ref(&old)).await > 0 {
        let measured = format!("process {} still runs", old.pid);
        return Ok(Seen::new(false, measured, since));
    }
    if down_s > 0 {
        let up = is_up(unit);
        let measured = if up {
            format!("process {} is gone, but {unit} is up again", old.pid)
        } else {
            format!("process {} is gone, and {unit} is down", old.pid)
        };
        return Ok(Seen::new(!up, measured, since));
    }
    for _ in 0..LOOKS {
        if let Some(new) = main_process(unit)? {
            let measured = format!(
                "process {} is gone, {} runs in its place after {} ms",
                old.pid,
                new.pid,
                since.elapsed().as_millis()
            );
            return Ok(Seen::new(true, measured, since));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    // It was killed, which is the fault; that nothing has started it again says the caller's heal.
    let measured = format!(
        "process {} is gone, and none runs in its place after {} ms",
        old.pid,
        since.elapsed().as_millis()
    );
    Ok(Seen::new(true, measured, since))
}

/// Starts a role, if it is down.
pub(super) async fn start(role: Role, name: &str) -> Result<Seen, MachineError> {
    let unit = role.unit();
    // One that has not failed has nothing to be forgotten.
    let _ = tool(&["systemctl", "reset-failed", "--quiet", unit]);
    tool(&["systemctl", "start", unit])?;
    stop_deadline(&fault_unit(WHAT, name)?);
    for _ in 0..LOOKS {
        if let Some(process) = main_process(unit)?.filter(|_| is_up(unit)) {
            let measured = format!("{unit} is up: process {}", process.pid);
            return Ok(Seen::new(true, measured, Instant::now()));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(failed(format!("{unit} did not come up")))
}

fn is_up(unit: &str) -> bool {
    tool(&["systemctl", "is-active", "--quiet", unit]).is_ok()
}

/// The main process of a unit; `None` if it has none that runs.
fn main_process(unit: &str) -> Result<Option<Process>, MachineError> {
    let shown = tool(&["systemctl", "show", "--property=MainPID", "--value", unit])?;
    let pid =
        main_pid(&shown).ok_or_else(|| failed(format!("{unit}: no main process in `{shown}`")))?;
    // 0: it has none.
    Ok(process::running(pid).filter(|_| pid != 0))
}

fn main_pid(shown: &str) -> Option<i32> {
    shown.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_shows_is_a_number() {
        assert_eq!(main_pid("812\n"), Some(812));
        assert_eq!(main_pid("0\n"), Some(0));
        assert_eq!(main_pid("\n"), None);
    }
}
