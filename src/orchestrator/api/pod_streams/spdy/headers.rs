//! Header blocks of SPDY/3: names and values, compressed by zlib with a dictionary that both sides know, one stream of it a direction.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::FrameError;
use crate::orchestrator::limits::SPDY_HEADERS_BYTES;

/// By their names in lower case. Of a name that comes twice the last value counts; Kubernetes' clients send none twice.
pub(in super::super) type Headers = BTreeMap<String, String>;

/// Headers of one block.
const HEADERS: u32 = 64;

/// The dictionary of the draft's section 2.6.10.1: these with their lengths before them, then [`DICTIONARY_TEXT`].
const DICTIONARY_WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
const DICTIONARY_TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
     203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
     403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
     Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
     chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,public\
     privatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS {
        let length = u32::try_from(word.len()).expect("words are short");
        bytes.extend(length.to_be_bytes());
        bytes.extend(word.as_bytes());
    }
    bytes.extend(DICTIONARY_TEXT.as_bytes());
    bytes
}

/// Reads the blocks of one direction.
pub(in super::super) struct Inflater(Decompress);

impl Inflater {
    pub(in super::super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(in super::super) fn read(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        pairs(&self.inflate(block)?)
    }

    /// Never more than [`SPDY_HEADERS_BYTES`], whatever the block promises.
    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::with_capacity(SPDY_HEADERS_BYTES);
        while !block.is_empty() {
            let (read, written) = (self.0.total_in(), plain.len());
            let outcome = self
                .0
                .decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            block = block.get(taken..).unwrap_or_default();
            match outcome {
                Ok(Status::Ok) if taken > 0 || plain.len() > written => {}
                Ok(Status::Ok | Status::BufError) if plain.len() == plain.capacity() => {
                    return Err(FrameError::Headers("they are too long"));
                }
                Ok(Status::Ok | Status::BufError) => {
                    return Err(FrameError::Headers("the block is cut off"));
                }
                Ok(Status::StreamEnd) => {
                    return Err(FrameError::Headers("their stream has ended"));
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| FrameError::Headers("they name another dictionary"))?;
                }
                Err(_) => return Err(FrameError::Headers("they are not zlib")),
            }
        }
        if plain.len() >= SPDY_HEADERS_BYTES {
            return Err(FrameError::Headers("they are too long"));
        }
        Ok(plain)
    }
}

fn pairs(plain: &[u8]) -> Result<Headers, FrameError> {
    let cut = FrameError::Headers("the block is cut off");
    let (count, mut rest) = number(plain).ok_or(cut.clone())?;
    if count > HEADERS {
        return Err(FrameError::Headers("they are too many"));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let (name, after) = text(rest).ok_or(cut.clone())?;
        let (value, after) = text(after).ok_or(cut.clone())?;
        headers.insert(name.to_ascii_lowercase(), value);
        rest = after;
    }
    Ok(headers)
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = number(bytes)?;
    let (text, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((String::from_utf8_lossy(text).into_owned(), rest))
}

/// Writes the blocks of one direction.
pub(in super::super) struct Deflater(Compress);

impl Deflater {
    pub(in super::super) fn new() -> Self {
        let mut compress = Compress::new(Compression::default(), true);
        compress
            .set_dictionary(&dictionary())
            .expect("a fresh stream takes a dictionary");
        Self(compress)
    }

    pub(in super::super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        let mut plain = length(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(length(text.len()));
            plain.extend(text.as_bytes());
        }
        // Enough for what does not get shorter, and for the marks of a flush: then one call is all.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 64 + 64);
        self.0
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .expect("a stream that is not finished takes more");
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_drafts() {
        let bytes = dictionary();
        assert_eq!(bytes.len(), 1423);
        let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        // Adler-32, by which a zlib stream names it.
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
        let first = Deflater::new().write(&Headers::new());
        assert_eq!(first[2..6], 0xe3c6_a7c2_u32.to_be_bytes());
    }

    #[test]
    fn a_block_that_swells_is_refused() {
        let mut bomb = Headers::new();
        bomb.insert("a".to_owned(), "a".repeat(SPDY_HEADERS_BYTES));
        let block = Deflater::new().write(&bomb);
        assert!(block.len() < 200, "{}", block.len());
        assert_eq!(
            Inflater::new().read(&block),
            Err(FrameError::Headers("they are too long"))
        );
        let cut = pairs(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a']);
        assert_eq!(cut, Err(FrameError::Headers("the block is cut off")));
        let many = pairs(&[0, 1, 0, 0]);
        assert_eq!(many, Err(FrameError::Headers("they are too many")));
    }
}
