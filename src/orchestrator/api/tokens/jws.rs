//! Compact JWS (RFC 7515) with one algorithm, ES256, and one key: there is nothing for a token to choose.

use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};

use crate::orchestrator::limits::TOKEN_BYTES;
use crate::orchestrator::private_file::write_private;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("read or make the key of ServiceAccount tokens `{path}`")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "the key of ServiceAccount tokens `{0}` is no P-256 key: remove it, and a new one is made; tokens that are out die"
    )]
    Damaged(String),
    /// The operating system gave no random bytes.
    #[error("make a key of ServiceAccount tokens: no random bytes from the operating system")]
    Random,
}

/// Signs and verifies.
pub(super) struct Key {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// The head of every token, encoded.
    head: String,
}

impl Key {
    /// From this file, which is made if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File {
            path: path.display().to_string(),
            source,
        };
        let document = match std::fs::read(path) {
            Ok(document) => document,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let document = Self::generate()?;
                write_private(path, &document).map_err(failed)?;
                document
            }
            Err(error) => return Err(failed(error)),
        };
        Self::from_document(&document).map_err(|_| KeyError::Damaged(path.display().to_string()))
    }

    /// A new key as PKCS#8.
    pub(super) fn generate() -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map(|document| document.as_ref().to_vec())
            .map_err(|_| KeyError::Random)
    }

    /// From PKCS#8.
    pub(super) fn from_document(document: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document, &random)
            .map_err(|_| KeyError::Damaged("in memory".to_owned()))?;
        let name = URL_SAFE_NO_PAD.encode(digest(&SHA256, pair.public_key().as_ref()).as_ref());
        let head = json!({"alg": "ES256", "kid": name}).to_string();
        let head = URL_SAFE_NO_PAD.encode(head);
        Ok(Self { pair, random, head })
    }

    /// The token of this payload; `None` without random bytes.
    pub(super) fn sign(&self, payload: &[u8]) -> Option<String> {
        let signed = format!("{}.{}", self.head, URL_SAFE_NO_PAD.encode(payload));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).ok()?;
        Some(format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature.as_ref())
        ))
    }

    /// The payload of a token that this key has signed.
    pub(super) fn verify(&self, token: &str) -> Option<Vec<u8>> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (head, payload) = signed.split_once('.')?;
        // Only what this key would write: neither algorithm nor key is the token's to say.
        let decoded: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
        if head != self.head || decoded["alg"] != "ES256" {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let public = self.pair.public_key().as_ref();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public)
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        URL_SAFE_NO_PAD.decode(payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key() -> Key {
        Key::from_document(&Key::generate().expect("random bytes")).expect("its own key")
    }

    #[test]
    fn only_what_the_key_signed_is_read() {
        let (own, other) = (key(), key());
        let token = own.sign(b"{\"sub\":\"a\"}").expect("signed");
        assert_eq!(own.verify(&token).expect("good"), b"{\"sub\":\"a\"}");
        assert!(other.verify(&token).is_none());
        let parts: Vec<&str> = token.split('.').collect();
        let changed = URL_SAFE_NO_PAD.encode("{\"sub\":\"b\"}");
        let none = URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}");
        for wrong in [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            format!("{}.{changed}.{}", parts[0], parts[2]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{}", parts[0], parts[1]),
            format!("{token}."),
            format!("{token}é"),
            "a".repeat(TOKEN_BYTES + 1),
        ] {
            assert!(own.verify(&wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_key_stays_and_is_nobody_elses() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tokens.key");
        let token = Key::open(&path).expect("made").sign(b"x").expect("signed");
        let mode = std::fs::metadata(&path).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Key::open(&path).expect("read").verify(&token).is_some());
        std::fs::write(&path, "no key").expect("written");
        assert!(matches!(Key::open(&path), Err(KeyError::Damaged(_))));
    }
}
