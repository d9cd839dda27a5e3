//! A stream of JSON values, one after another with or without anything between, with the place of every part.

use serde_json::{Map, Value};

use super::place::{Parts, Place, Position, SyntaxProblem, Tree};
use super::scalar::whole_or_fraction;

/// Deeper than any object of Kubernetes.
const DEPTH_MAX: usize = 128;

/// Reads all values of `text`, whose first line has this number.
pub(super) fn read(text: &str, first_line: u64) -> Result<Vec<Tree>, SyntaxProblem> {
    let mut line_starts = vec![0];
    line_starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
    let mut reader = Reader {
        text,
        at: 0,
        line_starts,
        first_line,
    };
    let mut trees = Vec::new();
    loop {
        reader.skip_space();
        if reader.at == text.len() {
            return Ok(trees);
        }
        trees.push(reader.value(0)?);
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line_starts: Vec<usize>,
    first_line: u64,
}

impl Reader<'_> {
    fn position(&self, at: usize) -> Position {
        let index = self.line_starts.partition_point(|start| *start <= at) - 1;
        let column = self.text[self.line_starts[index]..at].chars().count() as u64 + 1;
        Position {
            line: self.first_line + index as u64,
            column,
        }
    }

    fn wrong<T>(&self, at: usize, problem: impl Into<String>) -> Result<T, SyntaxProblem> {
        Err(SyntaxProblem {
            at: self.position(at),
            problem: problem.into(),
        })
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len()
            - rest
                .trim_start_matches([' ', '\t', '\n', '\r', '\u{feff}'])
                .len();
    }

    fn value(&mut self, depth: usize) -> Result<Tree, SyntaxProblem> {
        self.skip_space();
        let start = self.at;
        if depth > DEPTH_MAX {
            return self.wrong(start, format!("nested deeper than {DEPTH_MAX} levels"));
        }
        let at = self.position(start);
        let leaf = |value| Tree {
            value,
            place: Place {
                at,
                parts: Parts::None,
            },
            size: 1,
        };
        match self.peek() {
            Some(b'{') => self.map(at, depth),
            Some(b'[') => self.list(at, depth),
            Some(b'"') => Ok(leaf(Value::String(self.string()?))),
            Some(b'-' | b'0'..=b'9') => Ok(leaf(self.number()?)),
            _ => {
                for (word, value) in [
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                    ("null", Value::Null),
                ] {
                    if self.rest().starts_with(word) {
                        self.at += word.len();
                        return Ok(leaf(value));
                    }
                }
                self.wrong(start, "a value is missing here")
            }
        }
    }

    fn map(&mut self, at: Position, depth: usize) -> Result<Tree, SyntaxProblem> {
        let (mut map, mut places, mut size) = (Map::new(), Vec::new(), 1);
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.skip_space();
                let key_start = self.at;
                if self.peek() != Some(b'"') {
                    return self.wrong(key_start, "a key in quotes is missing here");
                }
                let key = self.string()?;
                self.skip_space();
                if self.peek() != Some(b':') {
                    return self.wrong(self.at, format!("`:` is missing after the key `{key}`"));
                }
                self.at += 1;
                let tree = self.value(depth + 1)?;
                size += tree.size;
                if map.contains_key(&key) {
                    return self.wrong(key_start, format!("the key `{key}` is there twice"));
                }
                map.insert(key.clone(), tree.value);
                places.push((key, self.position(key_start), tree.place));
                if self.ends(b'}')? {
                    break;
                }
            }
        }
        Ok(Tree {
            value: Value::Object(map),
            place: Place {
                at,
                parts: Parts::Map(places),
            },
            size,
        })
    }

    fn list(&mut self, at: Position, depth: usize) -> Result<Tree, SyntaxProblem> {
        let (mut values, mut places, mut size) = (Vec::new(), Vec::new(), 1);
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                let tree = self.value(depth + 1)?;
                size += tree.size;
                values.push(tree.value);
                places.push(tree.place);
                if self.ends(b']')? {
                    break;
                }
            }
        }
        Ok(Tree {
            value: Value::Array(values),
            place: Place {
                at,
                parts: Parts::List(places),
            },
            size,
        })
    }

    /// Whether the list or map ends here; else a comma says that it goes on.
    fn ends(&mut self, end: u8) -> Result<bool, SyntaxProblem> {
        self.skip_space();
        match self.peek() {
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(true)
            }
            Some(b',') => {
                self.at += 1;
                Ok(false)
            }
            _ => self.wrong(
                self.at,
                format!("`,` or `{}` is missing here", char::from(end)),
            ),
        }
    }

    fn number(&mut self) -> Result<Value, SyntaxProblem> {
        let start = self.at;
        let rest = self.rest();
        let length = rest
            .find(|letter: char| !(letter.is_ascii_digit() || "+-.eE".contains(letter)))
            .unwrap_or(rest.len());
        self.at += length;
        let text = &self.text[start..self.at];
        let parsed = serde_json::from_str::<Value>(text).ok();
        let value = parsed.and_then(|value| match value.as_f64() {
            Some(float) if value.is_f64() => whole_or_fraction(float),
            _ => Some(value),
        });
        match value {
            Some(value) => Ok(value),
            None => self.wrong(start, format!("`{text}` is not a number")),
        }
    }

    /// Halves of surrogate pairs are joined; one alone is U+FFFD, as Go reads it.
    fn string(&mut self) -> Result<String, SyntaxProblem> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(byte) if *byte >= 0x20 => end += 1,
                Some(_) => return self.wrong(end, "a text does not end on its line"),
                None => return self.wrong(start, "a text is not ended: `\"` is missing"),
            }
        }
        self.at = end + 1;
        let written = &self.text[start..self.at];
        if let Ok(text) = serde_json::from_str::<String>(written) {
            return Ok(text);
        }
        match serde_json::from_str::<String>(&without_lone_halves(written)) {
            Ok(text) => Ok(text),
            Err(_) => self.wrong(start, "a text has an escape that JSON does not know"),
        }
    }
}

