//! A pod's volumes on the node: what they hold is planned purely, then written by [`write_projection`] the way the kubelet's
//! AtomicWriter does, so that a reader sees all of an update or none of it.
//!
//! ```text
//! volume/key        -> ..data/key
//! volume/..data     -> ..2026_11_23_03_05_00.123456789      (replaced by one rename)
//! volume/..2026_…/key
//! ```
//! A pod's `fsGroup` gets what is projected to read and emptyDirs to write, and set-group-ID folders (`pkg/volume/volume_linux.go`).
//! Source: `pkg/volume/util/atomic_writer.go`. Secrets and `emptyDir` of medium Memory live below [`Roots::volatile`], a
//! tmpfs; everything else below [`Roots::durable`]. Both directories are 0700: containers get at a volume by its mount only.

mod memory;
mod projected;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, KeyToPath, Pod, Secret, Volume};

use super::environment::{ConfigError, expand_all};
use super::quantity;
use super::runtime::Mount;
use super::tokens::Token;
use crate::orchestrator::private_file::make_private_parents;

/// Kubernetes' mode of a projected file that names none.
const DEFAULT_FILE_MODE: i32 = 0o644;

/// What a pod's `fsGroup` may do with projected files.
const GROUP_READS: u32 = 0o440;

/// Why a pod's volumes could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// A Secret, ConfigMap or key is missing.
    #[error("volume `{volume}`")]
    Config {
        /// The volume.
        volume: String,
        /// What is missing.
        #[source]
        source: ConfigError,
    },
    /// The manifest asks for something that is wrong or that this agent has not.
    #[error("volume `{volume}`: {what}")]
    Refused {
        /// The volume.
        volume: String,
        /// What and why.
        what: String,
    },
    /// The disk refused.
    #[error("volume `{volume}`: write `{}`", path.display())]
    Io {
        /// The volume.
        volume: String,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where volumes live.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    /// On disk.
    pub(crate) durable: PathBuf,
    /// On a tmpfs.
    pub(crate) volatile: PathBuf,
}

impl Roots {
    /// A pod's directory on disk.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.durable.join(uid)
    }

    /// A pod's directory in memory.
    pub(crate) fn pod_volatile(&self, uid: &str) -> PathBuf {
        self.volatile.join(uid)
    }

    /// Removes everything that a pod left. Absent is fine.
    pub(crate) fn remove(&self, uid: &str) -> io::Result<()> {
        memory::release(&self.pod_volatile(uid).join("volumes/empty-dir"))?;
        for directory in [self.pod(uid), self.pod_volatile(uid)] {
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Where a volume is on the node, by volume name.
pub(crate) type Sources = BTreeMap<String, PathBuf>;

/// Files of a Secret or ConfigMap volume: path in the volume, contents, mode.
pub(crate) type Projection = BTreeMap<String, (Vec<u8>, u32)>;

/// What volumes are filled with.
#[derive(Clone, Copy)]
pub(crate) struct Objects<'a> {
    /// Secrets that the pod names, by name.
    pub(crate) secrets: &'a BTreeMap<String, Secret>,
    /// ConfigMaps that the pod names, by name.
    pub(crate) config_maps: &'a BTreeMap<String, ConfigMap>,
    /// Tokens that the pod's volumes show, by [`super::tokens::Wanted::key`].
    pub(crate) tokens: &'a BTreeMap<String, Token>,
    /// The node's memory, for containers without a limit.
    pub(crate) node_memory_bytes: u64,
}

/// Makes or refreshes all volumes of a pod, and says where they are. Idempotent. Blocks on the disk.
pub(crate) fn prepare(
    pod: &Pod,
    roots: &Roots,
    objects: &Objects<'_>,
) -> Result<Sources, VolumeError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let group = fs_group(pod);
    let mut sources = Sources::new();
    for volume in pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
    {
        let failed = |path: &Path, source| VolumeError::Io {
            volume: volume.name.clone(),
            path: path.to_owned(),
            source,
        };
        let refused = |what: String| VolumeError::Refused {
            volume: volume.name.clone(),
            what,
        };
        if !safe_name(&volume.name) {
            return Err(refused("its name is not one path component".into()));
        }
        let durable = |kind: &str| roots.pod(uid).join("volumes").join(kind).join(&volume.name);
        let volatile = |kind: &str| {
            roots
                .pod_volatile(uid)
                .join("volumes")
                .join(kind)
                .join(&volume.name)
        };
        let is_shown = volume.projected.is_some() || volume.downward_api.is_some();
        if is_shown || volume.secret.is_some() || volume.config_map.is_some() {
            let path = if is_shown {
                volatile("projected")
            } else if volume.secret.is_some() {
                volatile("secret")
            } else {
                durable("configmap")
            };
            let mut files = if is_shown {
                projected::files(volume, pod, objects)?
            } else {
                projection(volume, objects.secrets, objects.config_maps)?
            };
            if group.is_some() {
                for (_, mode) in files.values_mut() {
                    *mode |= GROUP_READS;
                }
            }
            make_private_parents(&path).map_err(|error| failed(&path, error))?;
            write_projection(&path, &files, group).map_err(|error| failed(&path, error))?;
            sources.insert(volume.name.clone(), path);
        } else if let Some(empty) = &volume.empty_dir {
            let path = if empty.medium.as_deref() == Some("Memory") {
                volatile("empty-dir")
            } else {
                durable("empty-dir")
            };
            make_private_parents(&path).map_err(|error| failed(&path, error))?;
            if !path.exists() {
                fs::create_dir(&path).map_err(|error| failed(&path, error))?;
                let most = empty.size_limit.as_ref().and_then(quantity::bytes);
                if let Some(bytes) = most.filter(|_| empty.medium.as_deref() == Some("Memory")) {
                    memory::limit(&path, bytes).map_err(|error| failed(&path, error))?;
                }
                // Any user of the pod may write, as in the kubelet.
                let mode = if group.is_some() { 0o2777 } else { 0o777 };
                std::os::unix::fs::chown(&path, None, group)
                    .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
                    .map_err(|error| failed(&path, error))?;
            }
            sources.insert(volume.name.clone(), path);
        } else if let Some(host) = &volume.host_path {
            let path = PathBuf::from(&host.path);
            check_host_path(&path, host.type_.as_deref().unwrap_or_default())
                .map_err(|error| failed(&path, error))?
                .map_err(refused)?;
            sources.insert(volume.name.clone(), path);
        } else {
            return Err(refused(
                "only secret, configMap, projected, downwardAPI, emptyDir and hostPath volumes are supported".into(),
            ));
        }
    }
    Ok(sources)
}

