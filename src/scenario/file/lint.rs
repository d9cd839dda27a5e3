//! What is right as a file and still says nothing: a run of it is INVALID.

use super::super::spec::Scenario;
use crate::model::diagnostic::Diagnostic;
use crate::model::reader::{Problems, Table};

/// A file that expects nothing, and loads about which nothing is expected.
pub(super) fn cannot_fail(
    root: &Table<'_, '_>,
    problems: &Problems<'_>,
    scenario: &Scenario,
) -> Vec<Diagnostic> {
    if scenario.expectations.is_empty() {
        let place = root.get("expect").map_or(0..0, |expect| expect.span());
        let help = "say what must hold, such as `web.failed = \"<= 1%\"` or `faults_left = 0`";
        let note = problems.note(
            place,
            "nothing is expected, so that no run of this could fail",
            Some(help.into()),
        );
        return vec![note];
    }
    let loads = root.get("load").and_then(|value| value.if_table());
    let mut notes = Vec::new();
    for (name, span, _) in loads.map(|table| table.entries()).unwrap_or_default() {
        let mut rows = scenario.expectations.iter();
        if !rows.any(|row| row.load.as_deref() == Some(name)) {
            notes.push(problems.note(
                span,
                &format!("nothing is expected of load `{name}`"),
                Some(format!("such as `{name}.failed = \"<= 1%\"`")),
            ));
        }
    }
    notes
}

/// Ways into a cluster that is not ours.
pub(super) fn foreign_only(root: &Table<'_, '_>, problems: &Problems<'_>) -> Vec<Diagnostic> {
    let loads = root.get("load").and_then(|value| value.if_table());
    let loads = loads.map(|table| table.entries()).unwrap_or_default();
    let vias = loads
        .iter()
        .filter_map(|(_, _, load)| load.if_table()?.get("via"));
    vias.map(|via| {
        problems.note(
            via.span(),
            "`via` is the way into a cluster that is not ours",
            Some("run it with `--kubeconfig`, or leave `via` out".into()),
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Against, parse};
    use crate::model::diagnostic::Diagnostic;

    fn told(problems: &[Diagnostic]) -> Vec<String> {
        let told = problems.iter().map(|problem| {
            let help = problem.help.as_deref().unwrap_or("no help");
            format!(
                "{}:{} {} [{help}]",
                problem.line, problem.column, problem.message
            )
        });
        told.collect()
    }

    /// Problems if the file is refused, else its warnings, and what cannot fail.
    fn check(rate: &str, rows: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
        let text = format!(
            "flightcage = 1\n[load.web]\nurl = \"http://web/\"\nrate = {rate}\nstreams = [\"new\"]\n\
             deadline = \"1s\"\nbaseline = {{ for = \"5s\", good = \"100%\" }}\n[expect]\n{rows}\n"
        );
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        match parse(Path::new("demo.toml"), &text, &against) {
            Ok(scenario) => (
                Vec::new(),
                told(&scenario.warnings),
                told(&scenario.cannot_fail),
            ),
            Err(refusal) => (told(refusal.problems()), Vec::new(), Vec::new()),
        }
    }

    #[test]
    fn what_the_rate_cannot_decide_is_refused_all_at_once() {
        let rows = "web.new.longest_outage = \"<= 300ms\"\nweb.downtime = \"<= 0s\"\n\
                    web.worst = { window = \"3s\", failed = \"<= 5%\" }\nweb.p99 = \"<= 300ms\"\nweb.degraded = \"<= 400ms\"";
        let (problems, ..) = check("\"5/s\"", rows);
        assert_eq!(
            problems,
            [
                "9:26 at 5/s nothing shorter than 400 ms can be told from one failed request [raise the rate to at least 7/s]",
                "10:16 at 5/s nothing shorter than 400 ms can be told from one failed request [expect `outages = \"<= 0\"` or `failed = \"<= 0%\"` instead]",
                "11:13 at 5/s only 15 requests fall into a window, and fewer than 20 say nothing [raise the rate to at least 6.7/s, or lengthen the window]",
            ]
        );
    }

    #[test]
    fn what_an_automatic_rate_may_not_decide_is_warned_of() {
        let rows = "web.new.longest_outage = \"<= 300ms\"\nweb.worst = { window = \"10s\", failed = \"<= 5%\" }";
        let (problems, warnings, _) = check("{ auto = \"45%\", at_most = \"50/s\" }", rows);
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            warnings,
            [
                "9:26 at 2/s nothing shorter than 1000 ms can be told from one failed request [raise the rate to at least 7/s]"
            ]
        );
    }

    #[test]
    fn a_way_into_another_cluster_is_noted_and_no_problem_of_the_file() {
        let text = "flightcage = 1\n[load.web]\nurl = \"http://web/\"\nrate = \"5/s\"\nstreams = [\"new\"]\n\
                    deadline = \"1s\"\nbaseline = { for = \"5s\", good = \"100%\" }\nvia = \"192.0.2.7:443\"\n";
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        let scenario = parse(Path::new("demo.toml"), text, &against).unwrap();
        assert_eq!(
            told(&scenario.foreign_only),
            [
                "8:7 `via` is the way into a cluster that is not ours [run it with `--kubeconfig`, or leave `via` out]"
            ]
        );
    }

    #[test]
    fn what_random_arrival_may_not_decide_is_warned_of() {
        let (problems, warnings, _) = check(
            "\"50/s\"\narrival = \"poisson\"",
            "web.longest_outage = \"<= 300ms\"",
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            warnings,
            [
                "10:22 requests that arrive at random leave gaps, so that this may stay undecided [raise the rate to at least 54/s]"
            ]
        );
    }

    #[test]
    fn what_cannot_fail_is_told_with_its_line() {
        let (_, warnings, cannot_fail) = check("\"5/s\"", "web.failed = \"<= 100%\"");
        assert_eq!(
            (warnings, cannot_fail.len()),
            (
                vec![
                    "9:14 no run can fail this: it holds for every share of failed requests [a bound below 100 %]"
                        .to_owned()
                ],
                0
            )
        );
        let (.., cannot_fail) = check("\"5/s\"", "faults_left = 0");
        assert_eq!(
            cannot_fail,
            ["2:7 nothing is expected of load `web` [such as `web.failed = \"<= 1%\"`]"]
        );
        let (.., cannot_fail) = check("\"5/s\"", "");
        assert_eq!(cannot_fail.len(), 1);
        assert!(
            cannot_fail[0].starts_with("8:1 nothing is expected, so that no run"),
            "{cannot_fail:?}"
        );
    }
}
