//! Holds the import directions of `src/lib.rs`: no module imports from a layer above its own, nor from a peer.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the top down; modules of one layer do not know each other.
const LAYERS: &[&[&str]] = &[
    &["cli", "testing"],
    &["scenario"],
    &["cluster"],
    &["orchestrator", "machines", "images"],
    &["kubernetes", "balancer"],
    &["shell"],
    &["transport"],
    &["model"],
];

/// Only these print.
const PRINTS: &str = "cli";

/// Files that must learn of a fault as a real cluster would: by failing connections, never from whoever injects it.
const HONEST: &[&str] = &[
    "src/balancer",
    "src/orchestrator",
    "src/cluster/daemon/ingress.rs",
    "src/cluster/daemon/dial.rs",
];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every `crate::module` of the code (not of comments), with the line it stands on.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut imports = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        for rest in code.split("crate::").skip(1) {
            let module: String = rest
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            imports.push((number + 1, module));
        }
    }
    imports
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    assert!(files.len() > 20, "the source tree was not found");
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file can be read");
            (
                path.strip_prefix(root)
                    .expect("files are below the root")
                    .to_owned(),
                text,
            )
        })
        .collect()
}

#[test]
fn imports_run_downward() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        let module = path
            .iter()
            .nth(1)
            .and_then(|part| part.to_str())
            .expect("src has files")
            .trim_end_matches(".rs")
            .to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let own = layer_of(&module).unwrap_or_else(|| {
            panic!("`{module}` has no layer: add it to LAYERS and to src/lib.rs")
        });
        for (line, imported) in imports(&text) {
            let Some(layer) = layer_of(&imported) else {
                continue;
            };
            if imported != module && layer <= own {
                violations.push(format!(
                    "{}:{line}: `{module}` imports `crate::{imported}`",
                    path.display()
                ));
            }
        }
    }
    assert!(
        violations.is_empty(),
        "imports that run upward or sideways:\n{}",
        violations.join("\n")
    );
}

#[test]
fn balancing_and_detection_do_not_see_faults() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        if !HONEST.iter().any(|honest| path.starts_with(honest)) {
            continue;
        }
        for (line, _) in imports(&text)
            .into_iter()
            .filter(|(_, module)| module == "machines" || module == "scenario")
        {
            violations.push(format!("{}:{line}", path.display()));
        }
    }
    assert!(
        violations.is_empty(),
        "these read what injects faults:\n{}",
        violations.join("\n")
    );
}

#[test]
fn only_the_command_line_prints() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        if path.starts_with(Path::new("src").join(PRINTS)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if ["println!(", "eprintln!(", " print!(", "eprint!("]
                .iter()
                .any(|macro_call| code.contains(macro_call))
            {
                violations.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(
        violations.is_empty(),
        "these print, and are not the command line:\n{}",
        violations.join("\n")
    );
}
