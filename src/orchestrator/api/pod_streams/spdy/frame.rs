//! Frames of SPDY/3.1: what is read of them, and what is written.
//!
//! ```text
//!  control  1|version 15|type 16|flags 8|length 24|…       data  0|stream 31|flags 8|length 24|bytes
//! ```

use super::headers::{Deflater, Headers, Inflater};
use crate::orchestrator::limits::SPDY_FRAME_BYTES;

/// Length of what precedes each frame.
pub(in super::super) const HEAD_BYTES: usize = 8;
/// The last frame of its sender on a stream.
const FIN: u8 = 1;
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Reset {
    /// The stream is not open.
    InvalidStream = 2,
    /// There are too many.
    Refused = 3,
}

/// Why a session ends: what came is not SPDY/3.1, or more than a client of ours sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum FrameError {
    #[error("a frame of SPDY version {0}, not 3")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    Long(usize),
    #[error("a control frame of type {0} that is cut off")]
    Short(u16),
    #[error("headers that cannot be read: {0}")]
    Headers(&'static str),
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Head {
    Data {
        stream: u32,
        fin: bool,
        length: usize,
    },
    Control {
        kind: u16,
        fin: bool,
        length: usize,
    },
}

/// A control frame that means something to a server; of the others only that they came is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Control {
    Open {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Other,
}

impl Head {
    pub(in super::super) fn read(bytes: [u8; HEAD_BYTES]) -> Result<Self, FrameError> {
        let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let length = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
        let fin = bytes[4] & FIN != 0;
        if first >> 31 == 0 {
            return Ok(Self::Data {
                stream: first,
                fin,
                length,
            });
        }
        let version = u16::from_be_bytes([bytes[0] & 0x7f, bytes[1]]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > SPDY_FRAME_BYTES {
            return Err(FrameError::Long(length));
        }
        Ok(Self::Control {
            kind: u16::from_be_bytes([bytes[2], bytes[3]]),
            fin,
            length,
        })
    }
}

impl Control {
    /// Reads what follows the head. Every header block has to pass here in order: each is compressed on top of those before it.
    pub(in super::super) fn read(
        kind: u16,
        fin: bool,
        payload: &[u8],
        inflater: &mut Inflater,
    ) -> Result<Self, FrameError> {
        /// `HEADERS`, which also holds a block.
        const HEADERS: u16 = 8;
        let number = || {
            let bytes = payload.first_chunk::<4>().ok_or(FrameError::Short(kind))?;
            Ok(u32::from_be_bytes(*bytes) & 0x7fff_ffff)
        };
        let block = |from: usize| payload.get(from..).ok_or(FrameError::Short(kind));
        Ok(match kind {
            SYN_STREAM => Self::Open {
                stream: number()?,
                fin,
                headers: inflater.read(block(10)?)?,
            },
            SYN_REPLY | HEADERS => {
                inflater.read(block(4)?)?;
                Self::Other
            }
            RST_STREAM => Self::Reset { stream: number()? },
            PING => Self::Ping {
                id: payload
                    .first_chunk::<4>()
                    .map(|bytes| u32::from_be_bytes(*bytes))
                    .ok_or(FrameError::Short(kind))?,
            },
            GOAWAY => Self::GoAway,
            _ => Self::Other,
        })
    }
}

fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend((0x8000 | VERSION).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.extend(length(payload, false));
    frame.extend(payload);
    frame
}

/// Flags and length.
fn length(payload: &[u8], fin: bool) -> [u8; 4] {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    debug_assert!(length < 1 << 24, "a frame's length has three bytes");
    let [_, x, y, z] = length.to_be_bytes();
    [u8::from(fin) * FIN, x, y, z]
}

/// A stream that the client opened is accepted.
pub(in super::super) fn reply(stream: u32, deflater: &mut Deflater) -> Vec<u8> {
    let block = deflater.write(&Headers::new());
    control(SYN_REPLY, &[&stream.to_be_bytes(), &block[..]].concat())
}

pub(in super::super) fn data(stream: u32, fin: bool, bytes: &[u8]) -> Vec<u8> {
    let head = stream.to_be_bytes();
    [&head[..], &length(bytes, fin), bytes].concat()
}

pub(in super::super) fn reset(stream: u32, why: Reset) -> Vec<u8> {
    let why = (why as u32).to_be_bytes();
    control(RST_STREAM, &[stream.to_be_bytes(), why].concat())
}

pub(in super::super) fn ping(id: u32) -> Vec<u8> {
    control(PING, &id.to_be_bytes())
}

/// No new streams; `last` was the last one that was accepted.
pub(in super::super) fn go_away(last: u32) -> Vec<u8> {
    control(GOAWAY, &[last.to_be_bytes(), [0; 4]].concat())
}

/// As clients write them, for tests.
#[cfg(test)]
pub(in super::super) mod client {
    use super::*;

    pub(in super::super::super) fn open(
        stream: u32,
        headers: &Headers,
        deflater: &mut Deflater,
    ) -> Vec<u8> {
        let block = deflater.write(headers);
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(block);
        control(SYN_STREAM, &payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &[u8], inflater: &mut Inflater) -> Result<Option<Control>, FrameError> {
        let Some((head, rest)) = frame.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        match Head::read(*head)? {
            Head::Data { .. } => Ok(None),
            Head::Control { kind, fin, length } => {
                let payload = rest.get(..length).ok_or(FrameError::Short(kind))?;
                Control::read(kind, fin, payload, inflater).map(Some)
            }
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let owned = |text: &&str| (*text).to_owned();
        pairs
            .iter()
            .map(|(name, value)| (owned(name), owned(value)))
            .collect()
    }

    #[test]
    fn frames_are_laid_out_as_the_draft_says() {
        assert_eq!(ping(2), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2]);
        assert_eq!(data(5, true, b"x"), [0, 0, 0, 5, 1, 0, 0, 1, b'x']);
        assert_eq!(
            reset(1, Reset::Refused),
            [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 3]
        );
        let head = Head::read([0x80, 3, 0, 1, 1, 0, 1, 0]);
        let expected = Head::Control {
            kind: SYN_STREAM,
            fin: true,
            length: 256,
        };
        assert_eq!(head, Ok(expected));
        assert_eq!(
            Head::read([0x80, 2, 0, 1, 0, 0, 0, 0]),
            Err(FrameError::Version(2))
        );
        assert!(matches!(
            Head::read([0x80, 3, 0, 1, 0, 0xff, 0, 0]),
            Err(FrameError::Long(_))
        ));
    }

    #[test]
    fn streams_are_opened_one_after_another() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            let headers = headers(&[("streamtype", kind), ("port", "80")]);
            let frame = client::open(stream, &headers, &mut deflater);
            let fin = false;
            let expected = Control::Open {
                stream,
                fin,
                headers,
            };
            assert_eq!(read(&frame, &mut inflater), Ok(Some(expected)));
        }
        let mut answers = Deflater::new();
        let answer = reply(1, &mut answers);
        assert_eq!(
            read(&answer, &mut Inflater::new()),
            Ok(Some(Control::Other))
        );
    }

    #[test]
    fn whatever_a_client_frames_is_read_or_refused() {
        let mut deflater = Deflater::new();
        let one = client::open(1, &headers(&[("streamtype", "error")]), &mut deflater);
        let seeds: Vec<Vec<u8>> = vec![
            one,
            ping(1),
            reset(1, Reset::InvalidStream),
            go_away(1),
            data(1, true, b"bytes"),
        ];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        crate::model::spoiled::spoiled(&seeds, 5_000, |bytes| {
            // One connection reads several frames: state that a spoiled one leaves is no danger either.
            let mut inflater = Inflater::new();
            for _ in 0..2 {
                let _ = read(bytes, &mut inflater);
            }
        });
    }
}
