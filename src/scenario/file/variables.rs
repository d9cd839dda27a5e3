//! `[var]`: names whose values stand for `${name}` in every text of the file; `--set name=value` gives them other ones.
//!
//! A file without `[var]` is left as it is: `${HOME}` in a command for pods is the shell's. In one that has it `$${` is a plain `${`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::reader::{Problems, suggestion};

/// The table's key.
pub(super) const KEY: &str = "var";

/// Fills the variables of a document in, and returns what that changes of its text.
pub(super) fn fill<'t>(
    document: &mut Spanned<DeTable<'t>>,
    set: &[(String, String)],
    problems: &Problems<'t>,
) -> Edits {
    let mut filling = Filling {
        values: BTreeMap::new(),
        problems,
        edits: Vec::new(),
    };
    let written = filling.read(document);
    for (name, value) in set {
        let known: Vec<&str> = filling.values.keys().map(String::as_str).collect();
        if known.contains(&name.as_str()) {
            filling.values.insert(name.clone(), value.clone());
        } else {
            let help = suggestion(name, &known);
            let what = format!("`--set {name}=…`: this file has no variable `{name}`");
            problems.add(0..0, what, help);
        }
    }
    let Some(written) = written else {
        return Edits(Vec::new());
    };
    for (name, span) in written {
        let value = filling.values[&name].clone();
        filling.edits.push((span, value));
    }
    for (key, value) in document.get_mut().iter_mut() {
        if key.get_ref() == KEY {
            filling.set(value);
        } else {
            filling.fill(value);
        }
    }
    Edits(filling.edits)
}

/// Texts of the file in their places, and what is to stand there.
pub(super) struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    /// The text with every edit.
    pub(super) fn applied(mut self, text: &str) -> String {
        let mut out = text.to_owned();
        self.0
            .sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
        for (span, value) in self.0 {
            out.replace_range(span, &toml::Value::String(value).to_string());
        }
        out
    }
}

struct Filling<'p, 't> {
    values: BTreeMap<String, String>,
    problems: &'p Problems<'t>,
    edits: Vec<(Range<usize>, String)>,
}

impl<'t> Filling<'_, 't> {
    /// Reads `[var]`: the place of each value. `None` if the file has no such table.
    fn read(&mut self, document: &Spanned<DeTable<'t>>) -> Option<Vec<(String, Range<usize>)>> {
        let value = document.get_ref().get(KEY)?;
        let DeValue::Table(table) = value.get_ref() else {
            let what = "expected a table of names and texts";
            self.problems.add(value.span(), what, None);
            return None;
        };
        let mut written = Vec::new();
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            if !super::is_word(name) {
                let what = format!("`{name}` is not a name of `[a-z0-9-]+`");
                self.problems.add(key.span(), what, None);
            }
            let DeValue::String(text) = value.get_ref() else {
                let help = "a number is a text here, too, such as `rate = \"25/s\"`";
                let what = "expected a text";
                self.problems.add(value.span(), what, Some(help.to_owned()));
                continue;
            };
            self.values
                .insert(name.to_owned(), text.clone().into_owned());
            written.push((name.to_owned(), value.span()));
        }
        Some(written)
    }

    /// Gives the variables of the document their values.
    fn set(&self, value: &mut Spanned<DeValue<'t>>) {
        let DeValue::Table(table) = value.get_mut() else {
            return;
        };
        for (key, value) in table.iter_mut() {
            let name: &str = key.get_ref();
            if let DeValue::String(text) = value.get_mut()
                && let Some(known) = self.values.get(name)
            {
                *text = Cow::Owned(known.clone());
            }
        }
    }

    fn fill(&mut self, value: &mut Spanned<DeValue<'t>>) {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) if text.contains("${") => {
                let filled = self.filled(text, span.clone());
                // What is plain has to be so when the text is read again.
                self.edits.push((span, filled.replace("${", "$${")));
                *text = Cow::Owned(filled);
            }
            DeValue::Array(items) => items.iter_mut().for_each(|item| self.fill(item)),
            DeValue::Table(table) => {
                for (_, value) in table.iter_mut() {
                    self.fill(value);
                }
            }
            _ => {}
        }
    }

    fn filled(&self, text: &str, span: Range<usize>) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = rest.split_at(at);
            let after = &after[2..];
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = after;
                continue;
            }
            out.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                let what = "`${` is not closed";
                let help = "`$${` is a plain `${`";
                self.problems.add(span, what, Some(help.to_owned()));
                return out;
            };
            match self.values.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    let known: Vec<&str> = self.values.keys().map(String::as_str).collect();
                    let what = format!("there is no variable `{name}`");
                    self.problems
                        .add(span.clone(), what, suggestion(name, &known));
                }
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Against, parse};
    use crate::scenario::spec::Scenario;

    const FILE: &str = "flightcage = 1\n[var]\nrate = \"5/s\"\nhost = \"web\"\n[load.web]\nurl = \"http://${host}/${host}?a=$${b}\"\n\
                        rate = \"${rate}\"\nstreams = [\"new\"]\ndeadline = \"1s\"\nbaseline = { for = \"5s\", good = \"100%\" }\n\
                        [expect]\nweb.failed = \"<= 1%\"\n";

    fn read(text: &str, set: &[(&str, &str)]) -> Result<Scenario, Vec<String>> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let set: Vec<(String, String)> = set.iter().map(owned).collect();
        let name = "test".parse().unwrap();
        let against = Against {
            set: &set,
            ..Against::own_cluster(&name, |_, _| Vec::new())
        };
        parse(Path::new("demo.toml"), text, &against).map_err(|refusal| {
            let told = refusal.problems().iter();
            told.map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
                .collect()
        })
    }

    #[test]
    fn they_stand_for_their_values_and_the_filled_file_says_the_same() {
        let scenario = read(FILE, &[("rate", "9/s")]).unwrap();
        let load = &scenario.loads["web"];
        assert_eq!((load.url.host.as_str(), load.rate), ("web", 9.0));
        assert_eq!(load.url.path, "/web?a=${b}");
        assert!(
            scenario.text.contains("[var]\nrate = \"9/s\"\n"),
            "{}",
            scenario.text
        );
        assert!(
            scenario.text.contains("\nrate = \"9/s\"\nstreams"),
            "{}",
            scenario.text
        );
        let again = read(&scenario.text, &[]).unwrap();
        assert_eq!(again.loads["web"], *load);
        assert_eq!(again.text, scenario.text);
    }

    #[test]
    fn what_is_wrong_with_them_is_told_with_its_place() {
        let wrong = FILE.replace("${rate}", "${rat}").replace("\"web\"", "1");
        let problems = read(&wrong, &[("hots", "x")]).unwrap_err();
        assert!(
            problems.contains(&"7:8 there is no variable `rat`".to_owned()),
            "{problems:?}"
        );
        assert!(
            problems.contains(&"4:8 expected a text".to_owned()),
            "{problems:?}"
        );
        assert!(
            problems.contains(&"1:1 `--set hots=…`: this file has no variable `hots`".to_owned()),
            "{problems:?}"
        );
        // Without the table nothing is a variable.
        let plain = FILE
            .replace("[var]\nrate = \"5/s\"\nhost = \"web\"\n", "")
            .replace("${rate}", "5/s");
        let problems = read(&plain, &[]).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
