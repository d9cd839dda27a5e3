//! Plausible runs for tests: what a failover leaves in its folder. Also included by `tests/page.rs`, so it knows no other module.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// What a run is to be like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// Requests a second of each of two streams.
    pub(crate) rate: u32,
    /// How long the load runs.
    pub(crate) seconds: u32,
    /// A pod's name, which may be hostile.
    pub(crate) pod: &'a str,
    /// How long new connections fail after the fault, in milliseconds.
    pub(crate) outage_ms: u32,
    /// How it ended.
    pub(crate) verdict: &'a str,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            rate: 12,
            seconds: 190,
            pod: "flappy-silex-v1-x7k2p",
            outage_ms: 2_700,
            verdict: "pass",
        }
    }
}

/// When the load begins, when it counts, when the machine loses its power.
const LOAD_MS: u32 = 21_400;
const COUNTED_MS: u32 = 23_000;
const ONSET_MS: u32 = 60_100;
const HEALED_MS: u32 = 100_200;

/// A small generator of numbers, so that a run is the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 33).unwrap_or(0)) / f64::from(u32::MAX >> 1)
    }
}

/// Writes a run's files to `folder`.
pub(crate) fn write(folder: &Path, plan: &Plan<'_>) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = std::fs::File::create(folder.join("requests.csv.gz"))?;
    let mut out = std::io::BufWriter::new(GzEncoder::new(file, Compression::fast()));
    let counts = requests(&mut out, plan)?;
    out.into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .finish()?;
    let report =
        serde_json::to_string_pretty(&report(plan, &counts)).map_err(std::io::Error::other)?;
    std::fs::write(folder.join("report.json"), report)?;
    std::fs::write(folder.join("scenario.toml"), SCENARIO)
}

const SCENARIO: &str = "# A worker loses its power under load.\nflightcage = 1\n\n[load.web]\nurl = \"https://flappy-nginx/\"\nrate = \"12/s\"\nstreams = [\"new\", \"reused\"]\ndeadline = \"1s\"\n\n[[step]]\nid = \"kill\"\nfault = { kind = \"node.power_off\", target = \"w1\", for = \"40s\" }\n\n[expect]\nweb.new.longest_outage = \"<= 3s\"\n";

#[derive(Default)]
struct Counts {
    sent: [u64; 2],
    /// Refused, connect_timeout, read_timeout.
    failed: [[u64; 3]; 2],
    last_bad_ms: [f64; 2],
}

fn requests(out: &mut impl Write, plan: &Plan<'_>) -> std::io::Result<Counts> {
    writeln!(
        out,
        "load,stream,intended_ms,sent_ms,connected_ms,first_byte_ms,end_ms,class,status,version,connection,endpoint\r"
    )?;
    let mut chance = Chance(7);
    let mut counts = Counts::default();
    let pod = format!("\"{}\"", plan.pod.replace('"', "\"\""));
    for number in 0..u64::from(plan.rate) * u64::from(plan.seconds) {
        for (stream, name) in ["new", "reused"].into_iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
            let at = f64::from(LOAD_MS)
                + (number as f64 + if stream == 0 { 0.0 } else { 0.5 }) * 1000.0
                    / f64::from(plan.rate);
            counts.sent[stream] += u64::from(at >= f64::from(COUNTED_MS));
            let sent =
                at + 0.1 + chance.next() * 0.4 + if chance.next() > 0.9995 { 70.0 } else { 0.0 };
            let since = at - f64::from(ONSET_MS);
            let failing = since >= 0.0
                && since < f64::from(plan.outage_ms)
                && chance.next() < if stream == 0 { 0.9 } else { 0.6 };
            let connection = if stream == 0 { 2 * number + 1 } else { 2 };
            if failing {
                let class = if chance.next() < 0.2 {
                    0
                } else if stream == 0 {
                    1
                } else {
                    2
                };
                counts.failed[stream][class] += 1;
                counts.last_bad_ms[stream] = at;
                let name_of = ["refused", "connect_timeout", "read_timeout"][class];
                let end = if class == 0 { sent + 3.0 } else { at + 1000.0 };
                let connected = if class == 2 {
                    format!("{:.3}", sent + 1.0)
                } else {
                    String::new()
                };
                writeln!(
                    out,
                    "web,{name},{at:.3},{sent:.3},{connected},,{end:.3},{name_of},,,{connection},\r"
                )?;
            } else {
                let slow = if (0.0..30_000.0).contains(&since) {
                    2.2
                } else {
                    1.0
                };
                let base = if stream == 0 { 24.0 } else { 7.0 };
                let took = (base
                    + base * 1.4 * chance.next().powi(4)
                    + if chance.next() > 0.99 {
                        90.0 * chance.next()
                    } else {
                        0.0
                    })
                    * slow;
                let version = if since > 70_000.0 && chance.next() < (since - 70_000.0) / 20_000.0 {
                    "v2"
                } else {
                    "v1"
                };
                writeln!(
                    out,
                    "web,{name},{at:.3},{sent:.3},{:.3},{:.3},{:.3},ok,200,{version},{connection},{}\r",
                    sent + took * 0.6,
                    sent + took * 0.9,
                    sent + took,
                    if chance.next() < 0.5 {
                        pod.as_str()
                    } else {
                        "flappy-silex-v1-b9d4q"
                    }
                )?;
            }
        }
    }
    Ok(counts)
}

