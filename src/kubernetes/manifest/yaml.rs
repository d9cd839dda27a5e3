//! One YAML document, resolved as Kubernetes' library does, with the place of every part.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

use super::place::{Parts, Place, Position, SyntaxProblem, Tree};
use super::scalar;

/// Deeper than any object of Kubernetes.
const DEPTH_MAX: usize = 128;
/// How many values aliases may add. Go's reader looks at the share that aliases add; a document that nothing else is in should not be
/// allowed more than one that is large, and one anchor that is used often is no flood.
const EXPANDED_MAX: usize = 100_000;

/// Reads a document whose first line has this number: nothing if it is empty. What is wrong is told as far as it can be read.
pub(super) fn read(text: &str, first_line: u64) -> (Option<Tree>, Vec<SyntaxProblem>) {
    let mut builder = Builder {
        first_line,
        stack: Vec::new(),
        anchors: HashMap::new(),
        expanded: 0,
        root: None,
        problems: Vec::new(),
    };
    for event in Parser::new_from_str(text) {
        let stopped = match event {
            Ok((event, span)) => builder.event(event, &span),
            Err(error) => Err(SyntaxProblem {
                at: builder.position(error.marker().line(), error.marker().col()),
                problem: format!("not YAML: {}", error.info()),
            }),
        };
        if let Err(problem) = stopped {
            builder.problems.push(problem);
            return (None, builder.problems);
        }
    }
    (builder.root, builder.problems)
}

/// A list or map that is not ended yet.
struct Open {
    anchor: usize,
    at: Position,
    inside: Inside,
}

enum Inside {
    List(Vec<Tree>),
    Map {
        entries: Vec<(String, Position, Tree)>,
        keys: HashSet<String>,
        merged: Vec<Tree>,
        key: Option<Key>,
    },
}

struct Key {
    text: String,
    at: Position,
    is_merge: bool,
}

struct Builder {
    first_line: u64,
    stack: Vec<Open>,
    anchors: HashMap<usize, Tree>,
    expanded: usize,
    root: Option<Tree>,
    problems: Vec<SyntaxProblem>,
}

impl Builder {
    fn position(&self, line: usize, column: usize) -> Position {
        Position {
            line: self.first_line + line.saturating_sub(1) as u64,
            column: column as u64 + 1,
        }
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), SyntaxProblem> {
        let at = self.position(span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain;
                let is_text = tag.as_deref().is_some_and(|tag| tag.suffix() == "str");
                let is_merge = is_plain && tag.is_none() && text == "<<";
                let value = if is_plain && !is_text {
                    scalar::resolve(&text)
                } else {
                    Value::String(text.into_owned())
                };
                let tree = Tree {
                    value,
                    place: Place {
                        at,
                        parts: Parts::None,
                    },
                    size: 1,
                };
                self.remember(anchor, &tree)?;
                self.node(tree, is_merge)
            }
            Event::SequenceStart(_, anchor, _) => self.open(anchor, at, Inside::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => self.open(
                anchor,
                at,
                Inside::Map {
                    entries: Vec::new(),
                    keys: HashSet::new(),
                    merged: Vec::new(),
                    key: None,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else {
                    return Ok(());
                };
                let anchor = open.anchor;
                let tree = self.close(open);
                self.remember(anchor, &tree)?;
                self.node(tree, false)
            }
            Event::Alias(anchor) => {
                let Some(mut tree) = self.alias(anchor, at)? else {
                    return Err(SyntaxProblem {
                        at,
                        problem: "an alias stands inside of what it stands for".to_owned(),
                    });
                };
                tree.place.at = at;
                self.node(tree, false)
            }
            _ => Ok(()),
        }
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<Option<Tree>, SyntaxProblem> {
        let Some(tree) = self.anchors.get(&anchor) else {
            return Ok(None);
        };
        self.expanded = self.expanded.saturating_add(tree.size);
        if self.expanded > EXPANDED_MAX {
            return Err(SyntaxProblem {
                at,
                problem: format!(
                    "aliases make more than {EXPANDED_MAX} values of this document: write less of it by aliases"
                ),
            });
        }
        Ok(Some(tree.clone()))
    }

    fn remember(&mut self, anchor: usize, tree: &Tree) -> Result<(), SyntaxProblem> {
        if anchor == 0 {
            return Ok(());
        }
        // What is remembered takes memory even if it is never used.
        self.expanded = self.expanded.saturating_add(tree.size / 4);
        if self.expanded > EXPANDED_MAX {
            return Err(SyntaxProblem {
                at: tree.place.at,
                problem: "too many anchors inside of anchors".to_owned(),
            });
        }
        self.anchors.insert(anchor, tree.clone());
        Ok(())
    }

    fn open(&mut self, anchor: usize, at: Position, inside: Inside) -> Result<(), SyntaxProblem> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(SyntaxProblem {
                at,
                problem: format!("nested deeper than {DEPTH_MAX} levels"),
            });
        }
        self.stack.push(Open { anchor, at, inside });
        Ok(())
    }