/// `\ud83d` without its other half becomes `\ufffd`.
fn without_lone_halves(written: &str) -> String {
    let code = |at: usize| {
        let digits = written.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut text, mut at) = (String::with_capacity(written.len()), 0);
    while let Some(letter) = written[at..].chars().next() {
        let length = match code(at) {
            Some(0xd800..=0xdbff) if matches!(code(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                text.push_str("\\ufffd");
                at += 6;
                continue;
            }
            _ if letter == '\\' => 1 + written[at + 1..].chars().next().map_or(0, char::len_utf8),
            _ => letter.len_utf8(),
        };
        text.push_str(&written[at..at + length]);
        at += length;
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        let trees = read(text, 1).expect("right");
        trees.into_iter().map(|tree| tree.value).collect()
    }

    #[test]
    fn a_stream_is_read_to_its_end() {
        assert_eq!(
            values("{\"a\":1}{\"a\":\t[2, 2.0, -1e2, 0.5]}\n\n \"x\" null"),
            [
                json!({"a": 1}),
                json!({"a": [2, 2, -100, 0.5]}),
                json!("x"),
                json!(null)
            ]
        );
        assert_eq!(values(" \u{feff}"), Vec::<Value>::new());
    }

    #[test]
    fn escapes_are_those_of_json() {
        assert_eq!(
            values(r#""\ud83d\udc26 a\/b \ud83d \udc26x \\ud83d é""#),
            [json!("🐦 a/b \u{fffd} \u{fffd}x \\ud83d é")]
        );
    }

    #[test]
    fn parts_have_their_places() {
        let tree = &read("\n{\"é\": {\"b\":\n [1, {\"c.d\": 2}]}}", 5).expect("right")[0];
        let place = |path: &str| {
            let at = tree.place.find(path);
            (at.line, at.column)
        };
        assert_eq!(place(""), (6, 1));
        assert_eq!(place("é.b"), (6, 8));
        assert_eq!(place("é.b[1].c.d"), (7, 7));
        assert_eq!(place("é.b[1][c.d]"), (7, 7));
        assert_eq!(place("é.b[7].x"), (6, 8));
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (text, line, column) in [
            ("{\"a\": }", 1, 7),
            ("{\"a\" 1}", 1, 6),
            ("{\"é\": 1 \"b\"}", 1, 9),
            ("{\"a\": 1,}", 1, 9),
            ("[1, 2", 1, 6),
            ("{\"a\": 01}", 1, 7),
            ("{\"a\": \"b\nc\"}", 1, 9),
            ("{\"a\": \"b", 1, 7),
            ("{\"a\": 1,\n\"a\": 2}", 2, 1),
            ("{\"a\": \"\\x\"}", 1, 7),
            ("{\"a\": \"\\", 1, 7),
            ("{\"a\": 1e999}", 1, 7),
        ] {
            let wrong = read(text, 1).expect_err(text);
            assert_eq!(
                (wrong.at.line, wrong.at.column),
                (line, column),
                "{text}: {}",
                wrong.problem
            );
        }
        let deep = "[".repeat(100_000);
        assert!(read(&deep, 1).expect_err("deep").problem.contains("deeper"));
    }
}
