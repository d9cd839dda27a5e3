use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use tar::EntryType;

use super::pack::header;
use super::*;
use crate::cluster::snapshot::{FORMAT, Fingerprint, Ingredients, Kind, Shelf};
use crate::machines::provider::Acceleration;
use crate::model::cluster::ClusterSpec;

/// A home with one snapshot of a cluster of one machine, whose disk has holes.
struct Case {
    directory: tempfile::TempDir,
    shelf: Shelf,
    manifest: Manifest,
}

impl Case {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut spec = ClusterSpec::with_workers("test".parse().unwrap(), 1);
        spec.machines.truncate(1);
        let shelf = Shelf::new(spec.name.clone(), directory.path().join("snapshots/test"));
        let draft = shelf.begin().expect("it can be begun");
        let put = |name: &str, bytes: &[u8]| {
            let path = draft.directory().join(name);
            fs::create_dir_all(path.parent().unwrap()).expect("it is ours");
            fs::write(path, bytes).expect("it is ours");
        };
        put("cluster/pki/ca.crt", b"certificate");
        put("cluster/pki/ca.key", b"key");
        put("cluster/ssh/id_ed25519", b"key");
        put("machines/c1/machine.json", b"{}");
        put("machines/c1/memory", &vec![7; (2 << 20) + 5]);
        let disk = File::create(draft.directory().join("machines/c1/disk")).expect("it is ours");
        disk.set_len((64 << 20) + 3)
            .expect("sparse files are possible");
        disk.write_all_at(b"data", 40 << 20).expect("it is ours");
        let fingerprint = Fingerprint::new(&Ingredients {
            box_content: "b",
            images: "i",
            binary: "f",
            spec: &spec,
            qemu: "7.2",
            acceleration: Acceleration::Tcg,
            processor: "p",
            arguments: "a",
        });
        let manifest = Manifest {
            version: FORMAT,
            name: "ready".to_owned(),
            kind: Kind::Named,
            created: jiff::Timestamp::from_second(1).expect("a time"),
            spec,
            acceleration: Acceleration::Tcg,
            fingerprint,
            files: Vec::new(),
        };
        let manifest = shelf.publish(draft, manifest).expect("it can be published");
        Self {
            directory,
            shelf,
            manifest,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pack(&self) -> PathBuf {
        let file = self.file("ready.fcs");
        pack(&self.shelf.path("ready"), &self.manifest, &file, &quiet()).expect("it can be packed");
        file
    }

    /// Unpacks into a new directory; returns it if all was right.
    fn unpack(&self, file: &Path) -> Result<PathBuf, ArchiveError> {
        let into = self.file("unpacked");
        let _ = fs::remove_dir_all(&into);
        fs::create_dir(&into).expect("it is ours");
        let manifest = inspect(file)?;
        unpack(file, &manifest, &into, &quiet())?;
        Ok(into)
    }

    /// What an archive with these entries is refused for.
    fn refusal(&self, entries: &[Entry]) -> String {
        let file = self.file("hostile.fcs");
        write(&file, entries);
        match self.unpack(&file) {
            Err(ArchiveError::Format { what, .. }) => what,
            other => panic!("it is to be refused as wrong: {other:?}"),
        }
    }

    /// The entries of the right archive.
    fn entries(&self) -> Vec<Entry> {
        let text = |value: serde_json::Value| serde_json::to_vec(&value).expect("it is JSON");
        let head = text(self.head());
        let mut digests = BTreeMap::from([(HEAD.to_owned(), DataDigest::of(&head))]);
        let mut entries = vec![Entry::file(HEAD, head)];
        for fact in &self.manifest.files {
            let bytes = fs::read(self.shelf.path("ready").join(&fact.path)).expect("it is there");
            digests.insert(fact.path.clone(), DataDigest::of(&bytes));
            entries.push(Entry::file(&fact.path, bytes));
        }
        let digests = serde_json::to_vec(&digests).expect("it is JSON");
        entries.push(Entry::file(DIGESTS, digests));
        entries
    }

    fn head(&self) -> serde_json::Value {
        serde_json::json!({
            "flightcage_snapshot": VERSION, "made_by": "a test", "manifest": self.manifest,
        })
    }

    /// What is refused when the head says something else.
    fn refusal_of_head(&self, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut head = self.head();
        change(&mut head);
        let text = serde_json::to_vec(&head).expect("it is JSON");
        self.refusal(&[Entry::file(HEAD, text)])
    }
}

#[derive(Clone)]
struct Entry {
    name: String,
    kind: EntryType,
    bytes: Vec<u8>,
}

impl Entry {
    fn file(name: &str, bytes: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            kind: EntryType::Regular,
            bytes,
        }
    }
}

