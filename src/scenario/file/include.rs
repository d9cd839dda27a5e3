//! `include = ["common.toml"]`: other files whose tables are merged with this file's.
//!
//! What is included comes first, as if it stood at the top: tables merge, lists are appended to, and a name that is there twice is a
//! problem with both places. Names of files are relative to the file that writes them. Files are gathered first and read then, so
//! that every problem is told with the place in its own file.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::reader::Problems;
use crate::model::text_file;

/// The table's key.
pub(super) const KEY: &str = "include";
/// Said by every file that can be read on its own.
const VERSION: &str = "flightcage";
/// Files that a scenario may consist of, itself among them.
const FILES_MAX: usize = 50;
/// Files that may include one another in a row.
const DEPTH_MAX: usize = 8;

/// A scenario's file with all that it includes.
pub(super) struct Gathered {
    files: Vec<Gathering>,
    problems: Vec<Wrong>,
}

/// One of the files.
struct Gathering {
    /// As messages name it.
    name: String,
    /// By which it is known again.
    path: PathBuf,
    /// `None` for the scenario's own, which is held by whoever reads it.
    text: Option<String>,
    /// Which of the files include it, and where: none for the scenario's own.
    included: Option<(usize, Range<usize>)>,
    includes: Vec<usize>,
}

/// A problem with an `include`: in which file, where, and what.
struct Wrong {
    file: usize,
    span: Range<usize>,
    what: String,
    help: Option<String>,
    /// Where else to look.
    other: Option<(usize, Range<usize>)>,
}

/// Reads whatever `text` of the file at `path` includes.
pub(super) fn gather(path: &Path, text: &str) -> Gathered {
    let mut gathered = Gathered {
        files: vec![Gathering {
            name: path.display().to_string(),
            path: known_as(path),
            text: None,
            included: None,
            includes: Vec::new(),
        }],
        problems: Vec::new(),
    };
    gathered.visit(0, path, text);
    gathered
}

/// The same for all ways to write it, if the file is there.
fn known_as(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl Gathered {
    /// Whether it includes nothing.
    pub(super) fn is_alone(&self) -> bool {
        self.files.len() == 1
    }

    fn visit(&mut self, file: usize, path: &Path, text: &str) {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let document = DeTable::parse_recoverable(text).0;
        let Some(written) = document.get_ref().get(KEY) else {
            return;
        };
        let DeValue::Array(items) = written.get_ref() else {
            let help = "such as `include = [\"common.toml\"]`";
            self.wrong(file, written.span(), "expected a list of files", Some(help));
            return;
        };
        for item in items {
            match item.get_ref() {
                DeValue::String(name) => self.take(file, item.span(), &folder.join(&**name)),
                _ => self.wrong(file, item.span(), "expected a file's name", None),
            }
        }
    }

    /// Takes an included file in, and what that one includes.
    fn take(&mut self, by: usize, span: Range<usize>, path: &Path) {
        let shown = path.display().to_string();
        let known = known_as(path);
        if let Some(other) = self.files.iter().position(|file| file.path == known) {
            let what = if self.chain(by).contains(&other) {
                format!("`{shown}` includes itself")
            } else {
                format!("`{shown}` is included twice")
            };
            self.problems.push(Wrong {
                file: by,
                span,
                what,
                help: None,
                other: self.files[other].included.clone(),
            });
            return;
        }
        if self.files.len() >= FILES_MAX {
            let what = format!("a scenario of more than {FILES_MAX} files");
            self.wrong(by, span, &what, None);
            return;
        }
        if self.chain(by).len() >= DEPTH_MAX {
            let what = format!("more than {DEPTH_MAX} files include one another in a row");
            self.wrong(by, span, &what, None);
            return;
        }
        let text = match text_file::read(path) {
            Ok(text) => text,
            Err(error) => {
                let what = format!("`{shown}` cannot be read: {error}");
                let help = "names are relative to the file that includes them";
                self.wrong(by, span, &what, Some(help));
                return;
            }
        };
        let file = self.files.len();
        self.files[by].includes.push(file);
        self.files.push(Gathering {
            name: shown,
            path: known,
            text: None,
            included: Some((by, span)),
            includes: Vec::new(),
        });
        self.visit(file, path, &text);
        self.files[file].text = Some(text);
    }

    /// A file, whoever includes it, and so on up to the scenario's own.
    fn chain(&self, file: usize) -> Vec<usize> {
        let mut chain = vec![file];
        let mut at = file;
        while let Some((by, _)) = self.files[at].included {
            chain.push(by);
            at = by;
        }
        chain
    }

    fn wrong(&mut self, file: usize, span: Range<usize>, what: &str, help: Option<&str>) {
        self.problems.push(Wrong {
            file,
            span,
            what: what.to_owned(),
            help: help.map(str::to_owned),
            other: None,
        });
    }

    /// The document that all files make. `problems` holds the scenario's own.
    pub(super) fn document<'t>(&'t self, problems: &mut Problems<'t>) -> Spanned<DeTable<'t>> {
        let mut documents: Vec<Option<Spanned<DeTable<'t>>>> = Vec::new();
        for file in &self.files {
            documents.push(Some(match &file.text {
                Some(text) => problems.include(&file.name, text),
                None => problems.parse(),
            }));
        }
        let start_of = |file: usize| {
            let document = documents[file].as_ref();
            document.map_or(0, |document| document.span().start)
        };
        for wrong in &self.problems {
            let moved = |file: usize, span: &Range<usize>| {
                span.start + start_of(file)..span.end + start_of(file)
            };
            let help = wrong.other.as_ref().map_or_else(
                || wrong.help.clone(),
                |(file, span)| {
                    let first = problems.place(moved(*file, span));
                    Some(format!("it was included at {first}"))
                },
            );
            problems.add(moved(wrong.file, &wrong.span), &wrong.what, help);
        }
        let span = documents[0].as_ref().map_or(0..0, Spanned::span);
        Spanned::new(span, self.merged(0, &mut documents, problems))
    }

    /// A file's table, after those of the files that it includes.
    fn merged<'t>(
        &self,
        file: usize,
        documents: &mut [Option<Spanned<DeTable<'t>>>],
        problems: &Problems<'t>,
    ) -> DeTable<'t> {
        let mut all = DeTable::new();
        for included in &self.files[file].includes {
            let table = self.merged(*included, documents, problems);
            merge(&mut all, table, problems);
        }
        let Some(own) = documents[file].take() else {
            return all;
        };
        let mut own = own.into_inner();
        own.remove(KEY);
        if file > 0
            && let Some(version) = own.remove(VERSION)
            && !matches!(version.get_ref(), DeValue::Integer(number) if number.as_str() == "1")
        {
            let help = "this program reads `flightcage = 1`";
            problems.add(version.span(), "unknown format version", Some(help.into()));
        }
        merge(&mut all, own, problems);
        all
    }
}

