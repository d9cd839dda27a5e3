//! What the runtime does to files and directories.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::super::runtime::RuntimeError;
use super::doing;
use crate::model::json;
use crate::orchestrator::private_file;

pub(super) fn unmount(root: &Path) -> io::Result<()> {
    match rustix::mount::unmount(root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn remove_tree(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(doing(format!("remove `{}`", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Writes JSON that may hold a Secret's value.
pub(super) fn write_private(path: &Path, value: &serde_json::Value) -> Result<(), RuntimeError> {
    json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|text| private_file::write_private(path, &text))
        .map_err(doing(format!("write `{}`", path.display())))
}
