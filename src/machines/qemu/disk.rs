//! Faults of a machine's own disk: QEMU's throttling of the device, and a `blkdebug` node between the device and its image.
//!
//! ```text
//! device `storage` ── throttle ──► image `disk-image`                     as it should be
//! device `storage` ── throttle ──► `disk-faulty` (blkdebug) ──► image     with I/O errors
//! ```
//! Both change while the guest runs (QEMU 7.2: `block_set_io_throttle`; `qom-set` of the device's `drive`). What they do is measured with
//! reads of our own on the same device, which QEMU counts like the guest's: they change nothing.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::qmp::{Qmp, QmpError};
use crate::machines::provider::{DiskEffect, DiskFault};

/// The block backend of the machine's own disk, its image, and the device; see [`super::command_line`].
pub(super) const BACKEND: &str = "disk";
pub(super) const IMAGE: &str = "disk-image";
pub(super) const DEVICE: &str = "storage";
/// The node that answers with errors.
const FAULTY: &str = "disk-faulty";
/// EIO.
const INPUT_OUTPUT_ERROR: u32 = 5;
/// Reads of one measurement of throughput.
const READS: u64 = 16;
/// The longest that a measurement may take, and how often its progress is looked at.
const MEASURE_LIMIT: Duration = Duration::from_secs(15);
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// A throttle lets a tenth of a second's worth through at once.
const TOLERANCE: f64 = 1.3;

/// Makes the disk fail as told, or work, and measures it.
pub(super) async fn apply(qmp: &mut Qmp, fault: Option<DiskFault>) -> Result<DiskEffect, QmpError> {
    let (bytes, operations) = match fault {
        Some(DiskFault::Throttle {
            bytes_per_second,
            operations_per_second,
        }) => (bytes_per_second, operations_per_second),
        _ => (None, None),
    };
    throttle(qmp, bytes.unwrap_or(0), operations.unwrap_or(0)).await?;
    remove_faulty(qmp).await?;
    match fault {
        None => measure_health(qmp).await,
        Some(DiskFault::Throttle { .. }) => measure_throttle(qmp, bytes, operations).await,
        Some(DiskFault::Error { reads, writes }) => {
            insert_faulty(qmp, reads, writes).await?;
            measure_errors(qmp, reads).await
        }
    }
}

async fn throttle(qmp: &mut Qmp, bytes: u64, operations: u64) -> Result<(), QmpError> {
    let limits = json!({
        "device": BACKEND, "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": operations, "iops_rd": 0, "iops_wr": 0,
    });
    qmp.execute("block_set_io_throttle", limits).await.map(drop)
}

/// The node that the device reads and writes now.
async fn node(qmp: &mut Qmp) -> Result<String, QmpError> {
    let blocks = qmp.execute("query-block", json!({})).await?;
    let ours = blocks
        .as_array()
        .into_iter()
        .flatten()
        .find(|block| block["device"] == BACKEND);
    Ok(ours
        .and_then(|block| block["inserted"]["node-name"].as_str())
        .unwrap_or_default()
        .to_owned())
}

async fn set_node(qmp: &mut Qmp, node: &str) -> Result<(), QmpError> {
    let path = format!("/machine/peripheral/{DEVICE}");
    qmp.execute(
        "qom-set",
        json!({ "path": path, "property": "drive", "value": node }),
    )
    .await
    .map(drop)
}

async fn insert_faulty(qmp: &mut Qmp, reads: bool, writes: bool) -> Result<(), QmpError> {
    // Event `none` happens once, when the node is made; its rule then stays for every request of its kind.
    let rule = |kind: &str| json!({ "event": "none", "iotype": kind, "errno": INPUT_OUTPUT_ERROR, "once": false });
    let mut kinds = Vec::new();
    kinds.extend(reads.then_some("read"));
    kinds.extend(
        writes
            .then_some(["write", "write-zeroes", "flush"])
            .into_iter()
            .flatten(),
    );
    let rules: Vec<Value> = kinds.into_iter().map(rule).collect();
    let faulty =
        json!({ "driver": "blkdebug", "node-name": FAULTY, "image": IMAGE, "inject-error": rules });
    qmp.execute("blockdev-add", faulty).await?;
    set_node(qmp, FAULTY).await
}