/// The group that a pod's volumes belong to.
pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// A container's mounts, from its `volumeMounts`; `environment` is what `subPathExpr` may name.
pub(crate) fn mounts(
    container: &Container,
    sources: &Sources,
    environment: &[(String, String)],
) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let refused = |what: String| VolumeError::Refused {
            volume: mount.name.clone(),
            what,
        };
        let volume = sources
            .get(&mount.name)
            .ok_or_else(|| refused("the pod has no such volume".into()))?;
        let expression = mount.sub_path_expr.clone().filter(|path| !path.is_empty());
        let sub_path = match expression {
            None => mount.sub_path.clone().filter(|path| !path.is_empty()),
            Some(expression) => {
                let expanded = expand_all(Some(&vec![expression.clone()]), environment).concat();
                if expanded.is_empty() || expanded.contains("$(") {
                    return Err(refused(format!(
                        "subPathExpr `{expression}` names a variable that the container does not have"
                    )));
                }
                Some(expanded)
            }
        };
        let source = match sub_path.as_deref() {
            None => volume.clone(),
            Some(sub_path) => {
                if !safe_path(sub_path) {
                    return Err(refused(format!("subPath `{sub_path}` leaves the volume")));
                }
                let path = volume.join(sub_path);
                if !path.exists() {
                    make_sub_path(volume, sub_path).map_err(|source| VolumeError::Io {
                        volume: mount.name.clone(),
                        path: path.clone(),
                        source,
                    })?;
                }
                // Resolved once: what a container mounts by subPath never follows an update, as in Kubernetes.
                let real = |path: &Path| {
                    fs::canonicalize(path).map_err(|source| VolumeError::Io {
                        volume: mount.name.clone(),
                        path: path.to_owned(),
                        source,
                    })
                };
                let resolved = real(&path)?;
                if !resolved.starts_with(real(volume)?) {
                    return Err(refused(format!("subPath `{sub_path}` leaves the volume")));
                }
                resolved
            }
        };
        mounts.push(Mount {
            source,
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only.unwrap_or(false),
        });
    }
    Ok(mounts)
}

