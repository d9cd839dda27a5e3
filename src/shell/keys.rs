//! Ed25519 key pairs in OpenSSH's formats (PROTOCOL.key in OpenSSH's sources; RFC 8709).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

/// The algorithm's name in OpenSSH's files and on the wire.
pub const ALGORITHM: &str = "ssh-ed25519";
/// Characters a line of the private key's PEM block has, as `ssh-keygen` writes it.
const PEM_LINE: usize = 70;

/// A key pair for a user or a host.
#[derive(Clone)]
pub struct SshKeyPair {
    /// The private key's file, unencrypted: write it with mode 0600.
    pub private_openssh_pem: String,
    /// The public key's line: `ssh-ed25519 AAAA… comment`.
    pub public_openssh: String,
}

impl std::fmt::Debug for SshKeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshKeyPair")
            .field("public_openssh", &self.public_openssh)
            .finish_non_exhaustive()
    }
}

/// Makes a new key pair; `comment` is for people and must not hold a line break.
///
/// # Panics
/// When the operating system gives no random bytes.
#[must_use]
pub fn generate_ed25519(comment: &str) -> SshKeyPair {
    let random = SystemRandom::new();
    let (mut seed, mut check) = ([0_u8; 32], [0_u8; 4]);
    random
        .fill(&mut seed)
        .expect("the operating system gives random bytes");
    random
        .fill(&mut check)
        .expect("the operating system gives random bytes");
    encode(&seed, check, comment)
}

/// The blob inside a public key's line `ssh-ed25519 AAAA… comment`, or `None` if it is not such a line.
#[must_use]
pub fn public_blob(line: &str) -> Option<Vec<u8>> {
    let mut words = line.split_whitespace();
    if words.next() != Some(ALGORITHM) {
        return None;
    }
    let blob = STANDARD.decode(words.next()?).ok()?;
    let mut expected = Vec::new();
    put(&mut expected, ALGORITHM.as_bytes());
    (blob.len() == expected.len() + 4 + 32 && blob.starts_with(&expected)).then_some(blob)
}

fn encode(seed: &[u8; 32], check: [u8; 4], comment: &str) -> SshKeyPair {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are a seed");
    let public = pair.public_key().as_ref();
    let mut blob = Vec::new();
    put(&mut blob, ALGORITHM.as_bytes());
    put(&mut blob, public);

    let mut private = Vec::new();
    private.extend_from_slice(&check);
    private.extend_from_slice(&check);
    private.extend_from_slice(&blob);
    put(&mut private, &[seed.as_slice(), public].concat());
    put(&mut private, comment.as_bytes());
    // Padding to the block size of cipher `none`, which is 8: the bytes 1, 2, 3…
    for pad in 1..=u8::try_from((8 - private.len() % 8) % 8).expect("below 8") {
        private.push(pad);
    }

    let mut file = b"openssh-key-v1\0".to_vec();
    put(&mut file, b"none");
    put(&mut file, b"none");
    put(&mut file, b"");
    file.extend_from_slice(&1_u32.to_be_bytes());
    put(&mut file, &blob);
    put(&mut file, &private);

    let encoded = STANDARD.encode(&file);
    let lines = encoded
        .as_bytes()
        .chunks(PEM_LINE)
        .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"));
    let body = lines.collect::<Vec<_>>().join("\n");
    SshKeyPair {
        private_openssh_pem: format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"
        ),
        public_openssh: format!("{ALGORITHM} {} {comment}", STANDARD.encode(&blob)),
    }
}

/// An SSH `string`: its length in four bytes, then the bytes (RFC 4251, 5).
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(
        &u32::try_from(bytes.len())
            .expect("keys are short")
            .to_be_bytes(),
    );
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_new_each_time_and_its_public_line_parses() {
        let (one, two) = (generate_ed25519("one"), generate_ed25519("two"));
        assert_ne!(one.public_openssh, two.public_openssh);
        assert_eq!(
            public_blob(&one.public_openssh).map(|blob| blob.len()),
            Some(51)
        );
        assert!(
            !format!("{one:?}").contains("PRIVATE"),
            "a private key must not reach a log"
        );
    }

    #[test]
    fn other_lines_are_no_public_keys() {
        for line in [
            "",
            "ssh-rsa AAAA",
            "ssh-ed25519",
            "ssh-ed25519 !",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
        ] {
            assert_eq!(public_blob(line), None, "{line}");
        }
    }
}
