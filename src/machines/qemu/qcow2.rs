//! Writes an empty qcow2 image over another: a machine's own layer over a box's disk, without `qemu-img`.
//!
//! QEMU's `docs/interop/qcow2.txt`, version 3: the header, then one cluster each for the table of reference counts, one block of them,
//! and the first level of the mapping. Nothing is mapped, so that every read goes to the backing file.

use std::io::{self, Seek, SeekFrom, Write};

use crate::machines::provider::DiskImage;

/// 64 KiB, QEMU's default.
const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
/// What one entry of the first level maps: a cluster of 8-byte entries, each a cluster.
const MAPPED_BYTES: u64 = CLUSTER_BYTES / 8 * CLUSTER_BYTES;
/// Header, refcount table, refcount block, first level.
const CLUSTERS: u64 = 4;
/// The first level is one cluster: 4 TiB.
const LARGEST_BYTES: u64 = CLUSTER_BYTES / 8 * MAPPED_BYTES;
/// Version 3 without optional fields.
const HEADER_BYTES: u32 = 104;
/// Header extension: the backing file's format, so that QEMU never guesses it from content that a guest wrote.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// Writes an overlay of `disk_bytes`, or of the image's size if that is larger.
pub(super) fn write_overlay(
    file: &mut (impl Write + Seek),
    image: &DiskImage,
    disk_bytes: u64,
) -> io::Result<()> {
    let size = disk_bytes.max(image.virtual_size).div_ceil(512) * 512;
    if size > LARGEST_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a disk of more than 4 TiB",
        ));
    }
    let backing = image
        .path
        .to_str()
        .filter(|path| path.len() <= 1023 && image.path.is_absolute());
    let backing = backing.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the image's path is not usable in qcow2",
        )
    })?;
    let format = image.format.name().as_bytes();
    let mut extensions = Vec::new();
    extensions.extend(BACKING_FORMAT.to_be_bytes());
    extensions.extend(
        u32::try_from(format.len())
            .expect("a short word")
            .to_be_bytes(),
    );
    extensions.extend(format);
    extensions.resize(8 + format.len().next_multiple_of(8), 0);
    // The end of the extensions.
    extensions.extend([0; 8]);

    let mut header = Vec::new();
    let name_offset = u64::from(HEADER_BYTES) + extensions.len() as u64;
    header.extend(b"QFI\xfb");
    header.extend(3_u32.to_be_bytes());
    header.extend(name_offset.to_be_bytes());
    header.extend(
        u32::try_from(backing.len())
            .expect("at most 1023")
            .to_be_bytes(),
    );
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    header.extend(0_u32.to_be_bytes()); // not encrypted
    header.extend(
        u32::try_from(size.div_ceil(MAPPED_BYTES))
            .expect("at most 8192")
            .to_be_bytes(),
    );
    header.extend((3 * CLUSTER_BYTES).to_be_bytes()); // first level
    header.extend(CLUSTER_BYTES.to_be_bytes()); // refcount table
    header.extend(1_u32.to_be_bytes()); // of one cluster
    header.extend(0_u32.to_be_bytes()); // no snapshots
    header.extend([0; 8 + 24]); // where they are; features
    header.extend(4_u32.to_be_bytes()); // reference counts of 16 bits
    header.extend(HEADER_BYTES.to_be_bytes());
    header.extend(&extensions);
    header.extend(backing.as_bytes());
    file.write_all(&header)?;

    file.seek(SeekFrom::Start(CLUSTER_BYTES))?;
    file.write_all(&(2 * CLUSTER_BYTES).to_be_bytes())?;
    file.seek(SeekFrom::Start(2 * CLUSTER_BYTES))?;
    for _ in 0..CLUSTERS {
        file.write_all(&1_u16.to_be_bytes())?;
    }
    file.seek(SeekFrom::Start(CLUSTERS * CLUSTER_BYTES - 1))?;
    file.write_all(&[0])
}

/// The size that a machine sees of a qcow2 image, from its header.
pub(crate) fn virtual_size(header: &[u8]) -> Option<u64> {
    let is_qcow2 = header.starts_with(b"QFI\xfb");
    let size = header.get(24..32)?.try_into().ok()?;
    is_qcow2.then(|| u64::from_be_bytes(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::provider::DiskFormat;

    #[test]
    fn the_overlay_is_what_qemu_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("base.raw");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(10 << 20)
            .unwrap();
        let image = DiskImage {
            path,
            format: DiskFormat::Raw,
            virtual_size: 10 << 20,
        };
        let overlay = directory.path().join("overlay.qcow2");
        write_overlay(
            &mut std::fs::File::create(&overlay).unwrap(),
            &image,
            4 << 30,
        )
        .unwrap();
        let bytes = std::fs::read(&overlay).unwrap();
        assert_eq!(
            (bytes.len() as u64, virtual_size(&bytes)),
            (CLUSTERS * CLUSTER_BYTES, Some(4 << 30))
        );
        // The real one judges, where it is installed (`apt install qemu-utils`).
        let run = |arguments: &[&str]| {
            std::process::Command::new("qemu-img")
                .args(arguments)
                .arg(&overlay)
                .output()
        };
        let Ok(checked) = run(&["check"]) else { return };
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stderr)
        );
        let info = run(&["info", "--output=json"]).unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!(info["virtual-size"], 4_u64 << 30);
        assert_eq!(
            (
                info["backing-filename"].as_str(),
                info["backing-filename-format"].as_str()
            ),
            (image.path.to_str(), Some("raw"))
        );
    }

    #[test]
    fn a_larger_image_makes_a_larger_disk() {
        let image = DiskImage {
            path: "/base".into(),
            format: DiskFormat::Qcow2,
            virtual_size: 10 << 30,
        };
        let mut bytes = io::Cursor::new(Vec::new());
        write_overlay(&mut bytes, &image, 4 << 30).unwrap();
        assert_eq!(virtual_size(bytes.get_ref()), Some(10 << 30));
        assert_eq!(virtual_size(b"raw"), None);
    }
}