fn report(plan: &Plan<'_>, counts: &Counts) -> Value {
    let end_ms = LOAD_MS + plan.seconds * 1000;
    let stream = |index: usize| {
        let failed: u64 = counts.failed[index].iter().sum();
        let to_ms = ONSET_MS + plan.outage_ms;
        let outages = if failed == 0 {
            json!([])
        } else {
            json!([{ "from_ms": ONSET_MS, "to_ms": to_ms }])
        };
        json!({
            "sent": counts.sent[index], "good": counts.sent[index] - failed, "failed": failed,
            "by_class": { "connect_timeout": counts.failed[index][1], "read_timeout": counts.failed[index][2], "refused": counts.failed[index][0] },
            "failures": [], "late": 2, "outages": outages,
            "longest_outage_ms": if failed == 0 { 0 } else { plan.outage_ms }, "recovery_ms": { "kill": if failed == 0 { 0 } else { plan.outage_ms } },
            "latency_ms": { "p50": 26.1, "p90": 41.0, "p99": 130.5, "p999": 1000.0, "max": 1001.2 }, "versions": { "v1": 3100, "v2": 900 }
        })
    };
    let outage = u64::from(plan.outage_ms);
    let failed: u64 = counts.failed.iter().flatten().sum();
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    let share = failed as f64 / (counts.sent[0] + counts.sent[1]).max(1) as f64;
    let within = outage <= 3_000;
    json!({
        "version": 1, "scenario": "failover", "seed": 7, "verdict": plan.verdict,
        "reasons": if within { json!([]) } else { json!([format!("web.new.longest_outage: expected <= 3s, measured {outage} ms")]) },
        "target": { "provider": "qemu", "accel": "tcg", "nodes": 3 },
        "steps": [
            { "id": "kill", "start_ms": 59_800, "end_ms": ONSET_MS },
            { "id": "elsewhere", "start_ms": ONSET_MS, "end_ms": 84_300 },
            { "id": "back", "start_ms": 100_200, "end_ms": 131_700 },
            { "id": "whole", "start_ms": 131_700, "end_ms": 140_900 }
        ],
        "faults": [{
            "id": "kill", "kind": "node.power_off", "target": "w1", "requested_ms": 59_800, "onset_ms": ONSET_MS, "healed_ms": HEALED_MS,
            "verified": true, "measured": "its process is gone, and 3 of 3 frames to it were not answered"
        }],
        "struck": { "kill": [plan.pod] },
        "events": events(plan),
        "prober": { "pauses": [{ "from_ms": 90_000, "to_ms": 90_120 }] },
        "host": { "watched_ms": 190_000, "starved": [{ "from_ms": 101_000, "to_ms": 103_500, "by": "cage" }, { "from_ms": 60_500, "to_ms": 61_200, "by": "others" }] },
        "load": { "web": { "window": { "from_ms": COUNTED_MS, "to_ms": end_ms }, "rate": plan.rate, "streams": { "new": stream(0), "reused": stream(1) } } },
        "expectations": [
            { "name": "web.failed", "expected": "<= 5%", "measured": format!("{:.3} %", share * 100.0), "error": "±0.025 %", "ok": share <= 0.05, "state": "met", "low": share - 0.000_25, "high": share + 0.000_25 },
            { "name": "web.new.longest_outage", "expected": "<= 3s", "measured": format!("{outage} ms"), "error": "±83 ms", "ok": within, "state": if within { "met" } else { "not_met" }, "low": outage.saturating_sub(83), "high": outage + 83 },
            { "name": "web.recovery.kill", "expected": "within 30000 ms, for 5000 ms", "measured": format!("{outage} ms"), "error": "±83 ms", "ok": true, "state": "met", "low": outage.saturating_sub(83), "high": outage + 83 },
            { "name": "web.reused.during.kill.p99", "expected": "<= 400ms", "measured": "340 ms", "error": "±0.4 ms", "ok": true, "state": "met", "low": 339.6, "high": 340.4 },
            { "name": "replicas.flappy-silex-v1", "expected": "2", "measured": "2", "error": "±0", "ok": true, "state": "met", "low": 2, "high": 2 },
            { "name": "faults_left", "expected": "0", "measured": "0", "error": "±0", "ok": true, "state": "met", "low": 0, "high": 0 }
        ]
    })
}

