//! Which registry is asked, and with which login.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use oci_client::secrets::RegistryAuth;

static ANONYMOUS: RegistryAuth = RegistryAuth::Anonymous;

/// A registry, as somebody asks it.
#[derive(Clone, Copy)]
pub(in crate::images) struct Registry<'a> {
    /// Its host, with port when given.
    pub(super) name: &'a str,
    /// Who asks.
    pub(super) auth: &'a RegistryAuth,
}

impl<'a> Registry<'a> {
    /// Asked by nobody in particular.
    pub(in crate::images) fn anonymous(name: &'a str) -> Self {
        Self {
            name,
            auth: &ANONYMOUS,
        }
    }

    /// Whether a login goes with it.
    pub(super) fn has_login(self) -> bool {
        *self.auth != RegistryAuth::Anonymous
    }
}

impl fmt::Display for Registry<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// The login that a node sends along for the registry: HTTP's `Basic` (RFC 7617). What is none is passed over.
pub(super) fn login(headers: &HeaderMap) -> RegistryAuth {
    let decoded = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix("Basic "))
        .and_then(|text| STANDARD.decode(text.trim()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => RegistryAuth::Basic(user.to_owned(), password.to_owned()),
        None => RegistryAuth::Anonymous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_read_and_what_is_none_passed_over() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, text.parse().expect("a value"));
            login(&headers)
        };
        let right = format!("Basic {}", STANDARD.encode("user:pass:word"));
        let expected = RegistryAuth::Basic("user".into(), "pass:word".into());
        assert!(of(&right) == expected);
        for none in ["Basic ?", "Bearer x", "Basic dXNlcg=="] {
            assert!(of(none) == RegistryAuth::Anonymous, "{none}");
        }
        assert!(login(&HeaderMap::new()) == RegistryAuth::Anonymous);
    }
}
