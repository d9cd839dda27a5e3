//! For tests: what comes from outside as nobody should send it. Right inputs, spoiled in ways that follow from a seed.
//!
//! Every reader of outside bytes has a test that runs its variants through [`spoiled`]; `FLIGHTCAGE_SPOILED=100` makes it a hundred
//! times as many of them.

use std::panic::AssertUnwindSafe;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// How many times as many variants, when it matters.
const FACTOR: &str = "FLIGHTCAGE_SPOILED";
/// Longest variant: it doubles in places.
const LONGEST: usize = 64 << 10;
/// What breaks readers: letters of several bytes, numbers out of every range, beginnings without an end.
const PIECES: &[&[u8]] = &[
    "é".as_bytes(),
    "🐦".as_bytes(),
    "\u{feff}".as_bytes(),
    "\u{202e}".as_bytes(),
    b"\0",
    b"\xff\xfe",
    b"\"",
    b"'",
    b"\\",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"#",
    b"---\n",
    b"[[",
    b"{",
    b"}",
    b"]",
    b":",
    b",",
    b"=",
    b"&a *a",
    b"<<: *a",
    b"!!binary ",
    b"- ",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"0.00000000000000000001",
    b"18446744073709551616",
    b"9223372036854775807",
    b"2147483648",
    b"99999999999999h",
    b"99999EiB",
    b"nan",
    b"inf",
    b"../../../../etc/passwd",
];

/// Gives `check` the seeds themselves and `count` spoiled ones. A panic of it names the input.
///
/// # Panics
/// When `check` does.
pub(crate) fn spoiled(seeds: &[&[u8]], count: usize, mut check: impl FnMut(&[u8])) {
    let factor = std::env::var(FACTOR).map_or(1, |text| text.parse().expect("a number"));
    let mut random = StdRng::seed_from_u64(14);
    let nested =
        ["[", "{\"a\":", "- ", "(", "a: {", "a = ["].map(|open| open.repeat(2_000).into_bytes());
    let whole = seeds
        .iter()
        .copied()
        .chain(nested.iter().map(Vec::as_slice));
    let whole: Vec<Vec<u8>> = whole.chain([&b""[..]]).map(<[u8]>::to_vec).collect();
    for number in 0..whole.len() + count * factor {
        let input = match whole.get(number) {
            Some(seed) => seed.clone(),
            None => variant(&mut random, seeds),
        };
        let checked = std::panic::catch_unwind(AssertUnwindSafe(|| check(&input)));
        assert!(
            checked.is_ok(),
            "input {number}: {:?}",
            String::from_utf8_lossy(&input)
        );
    }
}

fn variant(random: &mut StdRng, seeds: &[&[u8]]) -> Vec<u8> {
    let mut bytes = seeds
        .choose(random)
        .map(|seed| seed.to_vec())
        .unwrap_or_default();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 40));
        match random.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            3 if bytes.len() < LONGEST => {
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
            4 if bytes.len() < LONGEST => {
                let other = seeds.choose(random).copied().unwrap_or_default();
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            5 => drop(bytes.splice(at..end, vec![b'9'; 40])),
            _ => {
                let piece = PIECES.choose(random).copied().unwrap_or_default();
                bytes.splice(at..end, piece.iter().copied());
            }
        }
    }
    bytes
}
