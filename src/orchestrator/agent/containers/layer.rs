//! One image layer, unpacked into a directory of its own for overlayfs.
//!
//! Invariants: nothing is made outside the directory, whatever names and links the archive holds (every path is resolved by
//! the kernel with the directory as its root, `openat2` with `RESOLVE_IN_ROOT`); OCI whiteouts become overlayfs' own
//! (character device 0:0, `trusted.overlay.opaque`).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Entries that one layer may hold.
const MAX_ENTRIES: usize = 1_000_000;

/// Unpacks a plain, gzip or zstd tar archive into `directory`, which exists and is empty. Reads `archive` to its end.
pub(crate) fn unpack(mut archive: impl Read, directory: &Path) -> io::Result<()> {
    let mut magic = [0u8; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match archive.read(&mut magic[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    let start = io::Cursor::new(magic[..filled].to_vec());
    let mut whole = start.chain(archive);
    match magic {
        [0x1f, 0x8b, ..] => unpack_tar(flate2::read::MultiGzDecoder::new(&mut whole), directory)?,
        [0x28, 0xb5, 0x2f, 0xfd] => {
            unpack_tar(zstd::stream::read::Decoder::new(&mut whole)?, directory)?
        }
        _ => unpack_tar(&mut whole, directory)?,
    }
    // The digest covers bytes after the end of the archive too.
    io::copy(&mut whole, &mut io::sink()).map(|_| ())
}

fn unpack_tar(stream: impl Read, directory: &Path) -> io::Result<()> {
    let root = rustix::fs::open(
        directory,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut unpacker = Unpacker {
        root,
        directory_times: Vec::new(),
    };
    let mut archive = tar::Archive::new(stream);
    for (number, entry) in archive.entries()?.enumerate() {
        if number >= MAX_ENTRIES {
            return Err(io::Error::other(format!(
                "the layer holds more than {MAX_ENTRIES} entries"
            )));
        }
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        unpacker.entry(&path, &mut entry).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("unpack `{}`: {error}", path.display()),
            )
        })?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: OwnedFd,
    /// Set last: making a file in a directory changes its time.
    directory_times: Vec<(PathBuf, i64)>,
}

impl Unpacker {
    fn entry(&mut self, path: &Path, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
        let Some((parent, name)) = split(path)? else {
            return Ok(()); // the root itself keeps its own mode
        };
        let parent_fd = self.parent(&parent)?;
        if name.as_bytes() == OPAQUE {
            let directory = open_directory(parent_fd.as_fd(), OsStr::new("."))?;
            return Ok(rustix::fs::fsetxattr(
                &directory,
                "trusted.overlay.opaque",
                b"y",
                XattrFlags::empty(),
            )?);
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden.starts_with(b".wh.") {
                return Ok(()); // aufs' own bookkeeping
            }
            let hidden = OsStr::from_bytes(hidden);
            // A file of the same layer wins over its whiteout.
            if rustix::fs::statat(&parent_fd, hidden, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Ok(());
            }
            return Ok(rustix::fs::mknodat(
                &parent_fd,
                hidden,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )?);
        }
        self.make(parent_fd.as_fd(), &parent, &name, entry)
    }

    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        parent_path: &Path,
        name: &OsStr,
        entry: &mut tar::Entry<'_, impl Read>,
    ) -> io::Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        // An empty numeric field is 0, as for Go's archive/tar.
        let (uid, gid) = (
            number(header.uid().unwrap_or(0))?,
            number(header.gid().unwrap_or(0))?,
        );
        let mode = Mode::from_raw_mode(header.mode().unwrap_or(0) & 0o7777);
        let mtime = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let device = |header: &tar::Header| -> io::Result<u64> {
            Ok(rustix::fs::makedev(
                header.device_major()?.unwrap_or(0),
                header.device_minor()?.unwrap_or(0),
            ))
        };
        let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
        let attributes = attributes(entry)?;
        let is_directory = kind.is_dir();
        if !is_directory {
            clear(parent, name)?;
        }
        match kind {
            tar::EntryType::Directory => make_directory(parent, name)?,
            tar::EntryType::Link => {
                let link = link.ok_or_else(|| io::Error::other("a hard link names no target"))?;
                let Some((target_parent, target_name)) = split(&link)? else {
                    return Err(io::Error::other("a hard link to the root"));
                };
                let target = self.parent(&target_parent)?;
                return Ok(rustix::fs::linkat(
                    &target,
                    &*target_name,
                    parent,
                    name,
                    AtFlags::empty(),
                )?);
            }
            tar::EntryType::Symlink => {
                let link =
                    link.ok_or_else(|| io::Error::other("a symbolic link names no target"))?;
                rustix::fs::symlinkat(&link, parent, name)?;
            }
            tar::EntryType::Fifo => {
                rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR, 0)?
            }
            tar::EntryType::Char => {
                rustix::fs::mknodat(
                    parent,
                    name,
                    FileType::CharacterDevice,
                    Mode::RUSR,
                    device(entry.header())?,
                )?;
            }
            tar::EntryType::Block => {
                rustix::fs::mknodat(
                    parent,
                    name,
                    FileType::BlockDevice,
                    Mode::RUSR,
                    device(entry.header())?,
                )?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::WRONLY
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(
                    parent,
                    name,
                    flags,
                    Mode::RUSR | Mode::WUSR,
                )?);
                io::copy(entry, &mut file)?;
            }
            _ => return Ok(()), // pax global headers and the like make no file
        }
        rustix::fs::chownat(
            parent,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        if kind == tar::EntryType::Symlink {
            return set_time(parent, name, mtime);
        }
        // After chown, which clears the set-user-ID bit. The name was just made here, so it is no symbolic link.
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        if !attributes.is_empty()
            && matches!(kind, tar::EntryType::Regular | tar::EntryType::Directory)
        {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            for (key, value) in attributes {
                rustix::fs::fsetxattr(&file, &*key, &value, XattrFlags::empty())?;
            }
        }
        if is_directory {
            self.directory_times.push((parent_path.join(name), mtime));
            return Ok(());
        }
        set_time(parent, name, mtime)
    }

    /// Opens a directory of the layer, making it and its ancestors when the archive did not name them.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let target = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        match rustix::fs::openat2(
            &self.root,
            target,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        ) {
            Ok(directory) => Ok(directory),
            Err(rustix::io::Errno::NOENT) => {
                let Some((ancestor, name)) = split(path)? else {
                    return Err(io::Error::other("the layer's directory is gone"));
                };
                let ancestor = self.parent(&ancestor)?;
                make_directory(ancestor.as_fd(), &name)?;
                Ok(rustix::fs::openat2(
                    &self.root,
                    target,
                    flags,
                    Mode::empty(),
                    ResolveFlags::IN_ROOT,
                )?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn finish(self) -> io::Result<()> {
        for (path, mtime) in self.directory_times.iter().rev() {
            let Some((parent, name)) = split(path)? else {
                continue;
            };
            set_time(self.parent(&parent)?.as_fd(), &name, *mtime)?;
        }
        Ok(())
    }
}

/// Parent and name of an archive's path; `None` for the root. Names with `..` are refused.
fn split(path: &Path) -> io::Result<Option<(PathBuf, std::ffi::OsString)>> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(io::Error::other(
                    "the name leads out of the image through `..`",
                ));
            }
        }
    }
    let Some(name) = clean.file_name().map(OsStr::to_os_string) else {
        return Ok(None);
    };
    clean.pop();
    Ok(Some((clean, name)))
}

