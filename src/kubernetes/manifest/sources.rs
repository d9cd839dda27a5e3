//! The files, folders and streams that manifests are read from.

use std::io;
use std::path::{Path, PathBuf};

use super::defined;
use super::objects::parse_among;
use super::{Check, Manifest, ManifestError, ManifestProblem, Rules, Unenforced};
use crate::model::text_file::{self, TextFileError};

/// The name of standard input.
pub const STANDARD_INPUT: &str = "-";
/// Deeper folders are a loop of links.
const FOLDERS_MAX: usize = 32;

/// Which files of a folder are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folders {
    /// Those that stand in it.
    Flat,
    /// Those in its folders as well.
    Recursive,
}

/// Reads files, or all `.yaml`, `.yml` and `.json` files of folders in the order of their names.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Manifest>, ManifestError> {
    let rules = Rules {
        unenforced: Unenforced::Accepted,
        images: None,
    };
    load_checked(paths, Folders::Flat, |_, _| Vec::new(), rules)
}

/// As [`load`], and what `check` finds is wrong too.
pub fn load_checked(
    paths: &[PathBuf],
    folders: Folders,
    check: Check,
    rules: Rules<'_>,
) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    let mut problems = Vec::new();
    let mut texts = Vec::new();
    for path in paths {
        let mut files = Vec::new();
        let found = if path.is_dir() {
            inside(path, folders, FOLDERS_MAX, &mut files)
        } else {
            files.push(path.clone());
            Ok(())
        };
        if let Err(error) = found {
            problems.push(unreadable(path, TextFileError::Io(error)));
        }
        for file in files {
            match read(&file) {
                Ok(text) => texts.push(Ok((file, text))),
                Err(error) => texts.push(Err(unreadable(&file, error))),
            }
        }
    }
    // Any of them may define what another one is of.
    let mut kinds = Vec::new();
    for (file, text) in texts.iter().flatten() {
        kinds.extend(defined::in_text(file, text));
    }
    for read in texts {
        let parsed = read
            .map_err(|problem| vec![problem])
            .and_then(|(file, text)| parse_among(&file, &text, check, rules, &kinds));
        match parsed {
            Ok(more) => manifests.extend(more),
            Err(more) => problems.extend(more),
        }
    }
    if let (true, true, Some(first)) = (problems.is_empty(), manifests.is_empty(), paths.first()) {
        problems.push(ManifestProblem {
            source: first.clone(),
            line: 1,
            column: 1,
            problem: "there is no object in it".to_owned(),
        });
    }
    if problems.is_empty() {
        Ok(manifests)
    } else {
        Err(ManifestError::Invalid(problems))
    }
}

fn read(path: &Path) -> Result<String, TextFileError> {
    if path == Path::new(STANDARD_INPUT) {
        text_file::read_from(io::stdin().lock())
    } else {
        text_file::read(path)
    }
}

fn unreadable(path: &Path, error: TextFileError) -> ManifestProblem {
    let (line, column) = match &error {
        TextFileError::NotText { line, column, .. } => (*line as u64, *column as u64),
        _ => (1, 1),
    };
    let problem = match error {
        TextFileError::NotText { byte, .. } => {
            format!("byte 0x{byte:02x} is not UTF-8: save the file as UTF-8")
        }
        TextFileError::Io(error) => format!("cannot be read: {error}"),
        error @ TextFileError::NotAFile(_) => format!(
            "cannot be read: {error}: name a file or a folder of YAML or JSON, or write to `apply -f -`"
        ),
        error @ TextFileError::TooLarge => {
            format!("cannot be read: {error}: is it a manifest? split it if it is")
        }
    };
    ManifestProblem {
        source: path.to_owned(),
        line,
        column,
        problem,
    }
}

fn inside(
    folder: &Path,
    folders: Folders,
    depth_left: usize,
    files: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let entries = std::fs::read_dir(folder)?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if folders == Folders::Recursive && depth_left > 0 {
                inside(&path, folders, depth_left - 1, files)?;
            }
        } else if path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| extension == *known)
        }) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_in_order_and_all_problems_told() {
        let top = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &[u8]| {
            let path = top.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        let object = |name: &str| {
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n").into_bytes()
        };
        write("b.yml", &object("b"));
        write(
            "a.json",
            b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}",
        );
        write("notes.txt", b"no");
        write("deeper/c.yaml", &object("c"));
        let names = |folders| {
            let read = load_checked(
                &[top.path().to_owned()],
                folders,
                |_, _| Vec::new(),
                Rules::default(),
            );
            let name = |one: Manifest| one.name().to_owned();
            read.expect("right")
                .into_iter()
                .map(name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(Folders::Flat), ["a", "b"]);
        assert_eq!(names(Folders::Recursive), ["a", "b", "c"]);
        write("latin.yml", b"a: 1\nb: \xe9\n");
        let paths = [top.path().to_owned(), "/dev/zero".into(), "/no/such".into()];
        let said = load(&paths).expect_err("wrong").to_string();
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines[0].ends_with("latin.yml:2:4: byte 0xe9 is not UTF-8: save the file as UTF-8"),
            "{said}"
        );
        assert_eq!(
            lines[1],
            "/dev/zero:1:1: cannot be read: it is a device, not a file: name a file or a folder of YAML or JSON, or write to `apply -f -`"
        );
        assert!(
            lines[2].starts_with("/no/such:1:1: cannot be read: "),
            "{said}"
        );
        write("empty/e.yml", b"# nothing\n");
        let said = load(&[top.path().join("empty")])
            .expect_err("wrong")
            .to_string();
        assert!(said.contains("there is no object in it"), "{said}");
    }
}
