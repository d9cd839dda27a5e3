//! Which accelerator guests run with, proven and not assumed.
//!
//! A `/dev/kvm` that opens may still hang its guests, or emulate them slower than QEMU does. So a small guest, started by a whole
//! firmware, has to run to its end in time: first under TCG, which shows that the probe is right and how fast this host is at the
//! moment, then under KVM. It computes for a while in protected mode with paging, as a kernel does: there are hosts whose KVM gets a
//! firmware and a few instructions in real mode through in a second, and emulates all the rest. The answer is remembered until the
//! host boots anew or QEMU changes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::provider::Acceleration;
use super::qemu::QEMU;
use crate::shell::CommandError;
use crate::shell::local::Command;

/// Overrides the proof: `kvm` or `tcg`.
pub const OVERRIDE: &str = "FLIGHTCAGE_ACCEL";
/// How long the guest may take under TCG.
const TCG_LIMIT: Duration = Duration::from_secs(10);
/// Hardware that is slower than this, and than [`KVM_TO_TCG`] times TCG, hangs or emulates.
const KVM_LIMIT: Duration = Duration::from_secs(2);
/// On a busy host everything is slow; KVM is compared with TCG there.
const KVM_TO_TCG: u32 = 2;
/// QEMU's exit code after the guest writes 0x10 to `isa-debug-exit`: twice that, plus one.
const PROOF_EXIT: i32 = 0x21;
/// The guest's code, at 0x7c00. TCG counts to its end in a fifth of a second; a KVM that emulates was still counting after 30 s.
#[rustfmt::skip]
const GUEST: [u8; 90] = [
    // Real mode. cli; xor ax, ax; mov ds, ax; lgdt [GDT_REGISTER]; cr0 |= 1; jmp 8:protected
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x66, 0x0f, 0x01, 0x16, 0x78, 0x7c, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
    0xea, 0x18, 0x7c, 0x08, 0x00,
    // protected: mov ax, 16; mov ds, ax; mov dword [0x9000], 0x83, which maps the first 4 MiB onto themselves
    0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0xc7, 0x05, 0x00, 0x90, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00,
    // cr4 |= 0x10, large pages; cr3 = 0x9000; cr0 |= 0x8000_0000, paging; jmp next
    0x0f, 0x20, 0xe0, 0x0c, 0x10, 0x0f, 0x22, 0xe0, 0xb8, 0x00, 0x90, 0x00, 0x00, 0x0f, 0x22, 0xd8,
    0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0xeb, 0x00,
    // mov ecx, 50_000_000; add [0x8000], ecx; dec ecx; jnz to the add
    0xb9, 0x80, 0xf0, 0xfa, 0x02, 0x01, 0x0d, 0x00, 0x80, 0x00, 0x00, 0x49, 0x75, 0xf7,
    // mov al, 0x10; out 0xf4, al; hlt; jmp to the hlt
    0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd,
];
/// Flat segments: none, code, data.
const GDT: [u64; 3] = [0, 0x00cf_9a00_0000_ffff, 0x00cf_9200_0000_ffff];
const GDT_AT: usize = 0x60;
/// What `lgdt` loads: the table's last byte, and where it is.
const GDT_REGISTER: [u8; 6] = [0x17, 0x00, 0x60, 0x7c, 0x00, 0x00];
const GDT_REGISTER_AT: usize = 0x78;
const _: () = assert!(GUEST.len() <= GDT_AT && GDT_AT + size_of::<[u64; 3]>() <= GDT_REGISTER_AT);
const SECTOR_BYTES: usize = 512;
/// Raised when the guest changes: an earlier one's proofs are then not believed.
const GUEST_VERSION: u32 = 2;

/// What is known of this host's acceleration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What guests are to run with.
    pub acceleration: Acceleration,
    /// Why: a lower-case fragment.
    pub reason: String,
    /// What the proof holds for: the host's boot and QEMU's version.
    host: String,
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// Not even TCG executes the guest.
    #[error("prove that QEMU executes guests: {0}")]
    Tcg(String),
    /// The variable holds something else.
    #[error("{OVERRIDE} is `{0}`; it can be `kvm` or `tcg`")]
    Override(String),
    /// The guest's image cannot be written.
    #[error("write the probe's guest")]
    Guest(#[source] std::io::Error),
}

/// Proves which acceleration works, or recalls it from `cache_dir`. Takes up to [`TCG_LIMIT`] and some, once a host boot.
///
/// # Errors
/// When the override is wrong, or QEMU executes nothing at all.
pub async fn prove(cache_dir: &Path) -> Result<Proof, ProofError> {
    let host = host().await;
    if let Ok(word) = std::env::var(OVERRIDE) {
        let acceleration = parse_override(&word)?;
        return Ok(Proof {
            acceleration,
            reason: format!("{OVERRIDE} says so"),
            host,
        });
    }
    let cache = cache_dir.join("acceleration.json");
    if let Some(proof) = recall(&cache).filter(|proof| proof.host == host) {
        return Ok(proof);
    }
    let image = guest().map_err(ProofError::Guest)?;
    let tcg = run(Acceleration::Tcg, image.path(), TCG_LIMIT)
        .await
        .map_err(ProofError::Tcg)?;
    let (acceleration, reason) = match judge_kvm(image.path(), tcg).await {
        Ok(took) => (
            Acceleration::Kvm,
            format!("a guest ran under KVM in {took:?}"),
        ),
        Err(why) => (Acceleration::Tcg, why),
    };
    let proof = Proof {
        acceleration,
        reason,
        host,
    };
    if let Err(error) = remember(&cache, &proof) {
        tracing::debug!(%error, "the proof of acceleration is not remembered");
    }
    Ok(proof)
}

