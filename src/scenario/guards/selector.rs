//! Label selectors as they are written: what a server would refuse is told before anything runs.

/// Longest name of a label, and longest value.
const NAME_MAX: usize = 63;
/// Longest prefix of a label's key.
const PREFIX_MAX: usize = 253;

/// Whether `text` is a label selector.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("it selects everything: leave it out".to_owned());
    }
    requirements(text)?.into_iter().try_for_each(requirement)
}

/// The parts between commas that are outside parentheses.
fn requirements(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' if !inside => inside = true,
            ')' if inside => inside = false,
            '(' | ')' => return Err("its parentheses do not match".to_owned()),
            ',' if !inside => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("its parentheses do not match".to_owned());
    }
    parts.push(text[start..].trim());
    Ok(parts)
}

fn requirement(part: &str) -> Result<(), String> {
    if part.is_empty() {
        return Err("there is nothing beside a comma".to_owned());
    }
    if let Some(name) = part.strip_prefix('!')
        && !part.contains('=')
    {
        return key(name.trim());
    }
    if let Some(inner) = part.strip_suffix(')') {
        let (head, values) = inner.split_once('(').unwrap_or((inner, ""));
        let words: Vec<&str> = head.split_whitespace().collect();
        let [name, "in" | "notin"] = words[..] else {
            return Err(format!(
                "`{part}` is neither `key in (…)` nor `key notin (…)`"
            ));
        };
        key(name)?;
        return values.split(',').try_for_each(|one| value(one.trim()));
    }
    for sign in ["!=", "==", "="] {
        if let Some((name, wanted)) = part.split_once(sign) {
            key(name.trim())?;
            return value(wanted.trim());
        }
    }
    key(part)
}

fn key(text: &str) -> Result<(), String> {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let prefix_letter =
        |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let prefix_right = prefix.is_none_or(|prefix| {
        !prefix.is_empty() && prefix.len() <= PREFIX_MAX && prefix.bytes().all(prefix_letter)
    });
    if prefix_right && is_name(name) {
        Ok(())
    } else {
        Err(format!("`{text}` is not a label's key"))
    }
}

fn value(text: &str) -> Result<(), String> {
    if text.is_empty() || is_name(text) {
        Ok(())
    } else {
        Err(format!("`{text}` is not a label's value"))
    }
}

/// Letters and digits, with `-`, `_` and `.` between them.
fn is_name(text: &str) -> bool {
    let ends = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let right = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    text.len() <= NAME_MAX && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(right)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_kubernetes_takes_is_right() {
        for right in [
            "app=web",
            "app==web, tier != back",
            "app in (web, db),tier notin (back)",
            "example.org/app",
            "!canary",
            "empty=",
        ] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
    }

    #[test]
    fn what_it_refuses_is_told() {
        for (wrong, why) in [
            ("", "it selects everything: leave it out"),
            ("app=web,", "there is nothing beside a comma"),
            ("app in (web", "its parentheses do not match"),
            ("app)", "its parentheses do not match"),
            (
                "app maybe (web)",
                "`app maybe (web)` is neither `key in (…)` nor `key notin (…)`",
            ),
            ("app web", "`app web` is not a label's key"),
            ("=web", "`` is not a label's key"),
            ("app=-web", "`-web` is not a label's value"),
            ("/app=web", "`/app` is not a label's key"),
        ] {
            assert_eq!(check(wrong), Err(why.to_owned()), "{wrong}");
        }
    }
}