/// Merges tables and appends lists; whatever else is there twice is a problem.
fn merge<'t>(into: &mut DeTable<'t>, from: DeTable<'t>, problems: &Problems<'t>) {
    for (key, value) in from {
        let name: &str = key.get_ref();
        let Some(first) = into.get_key_value(name).map(|(key, _)| key.span()) else {
            into.insert(key, value);
            continue;
        };
        let Some(known) = into.get_mut(name) else {
            continue;
        };
        match (known.get_mut(), value.into_inner()) {
            (DeValue::Table(known), DeValue::Table(more)) => merge(known, more, problems),
            (DeValue::Array(known), DeValue::Array(more)) => {
                more.into_iter().for_each(|item| known.push(item));
            }
            _ => {
                let what = format!("`{name}` is there twice");
                let help = format!("it is at {}, too", problems.place(first));
                problems.add(key.span(), what, Some(help));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Against, read};
    use crate::scenario::ScenarioFileError;
    use crate::scenario::spec::Scenario;

    const COMMON: &str = "flightcage = 1\n[var]\nrate = \"5/s\"\n[load.web]\nurl = \"http://web/a?b=$${c}\"\nrate = \"${rate}\"\n\
                          streams = [\"new\"]\ndeadline = \"1s\"\nbaseline = { for = \"5s\", good = \"100%\" }\n\
                          [[step]]\nid = \"kill\"\nfault = { kind = \"node.power_off\", target = { node = \"w1\" }, for = \"10s\" }\n\
                          [expect]\nweb.failed = \"<= 1%\"\n";
    const MAIN: &str = "flightcage = 1\ninclude = [\"parts/common.toml\"]\nneeds = [\"node.power\"]\n[[step]]\nid = \"back\"\n\
                        wait = { nodes_ready = 3, within = \"60s\" }\n[expect]\nweb.new.p99 = \"<= 300ms\"\nfaults_left = 0\n\
                        restarts.\"deployment/web\" = 0\n";

    fn read_files(files: &[(&str, &str)], set: &[(&str, &str)]) -> Result<Scenario, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let set: Vec<(String, String)> = set.iter().map(owned).collect();
        let name = "test".parse().unwrap();
        let against = Against {
            set: &set,
            ..Against::own_cluster(&name, |_, _| Vec::new())
        };
        let place = |text: &str| text.replace(&format!("{}/", folder.path().display()), "");
        read(&folder.path().join(files[0].0), &against).map_err(|error| match error {
            ScenarioFileError::Refused(refusal) => {
                let told = refusal.problems().iter().map(|problem| {
                    let help = problem.help.as_deref().unwrap_or("no help");
                    place(&format!("{problem} [{help}]"))
                });
                told.collect()
            }
            ScenarioFileError::Read { file, source } => vec![format!("{file}: {source}")],
        })
    }

    fn rows(scenario: &Scenario) -> Vec<(&str, &str)> {
        let rows = scenario.expectations.iter();
        rows.map(|row| (row.name.as_str(), row.expected.as_str()))
            .collect()
    }

    #[test]
    fn tables_merge_lists_append_and_one_file_is_kept() {
        let files = [("main.toml", MAIN), ("parts/common.toml", COMMON)];
        let scenario = read_files(&files, &[("rate", "9/s")]).unwrap();
        let steps: Vec<&str> = scenario.steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(steps, ["kill", "back"]);
        let load = &scenario.loads["web"];
        assert_eq!((load.rate, load.url.path.as_str()), (9.0, "/a?b=${c}"));
        assert_eq!(scenario.expectations.len(), 4);
        // What is kept needs no other file and says the same, also when it is read a second time.
        let kept = read_files(&[("main.toml", &scenario.text)], &[])
            .unwrap_or_else(|problems| panic!("{problems:?}\n{}", scenario.text));
        assert_eq!(rows(&kept), rows(&scenario));
        assert_eq!(kept.loads, scenario.loads);
        assert_eq!(kept.needs, scenario.needs);
        assert_eq!(kept.text, scenario.text);
        assert!(!scenario.text.contains("include"), "{}", scenario.text);
    }

    #[test]
    fn problems_are_told_in_the_file_where_they_are() {
        let common = COMMON
            .replace("\"new\"", "\"knew\"")
            .replace("[expect]\n", "[expect]\nweb.faild = \"<= 1%\"\n");
        let main = MAIN.replace("nodes_ready", "nodes_redy");
        let files = [("main.toml", main.as_str()), ("parts/common.toml", &common)];
        let problems = read_files(&files, &[]).unwrap_err();
        let begins = |start: &str| problems.iter().any(|problem| problem.starts_with(start));
        assert!(
            begins("main.toml:6:10: unknown key `nodes_redy`"),
            "{problems:?}"
        );
        assert!(
            begins("parts/common.toml:7:12: unknown stream `knew`"),
            "{problems:?}"
        );
        assert!(
            begins("parts/common.toml:14:5: unknown expectation `faild`"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_name_twice_is_told_with_both_places() {
        let main = MAIN
            .replace("web.new.p99", "web.failed")
            .replace("\"back\"", "\"kill\"");
        let files = [("main.toml", main.as_str()), ("parts/common.toml", COMMON)];
        assert_eq!(
            read_files(&files, &[]).unwrap_err(),
            [
                "main.toml:5:6: there are two steps `kill` [the other is at parts/common.toml:11:6]",
                "main.toml:8:5: `failed` is there twice [it is at parts/common.toml:14:5, too]",
            ]
        );
    }

    #[test]
    fn no_file_includes_itself_and_none_is_included_twice() {
        let including = |names: &str| MAIN.replace("\"parts/common.toml\"", names);
        let main = including("\"a.toml\", \"b.toml\", \"nowhere.toml\", 1");
        let files = [
            ("main.toml", main.as_str()),
            ("a.toml", "include = [\"b.toml\", \"main.toml\"]\n"),
            ("b.toml", COMMON),
        ];
        let problems = read_files(&files, &[]).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert_eq!(
            problems[0],
            "main.toml:2:22: `b.toml` is included twice [it was included at a.toml:1:12]"
        );
        assert!(
            problems[1].starts_with("main.toml:2:32: `nowhere.toml` cannot be read"),
            "{problems:?}"
        );
        assert_eq!(
            &problems[2..],
            [
                "main.toml:2:48: expected a file's name [no help]",
                "a.toml:1:22: `main.toml` includes itself [no help]"
            ]
        );
    }

    #[test]
    fn a_row_of_files_has_an_end() {
        let names: Vec<String> = (0..12).map(|number| format!("{number}.toml")).collect();
        let texts: Vec<String> = (1..13)
            .map(|next| format!("flightcage = 1\ninclude = [\"{next}.toml\"]\n"))
            .collect();
        let files = names.iter().zip(&texts);
        let files: Vec<(&str, &str)> = files
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let problems = read_files(&files, &[]).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("7.toml:2:12: more than 8 files"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_file_without_the_key_is_left_as_it_is() {
        let text = "flightcage = 1 # as written\n[expect]\nfaults_left = 0\n";
        let scenario = read_files(&[("main.toml", text)], &[]).unwrap();
        assert_eq!(scenario.text, text);
        assert_eq!(
            scenario.path.file_name(),
            Path::new("main.toml").file_name()
        );
    }
}