async fn remove_faulty(qmp: &mut Qmp) -> Result<(), QmpError> {
    // Setting the node that is set already ends QEMU 7.2.
    if node(qmp).await? == FAULTY {
        set_node(qmp, IMAGE).await?;
    }
    let nodes = qmp
        .execute("query-named-block-nodes", json!({ "flat": true }))
        .await?;
    if nodes
        .as_array()
        .into_iter()
        .flatten()
        .any(|node| node["node-name"] == FAULTY)
    {
        qmp.execute("blockdev-del", json!({ "node-name": FAULTY }))
            .await?;
    }
    Ok(())
}

/// What the device has done since it was made.
#[derive(Debug, Clone, Copy)]
struct Statistics {
    operations: u64,
    bytes: u64,
    reads: u64,
    failed_reads: u64,
}

async fn statistics(qmp: &mut Qmp) -> Result<Statistics, QmpError> {
    let all = qmp.execute("query-blockstats", json!({})).await?;
    let ours = all
        .as_array()
        .into_iter()
        .flatten()
        .find(|block| block["device"] == BACKEND);
    let count = |name: &str| {
        ours.and_then(|block| block["stats"][name].as_u64())
            .unwrap_or(0)
    };
    Ok(Statistics {
        operations: count("rd_operations") + count("wr_operations"),
        bytes: count("rd_bytes") + count("wr_bytes"),
        reads: count("rd_operations"),
        failed_reads: count("failed_rd_operations"),
    })
}

/// Reads `count` times `bytes` and returns what the device did until all were answered, and how long it took.
async fn read(qmp: &mut Qmp, count: u64, bytes: u64) -> Result<(Statistics, Duration), QmpError> {
    let before = statistics(qmp).await?;
    let begun = Instant::now();
    for _ in 0..count {
        qmp.human(&format!("qemu-io {BACKEND} \"aio_read -q 0 {bytes}\""))
            .await?;
    }
    loop {
        let now = statistics(qmp).await?;
        let answered = now.reads + now.failed_reads - before.reads - before.failed_reads;
        if answered >= count || begun.elapsed() > MEASURE_LIMIT {
            let did = Statistics {
                operations: now.operations - before.operations,
                bytes: now.bytes - before.bytes,
                reads: now.reads - before.reads,
                failed_reads: now.failed_reads - before.failed_reads,
            };
            return Ok((did, begun.elapsed()));
        }
        sleep(LOOK_PAUSE).await;
    }
}

async fn measure_throttle(
    qmp: &mut Qmp,
    bytes: Option<u64>,
    operations: Option<u64>,
) -> Result<DiskEffect, QmpError> {
    // About a second's worth.
    let count = operations.map_or(READS, |operations| operations.clamp(4, 64));
    let size = bytes.map_or(512, |bytes| (bytes / count / 512 * 512).clamp(512, 1 << 20));
    let (did, elapsed) = read(qmp, count, size).await?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a second")]
    let per_second = |count: u64| count as f64 / elapsed.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts of a second")]
    let within = |limit: Option<u64>, count| {
        limit.is_none_or(|limit| per_second(count) <= limit as f64 * TOLERANCE)
    };
    let verified = did.reads > 0 && within(bytes, did.bytes) && within(operations, did.operations);
    let measured = format!(
        "{:.0} KiB/s, {:.0} operations/s",
        per_second(did.bytes) / 1024.0,
        per_second(did.operations)
    );
    Ok(DiskEffect { verified, measured })
}

async fn measure_errors(qmp: &mut Qmp, reads: bool) -> Result<DiskEffect, QmpError> {
    let (did, _) = read(qmp, 1, 512).await?;
    let inserted = node(qmp).await? == FAULTY;
    let measured = match (reads, did.failed_reads) {
        (true, failed) => format!("{failed} of {} reads failed", failed + did.reads),
        // A write of our own would change the disk if the fault did not act.
        (false, _) => "writes are led to a node that fails them".to_owned(),
    };
    Ok(DiskEffect {
        verified: inserted && (!reads || did.failed_reads > 0),
        measured,
    })
}

async fn measure_health(qmp: &mut Qmp) -> Result<DiskEffect, QmpError> {
    let (did, elapsed) = read(qmp, 1, 4096).await?;
    let measured = format!(
        "a read of 4 KiB took {:.1} ms",
        elapsed.as_secs_f64() * 1000.0
    );
    Ok(DiskEffect {
        verified: did.failed_reads == 0 && did.reads > 0,
        measured,
    })
}
