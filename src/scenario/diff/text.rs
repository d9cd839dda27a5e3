//! A difference in words: for a terminal, and as Markdown for a pull request.

use std::fmt::Write as _;

use super::super::report::State;
use super::{By, Change, Difference, Figure, Row, Side};

/// For a terminal, with a line break at its end.
#[must_use]
pub fn plain(difference: &Difference) -> String {
    let mut out = String::new();
    for (letter, side) in [("A", &difference.a), ("B", &difference.b)] {
        let _ = writeln!(
            out,
            "{letter}  {:<12}  {} (seed {}) in {}",
            side.verdict.word(),
            side.scenario,
            side.seed,
            side.folder.display()
        );
    }
    let head = ["figure", "A", "B", "difference", "interval", ""].map(str::to_owned);
    let rows = difference.figures.iter().map(cells);
    table(&mut out, std::iter::once(head).chain(rows).collect());
    for row in &difference.expectations {
        let _ = writeln!(out, "  {}", row_words(row));
    }
    let _ = writeln!(out, "{}", conclusion(difference));
    out
}

/// As Markdown.
#[must_use]
pub fn markdown(difference: &Difference) -> String {
    let mut out = String::new();
    let side = |side: &Side| format!("`{}` {}", escaped(&side.scenario), side.verdict.word());
    let _ = writeln!(
        out,
        "**A** {} · **B** {}\n\n**{}**\n",
        side(&difference.a),
        side(&difference.b),
        escaped(&conclusion(difference))
    );
    let _ = writeln!(
        out,
        "| figure | A | B | difference | interval | |\n|---|--:|--:|--:|--:|---|"
    );
    for figure in &difference.figures {
        let cells = cells(figure).map(|cell| escaped(&cell));
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    let changed: Vec<&Row> = difference
        .expectations
        .iter()
        .filter(|row| row.a != row.b || row.expected_a != row.expected_b)
        .collect();
    if !changed.is_empty() {
        let _ = writeln!(out);
        for row in changed {
            let _ = writeln!(out, "- {}", escaped(&row_words(row)));
        }
    }
    out
}

/// The figures in words: name, A, B, difference, interval, what can be said.
#[must_use]
pub fn table_rows(difference: &Difference) -> Vec<[String; 6]> {
    difference.figures.iter().map(cells).collect()
}

fn cells(figure: &Figure) -> [String; 6] {
    let value = |value: Option<f64>| {
        value.map_or_else(|| "never".to_owned(), |value| figure.unit.words(value))
    };
    let signed = |value: f64| {
        let sign = if value < 0.0 { "-" } else { "+" };
        format!("{sign}{}", figure.unit.words(value.abs()))
    };
    let interval = match (figure.low, figure.high) {
        (Some(low), Some(high)) => format!("{} to {}", signed(low), signed(high)),
        _ => String::new(),
    };
    let change = match (figure.change, figure.by) {
        (Change::Worse, By::Bootstrap) => "worse",
        (Change::Worse, By::Errors) => "longer or more in this run",
        (Change::Better, By::Bootstrap) => "better",
        (Change::Better, By::Errors) => "shorter or fewer in this run",
        (Change::Undecided, _) => "",
    };
    [
        figure.name.clone(),
        value(figure.a),
        value(figure.b),
        figure.difference.map_or_else(String::new, signed),
        interval,
        change.to_owned(),
    ]
}

fn row_words(row: &Row) -> String {
    let state = |state: Option<State>| state.map_or("not expected", State::words);
    let bound = match (&row.expected_a, &row.expected_b) {
        (Some(a), Some(b)) if a != b => format!("{a} in A, {b} in B"),
        (Some(bound), _) | (None, Some(bound)) => bound.clone(),
        (None, None) => String::new(),
    };
    format!(
        "{}: {bound}: {} in A, {} in B",
        row.name,
        state(row.a),
        state(row.b)
    )
}

/// Whether B is worse, in a sentence.
#[must_use]
pub fn conclusion(difference: &Difference) -> String {
    if difference.worse.is_empty() {
        "B is not worse beyond doubt".to_owned()
    } else {
        format!("B is worse: {}", difference.worse.join("; "))
    }
}

/// Columns side by side, the first to the left and all others to the right.
fn table(out: &mut String, rows: Vec<[String; 6]>) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = match column {
                0 => write!(line, "  {cell:<width$}"),
                5 => write!(line, "  {cell}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// Nothing of a name ends a cell or begins markup.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '`' | '*' | '[' | ']' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            '<' => out.push_str("&lt;"),
            '\n' | '\r' => out.push(' '),
            other => out.push(other),
        }
    }
    out
}
