//! Kubernetes quantities (`100m`, `0.5`, `64Mi`, `1e3`) as numbers.
//!
//! Source: `k8s.io/apimachinery/pkg/api/resource/quantity.go`. Both readings round up, as `Quantity.Value` does.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The largest value either reading returns; larger quantities are refused rather than wrapped.
const LARGEST: f64 = 9.0e18;

fn scale(suffix: &str) -> Option<f64> {
    Some(match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        _ => return None,
    })
}

fn value(text: &str) -> Option<f64> {
    let text = text.trim();
    let number_end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let value = match scale(suffix) {
        Some(scale) => number.parse::<f64>().ok()? * scale,
        None if suffix.starts_with(['e', 'E']) => text.parse::<f64>().ok()?,
        None => return None,
    };
    (0.0..LARGEST).contains(&value).then_some(value)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`value` is within 0..LARGEST"
)]
fn round_up(value: f64) -> u64 {
    // A decimal such as 0.1 is not exact in binary: what is within a millionth of an integer is that integer.
    let nearest = value.round();
    if (value - nearest).abs() < 1e-6 {
        nearest as u64
    } else {
        value.ceil() as u64
    }
}

/// A CPU quantity in thousandths of a CPU; `None` when it is not a quantity.
pub(crate) fn cpu_millis(quantity: &Quantity) -> Option<u64> {
    value(&quantity.0).map(|cpus| round_up(cpus * 1000.0))
}

/// A memory quantity in bytes; `None` when it is not a quantity.
pub(crate) fn bytes(quantity: &Quantity) -> Option<u64> {
    value(&quantity.0).map(round_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_thousandths() {
        for (text, millis) in [
            ("100m", 100),
            ("0.5", 500),
            ("1", 1000),
            ("0.1", 100),
            ("2500u", 3),
            ("1e1", 10_000),
            ("0", 0),
        ] {
            assert_eq!(cpu_millis(&Quantity(text.into())), Some(millis), "{text}");
        }
    }

    #[test]
    fn memory_is_bytes() {
        for (text, expected) in [
            ("64Mi", 64 << 20),
            ("1.5Gi", 1536 << 20),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("1M", 1_000_000),
        ] {
            assert_eq!(bytes(&Quantity(text.into())), Some(expected), "{text}");
        }
        for bad in ["", "Mi", "-1", "64MB", "1e40", "abc"] {
            assert_eq!(bytes(&Quantity(bad.into())), None, "{bad}");
        }
    }
}
