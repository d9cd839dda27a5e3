//! Kubernetes quantities (`100m`, `64Mi`, `1e3`) as thousandths.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths of its unit, rounded up; `None` if it is not a quantity.
pub(super) fn thousandths(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        _ => {
            let exponent: u32 = suffix
                .strip_prefix(['e', 'E'])?
                .parse()
                .ok()
                .filter(|exponent| *exponent <= 18)?;
            (1000 * 10_i128.pow(exponent), 1)
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || whole.len() > 20 || whole.starts_with('-') {
        return None;
    }
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: i128 = format!("{whole}{fraction}")
        .trim_start_matches('+')
        .parse()
        .ok()?;
    let divisor = scale * denominator;
    Some((digits.checked_mul(numerator)? + divisor - 1) / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, wanted) in [
            ("100m", Some(100)),
            ("0.1", Some(100)),
            ("1", Some(1000)),
            ("1.5", Some(1500)),
            ("64Mi", Some(64 * 1024 * 1024 * 1000)),
            ("1e3", Some(1_000_000)),
            ("1500u", Some(2)),
            (".5", Some(500)),
            ("", None),
            ("12x", None),
            ("-1", None),
        ] {
            assert_eq!(thousandths(&Quantity(text.to_owned())), wanted, "{text}");
        }
    }
}