fn quiet() -> Watch {
    Watch::new(|_| {}, Arc::default())
}

/// Writes an archive without minding what is in it. Names stand in the header as they are.
fn write(file: &Path, entries: &[Entry]) {
    let packer = zstd::Encoder::new(File::create(file).expect("it is ours"), 1).expect("it packs");
    let mut archive = tar::Builder::new(packer);
    for entry in entries {
        let mut header = header(entry.bytes.len() as u64);
        header.set_entry_type(entry.kind);
        let name = entry.name.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        archive
            .append(&header, &entry.bytes[..])
            .expect("it is written");
    }
    let mut file = archive
        .into_inner()
        .and_then(zstd::Encoder::finish)
        .expect("it is written");
    file.flush().expect("it is written");
}

#[test]
fn what_was_packed_is_unpacked_as_it_was_with_its_holes() {
    let case = Case::new();
    let file = case.pack();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert!(
        fs::metadata(&file).unwrap().len() < 1 << 20,
        "zeroes take next to nothing"
    );
    let into = case.unpack(&file).expect("it is right");
    for fact in &case.manifest.files {
        let (was, is) = (
            case.shelf.path("ready").join(&fact.path),
            into.join(&fact.path),
        );
        assert!(
            fs::read(was).unwrap() == fs::read(&is).unwrap(),
            "{}",
            fact.path
        );
        assert_eq!(fs::metadata(&is).unwrap().mode() & 0o777, 0o600);
        let folder = fs::metadata(is.parent().unwrap()).unwrap();
        assert_eq!(folder.mode() & 0o777, 0o700);
    }
    let disk = fs::metadata(into.join("machines/c1/disk")).unwrap();
    assert!(disk.blocks() * 512 <= 4 << 20, "{} blocks", disk.blocks());
    // The archive that the tests make by hand is a right one, too.
    let by_hand = case.file("by-hand.fcs");
    write(&by_hand, &case.entries());
    case.unpack(&by_hand).expect("it is right");
}

#[test]
fn nothing_is_overwritten_and_an_interrupted_pack_leaves_nothing() {
    let case = Case::new();
    let file = case.pack();
    let before = fs::read(&file).unwrap();
    let again = pack(&case.shelf.path("ready"), &case.manifest, &file, &quiet());
    assert!(matches!(again, Err(ArchiveError::Exists(_))));
    assert_eq!(fs::read(&file).unwrap(), before);
    let folder = case.file("empty");
    fs::create_dir(&folder).unwrap();
    let interrupted = Watch::new(|_| {}, Arc::new(AtomicBool::new(true)));
    let ended = pack(
        &case.shelf.path("ready"),
        &case.manifest,
        &folder.join("x"),
        &interrupted,
    );
    assert!(matches!(ended, Err(ArchiveError::Interrupted)));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn progress_runs_to_the_end_and_unpacking_can_be_ended() {
    let case = Case::new();
    let file = case.pack();
    let manifest = inspect(&file).expect("it is right");
    let (heard, all) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let watch = Watch::new(
        move |percent| heard.send(percent).expect("somebody listens"),
        stop.clone(),
    );
    let (first, second) = (case.file("first"), case.file("second"));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&second).unwrap();
    unpack(&file, &manifest, &first, &watch).expect("it is right");
    let told: Vec<u64> = all.try_iter().collect();
    assert!(told.is_sorted() && told.last() == Some(&100), "{told:?}");
    stop.store(true, Ordering::SeqCst);
    let ended = unpack(&file, &manifest, &second, &watch);
    assert!(matches!(ended, Err(ArchiveError::Interrupted)));
}

