//! A machine whose processors are kept busy by loops that do nothing.
//!
//! They are a transient unit that ends by itself, so that nothing has to be told: a machine without a processor to spare is slow to
//! listen. It stands beside the pods, not among the machine's services, and comes before both.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::order::{Order, Seen};
use super::pod_freeze::usage_us;
use super::systemd::{fault_unit, is_active, start_service, stop_service};
use super::{CGROUP_ROOT, MachineError, doing};

/// What the unit is named after.
const WHAT: &str = "node-cpu";
/// How long it is measured how much of the processors is used.
const MEASURE: Duration = Duration::from_secs(1);
/// Of what was asked, this share in thousandths at least must be seen to be used.
const SEEN_PERMILLE: u64 = 800;
/// Beside everything else, and before it: the kernel lets it have what it may use.
const FIRST: [&str; 2] = ["--property=Slice=-.slice", "--property=CPUWeight=10000"];

/// Takes so many thousandths of the machine's processors for so long, and measures it.
pub(super) async fn take(permille: u64, for_s: u64, name: &str) -> Result<Seen, MachineError> {
    let unit = fault_unit(WHAT, name)?;
    let processors = processors()?;
    if !is_active(&unit) {
        // A percentage of one processor; the loops of all share it.
        let percent = (permille * processors).div_ceil(10);
        let quota = format!("--property=CPUQuota={percent}%");
        let properties = [FIRST[0], FIRST[1], &quota];
        start_service(&unit, for_s, &properties, &Order::KeepBusy)?;
    }
    let since = Instant::now();
    let group = Path::new(CGROUP_ROOT).join(format!("{unit}.service"));
    let before_us = usage_us(&group)?;
    let begun = Instant::now();
    tokio::time::sleep(MEASURE).await;
    let used_us = usage_us(&group)?.saturating_sub(before_us);
    let elapsed_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let used_permille = share(used_us, elapsed_us, processors);
    let measured = format!(
        "{} of {processors} processors were used, {} asked",
        percent(used_permille),
        percent(permille)
    );
    Ok(Seen::new(
        is_enough(used_permille, permille),
        measured,
        since,
    ))
}

fn processors() -> Result<u64, MachineError> {
    let processors = std::thread::available_parallelism().map_err(doing("count the processors"))?;
    Ok(processors.get() as u64)
}

/// Thousandths of so many processors that were used.
fn share(used_us: u64, elapsed_us: u64, processors: u64) -> u64 {
    used_us * 1000 / (elapsed_us * processors).max(1)
}

fn is_enough(used_permille: u64, asked_permille: u64) -> bool {
    used_permille * 1000 >= asked_permille * SEEN_PERMILLE
}

/// Uses all processors as far as they are given. It does not return.
pub(super) async fn keep_busy() -> Result<Seen, MachineError> {
    for _ in 0..processors()? {
        std::thread::spawn(spin);
    }
    std::future::pending().await
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

/// Gives the processors back.
pub(super) fn give_back(name: &str) -> Result<Seen, MachineError> {
    let unit = fault_unit(WHAT, name)?;
    stop_service(&unit);
    let left = is_active(&unit);
    let measured = if left {
        "the processors are still kept busy"
    } else {
        "nothing keeps the processors busy"
    };
    Ok(Seen::new(!left, measured.to_owned(), Instant::now()))
}

fn percent(permille: u64) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_measured_over_all_processors() {
        assert_eq!(share(1_600_000, 1_000_000, 2), 800);
        assert_eq!(share(0, 0, 2), 0);
        assert!(is_enough(640, 800) && !is_enough(639, 800));
    }

    #[test]
    fn shares_are_told_with_a_digit() {
        assert_eq!(
            (percent(805), percent(7)),
            ("80.5 %".to_owned(), "0.7 %".to_owned())
        );
    }
}
