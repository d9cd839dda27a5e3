//! What a layer leaves to those below it, and the layer on top that fills it in.
//!
//! A layer that holds `tmp/x` without an entry for `tmp` says nothing of that folder: it keeps the mode and the owner that it has
//! below (containerd since 1.3). overlayfs would show the folder of the uppermost layer. Layers are unpacked apart from each other and
//! shared by images, so an image whose layers have such gaps gets one more directory of its own, on top of its layers: these
//! folders, as the layers below say, and files for hard links to what is in a layer below.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, XattrFlags};
use serde::{Deserialize, Serialize};

use super::layer::OPAQUE_ATTRIBUTE;
use super::records;

/// What a layer does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gaps {
    /// Folders that it has no entry of, but something in.
    pub(crate) folders: BTreeSet<PathBuf>,
    /// Hard links to what it does not hold, with their targets.
    pub(crate) links: BTreeMap<PathBuf, PathBuf>,
}

impl Gaps {
    fn path(layer: &Path) -> PathBuf {
        layer.with_extension("gaps")
    }

    /// Notes the gaps of the layer that is, or will be, at this place.
    pub(crate) fn write(&self, layer: &Path) -> io::Result<()> {
        let text = |path: &PathBuf| path.to_str().is_some();
        let told = Self {
            folders: self
                .folders
                .iter()
                .filter(|path| text(path))
                .cloned()
                .collect(),
            links: (self.links.iter())
                .filter(|(path, target)| text(path) && text(target))
                .map(|(path, target)| (path.clone(), target.clone()))
                .collect(),
        };
        records::write(&Self::path(layer), &told)
    }

    fn read(layer: &Path) -> Self {
        records::read(&Self::path(layer)).unwrap_or_default()
    }
}

/// What one layer says of a path.
enum Said {
    /// Nothing, and those below are asked.
    Nothing,
    /// It is this.
    Here(Metadata),
    /// It is hidden, or its folder is something else: those below do not count.
    Hidden,
}

/// What `layer` says of `path`, and whether those below it are hidden there.
fn ask(layer: &Path, path: &Path) -> (Said, bool) {
    let mut at = layer.to_owned();
    let mut covers = false;
    let count = path.components().count();
    for (number, component) in path.components().enumerate() {
        at.push(component);
        let Ok(found) = fs::symlink_metadata(&at) else {
            return (Said::Nothing, covers);
        };
        let is_whiteout = found.file_type().is_char_device() && found.rdev() == 0;
        if is_whiteout {
            return (Said::Hidden, true);
        }
        if number + 1 == count {
            covers |= !found.is_dir() || is_opaque(&at);
            return (Said::Here(found), covers);
        }
        if !found.is_dir() {
            return (Said::Hidden, true);
        }
        covers |= is_opaque(&at);
    }
    (Said::Nothing, covers)
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0_u8; 1];
    rustix::fs::lgetxattr(directory, OPAQUE_ATTRIBUTE, &mut value[..])
        .is_ok_and(|length| value[..length] == *b"y")
}

/// The layers of an image, lowest first, with their gaps.
struct Stack<'a> {
    layers: &'a [PathBuf],
    gaps: Vec<Gaps>,
}

impl Stack<'_> {
    /// The uppermost of the first `count` layers that says what `path` is, and what it says.
    fn top(&self, path: &Path, count: usize) -> Option<(usize, Metadata)> {
        for number in (0..count).rev() {
            match ask(&self.layers[number], path) {
                (Said::Here(found), _) => return Some((number, found)),
                (Said::Hidden, _) | (Said::Nothing, true) => return None,
                (Said::Nothing, false) => {}
            }
        }
        None
    }

    /// The layer that says what the folder `path` is like: the uppermost one, or one further down when that only implies it.
    fn teller(&self, path: &Path) -> Option<usize> {
        let mut teller = None;
        for number in (0..self.layers.len()).rev() {
            match ask(&self.layers[number], path) {
                (Said::Here(found), covers) => {
                    if !found.is_dir() {
                        return teller;
                    }
                    teller = Some(number);
                    if !self.gaps[number].folders.contains(path) {
                        return teller;
                    }
                    if covers && !is_opaque(&self.layers[number].join(path)) {
                        return teller;
                    }
                }
                (Said::Hidden, _) | (Said::Nothing, true) => return teller,
                (Said::Nothing, false) => {}
            }
        }
        teller
    }

    /// Whether every folder on the way is a folder in the image, and no link.
    fn is_plain(&self, path: &Path) -> bool {
        path.ancestors()
            .filter(|part| !part.as_os_str().is_empty())
            .all(|part| {
                self.top(part, self.layers.len())
                    .is_some_and(|(_, found)| found.is_dir())
            })
    }
}

