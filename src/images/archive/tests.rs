//! Archives as their writers make them.

use std::io::Write as _;

use super::*;
use serde_json::{Value, json};

fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path().join("store")).unwrap();
    (directory, store)
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex(content))
}

fn hex(content: &[u8]) -> String {
    hexadecimal(&Sha256::digest(content))
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        if let Some(name) = name.strip_prefix("-> ") {
            let target = std::str::from_utf8(content).unwrap();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, target).unwrap();
        } else {
            archive
                .append_data(&mut header, name, &content[..])
                .unwrap();
        }
    }
    archive.into_inner().unwrap()
}

fn layer(name: &str) -> Vec<u8> {
    tar_of(&[(name.to_owned(), b"content".to_vec())])
}

fn configuration(layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    json!({ "os": "linux", "architecture": "amd64", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids } })
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(content).unwrap();
    bzip2.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

fn plain(content: &[u8]) -> Vec<u8> {
    content.to_vec()
}

type Pack = fn(&[u8]) -> Vec<u8>;
const PACKS: [(&str, Pack); 4] = [
    ("plain", plain),
    ("gzip", gzip),
    ("zstd", zstd),
    ("bzip2", bzip2),
];

/// A layout in the making.
#[derive(Default)]
struct Layout {
    files: Vec<(String, Vec<u8>)>,
}

impl Layout {
    fn put(&mut self, content: &[u8]) -> Value {
        self.files
            .push((format!("blobs/sha256/{}", hex(content)), content.to_vec()));
        json!({ "digest": digest(content), "size": content.len() })
    }

    fn document(&mut self, value: &Value) -> Value {
        self.put(value.to_string().as_bytes())
    }

    fn image(&mut self, layers: &[Vec<u8>], config: &Value, pack: Pack) -> Value {
        let layers: Vec<Value> = layers.iter().map(|layer| self.put(&pack(layer))).collect();
        let config = self.document(config);
        self.document(&json!({ "schemaVersion": 2, "config": config, "layers": layers }))
    }

