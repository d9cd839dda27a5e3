//! Whether an image may be served: with a key, only what its owner signed, and what a signed index names.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::{Mirror, MirrorError, Registry, Resolved};
use crate::images::signature::{PAYLOAD_BYTES_MAX, VerifyingKey, signatures, tag_of};

/// Manifests that are remembered as vouched for; beyond that all are verified anew.
const REMEMBERED_MAX: usize = 4096;
/// Manifests of an index that are vouched for with it.
const INDEX_MAX: usize = 256;

/// The key, and what it vouched for so far, by repository and digest.
pub(super) struct Vouched {
    key: VerifyingKey,
    known: Mutex<BTreeSet<(String, String)>>,
}

impl Vouched {
    pub(super) fn new(key: VerifyingKey) -> Self {
        Self {
            key,
            known: Mutex::default(),
        }
    }

    fn knows(&self, repository: &str, digest: &str) -> bool {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&(repository.to_owned(), digest.to_owned()))
    }

    fn remember(&self, repository: &str, digests: impl IntoIterator<Item = String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > REMEMBERED_MAX {
            known.clear();
        }
        known.extend(
            digests
                .into_iter()
                .map(|digest| (repository.to_owned(), digest)),
        );
    }
}

impl Mirror {
    /// Refuses a manifest that nobody vouches for, if somebody has to.
    pub(super) async fn admit(
        &self,
        registry: Registry<'_>,
        repository: &str,
        manifest: &Resolved,
    ) -> Result<(), MirrorError> {
        let Some(vouched) = &self.vouched else {
            return Ok(());
        };
        let name = format!("{registry}/{repository}");
        if !vouched.knows(&name, &manifest.digest) {
            self.verify(vouched, registry, repository, manifest).await?;
        }
        let mut digests = vec![manifest.digest.clone()];
        digests.extend(self.members(manifest)?);
        vouched.remember(&name, digests);
        Ok(())
    }

    /// The signatures that are here, then those that the registry has now: one may have been added.
    async fn verify(
        &self,
        vouched: &Vouched,
        registry: Registry<'_>,
        repository: &str,
        manifest: &Resolved,
    ) -> Result<(), MirrorError> {
        let tag = tag_of(&manifest.digest);
        let mut found = 0;
        if let Some(here) = self.stored(registry, repository, &tag) {
            let (count, valid) = self
                .is_signed(vouched, registry, repository, manifest, &here)
                .await?;
            if valid {
                return Ok(());
            }
            found = count;
        }
        match self.fetch_manifest(registry, repository, &tag).await {
            Ok(now) => {
                let (count, valid) = self
                    .is_signed(vouched, registry, repository, manifest, &now)
                    .await?;
                if valid {
                    self.keep_name(registry, repository, &tag, &now)?;
                    return Ok(());
                }
                found = count;
            }
            Err(MirrorError::ManifestUnknown) => {}
            Err(error) => return Err(error),
        }
        Err(MirrorError::Unsigned {
            image: format!("{registry}/{repository}@{}", manifest.digest),
            why: if found == 0 {
                format!("it has no signature: there is no `{tag}` beside it")
            } else {
                format!("of {found} signatures in `{tag}` none is by that key")
            },
        })
    }

    /// How many signatures there are, and whether one of them is right.
    async fn is_signed(
        &self,
        vouched: &Vouched,
        registry: Registry<'_>,
        repository: &str,
        manifest: &Resolved,
        signed: &Resolved,
    ) -> Result<(usize, bool), MirrorError> {
        let all = signatures(&self.content(signed)?);
        for one in &all {
            let payload = match self.blob(registry, repository, &one.payload_digest).await {
                Ok(path) if std::fs::metadata(&path)?.len() <= PAYLOAD_BYTES_MAX => {
                    std::fs::read(path)?
                }
                Ok(_) | Err(MirrorError::BlobUnknown) => continue,
                Err(error) => return Err(error),
            };
            if vouched
                .key
                .vouches(&manifest.digest, &payload, &one.signature)
            {
                return Ok((all.len(), true));
            }
        }
        Ok((all.len(), false))
    }

    /// What an index names; nothing of a manifest that is none.
    fn members(&self, manifest: &Resolved) -> Result<Vec<String>, MirrorError> {
        #[derive(Deserialize)]
        struct Entry {
            digest: String,
        }
        #[derive(Deserialize)]
        struct Index {
            #[serde(default)]
            manifests: Vec<Entry>,
        }
        let index = serde_json::from_slice::<Index>(&self.content(manifest)?);
        let entries = index.map(|index| index.manifests).unwrap_or_default();
        Ok(entries
            .into_iter()
            .take(INDEX_MAX)
            .map(|entry| entry.digest)
            .collect())
    }

    fn content(&self, manifest: &Resolved) -> Result<Vec<u8>, MirrorError> {
        let path = self.store.blob_path(&manifest.digest);
        Ok(std::fs::read(path.ok_or(MirrorError::ManifestUnknown)?)?)
    }
}
