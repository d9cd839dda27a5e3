//! Text for a terminal's line: inert, and as wide as it may be.

use unicode_width::UnicodeWidthChar;

/// Text of which nothing acts on a terminal: control characters are shown, and what hides or turns text around is replaced.
pub(super) fn inert(text: &str) -> String {
    text.chars().map(inert_char).collect()
}

fn inert_char(character: char) -> char {
    match character {
        // Unicode's pictures of the control characters.
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(character)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        // Invisible, line-breaking, and turning the direction.
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}' => '\u{fffd}',
        other => other,
    }
}

/// Columns that a character takes. By itself: a sequence of several that is drawn as one picture counts as wide as all of them.
fn columns_of(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// Columns that a text takes.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// A text of at most so many columns: the end of a longer one is `…`.
pub(super) fn cut(text: &str, most: usize) -> String {
    if columns(text) <= most {
        return text.to_owned();
    }
    let (mut kept, mut taken) = (String::new(), 0);
    for character in text.chars() {
        let width = columns_of(character);
        if taken + width + 1 > most {
            break;
        }
        taken += width;
        kept.push(character);
    }
    if most > 0 {
        kept.push('…');
    }
    kept
}

/// A text of exactly so many columns, filled with blanks.
pub(super) fn pad(text: &str, to: usize) -> String {
    let cut = cut(text, to);
    let missing = to.saturating_sub(columns(&cut));
    cut + &" ".repeat(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal() {
        let hostile = "a\u{1b}[2Jb\r\n\t\u{7f}\u{9b}c\u{202e}d\u{200b}e";
        assert_eq!(inert(hostile), "a␛[2Jb␍␊␉␡\u{fffd}c\u{fffd}d\u{fffd}e");
        assert!(!inert(hostile).chars().any(char::is_control));
        assert_eq!(inert("größe-日本"), "größe-日本");
    }

    #[test]
    fn wide_letters_are_cut_whole() {
        assert_eq!(columns("日本x"), 5);
        assert_eq!(columns("e\u{301}"), 1);
        assert_eq!(columns("✅⚡"), 4);
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 2), "a…");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(pad("日本語", 4), "日… ");
        assert_eq!(pad("ab", 4), "ab  ");
    }
}