    fn finish(mut self, manifests: &[Value]) -> Vec<(String, Vec<u8>)> {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        self.files
            .push(("index.json".to_owned(), index.to_string().into_bytes()));
        self.files.push(("oci-layout".to_owned(), b"{}".to_vec()));
        self.files
    }
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

fn layout(pack: Pack) -> Vec<(String, Vec<u8>)> {
    let layers = [layer("one"), layer("two")];
    let mut layout = Layout::default();
    let image = layout.image(&layers, &configuration(&layers), pack);
    layout.finish(&[named(image, "quay.io/a/b:v1")])
}

/// What writers of `docker save`'s format call their files: the configuration and a layer, by their digests.
const WRITERS: [(&str, fn(&str) -> String, fn(&str) -> String); 6] = [
    (
        "docker",
        |hex| format!("{hex}.json"),
        |hex| format!("{hex}/layer.tar"),
    ),
    (
        "docker 25",
        |hex| format!("blobs/sha256/{hex}"),
        |hex| format!("blobs/sha256/{hex}"),
    ),
    (
        "crane, ko, kaniko",
        |hex| format!("sha256:{hex}"),
        |hex| format!("{hex}.tar.gz"),
    ),
    (
        "jib",
        |_| "config.json".to_owned(),
        |hex| format!("{hex}.tar.gz"),
    ),
    ("bare names", |_| "config".to_owned(), |hex| hex.to_owned()),
    (
        "with ./",
        |hex| format!("./{hex}.json"),
        |hex| format!("./{hex}/layer.tar"),
    ),
];

fn saved(
    writer: &(&str, fn(&str) -> String, fn(&str) -> String),
    layers: &[Vec<u8>],
    pack: Pack,
) -> Vec<(String, Vec<u8>)> {
    let config = configuration(layers).to_string().into_bytes();
    let config_name = writer.1(&hex(&config));
    let mut files = Vec::new();
    let mut names = Vec::new();
    for layer in layers {
        let packed = pack(layer);
        let name = writer.2(&hex(&packed));
        if !names.contains(&name) {
            files.push((name.clone(), packed));
        }
        names.push(name);
    }
    files.push((config_name.clone(), config));
    let manifest =
        json!([{ "Config": config_name, "RepoTags": ["quay.io/a/b:v1"], "Layers": names }]);
    files.push((
        "manifest.json".to_owned(),
        manifest.to_string().into_bytes(),
    ));
    files
}

fn try_load(
    archive: &[u8],
    tag: Option<&str>,
) -> (Result<Loaded, LoadError>, ImageStore, tempfile::TempDir) {
    let (directory, store) = store();
    let path = directory.path().join("image");
    std::fs::write(&path, archive).unwrap();
    let tag = tag.and_then(Reference::parse);
    (load(&path, tag.as_ref(), &store), store, directory)
}

/// The layers of a loaded image, without their packing.
fn layers_of(store: &ImageStore, name: &str) -> Vec<Vec<u8>> {
    let (repository, tag) = name.rsplit_once(':').unwrap();
    let read = |digest: &str| std::fs::read(store.blob_path(digest).unwrap()).unwrap();
    let mut at = store.resolve(repository, tag).unwrap().unwrap().digest;
    loop {
        let manifest: Value = serde_json::from_slice(&read(&at)).unwrap();
        if let Some(layers) = manifest["layers"].as_array() {
            let config: Value =
                serde_json::from_slice(&read(manifest["config"]["digest"].as_str().unwrap()))
                    .unwrap();
            assert_eq!(config["os"], "linux");
            return layers
                .iter()
                .map(|layer| {
                    let packed = read(layer["digest"].as_str().unwrap());
                    let mut plain = Vec::new();
                    packed::unpacked(&packed[..])
                        .unwrap()
                        .read_to_end(&mut plain)
                        .unwrap();
                    plain
                })
                .collect();
        }
        let children = manifest["manifests"].as_array().unwrap();
        let known = |child: &&Value| store.blob_size(child["digest"].as_str().unwrap()).is_some();
        at = children.iter().find(known).unwrap()["digest"]
            .as_str()
            .unwrap()
            .to_owned();
    }
}

#[test]
fn every_writers_archive_is_loaded_however_it_is_packed() {
    let layers = [layer("one"), layer("two"), layer("one")];
    let mut tried = 0;
    for (outer, pack_all) in PACKS {
        for (inner, pack) in PACKS {
            for writer in &WRITERS {
                for is_reversed in [false, true] {
                    let mut files = saved(writer, &layers, pack);
                    if is_reversed {
                        files.reverse();
                    }
                    let (loaded, store, _directory) = try_load(&pack_all(&tar_of(&files)), None);
                    let what = format!("{} {inner} in {outer}", writer.0);
                    assert_eq!(loaded.expect(&what).names, ["quay.io/a/b:v1"], "{what}");
                    assert_eq!(layers_of(&store, "quay.io/a/b:v1"), layers, "{what}");
                    tried += 1;
                }
            }
            let (loaded, store, _directory) = try_load(&pack_all(&tar_of(&layout(pack))), None);
            assert_eq!(
                loaded.unwrap().names,
                ["quay.io/a/b:v1"],
                "layout {inner} in {outer}"
            );
            assert_eq!(layers_of(&store, "quay.io/a/b:v1"), layers[..2]);
            tried += 1;
        }
    }
    assert_eq!(tried, 208);
}

#[test]
fn an_unpacked_layout_is_loaded_and_a_name_can_be_given() {
    let (directory, store) = store();
    let folder = directory.path().join("layout");
    for (name, content) in layout(gzip) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let name = Reference::parse("mine").unwrap();
    assert_eq!(
        load(&folder, Some(&name), &store).unwrap().names,
        ["docker.io/library/mine:latest"]
    );
    let pinned = format!("quay.io/a/b@{}", digest(b"x"));
    let pinned = Reference::parse(&pinned).unwrap();
    let error = load(&folder, Some(&pinned), &store).unwrap_err();
    assert!(matches!(error, LoadError::DigestTag(_)) && error.is_invalid());
}

#[test]
fn dockers_old_layout_links_a_layer_that_comes_twice() {
    let layers = [layer("one"), layer("two"), layer("two")];
    let config = configuration(&layers).to_string().into_bytes();
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["b:v2"], "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"] }]);
    let files = [
        ("1/layer.tar".to_owned(), layers[0].clone()),
        ("-> 3/layer.tar".to_owned(), b"../2/layer.tar".to_vec()),
        ("2/layer.tar".to_owned(), layers[1].clone()),
        ("c.json".to_owned(), config),
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
    ];
    let (loaded, store, _directory) = try_load(&tar_of(&files), None);
    assert_eq!(loaded.unwrap().names, ["docker.io/library/b:v2"]);
    assert_eq!(layers_of(&store, "docker.io/library/b:v2"), layers);
}