#[test]
fn torn_and_changed_archives_are_told() {
    let case = Case::new();
    let right = case.entries();
    let without = |name: &str| {
        let kept = right.iter().filter(|entry| entry.name != name);
        case.refusal(&kept.cloned().collect::<Vec<_>>())
    };
    assert!(without("machines/c1/disk").contains("lacks machines/c1/disk"));
    assert!(without(DIGESTS).contains("lacks its digests"));
    assert!(without(HEAD).contains("does not begin with"));
    let changed = |name: &str, bytes: &[u8]| {
        let mut entries = right.clone();
        let entry = entries.iter_mut().find(|entry| entry.name == name);
        entry.expect("it is there").bytes = bytes.to_vec();
        case.refusal(&entries)
    };
    let said = changed("cluster/pki/ca.key", b"yek");
    assert!(said.contains("digests say: `cluster/pki/ca.key`"), "{said}");
    let said = changed("cluster/pki/ca.key", b"keys");
    assert!(said.contains("has 4 bytes instead of 3"), "{said}");
    let said = changed("machines/c1/disk", &vec![1; (64 << 20) + 3]);
    assert!(said.contains("holds more than its manifest says"), "{said}");
    let said = changed(DIGESTS, b"{}");
    assert!(
        said.contains("archive.json") && said.contains("machines/c1/memory"),
        "{said}"
    );

    // Half a file, and anything else.
    let whole = fs::read(case.pack()).unwrap();
    for bytes in [&whole[..whole.len() / 2], b"", b"PK\x03\x04 anything"] {
        let file = case.file("half.fcs");
        fs::write(&file, bytes).unwrap();
        let refused = case.unpack(&file);
        assert!(
            matches!(refused, Err(ArchiveError::Format { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn whatever_a_snapshot_does_not_have_is_refused() {
    let case = Case::new();
    let right = case.entries();
    let with = |at: usize, entry: Entry| {
        let mut entries = right.clone();
        entries.insert(at, entry);
        case.refusal(&entries)
    };
    for name in [
        "../escaped",
        "/tmp/escaped",
        "machines/c1/extra",
        "machines/c1/",
    ] {
        let said = with(1, Entry::file(name, b"x".to_vec()));
        assert!(said.contains("not in its manifest"), "{name}: {said}");
    }
    assert!(!case.file("escaped").exists());
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Directory,
        EntryType::Char,
        EntryType::Fifo,
        EntryType::GNULongName,
        EntryType::GNUSparse,
        EntryType::XHeader,
    ] {
        let entry = Entry {
            kind,
            ..Entry::file("machines/c1/disk", Vec::new())
        };
        let said = with(1, entry);
        assert!(said.contains("no plain file"), "{kind:?}: {said}");
    }
    let twice = right[2].clone();
    assert!(with(2, twice).contains("is twice in it"));
    let late = Entry::file("cluster/pki/late", b"x".to_vec());
    assert!(with(right.len(), late).contains("comes after its digests"));
}

#[test]
fn all_that_a_head_says_wrongly_is_told_at_once() {
    let case = Case::new();
    let said = case.refusal_of_head(|head| {
        head["manifest"]["spec"]["provider"] = "vagrant".into();
        head["manifest"]["files"][0]["path"] = "../../x\u{1b}[2J".into();
        head["manifest"]["files"][1]["bytes"] = (1_u64 << 60).into();
    });
    for part in [
        "not of the qemu provider",
        "`../../x\\u{1b}[2J` is no part of a snapshot",
        "at most",
        "lacks `cluster/pki/ca.crt`",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = case.refusal_of_head(|head| head["flightcage_snapshot"] = 9.into());
    assert!(said.contains("version 9"), "{said}");
    let said = case.refusal_of_head(|head| head["manifest"]["version"] = 9.into());
    assert!(said.contains("of version 9"), "{said}");
    let said = case.refusal_of_head(|head| {
        let first = head["manifest"]["files"][0].clone();
        head["manifest"]["files"][1] = first;
    });
    assert!(said.contains("twice"), "{said}");
    let said =
        case.refusal_of_head(|head| head["manifest"]["spec"]["machines"] = Vec::<u8>::new().into());
    assert!(said.contains("it has 0 machines"), "{said}");
    let said = case.refusal_of_head(|head| *head = "nothing".into());
    assert!(said.contains("cannot be read"), "{said}");
}
