//! Builds a box with `mmdebstrap` and keeps it in the cache under its hash.
//!
//! A box that is in the cache is whole: it is made in a directory beside and renamed. One process builds at a time.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::definition::ASSEMBLE;
use super::{BoxDefinition, BoxError, DebianRoot, unpack};
use crate::machines::provider::{BoxBoot, BoxFiles, KernelBoot};
use crate::shell::debian::{self, Bootstrap, Progress};

/// Where `assemble.sh` and its inputs lie in the root while it is made.
const WORK: &str = ".flightcage";
/// The files of a box, as they are called both in the cache and by `assemble.sh`.
const FILES: [&str; 3] = ["kernel", "initramfs", "root"];

/// The SHA-256 of the root, beside it: a saved memory holds pages of exactly that one.
const DIGEST: &str = "root.sha256";

/// The box's files if the cache holds it, which costs nothing but when it was just built: then its root is read once.
pub(super) fn cached(
    definition: &BoxDefinition,
    root: &DebianRoot,
    cache: &Path,
) -> Option<BoxFiles> {
    let place = place(definition, cache);
    let boot = KernelBoot {
        kernel: place.join("kernel"),
        initramfs: place.join("initramfs"),
        root: place.join("root"),
        arguments: root.kernel_arguments.clone(),
    };
    let whole = [&boot.kernel, &boot.initramfs, &boot.root]
        .iter()
        .all(|path| path.is_file());
    if !whole {
        return None;
    }
    let (fw_cfg, content) = (definition.first_boot.fw_cfg.clone(), digest(&place)?);
    Some(BoxFiles {
        hash: definition.hash(),
        content,
        fw_cfg,
        boot: BoxBoot::Kernel(boot),
    })
}

/// What the box's root is; recorded when it is first asked for, which its build does.
fn digest(place: &Path) -> Option<String> {
    let record = place.join(DIGEST);
    if let Ok(digest) = std::fs::read_to_string(&record) {
        return Some(digest);
    }
    let digest = unpack::sha256_of(&place.join("root")).ok()?;
    // One that cannot be recorded is taken again next time.
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(place)?;
        file.write_all(digest.as_bytes())?;
        file.persist(&record)?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::warn!(%error, record = %record.display(), "the digest of the box's root cannot be recorded");
    }
    Some(digest)
}

/// Builds the box. Takes a minute or two, needs Debian's mirror, `mmdebstrap` and `mkfs.erofs`. The cache's lock is held by the caller.
/// A cancelled build leaves nothing that a later one would take for a box.
pub(super) async fn build(
    definition: &BoxDefinition,
    root: &DebianRoot,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<BoxFiles, BoxError> {
    progress(&format!("building box {}", definition.name));
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| BoxError::Write {
            action,
            path,
            source,
        }
    };
    let scratch = tempfile::Builder::new()
        .prefix(debian::UNFINISHED)
        .tempdir_in(cache)
        .map_err(failed("make directory in", cache))?;
    let input = scratch.path().join("input.tar");
    std::fs::write(&input, input_tar(root).map_err(failed("write", &input))?)
        .map_err(failed("write", &input))?;

    let mut hooks = vec![
        "tar-in input.tar /".to_owned(),
        format!("sh \"$1/{WORK}/assemble.sh\" \"$1\""),
    ];
    hooks.extend(
        FILES
            .iter()
            .map(|file| format!("download /{WORK}/out/{file} {file}")),
    );
    let mut packages = root.packages.clone();
    packages.push(root.kernel_package.clone());
    let bootstrap = Bootstrap {
        suite: &root.suite,
        packages,
        hooks,
        format: "null",
        target: Path::new("/dev/null"),
        directory: scratch.path(),
    };
    bootstrap.run(progress).await?;

    let made = scratch.path().join("box");
    std::fs::create_dir(&made).map_err(failed("make directory", &made))?;
    for file in FILES {
        let to = made.join(file);
        std::fs::rename(scratch.path().join(file), &to).map_err(failed("move", &to))?;
    }
    let place = place(definition, cache);
    std::fs::rename(&made, &place).map_err(failed("move box to", &place))?;
    cached(definition, root, cache).ok_or_else(|| BoxError::Unknown {
        name: definition.name.clone(),
        known: place.display().to_string(),
    })
}

fn place(definition: &BoxDefinition, cache: &Path) -> PathBuf {
    cache.join(format!("{}-{}", definition.name, definition.hash()))
}

/// The definition's files, and what `assemble.sh` reads, as a tar archive that is unpacked over the packages.
fn input_tar(definition: &DebianRoot) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let lines = |list: &[String]| {
        list.iter()
            .fold(String::new(), |text, line| text + line + "\n")
    };
    let mut entries = vec![
        ("assemble.sh", ASSEMBLE.to_owned()),
        ("init", definition.init.clone()),
        ("modules", lines(&definition.modules)),
        ("initramfs-modules", lines(&definition.initramfs_modules)),
        ("remove", lines(&definition.remove)),
        ("enable", lines(&definition.enable)),
        ("mask", lines(&definition.mask)),
    ];
    for (name, content) in entries.drain(..) {
        append(
            &mut archive,
            &format!("{WORK}/{name}"),
            0o644,
            content.as_bytes(),
        )?;
    }
    for file in &definition.files {
        append(
            &mut archive,
            file.path.trim_start_matches('/'),
            file.mode,
            file.content.as_bytes(),
        )?;
    }
    archive.into_inner()
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    fn own() -> (BoxDefinition, DebianRoot) {
        let definition = BoxDefinition::load("flightcage-os").unwrap();
        let Origin::Debian(root) = definition.origin.clone() else {
            panic!("it is built")
        };
        (definition, *root)
    }

    #[test]
    fn a_half_made_box_is_not_in_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let (definition, root) = own();
        let place = place(&definition, cache.path());
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("kernel"), "").unwrap();
        std::fs::write(place.join("initramfs"), "").unwrap();
        assert_eq!(cached(&definition, &root, cache.path()), None);
        std::fs::write(place.join("root"), "").unwrap();
        assert_eq!(
            cached(&definition, &root, cache.path()).unwrap().hash,
            definition.hash()
        );
    }

    #[test]
    fn another_build_of_the_same_definition_has_another_content() {
        let cache = tempfile::tempdir().unwrap();
        let (definition, root) = own();
        let place = place(&definition, cache.path());
        let build = |content: &str| {
            std::fs::create_dir(&place).unwrap();
            for (file, content) in [("kernel", ""), ("initramfs", ""), ("root", content)] {
                std::fs::write(place.join(file), content).unwrap();
            }
            cached(&definition, &root, cache.path()).unwrap()
        };
        let first = build("packages of Monday");
        assert_eq!(
            cached(&definition, &root, cache.path()),
            Some(first.clone()),
            "it is recorded"
        );
        std::fs::remove_dir_all(&place).unwrap();
        let second = build("packages of Tuesday");
        assert_eq!(first.hash, second.hash);
        assert_ne!(first.content, second.content);
    }

    #[test]
    fn the_definitions_files_reach_the_root() {
        let (_, root) = own();
        let bytes = input_tar(&root).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut modes = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            modes.insert(
                entry.path().unwrap().display().to_string(),
                entry.header().mode().unwrap(),
            );
        }
        assert_eq!(modes["etc/sudoers.d/core"], 0o440);
        assert_eq!(modes["etc/ssh/sshd_config"], 0o644);
        assert!(modes.contains_key(".flightcage/init"));
    }
}
