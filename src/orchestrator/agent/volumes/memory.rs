//! Volumes in memory with a limit: each is a tmpfs of its own, below the one that holds a node's volatile files.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Makes `directory`, which exists, a tmpfs of at most so many bytes. One that is mounted already stays as it is.
pub(super) fn limit(directory: &Path, bytes: u64) -> io::Result<()> {
    if is_mounted(directory) {
        return Ok(());
    }
    // The kernel takes 0 for no limit.
    let options = CString::new(format!("size={},mode=0777", bytes.max(1)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount(
        "tmpfs",
        directory,
        "tmpfs",
        flags,
        options.as_c_str(),
    )?)
}

/// Takes away whatever is mounted on the folders in `directory`. Absent is fine.
pub(super) fn release(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if is_mounted(&path) {
            unmount(path.as_path(), UnmountFlags::DETACH)?;
        }
    }
    Ok(())
}

fn is_mounted(directory: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let around = directory.parent().and_then(device);
    device(directory).is_some_and(|own| Some(own) != around)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_fits_than_the_limit_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("volume");
        fs::create_dir(&volume).unwrap();
        match limit(&volume, 1 << 20) {
            // Not for everybody who runs tests.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            made => made.unwrap(),
        }
        limit(&volume, 1 << 20).unwrap();
        fs::write(volume.join("fits"), vec![0; 512 << 10]).unwrap();
        let error = fs::write(volume.join("more"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        release(directory.path()).unwrap();
        release(directory.path()).unwrap();
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
        release(&directory.path().join("gone")).unwrap();
    }
}
