//! Cells of tables, as `kubectl get` prints them (k8s.io/kubernetes/pkg/printers/internalversion/printers.go).

use serde_json::{Value, json};

/// One column of a kind's table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its title.
    pub(in crate::orchestrator::api) name: &'static str,
    /// Whether only `-o wide` shows it.
    pub(in crate::orchestrator::api) wide: bool,
    /// An object's cell.
    pub(in crate::orchestrator::api) cell: fn(&Value) -> Value,
}

/// A column that is always shown.
pub(in crate::orchestrator::api) const fn column(
    name: &'static str,
    cell: fn(&Value) -> Value,
) -> Column {
    Column {
        name,
        wide: false,
        cell,
    }
}

/// A column that only `-o wide` shows.
pub(in crate::orchestrator::api) const fn wide(
    name: &'static str,
    cell: fn(&Value) -> Value,
) -> Column {
    Column {
        name,
        wide: true,
        cell,
    }
}

/// The first column of nearly every kind.
pub(in crate::orchestrator::api) const NAME: Column =
    column("Name", |object| json!(text(object, "/metadata/name")));
/// The last that is always shown of nearly every kind.
pub(in crate::orchestrator::api) const AGE: Column = column("Age", |object| {
    json!(age_of(object, &["/metadata/creationTimestamp"]))
});

pub(in crate::orchestrator::api) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(in crate::orchestrator::api) fn number(object: &Value, pointer: &str) -> i64 {
    object
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

pub(in crate::orchestrator::api) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

pub(in crate::orchestrator::api) fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

pub(in crate::orchestrator::api) fn age_of(object: &Value, pointers: &[&str]) -> String {
    let time = pointers
        .iter()
        .find_map(|pointer| text(object, pointer).parse::<jiff::Timestamp>().ok());
    time.map_or_else(
        || "<unknown>".to_owned(),
        |time| duration(jiff::Timestamp::now().duration_since(time).as_secs()),
    )
}

/// As k8s.io/apimachinery/pkg/util/duration HumanDuration.
pub(in crate::orchestrator::api) fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |high: i64, unit: char, low: i64, low_unit: char| {
        if low == 0 {
            format!("{high}{unit}")
        } else {
            format!("{high}{unit}{low}{low_unit}")
        }
    };
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10800 => format!("{minutes}m"),
        10800..28800 => two(hours, 'h', minutes % 60, 'm'),
        28800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, 'y', days % 365, 'd'),
    }
}

/// A field of every container of a template.
pub(in crate::orchestrator::api) fn containers(object: &Value, field: &str) -> String {
    let names: Vec<&str> = list(object, "/spec/template/spec/containers")
        .iter()
        .filter_map(|one| one.get(field)?.as_str())
        .collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (seconds, expected) in [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (3600, "60m"),
            (11000, "3h3m"),
            (90000, "25h"),
            (200_000, "2d7h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
