//! Packs a built box as a `.box` for Vagrant's libvirt provider: a gzipped tar archive of `metadata.json`, `box.img` (the read-only
//! root as qcow2), `Vagrantfile`, and the kernel and initramfs that it boots directly.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tera::{Context, Tera};

use super::vagrantfile::{command_line, ruby};
use crate::machines::provider::{BoxBoot, BoxFiles, KernelBoot};
use crate::shell::CommandError;
use crate::shell::local::Command;

const VAGRANTFILE: &str = include_str!("../../../boxes/flightcage-os/Vagrantfile.tera");
/// Size of the root's disk in GiB, the smallest that Vagrant can say. The file system in it is smaller.
const VIRTUAL_SIZE_GIB: u64 = 1;

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// `qemu-img` failed.
    #[error("turn the box's root into a disk image")]
    Image(#[from] CommandError),
    /// The box boots from a disk of its own.
    #[error(
        "only boxes that Flightcage builds can be packaged; name a box of Vagrant's own for others"
    )]
    NotBuilt,
    /// The package cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Writes the box to `output`, whole or not at all. Takes some seconds; needs `qemu-img`.
///
/// # Errors
/// When `qemu-img` fails or the file cannot be written.
pub async fn package(files: &BoxFiles, output: &Path) -> Result<(), PackageError> {
    let BoxBoot::Kernel(boot) = &files.boot else {
        return Err(PackageError::NotBuilt);
    };
    let failed = |source| PackageError::Write {
        path: output.to_owned(),
        source,
    };
    let folder = output
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new()
        .prefix(".packaging-")
        .tempdir_in(folder)
        .map_err(failed)?;
    let image = scratch.path().join("box.img");
    let convert = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(&boot.root)
        .arg(&image);
    convert.run().await?;
    let resize = Command::new("qemu-img")
        .args(["resize", "-q"])
        .arg(&image)
        .arg(format!("{VIRTUAL_SIZE_GIB}G"));
    resize.run().await?;

    let archive = scratch.path().join("package.box");
    let (boot, to) = (boot.clone(), archive.clone());
    tokio::task::spawn_blocking(move || pack(&boot, &image, &to))
        .await
        .map_err(|error| failed(io::Error::other(error)))?
        .map_err(failed)?;
    std::fs::rename(&archive, output).map_err(failed)
}

/// The Vagrantfile inside the box.
fn vagrantfile(boot: &KernelBoot) -> io::Result<String> {
    let mut context = Context::new();
    context.insert(
        "command_line",
        &ruby(&command_line(&boot.arguments, &[]).into()),
    );
    Tera::one_off(VAGRANTFILE, &context, false).map_err(io::Error::other)
}

fn pack(boot: &KernelBoot, image: &Path, to: &Path) -> io::Result<()> {
    let metadata =
        json!({ "provider": "libvirt", "format": "qcow2", "virtual_size": VIRTUAL_SIZE_GIB });
    // The root is compressed already: more effort finds nothing more.
    let mut archive = tar::Builder::new(GzEncoder::new(File::create(to)?, Compression::fast()));
    append_text(&mut archive, "metadata.json", &metadata.to_string())?;
    append_text(&mut archive, "Vagrantfile", &vagrantfile(boot)?)?;
    for (name, path) in [
        ("box.img", image),
        ("kernel", &boot.kernel),
        ("initramfs", &boot.initramfs),
    ] {
        archive.append_file(name, &mut File::open(path)?)?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

fn append_text<W: Write>(archive: &mut tar::Builder<W>, name: &str, text: &str) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    archive.append_data(&mut header, name, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_archive_is_what_vagrant_expects() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, name).unwrap();
            path
        };
        let boot = KernelBoot {
            kernel: file("vmlinuz"),
            initramfs: file("initramfs"),
            root: file("root"),
            arguments: "quiet panic=-1".into(),
        };
        let to = folder.path().join("x.box");
        pack(&boot, &file("image"), &to).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(to).unwrap()));
        let mut found = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            [
                "Vagrantfile",
                "box.img",
                "initramfs",
                "kernel",
                "metadata.json"
            ]
        );
        assert_eq!(
            (found["box.img"].as_str(), found["kernel"].as_str()),
            ("image", "vmlinuz")
        );
        assert!(
            found["Vagrantfile"].contains("provider.cmd_line = 'console=ttyS0 quiet panic=-1'"),
            "{}",
            found["Vagrantfile"]
        );
        assert_eq!(
            found["metadata.json"],
            r#"{"provider":"libvirt","format":"qcow2","virtual_size":1}"#
        );
    }
}