/// Makes the folders of a subPath, each as open as the volume is, as the kubelet does.
fn make_sub_path(volume: &Path, sub_path: &str) -> io::Result<()> {
    let mode = fs::metadata(volume)?.mode() & 0o7777;
    let mut at = volume.to_owned();
    for part in Path::new(sub_path).components() {
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => fs::set_permissions(&at, fs::Permissions::from_mode(mode))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The files of a Secret or ConfigMap volume.
pub(crate) fn projection(
    volume: &Volume,
    secrets: &BTreeMap<String, Secret>,
    config_maps: &BTreeMap<String, ConfigMap>,
) -> Result<Projection, VolumeError> {
    let config = |source| VolumeError::Config {
        volume: volume.name.clone(),
        source,
    };
    let (kind, name, optional, items, default_mode, data) = if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let data = secrets.get(&name).map(|secret| {
            secret
                .data
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.0.clone()))
                .collect::<BTreeMap<_, _>>()
        });
        (
            ("secret", "Secret"),
            name,
            source.optional,
            &source.items,
            source.default_mode,
            data,
        )
    } else if let Some(source) = &volume.config_map {
        let data = config_maps.get(&source.name).map(|map| {
            let text = map
                .data
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone().into_bytes()));
            let binary = map
                .binary_data
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.0.clone()));
            text.chain(binary).collect::<BTreeMap<_, _>>()
        });
        (
            ("configmap", "ConfigMap"),
            source.name.clone(),
            source.optional,
            &source.items,
            source.default_mode,
            data,
        )
    } else {
        return Ok(Projection::new());
    };
    let optional = optional.unwrap_or(false);
    let Some(data) = data else {
        return if optional {
            Ok(Projection::new())
        } else {
            Err(config(ConfigError::ObjectNotFound { kind: kind.0, name }))
        };
    };
    let mode = |mode: Option<i32>| {
        u32::try_from(mode.or(default_mode).unwrap_or(DEFAULT_FILE_MODE)).unwrap_or(0o644) & 0o777
    };
    let all: Vec<KeyToPath>;
    let items: &[KeyToPath] = if let Some(items) = items.as_ref().filter(|items| !items.is_empty())
    {
        items
    } else {
        all = data
            .keys()
            .map(|key| KeyToPath {
                key: key.clone(),
                path: key.clone(),
                ..KeyToPath::default()
            })
            .collect();
        &all
    };
    let mut files = Projection::new();
    for item in items {
        if !safe_path(&item.path) {
            return Err(VolumeError::Refused {
                volume: volume.name.clone(),
                what: format!(
                    "path `{}` is absolute, starts with `..` or leaves the volume",
                    item.path
                ),
            });
        }
        match data.get(&item.key) {
            Some(contents) => {
                files.insert(item.path.clone(), (contents.clone(), mode(item.mode)));
            }
            None if optional => {}
            None => {
                return Err(config(ConfigError::KeyNotFound {
                    kind: kind.1,
                    name,
                    key: item.key.clone(),
                }));
            }
        }
    }
    Ok(files)
}

