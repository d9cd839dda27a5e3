//! Builds a box with `mmdebstrap` and keeps it in the cache under its hash.
//!
//! A box that is in the cache is whole: it is made in a directory beside and renamed. One process builds at a time.

use std::path::{Path, PathBuf};

use super::definition::ASSEMBLE;
use super::{BoxDefinition, BoxError};
use crate::machines::provider::BoxFiles;
use crate::shell::debian::{self, Bootstrap, DirectoryLock, Progress};

/// Where `assemble.sh` and its inputs lie in the root while it is made.
const WORK: &str = ".flightcage";
/// The files of a box, as they are called both in the cache and by `assemble.sh`.
const FILES: [&str; 3] = ["kernel", "initramfs", "root"];

/// The box's files if the cache holds it, which costs nothing.
pub fn cached(definition: &BoxDefinition, cache: &Path) -> Option<BoxFiles> {
    let files = box_files(definition, cache);
    [&files.kernel, &files.initramfs, &files.root].iter().all(|path| path.is_file()).then_some(files)
}

/// Builds the box unless the cache holds it. Takes a minute or two, needs Debian's mirror, `mmdebstrap` and `mkfs.erofs`.
/// A cancelled build leaves nothing that a later one would take for a box.
pub async fn build(definition: &BoxDefinition, cache: &Path, progress: Progress<'_>) -> Result<BoxFiles, BoxError> {
    if let Some(files) = cached(definition, cache) {
        return Ok(files);
    }
    let _lock = DirectoryLock::take(cache, progress).await?;
    if let Some(files) = cached(definition, cache) {
        return Ok(files);
    }
    progress(&format!("building box {}", definition.name));
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| BoxError::Write { action, path, source }
    };
    let scratch =
        tempfile::Builder::new().prefix(debian::UNFINISHED).tempdir_in(cache).map_err(failed("make directory in", cache))?;
    let input = scratch.path().join("input.tar");
    std::fs::write(&input, input_tar(definition).map_err(failed("write", &input))?).map_err(failed("write", &input))?;

    let mut hooks = vec!["tar-in input.tar /".to_owned(), format!("sh \"$1/{WORK}/assemble.sh\" \"$1\"")];
    hooks.extend(FILES.iter().map(|file| format!("download /{WORK}/out/{file} {file}")));
    let mut packages = definition.packages.clone();
    packages.push(definition.kernel_package.clone());
    let bootstrap = Bootstrap {
        suite: &definition.suite,
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
    cached(definition, cache)
        .ok_or_else(|| BoxError::Unknown { name: definition.name.clone(), known: place.display().to_string() })
}

fn place(definition: &BoxDefinition, cache: &Path) -> PathBuf {
    cache.join(format!("{}-{}", definition.name, definition.hash()))
}

fn box_files(definition: &BoxDefinition, cache: &Path) -> BoxFiles {
    let place = place(definition, cache);
    BoxFiles {
        hash: definition.hash(),
        kernel: place.join("kernel"),
        initramfs: place.join("initramfs"),
        root: place.join("root"),
        kernel_arguments: definition.kernel_arguments.clone(),
    }
}

/// The definition's files, and what `assemble.sh` reads, as a tar archive that is unpacked over the packages.
fn input_tar(definition: &BoxDefinition) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let lines = |list: &[String]| list.iter().fold(String::new(), |text, line| text + line + "\n");
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
        append(&mut archive, &format!("{WORK}/{name}"), 0o644, content.as_bytes())?;
    }
    for file in &definition.files {
        append(&mut archive, file.path.trim_start_matches('/'), file.mode, file.content.as_bytes())?;
    }
    archive.into_inner()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> std::io::Result<()> {
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
    use super::*;

    #[test]
    fn a_half_made_box_is_not_in_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let definition = BoxDefinition::load("flightcage-os").unwrap();
        let place = place(&definition, cache.path());
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("kernel"), "").unwrap();
        std::fs::write(place.join("initramfs"), "").unwrap();
        assert_eq!(cached(&definition, cache.path()), None);
        std::fs::write(place.join("root"), "").unwrap();
        assert_eq!(cached(&definition, cache.path()).unwrap().hash, definition.hash());
    }

    #[test]
    fn the_definitions_files_reach_the_root() {
        let definition = BoxDefinition::load("flightcage-os").unwrap();
        let bytes = input_tar(&definition).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut modes = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            modes.insert(entry.path().unwrap().display().to_string(), entry.header().mode().unwrap());
        }
        assert_eq!(modes["etc/sudoers.d/core"], 0o440);
        assert_eq!(modes["etc/ssh/sshd_config"], 0o644);
        assert!(modes.contains_key(".flightcage/init"));
    }

    /// Builds the real box into `$FLIGHTCAGE_TEST_DIR` (kept) or a temporary directory.
    #[tokio::test]
    #[ignore = "takes minutes, needs mmdebstrap, mkfs.erofs and a Debian mirror"]
    async fn builds_the_real_box() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = std::env::var("FLIGHTCAGE_TEST_DIR").map_or(temporary.path().to_owned(), PathBuf::from);
        let definition = BoxDefinition::load("flightcage-os").unwrap();
        let files = build(&definition, &directory.join("boxes"), &|_| {}).await.unwrap();
        assert!(std::fs::metadata(&files.root).unwrap().len() < 200 << 20);
        assert_eq!(cached(&definition, &directory.join("boxes")), Some(files));
    }
}
