//! Unpacks a disk image as it is read, leaves holes where it is zero, and names it by its digest.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::image::Compression;
use crate::machines::provider::DiskFormat;
use crate::machines::qemu::qcow2;
use crate::model::definition::hexadecimal;

/// What is read, hashed and written at a time; holes are of this size.
const BLOCK_BYTES: usize = 64 << 10;
/// Largest image, unpacked: what comes from outside may be a bomb.
const MAX_BYTES: u64 = 64 << 30;
/// Memory that an xz stream may ask for, in KiB; `xz -9` asks for 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// Why an image could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not what its definition says.
    #[error("it is not a {0} image")]
    Format(&'static str),
    /// It is larger than what is taken.
    #[error("it is larger than {} GiB", MAX_BYTES >> 30)]
    TooLarge,
    /// The packed stream is damaged.
    #[error("its compression is damaged, or not the one that the definition names")]
    Damaged(#[source] io::Error),
    /// A file could not be written.
    #[error("{action} {}", path.display())]
    File {
        /// What was done.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// An image in the cache.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Its SHA-256, which is its file's name.
    pub(super) sha256: String,
    /// Bytes that a machine sees.
    pub(super) virtual_size: u64,
}

/// The SHA-256 of a file.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut block) = (File::open(path)?, Sha256::new(), vec![0; BLOCK_BYTES]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            count => hash.update(&block[..count]),
        }
    }
}

/// Unpacks `packed` into `directory`, as a file named by its digest. Blocks; a failure leaves nothing.
pub(super) fn unpack(
    packed: &Path,
    directory: &Path,
    compression: Compression,
    format: DiskFormat,
) -> Result<Unpacked, UnpackError> {
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| UnpackError::File {
            action,
            path,
            source,
        }
    };
    let input =
        BufReader::with_capacity(1 << 20, File::open(packed).map_err(failed("open", packed))?);
    let mut input: Box<dyn Read> = match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(input)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            input,
            true,
            XZ_MEMORY_KIB,
        )),
        Compression::Zstd => Box::new(zstd::Decoder::new(input).map_err(UnpackError::Damaged)?),
    };
    let mut output =
        tempfile::NamedTempFile::new_in(directory).map_err(failed("make a file in", directory))?;
    let (mut hash, mut size, mut block, mut first) =
        (Sha256::new(), 0_u64, vec![0; BLOCK_BYTES], Vec::new());
    loop {
        let count = fill(&mut input, &mut block).map_err(UnpackError::Damaged)?;
        if count == 0 {
            break;
        }
        let content = &block[..count];
        if first.is_empty() {
            first = content[..count.min(512)].to_vec();
            if format == DiskFormat::Qcow2 && qcow2::virtual_size(&first).is_none() {
                return Err(UnpackError::Format("qcow2"));
            }
        }
        hash.update(content);
        size += count as u64;
        if size > MAX_BYTES {
            return Err(UnpackError::TooLarge);
        }
        let written = if content.iter().all(|byte| *byte == 0) {
            output.seek(SeekFrom::Start(size)).map(drop)
        } else {
            output.write_all(content)
        };
        written.map_err(failed("write a file in", directory))?;
    }
    // A hole at the end is a hole too.
    output
        .as_file()
        .set_len(size)
        .map_err(failed("write a file in", directory))?;
    output
        .as_file()
        .sync_data()
        .map_err(failed("write a file in", directory))?;
    let virtual_size = match format {
        DiskFormat::Qcow2 => qcow2::virtual_size(&first).ok_or(UnpackError::Format("qcow2"))?,
        // A disk has at least a boot sector and its signature.
        DiskFormat::Raw if first.len() == 512 && first[510..] == [0x55, 0xaa] => size,
        DiskFormat::Raw => return Err(UnpackError::Format("raw, bootable")),
    };
    let sha256 = hexadecimal(&hash.finalize());
    let path = directory.join(&sha256);
    output
        .persist(&path)
        .map_err(|error| failed("write", &path)(error.error))?;
    Ok(Unpacked {
        sha256,
        virtual_size,
    })
}

/// Reads until the block is full or the stream ends.
fn fill(input: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < block.len() {
        match input.read(&mut block[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; 300_000];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[200_000] = 7;
        disk
    }

    fn check(packed: &[u8], compression: Compression) -> Result<Vec<u8>, UnpackError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("packed");
        std::fs::write(&path, packed).unwrap();
        let images = directory.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let unpacked = unpack(&path, &images, compression, DiskFormat::Raw);
        assert_eq!(
            std::fs::read_dir(&images).unwrap().count(),
            usize::from(unpacked.is_ok()),
            "only a whole image is left"
        );
        let bytes = std::fs::read(images.join(unpacked?.sha256)).unwrap();
        Ok(bytes)
    }

    fn command(program: &str) -> Option<Vec<u8>> {
        let mut child = std::process::Command::new(program)
            .arg("-c")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take().unwrap().write_all(&disk()).unwrap();
        Some(child.wait_with_output().unwrap().stdout)
    }

    #[test]
    fn every_compression_gives_the_same_disk() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&disk()).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&disk()).unwrap();
        let table = [
            (Some(disk()), Compression::None),
            (Some(gzip.finish().unwrap()), Compression::Gzip),
            (Some(bzip2.finish().unwrap()), Compression::Bzip2),
            (
                Some(zstd::encode_all(disk().as_slice(), 1).unwrap()),
                Compression::Zstd,
            ),
            // The real one packs, where it is installed (`apt install xz-utils`).
            (command("xz"), Compression::Xz),
        ];
        for (packed, compression) in table {
            let Some(packed) = packed else { continue };
            assert_eq!(
                check(&packed, compression).unwrap(),
                disk(),
                "{compression:?}"
            );
            if compression != Compression::None {
                let error = check(&packed[..packed.len() / 2], compression).unwrap_err();
                assert!(
                    matches!(error, UnpackError::Damaged(_)),
                    "{compression:?}: {error}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        assert!(matches!(
            check(b"<html>", Compression::None),
            Err(UnpackError::Format(_))
        ));
        assert!(matches!(
            check(b"", Compression::None),
            Err(UnpackError::Format(_))
        ));
        assert!(matches!(
            check(b"<html>", Compression::Gzip),
            Err(UnpackError::Damaged(_))
        ));
    }
}
