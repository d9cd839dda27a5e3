//! One image layer, unpacked into a directory of its own for overlayfs.
//!
//! Invariants: nothing is made outside the directory, whatever names and links the archive holds (every path is resolved by
//! the kernel with the directory as its root, `openat2` with `RESOLVE_IN_ROOT`); OCI whiteouts become overlayfs' own
//! (character device 0:0, `trusted.overlay.opaque`), and hide what is below the layer, never what is in it, wherever they
//! stand in the archive. What a layer leaves to those below it is told as its [`Gaps`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};

use super::gaps::Gaps;
use crate::model::packed;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// overlayfs' mark of a directory through which nothing from below is seen.
pub(super) const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Entries that one layer may hold.
const MAX_ENTRIES: usize = 1_000_000;

/// Symbolic links that the way to one entry may take.
const MAX_LINKS: u32 = 40;

/// Unpacks a tar archive, plain or packed as its first bytes tell, into `directory`, which exists and is empty. Reads `archive` to
/// its end.
pub(crate) fn unpack(mut archive: impl Read, directory: &Path) -> io::Result<Gaps> {
    let gaps = unpack_tar(packed::unpacked(&mut archive)?, directory)?;
    // The digest covers bytes after the end of the archive too.
    io::copy(&mut archive, &mut io::sink())?;
    Ok(gaps)
}

