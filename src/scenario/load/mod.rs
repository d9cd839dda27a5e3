//! Open-loop HTTP load that measures availability honestly.
//!
//! - Each stream has one schedule of intended send times that never waits for a worker; latency counts from the intended time.
//! - One total deadline, from the intended time. Nothing is retried. Every request is kept.
//! - When requests are sent is fixed before the first of them ([`schedule`]), by the rate, its stages, the arrival and the seed.
//! - `new` opens a TCP connection and makes a full TLS handshake a request (session resumption is off); `reused` takes an idle
//!   connection, else opens one, and closes one that failed. Over HTTP/2 its requests share one connection; a stream that the server
//!   resets leaves it open, a request without an answer does not.
//! - What the prober itself did late is counted, so that a busy host makes the result inconclusive rather than wrong.

pub mod analysis;
pub mod automatic;
mod connection;
mod generator;
pub mod good;
pub mod schedule;
mod tls;
mod via;

use std::fmt;

use serde::Serialize;

pub use connection::{HttpRequest, ask_once};
pub use generator::{Running, Shared, start, start_kept};
pub use tls::{certificates_in, trust_only};
pub use via::through;

use super::spec::StreamKind;

/// A request sent later than this after its intended time is late.
pub const LATE_MS: f64 = 50.0;

/// One request, in milliseconds since the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its stream.
    pub stream: StreamKind,
    /// When it should have been sent.
    pub intended_ms: f64,
    /// When it was begun: connecting, or sending on a connection that was open.
    pub sent_ms: f64,
    /// When its connection was up, TLS included; equals `sent_ms` on a connection that was open.
    pub connected_ms: Option<f64>,
    /// When the head of the answer had come.
    pub first_byte_ms: Option<f64>,
    /// When it was over.
    pub end_ms: f64,
    /// Number of its connection within the load, from 1.
    pub connection: Option<u64>,
    /// Status of the answer.
    pub status: Option<u16>,
    /// Value of the version header.
    pub version: Option<String>,
    /// The pod that answered, where a header tells it.
    pub endpoint: Option<String>,
    /// How it ended.
    pub class: Class,
}

impl Record {
    /// Whether the answer was good.
    #[must_use]
    pub fn good(&self) -> bool {
        self.class == Class::Ok
    }

    /// From the intended time to the end.
    #[must_use]
    pub fn latency_ms(&self) -> f64 {
        self.end_ms - self.intended_ms
    }

    /// Whether the prober sent it too late.
    #[must_use]
    pub fn late(&self) -> bool {
        self.sent_ms - self.intended_ms > LATE_MS
    }
}

/// A time in which the prober itself was asleep, in milliseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pause {
    /// When it should have woken.
    pub from_ms: f64,
    /// When it woke.
    pub to_ms: f64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A good answer before the deadline.
    Ok,
    /// The connection was refused.
    Refused,
    /// No connection before the deadline.
    ConnectTimeout,
    /// The connection, or the request's stream on it, was reset, refused or closed before the answer was complete; a GOAWAY too.
    Reset,
    /// Connected, but silence until the deadline.
    ReadTimeout,
    /// The TLS handshake failed, or agreed on no HTTP/2 where that is wanted.
    Tls,
    /// Another status than the good one.
    Status,
    /// The answer is not HTTP of the wanted version, or its headers or body are not those of a good one.
    Body,
    /// The answer had begun, but was not complete at the deadline.
    Deadline,
    /// The prober itself could not ask: there is no such Service, or no socket.
    Prober,
}

impl Class {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Reset => "reset",
            Self::ReadTimeout => "read_timeout",
            Self::Tls => "tls",
            Self::Status => "status",
            Self::Body => "body",
            Self::Deadline => "deadline",
            Self::Prober => "prober",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