    /// A node is complete: it is an element, a key, a value or the whole document.
    fn node(&mut self, tree: Tree, is_merge: bool) -> Result<(), SyntaxProblem> {
        let Some(open) = self.stack.last_mut() else {
            self.root.get_or_insert(tree);
            return Ok(());
        };
        match &mut open.inside {
            Inside::List(elements) => elements.push(tree),
            Inside::Map {
                entries,
                keys,
                merged,
                key,
            } => match key.take() {
                None => {
                    let at = tree.place.at;
                    let Some(text) = key_text(&tree.value) else {
                        return Err(SyntaxProblem {
                            at,
                            problem: "a key must be text".to_owned(),
                        });
                    };
                    *key = Some(Key { text, at, is_merge });
                }
                Some(key) if key.is_merge => merged.push(tree),
                Some(key) => {
                    if keys.insert(key.text.clone()) {
                        entries.push((key.text, key.at, tree));
                    } else {
                        self.problems.push(SyntaxProblem {
                            at: key.at,
                            problem: format!("the key `{}` is there twice", key.text),
                        });
                    }
                }
            },
        }
        Ok(())
    }

    fn close(&mut self, open: Open) -> Tree {
        match open.inside {
            Inside::List(elements) => {
                let size = elements.iter().map(|tree| tree.size).sum::<usize>() + 1;
                let (values, places) = elements
                    .into_iter()
                    .map(|tree| (tree.value, tree.place))
                    .unzip();
                Tree {
                    value: Value::Array(values),
                    place: Place {
                        at: open.at,
                        parts: Parts::List(places),
                    },
                    size,
                }
            }
            Inside::Map {
                entries, merged, ..
            } => {
                let (mut map, mut places, mut size) = (Map::new(), Vec::new(), 1);
                for (key, at, tree) in entries {
                    size += tree.size;
                    map.insert(key.clone(), tree.value);
                    places.push((key, at, tree.place));
                }
                for tree in merged {
                    size += tree.size;
                    if !merge(&mut map, &mut places, &tree.value, &tree.place) {
                        self.problems.push(SyntaxProblem {
                            at: tree.place.at,
                            problem: "`<<` takes a mapping, or a list of them".to_owned(),
                        });
                    }
                }
                Tree {
                    value: Value::Object(map),
                    place: Place {
                        at: open.at,
                        parts: Parts::Map(places),
                    },
                    size,
                }
            }
        }
    }
}

/// Adds what `map` does not have itself; of a list of mappings the first that has a key counts.
fn merge(
    map: &mut Map<String, Value>,
    places: &mut Vec<(String, Position, Place)>,
    value: &Value,
    place: &Place,
) -> bool {
    match value {
        Value::Object(more) => {
            for (key, value) in more {
                if map.contains_key(key) {
                    continue;
                }
                map.insert(key.clone(), value.clone());
                let inner = place.entry(key).unwrap_or(place).clone();
                places.push((key.clone(), place.at, inner));
            }
            true
        }
        Value::Array(list) => list.iter().enumerate().all(|(index, value)| {
            let place = place.element(index).unwrap_or(place);
            value.is_object() && merge(map, places, value, place)
        }),
        _ => false,
    }
}

/// A key as JSON writes it.
fn key_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Value {
        let (tree, problems) = read(text, 1);
        assert_eq!(problems, []);
        tree.map_or(Value::Null, |tree| tree.value)
    }

    #[test]
    fn documents_are_those_of_kubernetes_library() {
        assert_eq!(
            value(
                "a: 8080.0\nb: yes\nc: \"yes\"\nd: !!str 5\ne: |\n  x\n  y\n0644: m\n? true\n: t\nf:\n"
            ),
            json!({"a": 8080, "b": true, "c": "yes", "d": "5", "e": "x\ny\n", "420": "m", "true": "t", "f": null})
        );
        assert_eq!(
            value(
                "base: &base {a: 1, b: 2}\nother: &other {b: 9, c: 3}\nx:\n  <<: [*base, *other]\n  a: 5\nw: {<<: *base}\nz: *base\n"
            ),
            json!({"base": {"a": 1, "b": 2}, "other": {"b": 9, "c": 3}, "x": {"a": 5, "b": 2, "c": 3}, "w": {"a": 1, "b": 2}, "z": {"a": 1, "b": 2}})
        );
        assert_eq!(value("# nothing\n"), json!(null));
    }

    #[test]
    fn one_anchor_may_be_used_often_and_a_flood_may_not() {
        let often: String = (0..5000).map(|number| format!("k{number}: *a\n")).collect();
        assert_eq!(value(&format!("k: &a \"250\"\n{often}"))["k4999"], "250");
        let mut flood =
            "l0: &l0 [drop, drop, drop, drop, drop, drop, drop, drop, drop]\n".to_owned();
        for level in 1..10 {
            let line = format!(
                "l{level}: &l{level} [{}]\n",
                vec![format!("*l{}", level - 1); 9].join(", ")
            );
            flood.push_str(&line);
        }
        let (tree, problems) = read(&flood, 1);
        assert!(tree.is_none());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].problem.contains("aliases"), "{problems:?}");
        assert!(read("a: &a [*a]\n", 1).0.is_none());
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (text, line, column) in [
            ("a: 1\nb: 2\na: 3\n", 7, 1),
            ("a: {é: 1, é: 2}\n", 5, 11),
            ("a: 1\n? [x]\n: 2\n", 6, 3),
            ("x:\n  <<: 5\n", 6, 7),
        ] {
            let (_, problems) = read(text, 5);
            let at = problems[0].at;
            assert_eq!((at.line, at.column), (line, column), "{text}: {problems:?}");
        }
        let (_, problems) = read("a: [\n", 5);
        assert!(problems[0].problem.starts_with("not YAML"), "{problems:?}");
        assert!(read(&"[".repeat(100_000), 1).0.is_none());
        let (tree, _) = read("a:\n  - b: 1\n    c: 2\n", 10);
        let at = tree.expect("right").place.find("a[0].c");
        assert_eq!((at.line, at.column), (12, 5));
    }
}