fn unpack_tar(stream: impl Read, directory: &Path) -> io::Result<Gaps> {
    let root = rustix::fs::open(
        directory,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut unpacker = Unpacker::new(root);
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
    /// Folders that were made because something lies in them.
    implied: BTreeSet<PathBuf>,
    /// Hard links to what is not in this layer.
    links: BTreeMap<PathBuf, PathBuf>,
}

impl Unpacker {
    fn new(root: OwnedFd) -> Self {
        Self {
            root,
            directory_times: Vec::new(),
            implied: BTreeSet::new(),
            links: BTreeMap::new(),
        }
    }

    fn entry(&mut self, path: &Path, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
        let Some((parent, name)) = split(path)? else {
            return Ok(()); // the root itself keeps its own mode
        };
        let parent_fd = self.parent(&parent, MAX_LINKS)?;
        if name.as_bytes() == OPAQUE {
            return set_opaque(parent_fd.as_fd(), OsStr::new("."));
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden.starts_with(b".wh.") {
                return Ok(()); // aufs' own bookkeeping
            }
            let hidden = OsStr::from_bytes(hidden);
            if matches!(hidden.as_bytes(), b"." | b"..") {
                return Err(io::Error::other("a whiteout of no file"));
            }
            return match kind_of(parent_fd.as_fd(), hidden)? {
                Kind::Nothing => Ok(rustix::fs::mknodat(
                    &parent_fd,
                    hidden,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    0,
                )?),
                // A new folder in place of the one below, which shall not shine through.
                Kind::Directory => {
                    self.implied.remove(&parent.join(hidden));
                    set_opaque(parent_fd.as_fd(), hidden)
                }
                // What the layer itself holds under this name hides what is below.
                Kind::Whiteout | Kind::Other => Ok(()),
            };
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
        let path = parent_path.join(name);
        self.links.remove(&path);
        if is_directory {
            self.implied.remove(&path);
        } else {
            self.implied.retain(|folder| !folder.starts_with(&path));
            clear(parent, name)?;
        }
        match kind {
            tar::EntryType::Directory => make_directory(parent, name)?,
            tar::EntryType::Link => {
                let link = link.ok_or_else(|| io::Error::other("a hard link names no target"))?;
                let Some((target_parent, target_name)) = split(&link)? else {
                    return Err(io::Error::other("a hard link to the root"));
                };
                let target = self.existing(&target_parent)?;
                let made = target.map_or(Err(rustix::io::Errno::NOENT), |target| {
                    rustix::fs::linkat(&target, &*target_name, parent, name, AtFlags::empty())
                });
                if made == Err(rustix::io::Errno::NOENT) {
                    self.links.insert(path, target_parent.join(target_name));
                    return Ok(());
                }
                return Ok(made?);
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
            self.directory_times.push((path, mtime));
            return Ok(());
        }
        set_time(parent, name, mtime)
    }

    /// Opens a directory of the layer, making it and its ancestors when the archive did not name them.
    fn parent(&mut self, path: &Path, links_left: u32) -> io::Result<OwnedFd> {
        if let Some(directory) = self.existing(path)? {
            return Ok(directory);
        }
        let Some((ancestor_path, name)) = split(path)? else {
            return Err(io::Error::other("the layer's directory is gone"));
        };
        let ancestor = self.parent(&ancestor_path, links_left)?;
        match kind_of(ancestor.as_fd(), &name)? {
            Kind::Directory => {}
            Kind::Nothing => {
                make_directory(ancestor.as_fd(), &name)?;
                self.implied.insert(path.to_owned());
            }
            // The one below is gone: this is another.
            Kind::Whiteout => make_directory(ancestor.as_fd(), &name)?,
            // A link to a folder that this layer does not name.
            Kind::Other if links_left > 0 => {
                let target = rustix::fs::readlinkat(&ancestor, &*name, Vec::new())
                    .map_err(|_| io::Error::from(io::ErrorKind::NotADirectory))?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                return self.parent(&within(&ancestor_path, target), links_left - 1);
            }
            Kind::Other => return Err(io::Error::other("too many symbolic links")),
        }
        self.existing(path)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotADirectory))
    }

    /// Opens a directory of the layer, if it is there.
    fn existing(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
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
            Ok(directory) => Ok(Some(directory)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn finish(mut self) -> io::Result<Gaps> {
        for (path, mtime) in std::mem::take(&mut self.directory_times).iter().rev() {
            let Some((parent, name)) = split(path)? else {
                continue;
            };
            // What a later entry replaced has no time any more.
            if let Some(parent) = self.existing(&parent)?
                && matches!(kind_of(parent.as_fd(), &name)?, Kind::Directory)
            {
                set_time(parent.as_fd(), &name, *mtime)?;
            }
        }
        Ok(Gaps {
            folders: self.implied,
            links: self.links,
        })
    }
}

/// Where a symbolic link in `folder` leads, with the layer as its root: upward it goes no further than that.
fn within(folder: &Path, target: &Path) -> PathBuf {
    let mut path = if target.is_absolute() {
        PathBuf::new()
    } else {
        folder.to_owned()
    };
    for component in target.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    path
}

/// What lies under a name.
enum Kind {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

fn kind_of(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Kind> {
    let found = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT) => return Ok(Kind::Nothing),
        Err(error) => return Err(error.into()),
    };
    Ok(match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::CharacterDevice if found.st_rdev == 0 => Kind::Whiteout,
        _ => Kind::Other,
    })
}

fn set_opaque(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(
        &open_directory(parent, name)?,
        OPAQUE_ATTRIBUTE,
        b"y",
        XattrFlags::empty(),
    )?)
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

/// An existing directory is fine; one that takes a whiteout's place hides what is below.
fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let kind = kind_of(parent, name)?;
    if matches!(kind, Kind::Directory) {
        return Ok(());
    }
    clear(parent, name)?;
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    // The umask has had its say.
    rustix::fs::chmodat(parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
    if matches!(kind, Kind::Whiteout) {
        set_opaque(parent, name)?;
    }
    Ok(())
}

/// Takes away what an earlier entry of the same archive made under this name, with all that is in it.
fn clear(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open_directory(parent, name)?;
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let inner = OsStr::from_bytes(entry.file_name().to_bytes());
        if !matches!(inner.as_bytes(), b"." | b"..") {
            clear(directory.as_fd(), inner)?;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
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
    let mut unpacker = Unpacker::new(root);
    let relative: PathBuf = Path::new(path)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    unpacker.parent(&relative, MAX_LINKS).map(drop)
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
        let folder = archive(&[
            (tar::EntryType::Symlink, "up", Some("../../.."), b""),
            (tar::EntryType::Regular, "up/etc/made", None, b"x"),
        ]);
        unpack(&folder[..], directory.path()).unwrap();
        assert!(directory.path().join("etc/made").is_file());
        let whiteout = archive(&[(tar::EntryType::Regular, "a/.wh...", None, b"")]);
        unpack(&whiteout[..], directory.path()).unwrap_err();
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

    #[test]
    fn a_replaced_folder_hides_what_is_below_wherever_its_whiteout_stands() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let whiteout = (tar::EntryType::Regular, "opt/.wh.app", None, &b""[..]);
        let opaque = (
            tar::EntryType::Regular,
            "opt/app/.wh..wh..opq",
            None,
            &b""[..],
        );
        let folder = (tar::EntryType::Directory, "opt/app/", None, &b""[..]);
        let file = (tar::EntryType::Regular, "opt/app/new", None, &b"x"[..]);
        for entries in [
            vec![whiteout, folder, file],
            vec![folder, file, whiteout],
            vec![folder, whiteout, file],
            vec![whiteout, file],
            vec![file, whiteout],
            vec![opaque, folder, file],
            vec![folder, file, opaque],
        ] {
            let directory = tempfile::tempdir().unwrap();
            unpack(&archive(&entries)[..], directory.path()).unwrap();
            let app = directory.path().join("opt/app");
            assert!(app.join("new").is_file());
            let mut value = [0_u8; 4];
            let length = rustix::fs::getxattr(&app, OPAQUE_ATTRIBUTE, &mut value[..]);
            assert_eq!(length, Ok(1), "{entries:?}");
        }
        // A file under the whiteout's name stays, and a whiteout alone is one.
        let file = (tar::EntryType::Regular, "opt/app", None, &b"x"[..]);
        for entries in [[whiteout, file], [file, whiteout]] {
            let directory = tempfile::tempdir().unwrap();
            unpack(&archive(&entries)[..], directory.path()).unwrap();
            assert!(directory.path().join("opt/app").is_file());
        }
    }

    #[test]
    fn folders_that_are_only_implied_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            (tar::EntryType::Regular, "tmp/cache", None, b""),
            (tar::EntryType::Regular, "run/x", None, b""),
            (tar::EntryType::Directory, "run/", None, b""),
            (tar::EntryType::Symlink, "lib", Some("usr/lib"), b""),
            (tar::EntryType::Regular, "lib/a/b", None, b"x"),
            (tar::EntryType::Link, "hard", Some("bin/below"), b""),
        ]);
        let gaps = unpack(&bytes[..], directory.path()).unwrap();
        let folders: Vec<_> = gaps
            .folders
            .iter()
            .filter_map(|path| path.to_str())
            .collect();
        assert_eq!(folders, ["lib/a", "tmp", "usr", "usr/lib"]);
        assert_eq!(gaps.links.len(), 1);
        assert!(directory.path().join("usr/lib/a/b").is_file());
    }

    #[test]
    fn a_file_takes_the_place_of_a_folder_with_all_that_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            (tar::EntryType::Directory, "a/", None, b""),
            (tar::EntryType::Regular, "a/b/c", None, b""),
            (tar::EntryType::Regular, "a", None, b"file"),
        ]);
        let gaps = unpack(&bytes[..], directory.path()).unwrap();
        assert_eq!(std::fs::read(directory.path().join("a")).unwrap(), b"file");
        assert_eq!(gaps, Gaps::default());
    }

    #[test]
    fn any_archive_is_unpacked_within_its_directory_or_refused() {
        let plain = archive(&[
            (tar::EntryType::Directory, "bin/", None, b""),
            (tar::EntryType::Regular, "bin/tool", None, b"hello"),
            (tar::EntryType::Link, "bin/hard", Some("bin/tool"), b""),
            (tar::EntryType::Symlink, "bin/soft", Some("../../.."), b""),
            (tar::EntryType::Regular, "bin/soft/escaped", None, b"x"),
            (tar::EntryType::Regular, "bin/.wh.tool", None, b""),
            (tar::EntryType::Regular, "bin/.wh..wh..opq", None, b""),
            (tar::EntryType::Regular, "../up", None, b"x"),
            (tar::EntryType::GNUSparse, "sparse", None, b"x"),
        ]);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, &plain).unwrap();
        let packed = encoder.finish().unwrap();
        crate::model::spoiled::spoiled(&[&plain, &packed], 400, |bytes| {
            let outside = tempfile::tempdir().unwrap();
            let inside = outside.path().join("inside");
            std::fs::create_dir(&inside).unwrap();
            drop(unpack(bytes, &inside));
            assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        });
    }
}
