//! Reads text files that users name: a bounded, regular file in UTF-8 (or UTF-16 with its mark), or the place at which it is not.
//!
//! Devices, pipes and endless files are refused before a byte of them is read: whoever lints `/dev/zero` gets an answer.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::diagnostic::{Diagnostic, Refusal};

/// Larger than any file that people write, and than what an API server takes in one request many times over.
pub const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Why a file gave no text.
#[derive(Debug, thiserror::Error)]
pub enum TextFileError {
    /// The system refused to open or read it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not a regular file.
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// It holds more than [`TEXT_BYTES_MAX`].
    #[error("it holds more than {} MiB", TEXT_BYTES_MAX >> 20)]
    TooLarge,
    /// It is not text.
    #[error("line {line}, column {column}: byte 0x{byte:02x} is not UTF-8: save the file as UTF-8")]
    NotText {
        /// What comes before.
        before: String,
        /// Line of the first wrong byte, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The byte.
        byte: u8,
    },
}

impl TextFileError {
    /// As an error of the system, for callers that know only those.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }

    /// The problem as one with a place in the file, if it has a place.
    ///
    /// # Errors
    /// Gives the error back when it has none.
    pub fn located(self, file: &str) -> Result<Refusal, Self> {
        let Self::NotText { before, byte, .. } = self else {
            return Err(self);
        };
        let end = before.len();
        let problem = Diagnostic::new(
            file,
            &before,
            end..end,
            format!("byte 0x{byte:02x} is not UTF-8"),
            Some("save the file as UTF-8".to_owned()),
        );
        Ok(Refusal::new(file, &before, vec![problem]))
    }
}

/// Reads a file that a user named.
///
/// # Errors
/// When it cannot be read, is not a regular file, is too large or is not text.
pub fn read(path: &Path) -> Result<String, TextFileError> {
    // Without waiting: opening a pipe that nobody writes to would never end.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a small flag");
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    let refused = if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    };
    match refused {
        Some(kind) => Err(TextFileError::NotAFile(kind)),
        None => read_from(file),
    }
}

/// Reads text to its end, for instance from standard input.
///
/// # Errors
/// When it cannot be read, is too large or is not text.
pub fn read_from(source: impl Read) -> Result<String, TextFileError> {
    let mut bytes = Vec::new();
    source.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(TextFileError::TooLarge);
    }
    decode(bytes)
}

fn decode(bytes: Vec<u8>) -> Result<String, TextFileError> {
    let units = |pair: fn([u8; 2]) -> u16| -> Vec<u16> {
        bytes[2..]
            .chunks_exact(2)
            .map(|two| pair([two[0], two[1]]))
            .collect()
    };
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => Ok(String::from_utf16_lossy(&units(u16::from_le_bytes))),
        [0xfe, 0xff, ..] => Ok(String::from_utf16_lossy(&units(u16::from_be_bytes))),
        _ => String::from_utf8(bytes).map_err(|error| {
            let end = error.utf8_error().valid_up_to();
            let bytes = error.as_bytes();
            let byte = bytes[end];
            let before = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            TextFileError::NotText {
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                before,
                byte,
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_no_text_has_its_place() {
        let error = decode(b"a\nb\xc3\xa9 \xe9\n".to_vec()).expect_err("wrong");
        assert_eq!(
            error.to_string(),
            "line 2, column 4: byte 0xe9 is not UTF-8: save the file as UTF-8"
        );
        let refusal = error.located("f.toml").expect("it has a place");
        assert_eq!(
            refusal.listing(),
            "f.toml:2:4: byte 0xe9 is not UTF-8; save the file as UTF-8"
        );
    }

    #[test]
    fn utf_16_with_its_mark_is_text() {
        assert_eq!(decode(b"\xff\xfea\0\xe9\0".to_vec()).expect("text"), "aé");
        assert_eq!(decode(b"\xfe\xff\0a".to_vec()).expect("text"), "a");
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("a pipe");
        for (path, kind) in [
            (Path::new("/dev/zero"), "a device"),
            (folder.path(), "a directory"),
            (&pipe, "a pipe"),
        ] {
            let error = read(path).expect_err("refused");
            assert!(matches!(error, TextFileError::NotAFile(found) if found == kind));
        }
        assert!(matches!(
            read_from(io::repeat(b'a')),
            Err(TextFileError::TooLarge)
        ));
    }
}
