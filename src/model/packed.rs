//! Archives and layers as they come: plain, or packed with gzip, zstd, xz or bzip2. Their first bytes tell, never a name.

use std::io::{self, BufRead, BufReader, Read};

/// Memory that an xz stream may ask for, in KiB; `xz -9` asks for 65 MiB.
const XZ_MEMORY_KIB: u32 = 128 * 1024;
/// Bytes read at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// How something is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz.
    Xz,
    /// bzip2.
    Bzip2,
}

impl Packing {
    /// What the first bytes (six or more, if there are so many) tell.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame as `pzstd` and seekable archives begin with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::Plain,
        }
    }
}

/// Reads what is in `input`, whatever it is packed with.
pub fn unpacked<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    // Filled once it holds enough to tell by, even if the first read gives a byte.
    let mut start = Vec::with_capacity(6);
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    while start.len() < 6 {
        let ready = input.fill_buf()?;
        if ready.is_empty() {
            break;
        }
        let count = ready.len().min(6 - start.len());
        start.extend_from_slice(&ready[..count]);
        input.consume(count);
    }
    let packing = Packing::of(&start);
    let whole = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(start).chain(input));
    Ok(match packing {
        Packing::Plain => Box::new(whole),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            whole,
            true,
            XZ_MEMORY_KIB,
        )),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Gives one byte a read.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1);
            self.0.read(&mut buffer[..count])
        }
    }

    #[test]
    fn every_packing_is_told_by_its_first_bytes() {
        let text = "a layer, as it were ".repeat(500).into_bytes();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&text).unwrap();
        // `xz -0` of the same text: no writer of xz is compiled in.
        let xz = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            "/Td6WFoAAATm1rRGAgAhAQwAAACPmEGc4CcPAEFdADCICYZUoIY2rd+uwD6ZNxWRED4pnnHcO+TPL++2G8K71C2qTnqFyIuR4SFr20p31FkinY+cZIq+TB2yA2gm6cQAAAAAAGMKxwLxiZDrAAFdkE4AAADqx4jZscRn+wIAAAAABFla",
        );
        for (packing, bytes) in [
            (Packing::Plain, text.clone()),
            (Packing::Gzip, gzip.finish().unwrap()),
            (Packing::Zstd, zstd::encode_all(&text[..], 1).unwrap()),
            (Packing::Bzip2, bzip2.finish().unwrap()),
            (Packing::Xz, xz.unwrap()),
        ] {
            assert_eq!(Packing::of(&bytes), packing);
            let mut found = Vec::new();
            unpacked(Slow(&bytes))
                .unwrap()
                .read_to_end(&mut found)
                .unwrap();
            assert_eq!(found, text, "{packing:?}");
        }
        let mut nothing = Vec::new();
        unpacked(&b""[..])
            .unwrap()
            .read_to_end(&mut nothing)
            .unwrap();
        assert_eq!(nothing, b"");
    }
}