/// Fills `directory`, which exists and is empty, for an image of these layers (lowest first). Returns whether anything was missing.
pub(crate) fn fill(layers: &[PathBuf], directory: &Path) -> io::Result<bool> {
    let stack = Stack {
        layers,
        gaps: layers.iter().map(|layer| Gaps::read(layer)).collect(),
    };
    let mut made = BTreeSet::new();
    let folders: BTreeSet<&PathBuf> = stack.gaps.iter().flat_map(|gaps| &gaps.folders).collect();
    for folder in folders {
        let top = stack.top(folder, layers.len());
        let is_implied = top.is_some_and(|(number, found)| {
            found.is_dir()
                && stack.gaps[number].folders.contains(folder)
                && (stack.teller(folder))
                    .is_some_and(|teller| !stack.gaps[teller].folders.contains(folder))
        });
        if is_implied && stack.is_plain(folder) {
            make_folders(folder, directory, &mut made)?;
        }
    }
    for (number, gaps) in stack.gaps.iter().enumerate() {
        for (path, target) in &gaps.links {
            link(&stack, number, path, target, directory, &mut made)?;
        }
    }
    // Last, and the innermost first: making something in a folder changes its time.
    for folder in made.iter().rev() {
        if let Some(teller) = stack.teller(folder) {
            copy_attributes(&layers[teller].join(folder), &directory.join(folder))?;
        }
    }
    Ok(fs::read_dir(directory)?.next().is_some())
}

fn make_folders(folder: &Path, directory: &Path, made: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    fs::create_dir_all(directory.join(folder))?;
    let ancestors = folder
        .ancestors()
        .filter(|part| !part.as_os_str().is_empty());
    made.extend(ancestors.map(Path::to_owned));
    Ok(())
}

