//! Durations, sizes and rates as users write them: always with a unit.

use std::time::Duration;

/// Why a quantity was refused: the text and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct InvalidQuantity {
    /// What was written.
    pub text: String,
    /// What would have been right, for instance ``a duration such as `1s`, `250ms` or `2m` ``.
    pub wanted: &'static str,
}

/// Longer than any run; far below what clocks overflow at.
const DURATION_MAX: Duration = Duration::from_hours(24 * 366);
/// One an hour at least: the time between two must not overflow a clock.
const PER_SECOND_MIN: f64 = 1.0 / 3600.0;
const PER_SECOND_MAX: f64 = 1e9;
/// 1 PiB.
const SIZE_BYTES_MAX: u64 = 1 << 50;

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Parses `250ms`, `1s`, `1.5s`, `2m`, `1h`. A bare number is refused.
///
/// # Errors
/// When there is no number, no unit, or an unknown unit.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidQuantity> {
    let wanted = "a duration with its unit, such as `250ms`, `1s` or `2m`";
    let refuse = || InvalidQuantity {
        text: text.to_owned(),
        wanted,
    };
    let (number, unit) = split(text);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(refuse()),
    };
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let seconds = number * seconds_per_unit;
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err(InvalidQuantity {
            text: text.to_owned(),
            wanted: "a duration of at most `8784h`, a year",
        });
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| refuse())
}

/// Parses `512MiB`, `4GiB`, `4GB` into bytes. A bare number is refused.
///
/// # Errors
/// When there is no number, no unit, or an unknown unit.
pub fn parse_size(text: &str) -> Result<u64, InvalidQuantity> {
    let refuse = || InvalidQuantity {
        text: text.to_owned(),
        wanted: "a size with its unit, such as `512MiB` or `4GiB`",
    };
    let (_, unit) = split(text);
    if unit.is_empty() {
        return Err(refuse());
    }
    text.trim()
        .parse::<bytesize::ByteSize>()
        .map_err(|_| refuse())
        .and_then(|size| {
            if size.as_u64() <= SIZE_BYTES_MAX {
                Ok(size.as_u64())
            } else {
                Err(InvalidQuantity {
                    text: text.to_owned(),
                    wanted: "a size of at most `1PiB`",
                })
            }
        })
}

/// Parses `25/s` or `1500/m` into events a second.
///
/// # Errors
/// When it is not a positive number followed by `/s` or `/m`.
pub fn parse_rate(text: &str) -> Result<f64, InvalidQuantity> {
    let refuse = || InvalidQuantity {
        text: text.to_owned(),
        wanted: "a rate such as `25/s` or `100/m`",
    };
    let (number, unit) = split(text);
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let per_second = match unit {
        "/s" => number,
        "/m" => number / 60.0,
        _ => return Err(refuse()),
    };
    if (PER_SECOND_MIN..=PER_SECOND_MAX).contains(&per_second) {
        Ok(per_second)
    } else if per_second > 0.0 {
        Err(InvalidQuantity {
            text: text.to_owned(),
            wanted: "a rate from one an hour (`0.017/m`) to `1000000000/s`",
        })
    } else {
        Err(refuse())
    }
}

/// Parses `1%` or `0.5%` into a share from 0 to 1.
///
/// # Errors
/// When it is not a percentage from 0 to 100.
pub fn parse_share(text: &str) -> Result<f64, InvalidQuantity> {
    let refuse = || InvalidQuantity {
        text: text.to_owned(),
        wanted: "a share such as `1%` or `0.5%`, at most `100%`",
    };
    let (number, unit) = split(text);
    let percent: f64 = number.parse().map_err(|_| refuse())?;
    if unit == "%" && (0.0..=100.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err(refuse())
    }
}

/// Parses `1mbit/s`, `500kbit/s` or `9600bit/s` into bits a second; the prefixes are powers of 1000.
///
/// # Errors
/// When it is not a positive number with such a unit.
pub fn parse_bit_rate(text: &str) -> Result<u64, InvalidQuantity> {
    let refuse = || InvalidQuantity {
        text: text.to_owned(),
        wanted: "a rate such as `1mbit/s`, `500kbit/s` or `2gbit/s`",
    };
    let (number, unit) = split(text);
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "bit/s" => 1.0,
        "kbit/s" => 1e3,
        "mbit/s" => 1e6,
        "gbit/s" => 1e9,
        _ => return Err(refuse()),
    };
    let bits = (number * factor).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is checked to be in range"
    )]
    if (1.0..=1e15).contains(&bits) {
        Ok(bits as u64)
    } else {
        Err(refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(parse_duration("8784h"), Ok(DURATION_MAX));
        for bad in [
            "",
            "1",
            "s",
            "1 parsec",
            "-1s",
            "1e400s",
            "8784.1h",
            "5000000000000000h",
            "1é",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_rates_need_units() {
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        for bad in ["512", "99999EiB", "15EiB", "1025TiB", "5é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        for bad in [
            "0.00000000000000000001/s",
            "1e10/s",
            "9999999999999/s",
            "0/m",
        ] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        assert!(Duration::try_from_secs_f64(1.0 / parse_rate("0.017/m").unwrap()).is_ok());
        assert_eq!(parse_rate("25/s"), Ok(25.0));
        assert_eq!(parse_rate("120/m"), Ok(2.0));
        assert!(parse_rate("0/s").is_err());
        assert!(parse_rate("25").is_err());
    }

    #[test]
    fn shares_and_bit_rates_need_units() {
        assert_eq!(parse_share("1%"), Ok(0.01));
        assert_eq!(parse_share("100 %"), Ok(1.0));
        assert_eq!(parse_bit_rate("1mbit/s"), Ok(1_000_000));
        assert_eq!(parse_bit_rate("1.5 Mbit/s"), Ok(1_500_000));
        for bad in ["1", "0.01", "101%", "-1%", "%"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
        for bad in ["1", "1mbit", "0mbit/s", "1MB/s", "1e300gbit/s"] {
            assert!(parse_bit_rate(bad).is_err(), "{bad}");
        }
    }
}
