//! A document whose places are those of its text among other texts.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The table, `by` bytes further on.
pub(super) fn table(table: Spanned<DeTable<'_>>, by: usize) -> Spanned<DeTable<'_>> {
    let span = table.span();
    let entries = table.into_inner().into_iter().map(|(key, value)| {
        let at = key.span();
        let key = Spanned::new(at.start + by..at.end + by, key.into_inner());
        (key, self::value(value, by))
    });
    let entries: DeTable<'_> = entries.collect();
    Spanned::new(span.start + by..span.end + by, entries)
}

fn value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let inner = match value.into_inner() {
        DeValue::Table(entries) => {
            let moved = table(Spanned::new(span.clone(), entries), by);
            DeValue::Table(moved.into_inner())
        }
        DeValue::Array(items) => DeValue::Array(
            items
                .into_iter()
                .map(|item| self::value(item, by))
                .collect(),
        ),
        plain @ (DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)) => plain,
    };
    Spanned::new(span.start + by..span.end + by, inner)
}