/// A copy of what the hard link `path` of layer `number` names in a layer below.
fn link(
    stack: &Stack<'_>,
    number: usize,
    path: &Path,
    target: &Path,
    directory: &Path,
    made: &mut BTreeSet<PathBuf>,
) -> io::Result<()> {
    let layers = stack.layers;
    let Some((from, found)) = stack.top(target, number) else {
        return Err(io::Error::other(format!(
            "hard link `{}` names `{}`, which no layer holds",
            path.display(),
            target.display()
        )));
    };
    if found.is_dir() {
        return Err(io::Error::other(format!(
            "hard link `{}` names a folder",
            path.display()
        )));
    }
    // What a layer above says of the name wins.
    let is_covered = layers[number + 1..]
        .iter()
        .any(|layer| !matches!(ask(layer, path), (Said::Nothing, false)));
    let parent = path.parent().unwrap_or(Path::new(""));
    if is_covered || !found.is_file() || !stack.is_plain(parent) {
        return Ok(());
    }
    make_folders(parent, directory, made)?;
    let (source, copy) = (layers[from].join(target), directory.join(path));
    match fs::remove_file(&copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::copy(&source, &copy)?;
    copy_attributes(&source, &copy)
}

/// Owner, mode, extended attributes and time of a folder or a file.
fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    std::os::unix::fs::lchown(to, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    let mut names = vec![0_u8; 64 * 1024];
    let length = rustix::fs::llistxattr(from, &mut names[..])?;
    for name in names[..length].split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if name.is_empty() || name.starts_with("trusted.overlay.") {
            continue;
        }
        let mut value = vec![0_u8; 64 * 1024];
        let length = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        rustix::fs::lsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    let time = rustix::fs::Timespec {
        tv_sec: found.mtime(),
        tv_nsec: found.mtime_nsec(),
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        to,
        &times,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

#[cfg(test)]
mod tests {
    use super::super::layer;
    use super::*;

    /// Path (a folder ends in `/`), mode, hard link.
    type Entries<'a> = &'a [(&'a str, u32, Option<&'a str>)];

    fn unpacked(directory: &Path, layers: &[Entries<'_>]) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for (number, entries) in layers.iter().enumerate() {
            let mut builder = tar::Builder::new(Vec::new());
            for (path, mode, link) in *entries {
                let mut header = tar::Header::new_gnu();
                header.set_mode(*mode);
                header.set_uid(u64::from(rustix::process::getuid().as_raw()));
                header.set_gid(u64::from(rustix::process::getgid().as_raw()));
                header.set_size(0);
                if path.ends_with('/') {
                    header.set_entry_type(tar::EntryType::Directory);
                }
                if let Some(link) = link {
                    header.set_entry_type(tar::EntryType::Link);
                    builder.append_link(&mut header, path, link).unwrap();
                } else {
                    builder.append_data(&mut header, path, &b""[..]).unwrap();
                }
            }
            let place = directory.join(number.to_string());
            fs::create_dir(&place).unwrap();
            let gaps = layer::unpack(&builder.into_inner().unwrap()[..], &place).unwrap();
            gaps.write(&place).unwrap();
            paths.push(place);
        }
        paths
    }

    fn check(layers: &[Entries<'_>], expected: &[(&str, u32)]) {
        let directory = tempfile::tempdir().unwrap();
        let paths = unpacked(directory.path(), layers);
        let filling = directory.path().join("filled");
        fs::create_dir(&filling).unwrap();
        assert_eq!(fill(&paths, &filling).unwrap(), !expected.is_empty());
        for (path, mode) in expected {
            let found = fs::symlink_metadata(filling.join(path)).unwrap();
            assert_eq!(found.mode() & 0o7777, *mode, "{path}");
        }
        let mut count = 0;
        let mut left = vec![filling];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                count += 1;
                if entry.path().is_dir() {
                    left.push(entry.path());
                }
            }
        }
        assert_eq!(count, expected.len(), "nothing else is made");
    }

    #[test]
    fn implied_folders_are_as_the_layers_below_say() {
        let base: Entries<'_> = &[
            ("tmp/", 0o1777, None),
            ("srv/", 0o751, None),
            ("srv/data/", 0o770, None),
        ];
        // Implied above, also twice; what is implied only, or said above, is left alone.
        check(
            &[
                base,
                &[("tmp/a", 0o644, None)],
                &[
                    ("tmp/b", 0o644, None),
                    ("srv/data/c", 0o644, None),
                    ("opt/new/d", 0o644, None),
                ],
            ],
            &[("tmp", 0o1777), ("srv", 0o751), ("srv/data", 0o770)],
        );
        check(
            &[base, &[("tmp/a", 0o644, None)], &[("tmp/", 0o700, None)]],
            &[],
        );
        check(&[&[("tmp/a", 0o644, None)], &[("tmp/b", 0o644, None)]], &[]);
    }

    #[test]
    fn a_folder_that_was_removed_below_is_another_one() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let base: Entries<'_> = &[("tmp/", 0o1777, None)];
        check(
            &[base, &[(".wh.tmp", 0, None)], &[("tmp/a", 0o644, None)]],
            &[],
        );
        check(
            &[base, &[(".wh.tmp", 0, None), ("tmp/a", 0o644, None)]],
            &[],
        );
        check(
            &[base, &[("tmp/a", 0o644, None), (".wh.tmp", 0, None)]],
            &[],
        );
    }

    #[test]
    fn a_hard_link_to_a_layer_below_is_a_file() {
        let base: Entries<'_> = &[("bin/", 0o755, None), ("bin/tool", 0o4755, None)];
        let link: Entries<'_> = &[("bin/other", 0o755, Some("bin/tool"))];
        check(&[base, link], &[("bin", 0o755), ("bin/other", 0o4755)]);
        let above: Entries<'_> = &[("bin/", 0o755, None), ("bin/other", 0o600, None)];
        check(&[base, link, above], &[]);
        let directory = tempfile::tempdir().unwrap();
        let paths = unpacked(directory.path(), &[link]);
        let error = fill(&paths, directory.path()).unwrap_err().to_string();
        assert!(error.contains("which no layer holds"), "{error}");
    }
}