fn number(value: u64) -> io::Result<u32> {
    u32::try_from(value)
        .map_err(|_| io::Error::other(format!("user or group number {value} is too large")))
}

fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(rustix::io::Errno::EXIST) if open_directory(parent, name).is_ok() => Ok(()),
        Err(rustix::io::Errno::EXIST) => {
            clear(parent, name)?;
            Ok(rustix::fs::mkdirat(
                parent,
                name,
                Mode::from_raw_mode(0o755),
            )?)
        }
        other => Ok(other?),
    }
}

/// Takes away what an earlier entry of the same archive made under this name.
fn clear(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => {
            Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn set_time(parent: BorrowedFd<'_>, name: &OsStr, mtime: i64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Ok(rustix::fs::utimensat(
        parent,
        name,
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Extended attributes, from pax records `SCHILY.xattr.<name>`. overlayfs' own are never taken from an image.
fn attributes(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let Some(key) = extension
                .key()
                .ok()
                .and_then(|key| key.strip_prefix("SCHILY.xattr."))
            else {
                continue;
            };
            if !key.starts_with("trusted.overlay.") {
                found.push((key.to_owned(), extension.value_bytes().to_vec()));
            }
        }
    }
    Ok(found)
}

/// Makes a directory and its ancestors in a root file system, with that as its root. An existing one is fine.
pub(crate) fn make_directory_in_root(root: &Path, path: &str) -> io::Result<()> {
    let root = rustix::fs::open(
        root,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let unpacker = Unpacker {
        root,
        directory_times: Vec::new(),
    };
    let relative: PathBuf = Path::new(path)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    unpacker.parent(&relative).map(drop)
}

/// Reads a small file of a root file system, with that as its root.
pub(crate) fn read_in_root(root: &Path, path: &str, limit: u64) -> io::Result<String> {
    let root = rustix::fs::openat(
        CWD,
        root,
        OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat2(
        &root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )?);
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    fn entry(
        builder: &mut tar::Builder<Vec<u8>>,
        kind: tar::EntryType,
        path: &str,
        link: Option<&str>,
        text: &[u8],
    ) {
        let mut header = tar::Header::new_ustar();
        // The checked setter refuses the very names under test.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o4755 });
        header.set_uid(u64::from(rustix::process::getuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getgid().as_raw()));
        header.set_mtime(1_000_000_000);
        header.set_size(text.len() as u64);
        if let Some(link) = link {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, text).unwrap();
    }

    fn archive(entries: &[(tar::EntryType, &str, Option<&str>, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, link, text) in entries {
            entry(&mut builder, *kind, path, *link, text);
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_links_modes_and_times_are_right() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            (tar::EntryType::Directory, "bin/", None, b""),
            (tar::EntryType::Regular, "bin/tool", None, b"hello"),
            (tar::EntryType::Link, "bin/hard", Some("bin/tool"), b""),
            (tar::EntryType::Symlink, "bin/soft", Some("tool"), b""),
            (tar::EntryType::Regular, "no/parent/named", None, b"x"),
        ]);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, &bytes).unwrap();
        unpack(&encoder.finish().unwrap()[..], directory.path()).unwrap();
        let tool = std::fs::metadata(directory.path().join("bin/tool")).unwrap();
        assert_eq!(
            (tool.mode() & 0o7777, tool.nlink(), tool.mtime()),
            (0o4755, 2, 1_000_000_000)
        );
        assert_eq!(
            std::fs::read(directory.path().join("bin/soft")).unwrap(),
            b"hello"
        );
        assert_eq!(
            std::fs::metadata(directory.path().join("bin"))
                .unwrap()
                .mtime(),
            1_000_000_000
        );
        assert!(directory.path().join("no/parent/named").exists());
    }

    #[test]
    fn zstd_and_plain_archives_are_unpacked() {
        let bytes = archive(&[(tar::EntryType::Regular, "a", None, b"1")]);
        for stream in [zstd::encode_all(&bytes[..], 1).unwrap(), bytes] {
            let directory = tempfile::tempdir().unwrap();
            unpack(&stream[..], directory.path()).unwrap();
            assert_eq!(std::fs::read(directory.path().join("a")).unwrap(), b"1");
        }
    }

    #[test]
    fn nothing_escapes_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let through_link = archive(&[
            (tar::EntryType::Symlink, "out", Some(target), b""),
            (tar::EntryType::Regular, "out/file", None, b"x"),
        ]);
        // The link's target is resolved inside the root, where it does not exist.
        let _ = unpack(&through_link[..], directory.path());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let upward = archive(&[(tar::EntryType::Regular, "../file", None, b"x")]);
        let error = unpack(&upward[..], directory.path()).unwrap_err();
        assert!(error.to_string().contains(".."), "{error}");
        let hard = archive(&[(
            tar::EntryType::Link,
            "passwd",
            Some("../../../etc/passwd"),
            b"",
        )]);
        unpack(&hard[..], directory.path()).unwrap_err();
    }

    #[test]
    fn whiteouts_become_overlayfs_own() {
        if !rustix::process::getuid().is_root() {
            return; // device nodes and trusted attributes need root
        }
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            (tar::EntryType::Regular, "etc/.wh.gone", None, b""),
            (tar::EntryType::Regular, "var/.wh..wh..opq", None, b""),
        ]);
        unpack(&bytes[..], directory.path()).unwrap();
        let gone = std::fs::symlink_metadata(directory.path().join("etc/gone")).unwrap();
        assert!(gone.file_type().is_char_device());
        assert_eq!(gone.rdev(), 0);
        let mut value = [0u8; 4];
        let length = rustix::fs::getxattr(
            directory.path().join("var"),
            "trusted.overlay.opaque",
            &mut value[..],
        )
        .unwrap();
        assert_eq!(&value[..length], b"y");
    }
}
