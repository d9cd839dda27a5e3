//! Termination messages: what a container leaves in a file of its own for those who ask why it ended.
//!
//! The file is on the node and is mounted at `terminationMessagePath`, as in the kubelet (`pkg/kubelet/kuberuntime/kuberuntime_container.go`).

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::runtime::Mount;
use super::volumes::Roots;
use crate::orchestrator::private_file::write_private;

/// More of a message is not kept (`MaxContainerTerminationMessageLength`).
const MESSAGE_BYTES_MAX: u64 = 4096;

fn file(pod: &Pod, container: &str, instance: u32, roots: &Roots) -> PathBuf {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    roots
        .pod(uid)
        .join("termination")
        .join(format!("{container}.{instance}"))
}

/// Makes the file of a new instance, empty, and says where it is mounted; nothing for a container without a path.
pub(super) fn mount(
    pod: &Pod,
    container: &Container,
    instance: u32,
    roots: &Roots,
) -> io::Result<Option<Mount>> {
    let target = container.termination_message_path.as_deref();
    let Some(target) = target.filter(|path| path.starts_with('/')) else {
        return Ok(None);
    };
    let source = file(pod, &container.name, instance, roots);
    write_private(&source, b"")?;
    // Any user of the container may write; the folders above are private.
    fs::set_permissions(&source, fs::Permissions::from_mode(0o666))?;
    // Only the last two instances are shown.
    if let Some(old) = instance.checked_sub(2) {
        drop(fs::remove_file(file(pod, &container.name, old, roots)));
    }
    Ok(Some(Mount {
        source,
        target: target.into(),
        read_only: false,
    }))
}

/// What an instance has left, if anything.
pub(super) fn read(pod: &Pod, container: &str, instance: u32, roots: &Roots) -> Option<String> {
    let opened = fs::File::open(file(pod, container, instance, roots)).ok()?;
    let mut message = Vec::new();
    opened
        .take(MESSAGE_BYTES_MAX)
        .read_to_end(&mut message)
        .ok()?;
    let message = String::from_utf8_lossy(&message).into_owned();
    Some(message).filter(|message| !message.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_leaves_a_message() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots {
            durable: directory.path().join("pods"),
            volatile: directory.path().join("memory"),
        };
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "c", "terminationMessagePath": "/dev/termination-log"}, {"name": "none"}]}}))
            .unwrap();
        let containers = &pod.spec.as_ref().unwrap().containers;
        assert_eq!(mount(&pod, &containers[1], 0, &roots).unwrap(), None);
        for instance in 0..3 {
            let made = mount(&pod, &containers[0], instance, &roots)
                .unwrap()
                .unwrap();
            assert_eq!(made.target, PathBuf::from("/dev/termination-log"));
            let mode = fs::metadata(&made.source).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o666);
            assert_eq!(read(&pod, "c", instance, &roots), None, "it is empty");
            fs::write(&made.source, format!("ended {instance}")).unwrap();
        }
        assert_eq!(read(&pod, "c", 2, &roots).as_deref(), Some("ended 2"));
        assert_eq!(read(&pod, "c", 0, &roots), None, "older ones are gone");
        fs::write(file(&pod, "c", 2, &roots), vec![b'x'; 5000]).unwrap();
        assert_eq!(
            read(&pod, "c", 2, &roots).map(|text| text.len()),
            Some(4096)
        );
    }
}