/// What was proven before on this boot of this host, if anything was.
pub async fn remembered(cache_dir: &Path) -> Option<Acceleration> {
    let proof = recall(&cache_dir.join("acceleration.json"))?;
    (proof.host == host().await).then_some(proof.acceleration)
}

async fn judge_kvm(image: &Path, tcg: Duration) -> Result<Duration, String> {
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        return Err(format!("/dev/kvm cannot be opened: {error}"));
    }
    let limit = KVM_LIMIT.max(tcg * KVM_TO_TCG);
    let slower = |why: String| format!("/dev/kvm opens, but {why} (TCG: {tcg:.1?})");
    run(Acceleration::Kvm, image, limit).await.map_err(slower)
}

/// Runs the guest and tells how long it took, or why it is no proof.
async fn run(
    acceleration: Acceleration,
    image: &Path,
    limit: Duration,
) -> Result<Duration, String> {
    let word = match acceleration {
        Acceleration::Kvm => "kvm",
        Acceleration::Tcg => "tcg",
    };
    let image = image.display().to_string().replace(',', ",,");
    let begun = Instant::now();
    let command = Command::new(QEMU)
        .args([
            "-machine",
            "pc",
            "-accel",
            word,
            "-m",
            "16",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ])
        .args([
            "-drive",
            &format!("file={image},format=raw,if=ide,readonly=off,snapshot=on"),
        ])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .limit(limit);
    match command.output().await {
        Ok(output) if output.status == PROOF_EXIT => Ok(begun.elapsed()),
        Ok(output) => Err(output.check(&command.pasteable()).map_or_else(
            |error| error.to_string(),
            |_| "its guest did not report".into(),
        )),
        Err(CommandError::TimedOut { .. }) => {
            Err(format!("a tiny guest does not finish within {limit:.1?}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A boot sector that computes, then tells QEMU to exit.
fn guest() -> std::io::Result<tempfile::NamedTempFile> {
    let mut sector = [0; SECTOR_BYTES];
    sector[..GUEST.len()].copy_from_slice(&GUEST);
    for (place, descriptor) in sector[GDT_AT..].chunks_exact_mut(size_of::<u64>()).zip(GDT) {
        place.copy_from_slice(&descriptor.to_le_bytes());
    }
    sector[GDT_REGISTER_AT..][..GDT_REGISTER.len()].copy_from_slice(&GDT_REGISTER);
    sector[SECTOR_BYTES - 2..].copy_from_slice(&[0x55, 0xaa]);
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&sector)?;
    Ok(file)
}

/// What a proof holds for.
async fn host() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let version = Command::new(QEMU)
        .arg("--version")
        .output()
        .await
        .map(|output| output.text())
        .unwrap_or_default();
    let kvm = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    format!(
        "{} {} kvm={kvm} guest={GUEST_VERSION}",
        boot.trim(),
        version.lines().next().unwrap_or_default()
    )
}

fn parse_override(word: &str) -> Result<Acceleration, ProofError> {
    match word {
        "kvm" => Ok(Acceleration::Kvm),
        "tcg" => Ok(Acceleration::Tcg),
        _ => Err(ProofError::Override(word.to_owned())),
    }
}

fn recall(cache: &PathBuf) -> Option<Proof> {
    serde_json::from_slice(&std::fs::read(cache).ok()?).ok()
}

fn remember(cache: &Path, proof: &Proof) -> std::io::Result<()> {
    if let Some(directory) = cache.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let part = cache.with_extension("part");
    std::fs::write(&part, serde_json::to_vec(proof)?)?;
    std::fs::rename(part, cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_override_is_kvm_or_tcg() {
        assert!(matches!(parse_override("kvm"), Ok(Acceleration::Kvm)));
        assert!(matches!(parse_override("tcg"), Ok(Acceleration::Tcg)));
        assert!(parse_override("KVM please").is_err());
    }

    #[test]
    fn a_proof_is_remembered_and_a_damaged_one_forgotten() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let cache = directory.path().join("cache/acceleration.json");
        let proof = Proof {
            acceleration: Acceleration::Tcg,
            reason: "slow".into(),
            host: "boot 7.2".into(),
        };
        remember(&cache, &proof).expect("it is written");
        assert_eq!(recall(&cache), Some(proof));
        std::fs::write(&cache, "{").expect("it is written");
        assert_eq!(recall(&cache), None);
    }
}