#[test]
fn of_nested_indexes_that_omit_what_they_may_our_image_is_found() {
    let ours = [layer("ours")];
    let theirs = [layer("theirs")];
    let mut foreign = configuration(&theirs);
    foreign["architecture"] = json!("arm64");
    for with_platform in [true, false] {
        for depth in [0, 1, 3] {
            let mut layout = Layout::default();
            let mut arm = layout.image(&theirs, &foreign, gzip);
            let mut amd = layout.image(&ours, &configuration(&ours), zstd);
            let mut attestation = layout.document(&json!({ "schemaVersion": 2, "layers": [],
                "config": { "mediaType": "application/vnd.in-toto+json", "digest": digest(b"x"), "size": 1 } }));
            attestation["annotations"] =
                json!({ "vnd.docker.reference.type": "attestation-manifest" });
            if with_platform {
                arm["platform"] = json!({ "os": "linux", "architecture": "arm64" });
                amd["platform"] = json!({ "os": "linux", "architecture": "amd64" });
                attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
            }
            let mut top = layout
                .document(&json!({ "schemaVersion": 2, "manifests": [attestation, arm, amd] }));
            for _ in 0..depth {
                top = layout.document(&json!({ "manifests": [top] }));
            }
            let files = layout.finish(&[named(top, "quay.io/a/b:v1")]);
            let (loaded, store, _directory) = try_load(&tar_of(&files), None);
            assert_eq!(loaded.unwrap().names, ["quay.io/a/b:v1"]);
            assert_eq!(
                layers_of(&store, "quay.io/a/b:v1"),
                ours,
                "{with_platform} {depth}"
            );
        }
    }
}

#[test]
fn what_is_not_applied_is_told() {
    let layers = [layer("one")];
    let mut config = configuration(&layers);
    config["config"] =
        json!({ "Healthcheck": { "Test": ["CMD", "true"] }, "StopSignal": "sigrtmin+3" });
    let mut layout = Layout::default();
    let image = layout.image(&layers, &config, gzip);
    let files = layout.finish(&[named(image, "quay.io/a/b:v1")]);
    let (loaded, ..) = try_load(&tar_of(&files), None);
    let notes = loaded.unwrap().notes;
    assert!(notes[0].contains("HEALTHCHECK"), "{notes:?}");
}

