//! `report.html`: one file that shows a run, without network, scripts optional.
//!
//! ```text
//! report.json ─┐          ┌─ history (pods, nodes, Services) ─┐
//! requests.csv.gz ─ run ──┼─ lanes ─► lane ─► static SVG ─────┼─► page.html (tera) + page.css + page.js
//! scenario.toml ─┘        └─ columns (requests, packed) ──────┘
//! ```
//! Invariants: everything that came from a run is escaped; a content security policy forbids every request; no time but that of the
//! run is in it, so that the same run gives the same bytes; every fact of the timeline also stands in a table.

pub mod bound;
pub mod cockpit;
pub mod columns;
pub mod history;
mod index;
pub mod lane;
pub mod lanes;
pub mod live;
mod overlay;
mod picture;
pub mod run;
pub mod sentence;
pub mod stored;
pub mod svg;
pub mod tables;

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use tera::{Context, Tera};

pub use index::write_index;
pub use overlay::overlay;
pub use picture::{Shade, picture};
pub use run::{StoredRun, StoredRunError};

/// The page's name beside `report.json`.
pub const FILE_NAME: &str = "report.html";

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Why a page was not made.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The run cannot be read.
    #[error(transparent)]
    Run(#[from] StoredRunError),
    /// The page cannot be written.
    #[error("write `{}`", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Makes the page of a run's folder, and returns its file.
///
/// # Errors
/// When the run cannot be read, or the page not be written.
pub fn write(folder: &Path) -> Result<PathBuf, PageError> {
    let run = StoredRun::read(folder)?;
    let file = folder.join(FILE_NAME);
    std::fs::write(&file, html(&run)).map_err(|source| PageError::Write {
        file: file.clone(),
        source,
    })?;
    Ok(file)
}

/// The page of a run.
///
/// # Panics
/// Never: the template is constant, and tests render it.
#[must_use]
pub fn html(run: &StoredRun) -> String {
    let mut context = Context::new();
    tables::fill(&mut context, run);
    for name in ["live", "live_policy", "live_script"] {
        context.insert(name, "");
    }
    render(context, run)
}

/// The page of what `context` says already, with the run's timeline, requests and report.
fn render(mut context: Context, run: &StoredRun) -> String {
    let (directory, columns) = columns::pack(run);
    context.insert(
        "directory",
        &inert(&serde_json::to_string(&directory).expect("names and finite numbers")),
    );
    context.insert("columns", &columns);
    context.insert("lanes", &lane::lanes(run));
    let report = serde_json::to_string(&run.report).expect("string keys and finite numbers only");
    context.insert("report", &inert(&report));
    context.insert("style", STYLE);
    context.insert("script", SCRIPT);
    context.insert("script_hash", &hash(SCRIPT));
    let mut tera = Tera::default();
    tera.add_raw_template(FILE_NAME, TEMPLATE)
        .expect("the template is constant");
    tera.render(FILE_NAME, &context)
        .expect("the template is constant, and so is what it is given")
}

/// A script's hash, as a content security policy names it.
fn hash(script: &str) -> String {
    STANDARD.encode(Sha256::digest(script.as_bytes()))
}

/// JSON that may stand in a script element: nothing in it ends the element.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests {
    use super::fixture::{Plan, write as write_run};
    use super::*;

    fn page(plan: &Plan<'_>) -> String {
        let folder = tempfile::tempdir().unwrap();
        write_run(folder.path(), plan).unwrap();
        std::fs::read_to_string(write(folder.path()).unwrap()).unwrap()
    }

    #[test]
    fn the_same_run_gives_the_same_bytes_and_little_of_them() {
        let page_of = |plan| page(&plan);
        let first = page_of(Plan::default());
        assert_eq!(first, page_of(Plan::default()));
        assert!(first.len() < 200_000, "{} bytes", first.len());
        assert!(
            SCRIPT.lines().count() <= 800,
            "the script has {} lines",
            SCRIPT.lines().count()
        );
        assert!(TEMPLATE.len() + STYLE.len() + SCRIPT.len() < 60_000);
    }

    #[test]
    fn the_verdict_and_why_come_first() {
        let told = |plan: &Plan<'_>| {
            let page = page(plan);
            let sentence = page
                .split("<p class=\"sentence\">")
                .nth(1)
                .and_then(|rest| rest.split("</p>").next());
            sentence.unwrap_or_default().to_owned()
        };
        assert_eq!(
            told(&Plan::default()),
            "All 6 expectations held; nearest bound: web.new.longest_outage at most 2.78 s of 3 s (93 %)."
        );
        let failed = Plan {
            outage_ms: 4_100,
            verdict: "fail",
            ..Plan::default()
        };
        assert_eq!(
            told(&failed),
            "web.new.longest_outage was 4100 ms ±83 ms, expected &lt;= 3s; the first request failed at 60.1 s, 50 ms after `kill` took effect."
        );
    }

    #[test]
    fn hostile_names_are_inert_and_the_policy_forbids_every_request() {
        let hostile = Plan {
            pod: "</script><img/onerror=alert(1)>",
            ..Plan::default()
        };
        let page = page(&hostile);
        assert!(!page.contains("<img"), "a pod's name became an element");
        assert_eq!(
            page.matches("</script>").count(),
            4,
            "an element ended early"
        );
        assert!(page.contains("&lt;/script&gt;&lt;img/onerror=alert(1)&gt;"));
        assert!(page.contains("default-src 'none'"));
        for outward in ["http:", "https:", "url(", "@import", "import(", "src="] {
            let found = [TEMPLATE, STYLE, SCRIPT]
                .iter()
                .any(|text| text.replace("script-src", "").contains(outward));
            assert!(!found, "the page itself holds `{outward}`");
        }
    }

    #[test]
    fn a_run_that_never_began_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let report = r#"{"version":1,"scenario":"x","seed":1,"verdict":"invalid","reasons":["x.toml:1:1: `<wrong>`"],"target":{"provider":"qemu","accel":"none","nodes":0}}"#;
        std::fs::write(folder.path().join("report.json"), report).unwrap();
        let page = std::fs::read_to_string(write(folder.path()).unwrap()).unwrap();
        assert!(page.contains("✕") && page.contains("`&lt;wrong&gt;`"));
        assert!(!page.contains("Not applied here"));
        let with = report.replace("\"target\"", r#""not_applied":[{"file":"web.yml","line":3,"column":5,"object":"Pod `web`","field":"spec.hostPID","instead":"they <see> their own"}],"target""#);
        std::fs::write(folder.path().join("report.json"), with).unwrap();
        let page = std::fs::read_to_string(write(folder.path()).unwrap()).unwrap();
        for part in [
            "Not applied here",
            "web.yml:3:5",
            "spec.hostPID",
            "they &lt;see&gt; their own",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(matches!(
            StoredRun::read(&folder.path().join("no")),
            Err(StoredRunError::Read { .. })
        ));
    }
}