fn events(plan: &Plan<'_>) -> Vec<Value> {
    let mut events: Vec<(u32, &str, String)> = Vec::new();
    for node in ["c1", "w1", "w2"] {
        events.push((40, "node.ready", node.to_owned()));
    }
    let mut pod = |name: &str, node: &str, address: &str, from: u32| {
        let owner = if name.contains("nginx") {
            "flappy-nginx-v0"
        } else {
            "flappy-silex-v1"
        };
        let service = if name.contains("nginx") {
            "flappy-nginx"
        } else {
            "flappy-silex"
        };
        events.push((from, "pod.pending", name.to_owned()));
        events.push((
            from,
            "pod.owned",
            format!("{name} ReplicationController/{owner}"),
        ));
        events.push((from + 30, "pod.placed", format!("{name} {node}")));
        events.push((from + 4_100, "pod.address", format!("{name} {address}")));
        events.push((from + 4_200, "pod.not_ready", name.to_owned()));
        events.push((from + 9_500, "pod.running", name.to_owned()));
        events.push((
            from + 9_540,
            "endpoint.added",
            format!("{service} {address}"),
        ));
    };
    pod("flappy-nginx-v0-4fz8n", "w1", "10.78.1.3", 200);
    pod("flappy-nginx-v0-t2m6c", "w2", "10.78.2.3", 240);
    pod(&plan.pod.replace(' ', "_"), "w1", "10.78.1.2", 300);
    pod("flappy-silex-v1-b9d4q", "w2", "10.78.2.2", 320);
    pod("flappy-nginx-v0-r8w1x", "w2", "10.78.2.4", 72_400);
    pod("flappy-silex-v1-k5h7z", "w2", "10.78.2.5", 72_500);
    let lost = plan.pod.replace(' ', "_");
    events.extend([
        (
            61_700,
            "endpoint.removed",
            "flappy-silex 10.78.1.2".to_owned(),
        ),
        (
            61_700,
            "endpoint.removed",
            "flappy-nginx 10.78.1.3".to_owned(),
        ),
        (62_300, "node.not_ready", "w1".to_owned()),
        (62_400, "pod.not_ready", lost.clone()),
        (62_400, "pod.not_ready", "flappy-nginx-v0-4fz8n".to_owned()),
        (72_300, "pod.terminating", lost.clone()),
        (
            72_300,
            "pod.terminating",
            "flappy-nginx-v0-4fz8n".to_owned(),
        ),
        (
            96_000,
            "pod.restarted",
            "flappy-silex-v1-b9d4q php".to_owned(),
        ),
        (
            104_000,
            "machine.oom",
            "w1: Out of memory: Killed process 911 (</script>)".to_owned(),
        ),
        (126_500, "node.ready", "w1".to_owned()),
        (128_000, "pod.deleted", lost),
        (128_000, "pod.deleted", "flappy-nginx-v0-4fz8n".to_owned()),
    ]);
    events.sort_by_key(|event| event.0);
    events
        .into_iter()
        .map(|(at_ms, kind, object)| json!({ "at_ms": at_ms, "kind": kind, "object": object }))
        .collect()
}
