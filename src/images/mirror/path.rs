//! What a request path names.

use crate::model::image_reference::{is_digest, is_repository};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted<'a> {
    Manifest {
        repository: &'a str,
        reference: &'a str,
    },
    Blob {
        repository: &'a str,
        digest: &'a str,
    },
}

pub(super) fn wanted(path: &str) -> Option<Wanted<'_>> {
    if let Some((repository, reference)) = path.rsplit_once("/manifests/") {
        return (is_repository(repository) && !reference.contains('/')).then_some(
            Wanted::Manifest {
                repository,
                reference,
            },
        );
    }
    let (repository, digest) = path.rsplit_once("/blobs/")?;
    (is_repository(repository) && is_digest(digest)).then_some(Wanted::Blob { repository, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_manifests_and_blobs() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let blob = format!("a/b/blobs/{digest}");
        assert_eq!(
            wanted("a/b/manifests/v1"),
            Some(Wanted::Manifest {
                repository: "a/b",
                reference: "v1"
            })
        );
        assert_eq!(
            wanted(&blob),
            Some(Wanted::Blob {
                repository: "a/b",
                digest: &digest
            })
        );
        for wrong in [
            "a/b",
            "manifests/v1",
            "../x/manifests/v1",
            "a/blobs/sha256:12",
            "A/manifests/v1",
            "a/manifests/x/y",
        ] {
            assert_eq!(wanted(wrong), None, "{wrong}");
        }
    }
}
