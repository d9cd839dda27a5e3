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

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Parses `250ms`, `1s`, `1.5s`, `2m`, `1h`. A bare number is refused.
///
/// # Errors
/// When there is no number, no unit, or an unknown unit.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidQuantity> {
    let wanted = "a duration with its unit, such as `250ms`, `1s` or `2m`";
    let refuse = || InvalidQuantity { text: text.to_owned(), wanted };
    let (number, unit) = split(text);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(refuse()),
    };
    let number: f64 = number.parse().map_err(|_| refuse())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| refuse())
}

/// Parses `512MiB`, `4GiB`, `4GB` into bytes. A bare number is refused.
///
/// # Errors
/// When there is no number, no unit, or an unknown unit.
pub fn parse_size(text: &str) -> Result<u64, InvalidQuantity> {
    let refuse = || InvalidQuantity { text: text.to_owned(), wanted: "a size with its unit, such as `512MiB` or `4GiB`" };
    let (_, unit) = split(text);
    if unit.is_empty() {
        return Err(refuse());
    }
    text.trim().parse::<bytesize::ByteSize>().map(|size| size.as_u64()).map_err(|_| refuse())
}

/// Parses `25/s` or `1500/m` into events a second.
///
/// # Errors
/// When it is not a positive number followed by `/s` or `/m`.
pub fn parse_rate(text: &str) -> Result<f64, InvalidQuantity> {
    let refuse = || InvalidQuantity { text: text.to_owned(), wanted: "a rate such as `25/s` or `100/m`" };
    let (number, unit) = split(text);
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let per_second = match unit {
        "/s" => number,
        "/m" => number / 60.0,
        _ => return Err(refuse()),
    };
    if per_second > 0.0 && per_second.is_finite() { Ok(per_second) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "1", "s", "1 parsec", "-1s", "1e400s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_rates_need_units() {
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert!(parse_size("512").is_err());
        assert_eq!(parse_rate("25/s"), Ok(25.0));
        assert_eq!(parse_rate("120/m"), Ok(2.0));
        assert!(parse_rate("0/s").is_err());
        assert!(parse_rate("25").is_err());
    }
}
