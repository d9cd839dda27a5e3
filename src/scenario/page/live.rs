//! The page while its run goes on: the same page of what is known by now, with a bar that says what happens, and a script that
//! fetches a newer page when there is one. It is served by the command itself, on this host's loopback only.

use tera::Context;

use super::{SCRIPT, StoredRun, hash, render, tables};

const BAR: &str = include_str!("live.html");
const LIVE_SCRIPT: &str = include_str!("live.js");

/// The page of a run of whose end nothing is known; `word` stands in the verdict's place.
#[must_use]
pub fn live_html(run: &StoredRun, word: &str, sentence: &str) -> String {
    let mut context = Context::new();
    tables::fill(&mut context, run);
    context.insert("verdict", word);
    context.insert("verdict_class", "running");
    context.insert("verdict_mark", "▶");
    context.insert("sentence", sentence);
    context.insert("more_reasons", &Vec::<String>::new());
    context.insert("live", BAR);
    context.insert(
        "live_policy",
        &format!(" 'sha256-{}'; connect-src 'self'", hash(LIVE_SCRIPT)),
    );
    context.insert("live_script", &format!("<script>{LIVE_SCRIPT}</script>\n"));
    render(context, run)
}

/// The policy of either page, as the header of an answer: nobody may frame it, and it asks nobody but the command.
#[must_use]
pub fn policy() -> String {
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}' 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(LIVE_SCRIPT)
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, Plan};
    use super::super::{html, inert};
    use super::*;
    use crate::scenario::live::state::tests::busy;

    #[test]
    fn a_run_that_goes_on_is_shown_by_the_same_page() {
        let hostile = "</script><img/onerror=alert(1)>";
        let run = busy(hostile).so_far(70_000).expect("requests are kept");
        let page = live_html(&run, "RUNNING", "step <b>kill</b>");
        assert!(page.contains("▶ RUNNING") && page.contains("step &lt;b&gt;kill&lt;"));
        assert!(!page.contains("<img"));
        assert_eq!(
            page.matches("</script>").count(),
            5,
            "an element ended early"
        );
        for lane in [
            "lane-web-new",
            "lane-web-reused",
            "lane-fault-0",
            "lane-phases",
        ] {
            assert!(page.contains(&format!("id=\"{lane}\"")), "{lane}");
        }
        assert!(page.contains(&format!(
            "'sha256-{}'; connect-src 'self'",
            hash(LIVE_SCRIPT)
        )));
    }

    #[test]
    fn the_page_of_a_run_that_is_over_knows_no_network() {
        let folder = tempfile::tempdir().unwrap();
        fixture::write(folder.path(), &Plan::default()).unwrap();
        let page = html(&StoredRun::read(folder.path()).unwrap());
        for word in ["connect-src", "EventSource", "fetch(", "id=\"live\""] {
            assert!(!page.contains(word), "{word}");
        }
        let lines = SCRIPT.lines().count() + LIVE_SCRIPT.lines().count();
        assert!(lines < 800, "{lines} lines of script");
        assert!(!inert("</script>").contains("</script"));
    }
}
