//! Formats of texts and numbers that are checked; the others are told in a warning when the definition is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::orchestrator::api::kinds::parts::names::is_subdomain;

/// Every format that is checked, or that says nothing to check.
const KNOWN: &[&str] = &[
    "byte",
    "cidr",
    "date",
    "date-time",
    "datetime",
    "double",
    "float",
    "hostname",
    "int-or-string",
    "int32",
    "int64",
    "ipv4",
    "ipv6",
    "password",
    "uuid",
];

/// Whether a format is kept up.
pub(super) fn is_known(format: &str) -> bool {
    KNOWN.contains(&format)
}

/// Whether a text is of this format.
pub(super) fn fits(format: &str, text: &str) -> bool {
    match format {
        "byte" => STANDARD.decode(text).is_ok(),
        "cidr" => is_cidr(text),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "hostname" => is_subdomain(&text.to_ascii_lowercase()),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "uuid" => uuid::Uuid::try_parse(text).is_ok(),
        _ => true,
    }
}

/// Whether a number is of this format.
pub(super) fn number_fits(format: &str, value: &Value) -> bool {
    match format {
        "int32" => value
            .as_f64()
            .is_some_and(|number| (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number)),
        _ => true,
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let longest = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_of_their_formats() {
        for (format, right, wrong) in [
            ("byte", "dg==", "d"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("date", "2026-11-30", "2026-13-30"),
            ("date-time", "2026-11-30T12:00:00Z", "yesterday"),
            ("hostname", "a.example", "-a"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7"),
        ] {
            assert!(fits(format, right), "{format} {right}");
            assert!(!fits(format, wrong), "{format} {wrong}");
            assert!(is_known(format));
        }
        assert!(fits("song", "anything") && !is_known("song"));
        assert!(!number_fits("int32", &Value::from(1_i64 << 40)));
    }
}
