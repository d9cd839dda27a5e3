//! Encryption at rest: AES-256-GCM, a random nonce for each write, the object's key as additional data, so that a sealed value
//! cannot be moved to another key.
//!
//! The key file protects copies of the database, not a host whose root reads both. Random 96-bit nonces are safe for about 2^32
//! writes with one key.

use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Why sealing failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file could not be read.
    #[error("read the secrets key `{path}`")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The key file does not hold 32 bytes.
    #[error("the secrets key must be exactly 32 bytes, not {0}")]
    KeyLength(usize),
    /// The value was sealed with another key, for another object, or was changed.
    #[error("unseal `{0}`: the value was sealed with another key or was changed")]
    Unseal(String),
    /// The operating system gave no random bytes.
    #[error("seal `{0}`: no random bytes from the operating system")]
    Random(String),
}

/// Seals and unseals values with one key.
pub struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealer {
    /// From the 32 bytes of a key.
    pub fn new(bytes: &[u8]) -> Result<Self, SealError> {
        let key =
            UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| SealError::KeyLength(bytes.len()))?;
        Ok(Self {
            key: LessSafeKey::new(key),
            random: SystemRandom::new(),
        })
    }

    /// From a file of 32 bytes.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let bytes = std::fs::read(path).map_err(|source| SealError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::new(&bytes)
    }

    /// Nonce, ciphertext and tag of `plain`, bound to `name`.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| SealError::Random(name.to_owned()))?;
        let mut sealed = plain.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| SealError::Random(name.to_owned()))?;
        let mut out = nonce.to_vec();
        out.append(&mut sealed);
        Ok(out)
    }

    /// What [`Sealer::seal`] was given.
    pub fn unseal(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let refused = || SealError::Unseal(name.to_owned());
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or_else(refused)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
        let mut body = body.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut body)
            .map_err(|_| refused())?;
        Ok(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_under_its_own_name() {
        let sealer = Sealer::new(&[7; 32]).expect("32 bytes");
        let sealed = sealer.seal("/a", b"password").expect("sealed");
        assert!(!sealed.windows(8).any(|part| part == b"password"));
        assert_eq!(sealer.unseal("/a", &sealed).expect("unsealed"), b"password");
        assert!(sealer.unseal("/b", &sealed).is_err());
        assert!(
            Sealer::new(&[8; 32])
                .expect("32 bytes")
                .unseal("/a", &sealed)
                .is_err()
        );
        assert!(Sealer::new(&[8; 31]).is_err());
    }
}
