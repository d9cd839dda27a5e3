//! What is asked of a load's Service, and which answer is a good one.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value as Json;

use super::Class;

/// What is asked beside the URL.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// Headers beside those that every request has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            method: Method::GET,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }
}

/// Which answer is good: one that is all of this.
#[derive(Debug, Clone, PartialEq)]
pub struct Good {
    /// Its status is one of these.
    pub statuses: Vec<u16>,
    /// It has these headers with these values.
    pub headers: Vec<(HeaderName, String)>,
    /// Its body contains this.
    pub body_contains: Option<String>,
    /// Its body is JSON that has these values at these places (RFC 6901).
    pub json: Vec<(String, Json)>,
}

impl Default for Good {
    fn default() -> Self {
        Self::status(200)
    }
}

impl Good {
    /// Any answer of this status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            statuses: vec![status],
            headers: Vec::new(),
            body_contains: None,
            json: Vec::new(),
        }
    }

    /// Whether the body matters: else it need not be kept.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.body_contains.is_some() || !self.json.is_empty()
    }

    /// How a request ended that was answered so: by its status, or by what is wrong with its headers or body.
    #[must_use]
    pub fn class(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Class {
        if !self.statuses.contains(&status) {
            return Class::Status;
        }
        let header_is = |(name, value): &(HeaderName, String)| {
            let mut values = headers.get_all(name).iter();
            values.any(|seen| seen.as_bytes() == value.as_bytes())
        };
        let contains = |wanted: &String| {
            let wanted = wanted.as_bytes();
            wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted)
        };
        let right = self.headers.iter().all(header_is)
            && self.body_contains.as_ref().is_none_or(contains)
            && self.json_is_right(body);
        if right { Class::Ok } else { Class::Body }
    }

    fn json_is_right(&self, body: &[u8]) -> bool {
        if self.json.is_empty() {
            return true;
        }
        let Ok(answer) = serde_json::from_slice::<Json>(body) else {
            return false;
        };
        let mut wanted = self.json.iter();
        wanted.all(|(pointer, value)| answer.pointer(pointer) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_good_if_it_is_all_that_was_asked_for() {
        let good = Good {
            statuses: vec![200, 204],
            headers: vec![(HeaderName::from_static("x-flappy"), "yes".to_owned())],
            body_contains: Some("\"ok\"".to_owned()),
            json: vec![
                ("/ok".to_owned(), json!(true)),
                ("/n/0".to_owned(), json!(3)),
            ],
        };
        let body = br#"{"ok": true, "n": [3]}"#;
        let mut headers = HeaderMap::new();
        assert_eq!(good.class(200, &headers, body), Class::Body, "no header");
        headers.append("X-Flappy", HeaderValue::from_static("no"));
        headers.append("X-Flappy", HeaderValue::from_static("yes"));
        assert_eq!(good.class(200, &headers, body), Class::Ok);
        assert_eq!(good.class(204, &headers, body), Class::Ok);
        assert_eq!(good.class(500, &headers, body), Class::Status);
        for wrong in [&br#"{"ok": true, "n": [4]}"#[..], b"\"ok\"", b"{}"] {
            assert_eq!(good.class(200, &headers, wrong), Class::Body);
        }
        assert!(good.reads_body() && !Good::default().reads_body());
        assert_eq!(Good::default().class(200, &headers, b""), Class::Ok);
    }
}
