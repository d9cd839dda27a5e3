//! Files that only this user may read: they hold what the API says, Secrets among it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Replaces a file that only this user may read, in one step.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    make_private_parents(path)?;
    let mut next = PathBuf::from(path);
    next.set_extension("next");
    drop(fs::remove_file(&next));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(contents)?;
    drop(file);
    fs::rename(&next, path)
}

/// Makes the directories above `path`, readable by this user only.
pub(crate) fn make_private_parents(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent),
        None => Ok(()),
    }
}

/// Makes a directory and those above it, readable by this user only, and takes it from others if it is there.
pub(crate) fn make_private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Makes an empty file that only this user may read, if there is none, and takes it from others if there is. Both are on disk afterwards.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.sync_all()?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}
