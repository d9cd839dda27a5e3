//! Copies of big files with holes: by reference where the file system can, else only the data.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{SeekFrom, copy_file_range, seek};
use rustix::io::Errno;

/// Most that one system call copies.
const PIECE_BYTES: usize = 64 << 20;

/// Copies `from` to a new file `to` that only we can read. Holes stay holes.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while let Some((begin, end)) = next_data(&source, at, length)? {
        copy_range(&source, &target, begin, end)?;
        at = end;
    }
    Ok(())
}

/// The next stretch of data at or after `at`.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let begin = match seek(file, SeekFrom::Data(at)) {
        Ok(begin) => begin,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some((begin, seek(file, SeekFrom::Hole(begin))?)))
}

fn copy_range(source: &File, target: &File, mut begin: u64, end: u64) -> io::Result<()> {
    let mut to = begin;
    while begin < end {
        let piece = usize::try_from(end - begin)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        if copy_file_range(source, Some(&mut begin), target, Some(&mut to), piece)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file shrank while it was copied",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn data_is_copied_and_holes_stay() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let file = File::create(&from).expect("it is ours");
        file.set_len(1 << 30).expect("sparse files are possible");
        file.write_all_at(b"first", 0).expect("it is ours");
        file.write_all_at(b"middle", 700 << 20).expect("it is ours");
        copy(&from, &to).expect("it can be copied");
        let copied = File::open(&to).expect("it is there");
        let mut word = [0; 6];
        copied
            .read_exact_at(&mut word, 700 << 20)
            .expect("it is long enough");
        assert_eq!(&word, b"middle");
        let facts = copied.metadata().expect("it is there");
        assert_eq!((facts.len(), facts.mode() & 0o777), (1 << 30, 0o600));
        assert!(facts.blocks() * 512 < 1 << 20, "{} blocks", facts.blocks());
        assert!(copy(&from, &to).is_err(), "nothing is overwritten");
    }
}
