//! What an archive or a folder holds, in two readings: first what is there, with the small documents; then the files that an
//! image needs. Nothing is unpacked by its name, and nothing is taken that no document names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::{LoadError, MAX_JSON_BYTES, format_error};
use crate::model::packed::{self, Packing};

/// Documents kept in memory, all together.
const MAX_DOCUMENTS_BYTES: u64 = 48 << 20;
/// Files in an archive.
const MAX_FILES: usize = 100_000;
/// Folders within folders of an unpacked archive.
const MAX_DEPTH: u32 = 6;
/// What an archive may unpack to.
const MAX_ARCHIVE_BYTES: u64 = 64 << 30;
/// Links that lead from a name to its file.
const MAX_LINKS: u32 = 10;

/// What an archive holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Small JSON files by name.
    pub(super) documents: BTreeMap<String, Vec<u8>>,
    /// Sizes of all files by name, and which of that name counts: the last.
    files: BTreeMap<String, (usize, u64)>,
    /// Links to other names.
    links: BTreeMap<String, String>,
    documents_bytes: u64,
}

impl Contents {
    /// The name of the file that `name` is, or that its links lead to.
    pub(super) fn resolve(&self, name: &str) -> Option<String> {
        let mut name = clean(name)?;
        for _ in 0..MAX_LINKS {
            if self.files.contains_key(&name) {
                return Some(name);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }

    /// A document by name.
    pub(super) fn document(&self, name: &str) -> Option<&[u8]> {
        let name = self.resolve(name)?;
        self.documents.get(&name).map(Vec::as_slice)
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }
}

/// Something in an archive.
enum Item {
    File { size: u64 },
    Link { target: String },
}

/// Reads what is there.
pub(super) fn scan(path: &Path) -> Result<Contents, LoadError> {
    let mut contents = Contents::default();
    visit(path, &mut |number, name, item, content| {
        let size = match item {
            Item::Link { target } => {
                contents.files.remove(&name);
                contents.links.insert(name, target);
                return Ok(());
            }
            Item::File { size } => size,
        };
        contents.links.remove(&name);
        contents.documents.remove(&name);
        contents.files.insert(name.clone(), (number, size));
        if contents.files.len() > MAX_FILES {
            return Err(format_error(
                path,
                &format!("it holds more than {MAX_FILES} files"),
            ));
        }
        let is_index = matches!(name.as_str(), "manifest.json" | "index.json");
        if size > MAX_JSON_BYTES {
            if is_index {
                let limit = MAX_JSON_BYTES >> 20;
                return Err(format_error(
                    path,
                    &format!("`{name}` is larger than {limit} MiB"),
                ));
            }
            return Ok(());
        }
        let read = |error| damaged(path, error);
        let mut start = [0; 1];
        let filled = content.read(&mut start).map_err(read)?;
        let may_be_json = matches!(start[0], b'{' | b'[' | b' ' | b'\n' | b'\r' | b'\t');
        if filled == 0 || !may_be_json {
            return Ok(());
        }
        contents.documents_bytes += size;
        if contents.documents_bytes > MAX_DOCUMENTS_BYTES {
            let limit = MAX_DOCUMENTS_BYTES >> 20;
            let what = format!("its JSON documents are larger than {limit} MiB together");
            return Err(format_error(path, &what));
        }
        let mut document = start.to_vec();
        content
            .take(MAX_JSON_BYTES)
            .read_to_end(&mut document)
            .map_err(read)?;
        contents.documents.insert(name, document);
        Ok(())
    })?;
    Ok(contents)
}

/// Gives the files of these names (as [`Contents::resolve`] gave them) to `take`, with their sizes.
pub(super) fn read(
    path: &Path,
    contents: &Contents,
    mut take: impl FnMut(&str, u64, &mut dyn Read) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    visit(path, &mut |number, name, item, content| match item {
        Item::File { size } if contents.files.get(&name) == Some(&(number, size)) => {
            take(&name, size, content)
        }
        _ => Ok(()),
    })
}

type Visitor<'a> = &'a mut dyn FnMut(usize, String, Item, &mut dyn Read) -> Result<(), LoadError>;

fn visit(path: &Path, take: Visitor<'_>) -> Result<(), LoadError> {
    if path.is_dir() {
        return visit_folder(path, path, MAX_DEPTH, &mut 0, take);
    }
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let is_empty = file.metadata().is_ok_and(|found| found.len() == 0);
    if is_empty {
        return Err(format_error(path, "it is empty"));
    }
    let stream = packed::unpacked(file).map_err(|error| damaged(path, error))?;
    let mut archive = tar::Archive::new(Limited {
        stream,
        left: MAX_ARCHIVE_BYTES,
    });
    let entries = archive.entries().map_err(|error| damaged(path, error))?;
    for (number, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|error| {
            if number == 0 {
                no_archive(path, &error)
            } else {
                damaged(path, error)
            }
        })?;
        let Some(name) = clean(&String::from_utf8_lossy(&entry.path_bytes())) else {
            continue;
        };
        let target = entry
            .link_name_bytes()
            .map(|target| String::from_utf8_lossy(&target).into_owned());
        let kind = entry.header().entry_type();
        let item = match (kind, target) {
            (
                tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse,
                _,
            ) => Item::File { size: entry.size() },
            // A hard link names what it links to from the top, a symbolic one from its folder.
            (tar::EntryType::Link, Some(target)) => match clean(&target) {
                Some(target) => Item::Link { target },
                None => continue,
            },
            (tar::EntryType::Symlink, Some(target)) => match beside(&name, &target) {
                Some(target) => Item::Link { target },
                None => continue,
            },
            _ => continue,
        };
        take(number, name, item, &mut entry)?;
    }
    Ok(())
}

fn visit_folder(
    top: &Path,
    folder: &Path,
    depth: u32,
    number: &mut usize,
    take: Visitor<'_>,
) -> Result<(), LoadError> {
    let entries = std::fs::read_dir(folder).map_err(|source| unreadable(folder, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| unreadable(folder, source))?;
        let path = entry.path();
        let name = path.strip_prefix(top).unwrap_or(&path).to_string_lossy();
        let Some(name) = clean(&name) else { continue };
        let found = entry
            .metadata()
            .map_err(|source| unreadable(&path, source))?;
        if found.is_dir() && depth > 0 {
            visit_folder(top, &path, depth - 1, number, &mut *take)?;
        } else if found.is_file() {
            *number += 1;
            let mut file = File::open(&path).map_err(|source| unreadable(&path, source))?;
            take(*number, name, Item::File { size: found.len() }, &mut file)?;
        } else if found.is_symlink() {
            let target = std::fs::read_link(&path).map_err(|source| unreadable(&path, source))?;
            if let Some(target) = beside(&name, &target.to_string_lossy()) {
                *number += 1;
                take(*number, name, Item::Link { target }, &mut io::empty())?;
            }
        }
    }
    Ok(())
}

/// A name without `./`, `/` at the start and such; `None` if it leaves the archive or is its top.
fn clean(name: &str) -> Option<String> {
    normal(Path::new(name))
}

/// What a symbolic link `name` with this target leads to.
fn beside(name: &str, target: &str) -> Option<String> {
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    normal(&folder.join(target))
}

fn normal(path: &Path) -> Option<String> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir if !clean.pop() => return None,
            _ => {}
        }
    }
    let clean = clean.to_string_lossy().into_owned();
    (!clean.is_empty()).then_some(clean)
}

