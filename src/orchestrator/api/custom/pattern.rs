//! Patterns as Go writes them, which is how Kubernetes reads them, for `regex`, which knows nearly the same language: in a class, Go
//! takes a bracket, `&&` and `~~` as they are.

use std::fmt::Write as _;

/// A pattern of Go's for `regex`.
pub(super) fn of_go(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    let mut in_class = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                out.push('\\');
                out.extend(letters.next());
                continue;
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                // A bracket that closes is itself where nothing has been opened yet.
                if letters.peek() == Some(&'^') {
                    out.extend(letters.next());
                }
                if letters.peek() == Some(&']') {
                    letters.next();
                    out.push_str("\\]");
                }
                continue;
            }
            '[' if letters.peek() == Some(&':') => {
                out.push('[');
                // `[:alpha:]`, with its own end.
                for inner in letters.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
                continue;
            }
            '[' | '&' | '~' if in_class => {
                out.push('\\');
            }
            ']' => in_class = false,
            _ => {}
        }
        out.push(letter);
    }
    out
}

/// Why a pattern is refused.
pub(super) fn refusal(error: &regex::Error) -> String {
    let mut why = "must be a valid regular expression, but isn't: ".to_owned();
    match error {
        regex::Error::CompiledTooBig(bytes) => {
            // A String takes whatever is written to it.
            let _ = write!(why, "compiled it would take more than {bytes} bytes");
        }
        other => {
            // The last line says what is wrong; those before it show the pattern again.
            let text = other.to_string();
            why.push_str(text.lines().last().unwrap_or_default().trim());
            why.push_str(" (look-around and back-references are not part of the language)");
        }
    }
    why
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn classes_are_read_as_go_reads_them() {
        for (pattern, matches, fails) in [
            ("^[a[]+$", "a[", "b"),
            ("^[]a]$", "]", "b"),
            ("^[^]]$", "a", "]"),
            ("^[a&&b]+$", "a&b", "c"),
            ("^[[:alpha:]]+$", "ab", "1"),
            (r"^\[a\]$", "[a]", "a"),
            ("^[-a-z0-9]*$", "a-1", "A"),
        ] {
            let regex = Regex::new(&of_go(pattern)).expect(pattern);
            assert!(regex.is_match(matches), "{pattern} {matches}");
            assert!(!regex.is_match(fails), "{pattern} {fails}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        let refused = Regex::new(&of_go("(?=a)b")).expect_err("look-ahead");
        assert!(refusal(&refused).contains("look-around"), "{refused}");
    }
}