/// Makes `target` hold exactly `files`, atomically, for `group`; returns whether anything changed.
pub(crate) fn write_projection(
    target: &Path,
    files: &Projection,
    group: Option<u32>,
) -> io::Result<bool> {
    let open_folder = |path: &Path| {
        let mode = if group.is_some() { 0o2755 } else { 0o755 };
        std::os::unix::fs::chown(path, None, group)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    if !target.exists() {
        fs::create_dir(target)?;
        open_folder(target)?;
    }
    let data = target.join("..data");
    let old = fs::read_link(&data).ok();
    if old
        .as_ref()
        .is_some_and(|old| same_files(&target.join(old), files))
    {
        link_names(target, files)?;
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now()
        .strftime("..%Y_%m_%d_%H_%M_%S.%9f")
        .to_string();
    let fresh = target.join(&stamp);
    fs::create_dir(&fresh)?;
    open_folder(&fresh)?;
    for (path, (contents, mode)) in files {
        let mut folder = fresh.clone();
        for part in Path::new(path)
            .parent()
            .into_iter()
            .flat_map(Path::components)
        {
            folder.push(part);
            if !folder.exists() {
                fs::create_dir(&folder)?;
                open_folder(&folder)?;
            }
        }
        let path = fresh.join(path);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        io::Write::write_all(&mut file, contents)?;
        std::os::unix::fs::chown(&path, None, group)?;
        // Set apart from the open, so that the umask does not narrow it.
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
    }
    let next = target.join("..data_tmp");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&stamp, &next)?;
    fs::rename(&next, &data)?;
    link_names(target, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(target.join(old))?;
    }
    Ok(true)
}

/// The visible names: one link per first path component, into `..data`; links to what is gone are removed.
fn link_names(target: &Path, files: &Projection) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in &wanted {
        let link = target.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn same_files(directory: &Path, files: &Projection) -> bool {
    let mut found = BTreeSet::new();
    if collect(directory, Path::new(""), &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    files.iter().all(|(name, (contents, mode))| {
        let path = directory.join(name);
        found.contains(Path::new(name))
            && fs::metadata(&path).is_ok_and(|metadata| metadata.mode() & 0o777 == *mode)
            && fs::read(&path).is_ok_and(|found| found == *contents)
    })
}

fn collect(root: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

fn safe_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// A relative path that stays below where it starts and does not collide with the writer's own names.
fn safe_path(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

fn check_host_path(path: &Path, kind: &str) -> io::Result<Result<(), String>> {
    let metadata = fs::metadata(path).ok();
    let is = |wanted: bool, what: &str| {
        if wanted {
            Ok(())
        } else {
            Err(format!(
                "hostPath `{}` is not {what} on this node",
                path.display()
            ))
        }
    };
    Ok(match kind {
        "" => {
            if metadata.is_none() {
                fs::create_dir_all(path)?;
            }
            Ok(())
        }
        "DirectoryOrCreate" => {
            if metadata.is_none() {
                fs::create_dir_all(path)?;
            }
            is(path.is_dir(), "a directory")
        }
        "FileOrCreate" => {
            if metadata.is_none() {
                fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o644)
                    .open(path)?;
            }
            is(path.is_file(), "a file")
        }
        "Directory" => is(path.is_dir(), "a directory"),
        "File" => is(path.is_file(), "a file"),
        "Socket" | "CharDevice" | "BlockDevice" => is(metadata.is_some(), "there"),
        other => Err(format!("hostPath type `{other}` is unknown")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(list: &[(&str, &str, u32)]) -> Projection {
        list.iter()
            .map(|(path, contents, mode)| {
                ((*path).to_owned(), (contents.as_bytes().to_vec(), *mode))
            })
            .collect()
    }

    #[test]
    fn updates_replace_everything_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("v");
        assert!(
            write_projection(
                &target,
                &files(&[("tls.crt", "one", 0o644), ("sub/key", "k", 0o400)]),
                None,
            )
            .unwrap()
        );
        assert_eq!(
            fs::read_link(target.join("tls.crt")).unwrap(),
            Path::new("..data/tls.crt")
        );
        assert_eq!(fs::read_to_string(target.join("sub/key")).unwrap(), "k");
        assert_eq!(
            fs::metadata(target.join("sub/key")).unwrap().mode() & 0o777,
            0o400
        );
        let first = fs::read_link(target.join("..data")).unwrap();

        assert!(
            !write_projection(
                &target,
                &files(&[("tls.crt", "one", 0o644), ("sub/key", "k", 0o400)]),
                None,
            )
            .unwrap()
        );
        assert_eq!(fs::read_link(target.join("..data")).unwrap(), first);

        assert!(write_projection(&target, &files(&[("tls.crt", "two", 0o600)]), None).unwrap());
        assert_eq!(fs::read_to_string(target.join("tls.crt")).unwrap(), "two");
        assert!(!target.join(&first).exists() && fs::symlink_metadata(target.join("sub")).is_err());
    }

    #[test]
    fn a_writer_that_was_killed_is_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("v");
        fs::create_dir(&target).unwrap();
        symlink("..gone", target.join("..data")).unwrap_or_default();
        symlink("..gone", target.join("..data_tmp")).unwrap();
        fs::create_dir(target.join("..gone")).unwrap();
        assert!(write_projection(&target, &files(&[("a", "1", 0o644)]), None).unwrap());
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
    }

    #[test]
    fn items_modes_and_what_is_missing() {
        let secret: Secret = serde_json::from_value(
            json!({"metadata":{"name":"s"},"data":{"a.crt":"MQ==","b-key":"Mg=="}}),
        )
        .unwrap();
        let secrets = BTreeMap::from([("s".to_owned(), secret)]);
        let check = |volume: serde_json::Value| {
            let volume: Volume = serde_json::from_value(volume).unwrap();
            projection(&volume, &secrets, &BTreeMap::new())
        };
        assert_eq!(
            check(json!({"name":"v","secret":{"secretName":"s"}})).unwrap(),
            files(&[("a.crt", "1", 0o644), ("b-key", "2", 0o644)])
        );
        assert_eq!(
            check(json!({"name":"v","secret":{"secretName":"s","defaultMode":256,"items":[{"key":"a.crt","path":"x/y"},{"key":"b-key","path":"k","mode":288}]}})).unwrap(),
            files(&[("x/y", "1", 0o400), ("k", "2", 0o440)])
        );
        assert_eq!(
            check(json!({"name":"v","secret":{"secretName":"gone","optional":true}})).unwrap(),
            files(&[])
        );
        for (bad, part) in [
            (
                json!({"name":"v","secret":{"secretName":"gone"}}),
                "not found",
            ),
            (
                json!({"name":"v","secret":{"secretName":"s","items":[{"key":"zz","path":"x"}]}}),
                "zz",
            ),
            (
                json!({"name":"v","secret":{"secretName":"s","items":[{"key":"a.crt","path":"../x"}]}}),
                "../x",
            ),
        ] {
            let error = check(bad).unwrap_err();
            let text = format!(
                "{error}: {}",
                std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default()
            );
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn pods_get_their_directories_and_lose_them() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots {
            durable: directory.path().join("pods"),
            volatile: directory.path().join("memory"),
        };
        let pod: Pod = serde_json::from_value(json!({"metadata":{"name":"p","uid":"u1"},"spec":{"containers":[
            {"name":"c","volumeMounts":[{"name":"e","mountPath":"/e","subPath":"in"},{"name":"m","mountPath":"/m","readOnly":true},
                {"name":"e","mountPath":"/x","subPathExpr":"of/$(WHO)"}]}],
            "volumes":[{"name":"e","emptyDir":{}},{"name":"m","emptyDir":{"medium":"Memory"}}]}})).unwrap();
        let objects = Objects {
            secrets: &BTreeMap::new(),
            config_maps: &BTreeMap::new(),
            tokens: &BTreeMap::new(),
            node_memory_bytes: 0,
        };
        let sources = prepare(&pod, &roots, &objects).unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let mounts = mounts(container, &sources, &[("WHO".into(), "me".into())]).unwrap();
        assert!(mounts[0].source.ends_with("volumes/empty-dir/e/in") && !mounts[0].read_only);
        assert!(mounts[1].source.starts_with(roots.pod_volatile("u1")) && mounts[1].read_only);
        assert!(mounts[2].source.ends_with("volumes/empty-dir/e/of/me"));
        assert_eq!(
            fs::metadata(&mounts[2].source).unwrap().mode() & 0o777,
            0o777
        );
        let unknown = super::mounts(container, &sources, &[])
            .unwrap_err()
            .to_string();
        assert!(unknown.contains("$(WHO)"), "{unknown}");
        assert_eq!(fs::metadata(&sources["e"]).unwrap().mode() & 0o777, 0o777);
        assert_eq!(fs::metadata(roots.pod("u1")).unwrap().mode() & 0o777, 0o700);
        roots.remove("u1").unwrap();
        roots.remove("u1").unwrap();
        assert!(!roots.pod("u1").exists());
    }

    #[test]
    fn volumes_belong_to_the_pods_group() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots {
            durable: directory.path().join("pods"),
            volatile: directory.path().join("memory"),
        };
        let pod: Pod = serde_json::from_value(json!({"metadata":{"name":"p","uid":"u1"},"spec":{"containers":[{"name":"c"}],
            "securityContext":{"fsGroup":2000},
            "volumes":[{"name":"e","emptyDir":{}},{"name":"s","secret":{"secretName":"s","defaultMode":256,
                "items":[{"key":"a","path":"sub/a"}]}}]}})).unwrap();
        let secret: Secret =
            serde_json::from_value(json!({"metadata":{"name":"s"},"data":{"a":"MQ=="}})).unwrap();
        let secrets = BTreeMap::from([("s".to_owned(), secret)]);
        // The second time nothing changes.
        for _ in 0..2 {
            let objects = Objects {
                secrets: &secrets,
                config_maps: &BTreeMap::new(),
                tokens: &BTreeMap::new(),
                node_memory_bytes: 0,
            };
            let sources = prepare(&pod, &roots, &objects).unwrap();
            for (path, mode) in [
                (sources["e"].clone(), 0o2777),
                (sources["s"].clone(), 0o2755),
                (sources["s"].join("sub"), 0o2755),
                (sources["s"].join("sub/a"), 0o440),
            ] {
                let found = fs::metadata(&path).unwrap();
                assert_eq!(
                    (found.mode() & 0o7777, found.gid()),
                    (mode, 2000),
                    "{}",
                    path.display()
                );
            }
        }
    }
}