/// Fails where the other would go on for ever.
struct Limited<R> {
    stream: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!(
                "it unpacks to more than {} GiB",
                MAX_ARCHIVE_BYTES >> 30
            ))
        })?;
        Ok(count)
    }
}

pub(super) fn unreadable(path: &Path, source: io::Error) -> LoadError {
    LoadError::Read {
        path: path.to_owned(),
        source,
    }
}

/// An error in the middle of an archive: it ends too early, or what packs it is wrong.
pub(super) fn damaged(path: &Path, error: io::Error) -> LoadError {
    format_error(path, &format!("it is cut off or damaged: {error}"))
}

/// What a file is that is no archive, as far as its first bytes tell.
fn no_archive(path: &Path, error: &io::Error) -> LoadError {
    let mut start = [0; 8];
    let filled = File::open(path)
        .and_then(|mut file| file.read(&mut start))
        .unwrap_or(0);
    let packing = match Packing::of(&start[..filled]) {
        Packing::Plain => None,
        Packing::Gzip => Some("gzip"),
        Packing::Zstd => Some("zstd"),
        Packing::Xz => Some("xz"),
        Packing::Bzip2 => Some("bzip2"),
    };
    let what = match (packing, &start[..filled]) {
        (Some(packing), _) => format!("what is packed in it with {packing} is not a tar archive: {error}"),
        (None, [b'P', b'K', 3, 4, ..]) => "it is a zip file, not a tar archive".to_owned(),
        (None, [b'7', b'z', 0xbc, 0xaf, ..]) => "it is a 7z file, not a tar archive".to_owned(),
        (None, [0x04, 0x22, 0x4d, 0x18, ..]) => {
            "it is packed with lz4: unpack it first (`lz4 -d`), or pack it with gzip, zstd, xz or bzip2".to_owned()
        }
        (None, [b'{' | b'[' | b'<', ..]) => {
            "it is a text, not a tar archive: load what `docker save`, `skopeo copy … oci-archive:` or `crane pull` writes".to_owned()
        }
        _ => format!("it is not a tar archive: {error}"),
    };
    format_error(path, &what)
}
