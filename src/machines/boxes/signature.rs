//! Verifies a detached OpenPGP signature with GnuPG's `gpgv`, which apt brings along on Debian and most others have.
//!
//! The keys may come from anywhere: what is trusted is the fingerprint that the definition names. A good signature by any other key,
//! an expired or a revoked one, is not accepted.

use std::path::Path;

use base64::Engine as _;

use super::image::SignatureOrigin;
use crate::shell::local::Command;

/// Why a signature is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The verifier is not there.
    #[error("run `gpgv`: install it with `apt-get install gpgv`")]
    Missing(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The keys are not OpenPGP keys.
    #[error("what should hold the signers' keys is no OpenPGP key")]
    Keys,
    /// A file could not be written.
    #[error("write the keys and the signature beside the image")]
    File(#[source] std::io::Error),
    /// The signature is wrong, or somebody else's.
    #[error("its signature is not right: {said}; expected one by {}", expected.join(" or "))]
    Wrong {
        /// What the verifier said.
        said: String,
        /// Fingerprints that would be right.
        expected: Vec<String>,
    },
}

/// Returns the fingerprint of the primary key that signed `file`, which is one of the definition's.
pub(super) async fn verify(
    file: &Path,
    signature: &[u8],
    keys: &[u8],
    origin: &SignatureOrigin,
) -> Result<String, SignatureError> {
    let scratch = tempfile::tempdir().map_err(SignatureError::File)?;
    let (keyring, detached) = (
        scratch.path().join("keys.gpg"),
        scratch.path().join("signature"),
    );
    std::fs::write(&keyring, binary_keys(keys).ok_or(SignatureError::Keys)?)
        .map_err(SignatureError::File)?;
    std::fs::write(&detached, signature).map_err(SignatureError::File)?;
    let output = Command::new("gpgv")
        .args(["--status-fd", "1", "--homedir"])
        .arg(scratch.path())
        .arg("--keyring")
        .arg(&keyring)
        .arg(&detached)
        .arg(file)
        .output()
        .await
        .map_err(|error| SignatureError::Missing(Box::new(error)))?;
    judge(output.success(), &output.text(), &origin.fingerprints)
}

/// Reads `gpgv`'s status lines (GnuPG's `doc/DETAILS`): the last field of `VALIDSIG` is the primary key's fingerprint.
fn judge(success: bool, status: &str, expected: &[String]) -> Result<String, SignatureError> {
    let lines = || {
        status
            .lines()
            .filter_map(|line| line.strip_prefix("[GNUPG:] "))
    };
    let signers: Vec<&str> = lines()
        .filter_map(|line| line.strip_prefix("VALIDSIG "))
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    let accepted = signers
        .iter()
        .find(|signer| expected.iter().any(|one| one == *signer));
    if let Some(signer) = accepted.filter(|_| success) {
        return Ok((*signer).to_owned());
    }
    let bad = [
        "BADSIG",
        "ERRSIG",
        "EXPSIG",
        "EXPKEYSIG",
        "REVKEYSIG",
        "NODATA",
    ];
    let said = lines().find(|line| bad.iter().any(|word| line.starts_with(word)));
    let said = said.map(str::to_owned).or_else(|| {
        signers
            .first()
            .map(|signer| format!("it was made by {signer}"))
    });
    Err(SignatureError::Wrong {
        said: said.unwrap_or_else(|| "the verifier says nothing of it".into()),
        expected: expected.to_vec(),
    })
}

/// Keys as `gpgv` reads them: armour (RFC 9580, section 6) is taken off; several blocks are put one after the other.
fn binary_keys(keys: &[u8]) -> Option<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
    let text = match std::str::from_utf8(keys) {
        Ok(text) if text.contains(BEGIN) => text.replace('\r', ""),
        // A packet's first byte has its highest bit set.
        _ => {
            return keys
                .first()
                .is_some_and(|byte| byte & 0x80 != 0)
                .then(|| keys.to_vec());
        }
    };
    let mut binary = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let (block, _) = block.split_once(END)?;
        // Headers end at an empty line; a checksum begins with `=`.
        let body = block.split_once("\n\n").map_or(block, |(_, body)| body);
        let body: String = body
            .lines()
            .take_while(|line| !line.starts_with('='))
            .collect();
        binary.extend(
            base64::engine::general_purpose::STANDARD
                .decode(body)
                .ok()?,
        );
    }
    Some(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pinned_keys_are_believed() {
        let pinned = ["AAAA".to_owned()];
        let good = "[GNUPG:] GOODSIG 1 x\n[GNUPG:] VALIDSIG BBBB 2026-01-01 1 0 4 0 1 10 00 AAAA\n";
        assert_eq!(judge(true, good, &pinned).unwrap(), "AAAA");
        assert!(judge(false, good, &pinned).is_err());
        let other = "[GNUPG:] VALIDSIG AAAA 2026-01-01 1 0 4 0 1 10 00 CCCC\n";
        assert!(
            judge(true, other, &pinned)
                .unwrap_err()
                .to_string()
                .contains("made by CCCC")
        );
        assert!(
            judge(false, "[GNUPG:] BADSIG 1 x\n", &pinned)
                .unwrap_err()
                .to_string()
                .contains("BADSIG")
        );
        assert!(judge(true, "", &pinned).is_err());
    }

    #[test]
    fn armour_is_taken_off() {
        let armoured = "x\n-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: y\n\nmQEN\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(
            binary_keys(armoured.as_bytes()),
            Some(vec![0x99, 0x01, 0x0d])
        );
        assert_eq!(binary_keys(&[0x99, 1]), Some(vec![0x99, 1]));
        assert_eq!(binary_keys(b"<html>"), None);
    }
}