/// A layout of one image, whose configuration and manifest `change` may change.
fn changed(change: impl Fn(&mut Value, &mut Value, &mut Layout)) -> Vec<u8> {
    let layers = [layer("one")];
    let mut layout = Layout::default();
    let mut config = configuration(&layers);
    let packed = layout.put(&gzip(&layers[0]));
    let mut manifest = json!({ "schemaVersion": 2, "layers": [packed] });
    change(&mut config, &mut manifest, &mut layout);
    if manifest.get("config").is_none() {
        manifest["config"] = layout.document(&config);
    }
    let image = layout.document(&manifest);
    tar_of(&layout.finish(&[named(image, "quay.io/a/b:v1")]))
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_left() {
    let layers = [layer("one"), layer("two")];
    let without = |name: &str| {
        let mut files = saved(&WRITERS[0], &layers, plain);
        files.retain(|(file, _)| !file.contains(name));
        tar_of(&files)
    };
    let mut corrupt = layout(plain);
    corrupt[0].1.push(0);
    let mut torn = layout(plain);
    torn.remove(0);
    let mut nameless = layout(plain);
    for (name, content) in &mut nameless {
        if name == "index.json" {
            let text = String::from_utf8(content.clone()).unwrap();
            *content = text.replace("quay.io/a/b:v1", "v1").into_bytes();
        }
    }
    let whole = tar_of(&layout(gzip));
    let swapped = {
        let mut files = saved(&WRITERS[0], &layers, plain);
        let (first, second) = (files[0].1.clone(), files[1].1.clone());
        (files[0].1, files[1].1) = (second, first);
        tar_of(&files)
    };
    let escape = json!([{ "Config": "../../etc/passwd", "RepoTags": ["a:b"], "Layers": [] }]);
    let other = changed(|config, _, _| config["architecture"] = json!("arm64"));
    let table: Vec<(Vec<u8>, &str)> = vec![
        (tar_of(&corrupt), "bytes, not"),
        (tar_of(&torn), "is missing"),
        (tar_of(&nameless), "says no name"),
        (layer("x"), "neither"),
        (layer("etc/passwd"), "docker save"),
        (layer("repositories"), "older than 1.10"),
        (vec![b'x'; 2048], "not a tar archive"),
        (Vec::new(), "is empty"),
        (b"PK\x03\x04 and so on".repeat(100), "zip"),
        (b"<html>not found</html>".repeat(100), "is a text"),
        (gzip(b"just a text"), "gzip"),
        (whole[..whole.len() / 2].to_vec(), "cut off or damaged"),
        (gzip(&whole)[..200].to_vec(), "cut off or damaged"),
        (swapped, "diff_ids"),
        (without("manifest.json"), "neither"),
        (without(&hex(&layers[0])), "is missing, a layer"),
        (
            tar_of(&[("manifest.json".into(), escape.to_string().into_bytes())]),
            "is missing",
        ),
        (
            tar_of(&[("manifest.json".into(), b"[]".to_vec())]),
            "names no image",
        ),
        (
            tar_of(&[("manifest.json".into(), b"[{".to_vec())]),
            "`manifest.json`",
        ),
        (other, "only for linux/arm64"),
        (
            changed(|config, _, _| config["config"]["StopSignal"] = json!("SIGFOO")),
            "SIGFOO",
        ),
        (
            changed(|config, _, _| config["rootfs"]["diff_ids"] = json!([digest(b"x")])),
            "diff_ids",
        ),
        (
            changed(|config, _, _| config["rootfs"] = json!({})),
            "diff_ids",
        ),
        (
            changed(|_, manifest, _| manifest["layers"][0]["size"] = json!(5)),
            "bytes, not 5",
        ),
        (
            changed(|_, manifest, _| manifest["layers"][0]["digest"] = json!("sha256:../../x")),
            "is no digest",
        ),
        (
            changed(|_, manifest, _| {
                manifest["layers"] = json!(vec![manifest["layers"][0].clone(); 128])
            }),
            "128 layers",
        ),
        (
            changed(|_, manifest, _| {
                manifest["layers"][0]["mediaType"] =
                    json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
            }),
            "encrypted",
        ),
        (
            changed(|_, manifest, _| manifest["schemaVersion"] = json!(1)),
            "schema 1",
        ),
        (
            changed(|_, manifest, layout| manifest["config"] = layout.put(b"text")),
            "not JSON",
        ),
    ];
    for (content, reason) in table {
        let (loaded, store, _directory) = try_load(&content, None);
        let error = loaded.unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert!(error.is_invalid(), "{error}");
        assert!(store.tags().unwrap().is_empty());
        for folder in ["blobs/sha256", "partial"] {
            let left = std::fs::read_dir(store.directory().join(folder)).unwrap();
            assert_eq!(left.count(), 0, "{reason}: {folder}");
        }
    }
}

#[test]
fn what_no_document_names_is_not_written() {
    // A bomb beside an image, and documents without end.
    let mut files = layout(gzip);
    files.push(("blobs/sha256/bomb".into(), vec![0; 32 << 20]));
    let (loaded, store, _directory) = try_load(&gzip(&tar_of(&files)), None);
    loaded.unwrap();
    let blobs = std::fs::read_dir(store.directory().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 4);
    let mut files = layout(gzip);
    let document = [b"{".to_vec(), vec![b' '; 7 << 20]].concat();
    files.extend((0..7).map(|number| (format!("{number}.json"), document.clone())));
    let (loaded, ..) = try_load(&gzip(&tar_of(&files)), None);
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("JSON documents are larger"), "{error}");
}

#[test]
fn any_archive_is_loaded_or_refused_and_nothing_is_left_beside_the_store() {
    let layers = [layer("one"), layer("two")];
    let seeds = [
        tar_of(&layout(plain)),
        tar_of(&layout(gzip)),
        tar_of(&saved(&WRITERS[0], &layers, plain)),
        tar_of(&saved(&WRITERS[2], &layers, gzip)),
        gzip(&tar_of(&layout(zstd))),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    crate::model::spoiled::spoiled(&seeds, 300, |bytes| {
        let (result, _, directory) = try_load(bytes, None);
        if let Err(error) = result {
            assert!(error.to_string().len() <= 64 << 10);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    });
}
