//! Signatures of images as cosign makes them with a key pair: simple signing, P-256.
//!
//! A signature is an image beside the image, tagged `sha256-<digest>.sig`. Each of its layers is a payload, a JSON document that
//! names the digest of the manifest that was signed; the layer's annotation holds the ECDSA signature of the payload's bytes
//! (<https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>). Whoever has the key vouches for a digest: name and tag
//! are not compared, as `cosign verify` does not without further options.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;

/// A longer payload is none.
pub(super) const PAYLOAD_BYTES_MAX: u64 = 64 * 1024;
/// Signatures of one image that are looked at.
pub(super) const SIGNATURES_MAX: usize = 32;

const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const SIGNED_AS: &str = "cosign container image signature";

/// `SubjectPublicKeyInfo` of a P-256 key up to its uncompressed point (RFC 5480): the algorithm, the curve, a bit string of 66 bytes.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point of P-256: 4, and two coordinates.
const POINT_BYTES: usize = 65;

/// A public key, `cosign.pub`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    point: Vec<u8>,
}

/// Why a text is no key that signatures can be verified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// There is none in it.
    #[error("it is no public key in PEM")]
    NotPem,
    /// It is one of another kind.
    #[error("its key is not of the curve P-256")]
    NotP256,
    /// It is the half that signs.
    #[error("it is a private key: the public one is wanted, `cosign.pub`")]
    Private,
}

impl VerifyingKey {
    /// Reads a key in PEM, as `cosign generate-key-pair` and `openssl ec -pubout` write it.
    ///
    /// # Errors
    /// When it is none, or of another kind.
    pub fn parse(pem: &str) -> Result<Self, InvalidKey> {
        if pem.contains("PRIVATE KEY-----") {
            return Err(InvalidKey::Private);
        }
        let (_, after) = pem
            .split_once("-----BEGIN PUBLIC KEY-----")
            .ok_or(InvalidKey::NotPem)?;
        let (body, _) = after
            .split_once("-----END PUBLIC KEY-----")
            .ok_or(InvalidKey::NotPem)?;
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| InvalidKey::NotPem)?;
        let point = der
            .strip_prefix(&P256_PREFIX)
            .filter(|point| point.len() == POINT_BYTES && point[0] == 4)
            .ok_or(InvalidKey::NotP256)?;
        Ok(Self {
            point: point.to_vec(),
        })
    }

    /// Whether this is a payload about `digest` that the key's owner signed.
    pub(super) fn vouches(&self, digest: &str, payload: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature.trim()) else {
            return false;
        };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        if key.verify(payload, &signature).is_err() {
            return false;
        }
        serde_json::from_slice::<Payload>(payload).is_ok_and(|payload| {
            payload.critical.kind == SIGNED_AS
                && payload.critical.image.docker_manifest_digest == digest
        })
    }
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SignedImage {
    docker_manifest_digest: String,
}

/// The tag under which the signatures of a manifest are kept.
pub(super) fn tag_of(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// One signature of an image: where its payload is, and the signature itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) payload_digest: String,
    pub(super) signature: String,
}

/// The signatures that a manifest tagged [`tag_of`] holds; what is none is left out.
pub(super) fn signatures(manifest: &[u8]) -> Vec<Signature> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layer {
        media_type: String,
        digest: String,
        size: u64,
        #[serde(default)]
        annotations: std::collections::BTreeMap<String, String>,
    }
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(default)]
        layers: Vec<Layer>,
    }
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else {
        return Vec::new();
    };
    manifest
        .layers
        .into_iter()
        .filter(|layer| layer.media_type == PAYLOAD_TYPE && layer.size <= PAYLOAD_BYTES_MAX)
        .filter_map(|mut layer| {
            Some(Signature {
                payload_digest: layer.digest,
                signature: layer.annotations.remove(ANNOTATION)?,
            })
        })
        .take(SIGNATURES_MAX)
        .collect()
}

/// A key pair of a test: the public half as cosign writes it, and a function that signs.
#[cfg(test)]
pub(super) mod testing {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    pub(in crate::images) struct Signer(EcdsaKeyPair);

    impl Signer {
        pub(in crate::images) fn generate() -> Self {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("generated");
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random);
            Self(pair.expect("its own format"))
        }

        pub(in crate::images) fn pem(&self) -> String {
            let mut der = P256_PREFIX.to_vec();
            der.extend_from_slice(self.0.public_key().as_ref());
            format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                STANDARD.encode(der)
            )
        }

        pub(in crate::images) fn key(&self) -> VerifyingKey {
            VerifyingKey::parse(&self.pem()).expect("a key")
        }

        /// A payload about `digest`, and its signature.
        pub(in crate::images) fn sign(&self, digest: &str) -> (Vec<u8>, String) {
            let payload = serde_json::json!({
                "critical": {
                    "identity": {"docker-reference": "quay.io/purplebooth/flappy"},
                    "image": {"docker-manifest-digest": digest},
                    "type": SIGNED_AS,
                },
                "optional": null,
            })
            .to_string()
            .into_bytes();
            let signed = self.0.sign(&SystemRandom::new(), &payload);
            (payload, STANDARD.encode(signed.expect("signed").as_ref()))
        }

        /// The manifest that holds such a signature.
        pub(in crate::images) fn manifest(payload_digest: &str, signature: &str) -> Vec<u8> {
            serde_json::json!({
                "schemaVersion": 2,
                "layers": [{"mediaType": PAYLOAD_TYPE, "digest": payload_digest, "size": 200,
                    "annotations": {ANNOTATION: signature}}],
            })
            .to_string()
            .into_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Signer;
    use super::*;

    #[test]
    fn only_the_owner_of_the_key_vouches_and_only_for_what_was_signed() {
        let (owner, other) = (Signer::generate(), Signer::generate());
        let digest = format!("sha256:{}", "0a".repeat(32));
        let (payload, signature) = owner.sign(&digest);
        assert!(owner.key().vouches(&digest, &payload, &signature));
        assert!(!other.key().vouches(&digest, &payload, &signature));
        let another = format!("sha256:{}", "0b".repeat(32));
        assert!(!owner.key().vouches(&another, &payload, &signature));
        let changed = String::from_utf8(payload.clone())
            .expect("JSON")
            .replace("0a0a", "0b0a");
        assert!(!owner.key().vouches(&digest, changed.as_bytes(), &signature));
        for wrong in ["", "?", "AAAA"] {
            assert!(!owner.key().vouches(&digest, &payload, wrong), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_a_public_one_of_p256() {
        assert_eq!(VerifyingKey::parse("hello"), Err(InvalidKey::NotPem));
        let private = "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n";
        assert_eq!(VerifyingKey::parse(private), Err(InvalidKey::Private));
        let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n";
        assert_eq!(VerifyingKey::parse(other), Err(InvalidKey::NotP256));
    }

    #[test]
    fn signatures_are_found_in_their_manifest() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(tag_of(&digest), format!("sha256-{}.sig", "0a".repeat(32)));
        let found = signatures(&Signer::manifest("sha256:12", "MEUC"));
        assert_eq!(
            found,
            [Signature {
                payload_digest: "sha256:12".into(),
                signature: "MEUC".into()
            }]
        );
        let long = br#"{"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"d","size":70000,"annotations":{}}]}"#;
        for none in [&b"?"[..], b"{}", long] {
            assert!(signatures(none).is_empty());
        }
    }
}
