//! Each bad input with the place and the message it must get.

use super::*;
use crate::kubernetes::client::ResourceKind;
use crate::kubernetes::manifest::{FieldProblem, Weight};
use crate::model::cluster::ClusterSpec;

fn check(text: &str) -> Vec<String> {
    check_against(text, Machines::OfFile)
}

fn check_against(text: &str, machines: Machines<'_>) -> Vec<String> {
    let cluster_name = "test".parse().unwrap();
    let refusal = parse(
        Path::new("demo.toml"),
        text,
        &Against {
            cluster_name: &cluster_name,
            machines,
            manifests: no_names_in_capitals,
            set: &[],
        },
    );
    let problems = refusal
        .err()
        .map(|refusal| refusal.problems().to_vec())
        .unwrap_or_default();
    problems
        .iter()
        .map(|p| {
            let help = p
                .help
                .as_ref()
                .map(|help| format!(" [{help}]"))
                .unwrap_or_default();
            format!("{}:{} {}{help}", p.line, p.column, p.message)
        })
        .collect()
}

/// Stands for the API server's rules.
fn no_names_in_capitals(_: &ResourceKind, object: &serde_json::Value) -> Vec<FieldProblem> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let wrong = name.contains(|c: char| c.is_ascii_uppercase());
    wrong
        .then(|| FieldProblem {
            field: "metadata.name".into(),
            problem: "capitals".into(),
            weight: Weight::Wrong,
        })
        .into_iter()
        .collect()
}

#[test]
fn the_generated_secret_is_held_against_the_same_rules() {
    let secret = |name: &str| {
        format!("tls_secret = {{ name = \"{name}\", crt = \"a\", key = \"b\", host = \"c\" }}")
    };
    let found = |name: &str| check(&format!("flightcage = 1\n[deploy]\n{}\n", secret(name)));
    assert_eq!(found("ssl"), [""; 0]);
    assert_eq!(
        found("SSL"),
        ["3:14 Secret `SSL`: `metadata.name`: capitals"]
    );
}

const LOAD: &str = r#"flightcage = 1
[load.web]
url = "https://flappy-nginx/"
rate = "25/s"
streams = ["new", "reused"]
deadline = "1s"
baseline = { for = "5s", good = "100%" }
"#;

#[test]
fn an_automatic_rate_says_its_share_and_its_most() {
    let with = |rate: &str| check(&LOAD.replace("\"25/s\"", rate));
    assert_eq!(with("{ auto = \"45%\", at_most = \"50/s\" }"), [""; 0]);
    let table: &[(&str, &[&str])] = &[
        (
            "{ auto = \"45\", most = \"50/s\" }",
            &[
                "4:8 `at_most` is missing",
                "4:17 `45` is not a share [write a percentage, such as \"100%\"]",
                "4:23 unknown key `most` [known: `auto`, `at_most`]",
            ],
        ),
        (
            "{ auto = \"99%\", at_most = \"1/s\" }",
            &[
                "4:17 from 5% to 95% of a worker's processors",
                "4:34 an automatic rate is at least 2/s",
            ],
        ),
        (
            "{ auto = \"45%\", at_most = \"5000/s\" }",
            &["4:34 at most 2000 requests a second a stream"],
        ),
    ];
    for (rate, wanted) in table {
        assert_eq!(&with(rate), wanted, "{rate}");
    }
}

#[test]
fn each_problem_has_its_place() {
    let table: &[(&str, &[&str])] = &[
        (
            "",
            &["1:1 `flightcage` is missing [begin with `flightcage = 1`]"],
        ),
        (
            "flightcage = 2",
            &["1:14 unknown format version [this program reads `flightcage = 1`]"],
        ),
        (
            "flightcage = 1\nneeds = [\"node.powr\"]",
            &["2:10 unknown capability `node.powr` [did you mean `node.power`?]"],
        ),
        (
            "flightcage = 1\n[clutser]\n",
            &["2:2 unknown key `clutser` [did you mean `cluster`?]"],
        ),
        (
            "flightcage = 1\n[[step]]\nid = \"a\"\nwait = { nodes_ready = 3, within = 30 }",
            &[
                "4:36 `30` has no unit [write a duration with its unit, such as \"250ms\", \"1s\" or \"2m\"]",
            ],
        ),
        (
            "flightcage = 1\n[[step]]\nid = \"a\"\nfault = { kind = \"node.explode\", target = { node = \"w1\" } }",
            &[
                "4:9 `for` is missing",
                "4:18 unknown fault kind `node.explode` [did you mean `node.reset`?]",
            ],
        ),
        (
            "flightcage = 1\n[[step]]\nid = \"a\"\nfault = { kind = \"node.explode\", target = { nod = \"w1\" }, dealy = \"1s\", by = 1, for = \"1s\" }",
            &[
                "4:18 unknown fault kind `node.explode` [did you mean `node.reset`?]",
                "4:43 name one target [`node`, `node_running_most_of`, `from` and `to`, or `between`]",
                "4:45 unknown key `nod` [did you mean `node`?]",
                "4:59 unknown key `dealy` [did you mean `delay`?]",
            ],
        ),
        (
            "flightcage = 1\n[[step]]\nid = \"b\"\nwhen = { step = \"a\" }\nwait = { nodes_ready = 3, within = \"1s\" }",
            &["4:17 there is no step `a` before this one"],
        ),
        (
            "flightcage = 1\n[[step]]\nid = \"a\"\n",
            &[
                "2:1 the step does nothing [one of `fault`, `wait`, `rolling_update`, `rollback`, `delete_pod`, `exec`, `apply`, `http`, `parallel`, `scale`, `delete`, `drain`, `uncordon`, `pause`, `rollout`]",
            ],
        ),
        (
            "flightcage = 1\n[expect]\nwbe.failed = \"<= 1%\"",
            &[
                "3:1 unknown expectation or load `wbe` [known: `replicas`, `restarts`, `pods_deleted`, `faults_left`, `never`, `always`]",
            ],
        ),
    ];
    for (text, expected) in table {
        let found = check(text);
        assert_eq!(found, *expected, "{text}");
    }
}

#[test]
fn expectations_are_checked_against_loads_and_steps() {
    assert_eq!(check(LOAD), Vec::<String>::new());
    let found = check(&format!(
        "{LOAD}[expect]\nweb.failed = \"0.5\"\nweb.new.longest_outage = \"<= 3\"\nweb.recovery.kill = {{ within = \"1s\", hold = \"1s\" }}\nweb.final_version = \"v2\"\n"
    ));
    assert_eq!(
        found,
        [
            "9:14 `0.5` is not a bound [a comparison and a limit with its unit, such as \"<= 0.5%\"]",
            "10:26 `<= 3` is not a bound [a comparison and a limit with its unit, such as \"<= 3s\"]",
            "11:14 there is no step `kill`",
            "12:21 load `web` counts no versions [add `version = { header = … }` to it]",
        ]
    );
}

#[test]
fn an_expectation_may_name_a_step_that_has_problems_of_its_own() {
    let found = check(&format!(
        "{LOAD}[[step]]\nid = \"kill\"\nfault = {{ kind = \"node.freeze\", target = {{ node = \"w1\" }}, for = 5 }}\n[expect]\nweb.recovery.kill = {{ within = \"1s\", hold = \"1s\" }}\n"
    ));
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn a_missing_manifest_is_told() {
    let found = check("flightcage = 1\n[deploy]\nfiles = [\"no/such.yml\"]");
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("3:10 manifest `no/such.yml` cannot be read"),
        "{found:?}"
    );
}

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    let found = check("flightcage = 1\nneeds = [");
    assert!(
        found.iter().any(|problem| problem.contains("not TOML")),
        "{found:?}"
    );
}

#[test]
fn the_shipped_scenarios_are_right() {
    for name in ["failover", "rolling-update"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{name}.toml"));
        let scenario = read(
            &path,
            &Against::own_cluster(&"test".parse().unwrap(), |_, _| Vec::new()),
        );
        let scenario = scenario.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(scenario.name, name);
        assert!(scenario.loads["web"].url.tls);
    }
}

fn fault_problems(fault: &str) -> Vec<String> {
    let text = format!("flightcage = 1\n[[step]]\nid = \"a\"\nfault = {fault}");
    check(&text)
}

#[test]
fn every_kind_of_fault_can_be_written() {
    for fault in [
        r#"{ kind = "node.freeze", target = { node = "w1" }, for = "1s" }"#,
        r#"{ kind = "net.cut", target = { from = "w1", to = "host" }, for = "1s" }"#,
        r#"{ kind = "net.cut", target = { between = ["w1", "w2"] }, for = "1s" }"#,
        r#"{ kind = "net.partition", target = { groups = [["c1", "w1"], ["w2"]] }, for = "1s" }"#,
        r#"{ kind = "net.delay", target = { node = "w1" }, delay = "50ms", jitter = "5ms", for = "1s" }"#,
        r#"{ kind = "net.shape", target = { node = "w1" }, loss = "1%", duplicate = "1%", reorder = "2%", rate = "1mbit/s", for = "1s" }"#,
        r#"{ kind = "disk.throttle", target = { node = "w1" }, rate = "1MiB/s", operations = "50/s", for = "1s" }"#,
        r#"{ kind = "disk.error", target = { node = "w1" }, operations = "reads", for = "1s" }"#,
        r#"{ kind = "disk.full", target = { node_running_most_of = "web" }, for = "1s" }"#,
        r#"{ kind = "clock.step", target = { node = "w1" }, by = "-2m", for = "1s" }"#,
        r#"{ kind = "pod.kill", target = { pod = "web" } }"#,
        r#"{ kind = "pod.kill", target = { labels = { app = "web", tier = "front" }, count = "minority" }, for = "5s" }"#,
        r#"{ kind = "container.oom", target = { pod = "web" } }"#,
        r#"{ kind = "registry.down", target = { nodes = "any", count = "all" }, for = "5s" }"#,
        r#"{ kind = "dns.fail", target = { nodes = "workers" }, for = "5s" }"#,
        r#"{ kind = "dns.fail", target = { node = "w1" }, for = "5s" }"#,
        r#"{ kind = "agent.kill", target = { nodes = "workers", count = "minority" } }"#,
        r#"{ kind = "node.cpu", target = { nodes = "controllers" }, share = "50%", for = "5s" }"#,
    ] {
        assert_eq!(fault_problems(fault), [""; 0], "{fault}");
    }
}

#[test]
fn wrong_faults_are_refused_with_what_would_be_right() {
    let table: &[(&str, &[&str])] = &[
        (
            r#"{ kind = "net.shape", target = { node = "w1" }, loss = "1", rate = "1", for = "1s" }"#,
            &[
                "`1` is not a share [write a percentage, such as \"100%\"]",
                "`1` has no unit [write a rate such as \"1mbit/s\"]",
            ],
        ),
        (
            r#"{ kind = "net.shape", target = { node = "w1" }, for = "1s" }"#,
            &[
                "the fault does nothing to its links [`delay = \"50ms\"`, `loss = \"1%\"` and others]",
            ],
        ),
        (
            r#"{ kind = "net.delay", target = { node = "w1" }, delay = "5ms", jitter = "50ms", for = "1s" }"#,
            &["jitter must not be larger than delay"],
        ),
        (
            r#"{ kind = "net.delay", target = { node = "w1" }, jitter = 5, for = "1s" }"#,
            &[
                "`delay` is missing",
                "`5` has no unit [write a duration with its unit, such as \"250ms\", \"1s\" or \"2m\"]",
            ],
        ),
        (
            r#"{ target = { groups = [["w1"], ["w2"]] }, for = "1s", x = 1 }"#,
            &[
                "`kind` is missing",
                "unknown key `x` [known: `kind`, `target`, `for`, `delay`, `jitter`, `loss`, `duplicate`, `reorder`, `rate`, `operations`, `by`, `share`, `size`]",
            ],
        ),
        (
            r#"{ kind = "net.partition", target = { groups = [["w1"], ["w1"]] }, for = "1s" }"#,
            &["a machine is in two groups"],
        ),
        (
            r#"{ kind = "disk.throttle", target = { from = "w1", to = "w2" }, for = "1s" }"#,
            &[
                "say how slow [`rate = \"1MiB/s\"`, `operations = \"50/s\"` or both]",
                "unknown key `from` [known: `node`, `node_running_most_of`]",
                "unknown key `to` [known: `node`, `node_running_most_of`]",
            ],
        ),
        (
            r#"{ kind = "clock.step", target = { node = "w1" }, by = "30s", for = "1s" }"#,
            &[
                "`30s` is not a step with its sign and unit, such as `+30s` or `-2m`, at most a year [write a signed duration such as \"+30s\" or \"-2m\"]",
            ],
        ),
        (
            r#"{ kind = "pod.kill", target = { pod = "Web", count = "most" }, for = "0s" }"#,
            &[
                "no pod's name begins with `Web` [a workload's name, such as `pod = \"web\"`]",
                "unknown count `most` [known: `one`, `minority`, `majority`, `all`]",
                "must be longer than nothing",
            ],
        ),
        (
            r#"{ kind = "pod.kill", target = { pod = "web", labels = {} } }"#,
            &[
                "name pods in one way [`pod = \"web\"`, the beginning of their names, or `labels = { app = \"web\" }`]",
            ],
        ),
        (
            r#"{ kind = "pod.kill", target = { labels = { app = 1, tier = 2 }, node = "w1" }, share = "1%" }"#,
            &[
                "expected a string, found an integer",
                "expected a string, found an integer",
                "unknown key `node` [known: `pod`, `labels`, `count`]",
                "unknown key `share` [known: `kind`, `target`, `for`]",
            ],
        ),
        (
            r#"{ kind = "node.cpu", target = { node = "w1" }, share = "96%", for = "1s" }"#,
            &[
                "not a share that can be taken [from \"1%\" to \"95%\" of all of its processors together]",
            ],
        ),
        (
            r#"{ kind = "node.memory", target = { node = "w1" }, size = "1MiB", share = "1%", for = "1s" }"#,
            &[
                "say how much memory, in one way [`size = \"128MiB\"`, or `share = \"30%\"` of all that it has]",
            ],
        ),
        (
            r#"{ kind = "node.memory", target = { node = "w1" }, size = "64", for = "1s" }"#,
            &["`64` has no unit [write a size with its unit, such as \"512MiB\" or \"4GiB\"]"],
        ),
        (
            r#"{ kind = "node.cpu", target = { node = "w1" }, for = "1s" }"#,
            &["`share` is missing"],
        ),
        (
            r#"{ kind = "node.freeze", target = { pod = "web" } }"#,
            &[
                "`for` is missing",
                "name one target [`node` or `node_running_most_of`]",
                "unknown key `pod` [known: `node`, `node_running_most_of`]",
            ],
        ),
        (
            r#"{ kind = "dns.fail", target = {}, for = "1s" }"#,
            &[
                "name one target [`node`, `node_running_most_of`, or `nodes = \"workers\"` with `count`]",
            ],
        ),
        (
            r#"{ kind = "registry.down", target = { nodes = "helpers", node = "w1", count = "most" }, for = "1s" }"#,
            &[
                "unknown role `helpers` [known: `any`, `workers`, `controllers`]",
                "`nodes` and `node` exclude each other",
                "unknown count `most` [known: `one`, `minority`, `majority`, `all`]",
            ],
        ),
        (
            r#"{ kind = "dns.fail", target = { node = "w1", count = "all" }, for = "1s" }"#,
            &["`count` is of `nodes`; a machine is one"],
        ),
        (
            r#"{ kind = "node.freeze", target = { nodes = "workers" }, for = "1s" }"#,
            &["unknown key `nodes` [did you mean `node`?]"],
        ),
    ];
    for (fault, expected) in table {
        let found: Vec<String> = fault_problems(fault)
            .iter()
            .filter_map(|problem| Some(problem.split_once(' ')?.1.to_owned()))
            .collect();
        assert_eq!(found, *expected, "{fault}");
    }
}

#[test]
fn a_node_that_will_not_be_there_is_refused() {
    let fault = |target: &str| {
        format!(
            "[[step]]\nid = \"a\"\nfault = {{ kind = \"net.cut\", target = {target}, for = \"1s\" }}\n"
        )
    };
    let text = |cluster: &str, target: &str| format!("flightcage = 1\n{cluster}{}", fault(target));
    let table: &[(&str, &str, &[&str])] = &[
        ("", "{ node = \"w2\" }", &[]),
        (
            "",
            "{ node = \"w9\" }",
            &["4:47 there is no node `w9` in this cluster [known: `c1`, `w1`, `w2`]"],
        ),
        (
            "",
            "{ from = \"host\", to = \"w3\" }",
            &["4:60 there is no node `w3` in this cluster [known: `c1`, `w1`, `w2`, `host`]"],
        ),
        (
            "",
            "{ between = [\"x\", \"y\"] }",
            &[
                "4:51 there is no node `x` in this cluster [known: `c1`, `w1`, `w2`, `host`]",
                "4:56 there is no node `y` in this cluster [known: `c1`, `w1`, `w2`, `host`]",
            ],
        ),
        ("[cluster]\nworkers = 3\n", "{ node = \"w3\" }", &[]),
        // What is wrong with the cluster is told alone.
        (
            "[cluster]\nworkers = -1\n",
            "{ node = \"w3\" }",
            &["3:11 `-1` is not within 1 to 199"],
        ),
    ];
    for (cluster, target, expected) in table {
        assert_eq!(
            check(&text(cluster, target)),
            *expected,
            "{cluster}{target}"
        );
    }
    let four = crate::model::cluster::ClusterSpec::with_workers("test".parse().unwrap(), 4);
    assert_eq!(
        check_against(&text("", "{ node = \"w4\" }"), Machines::Of(&four)),
        [""; 0]
    );
    assert_eq!(
        check_against(
            &text("[cluster]\nworkers = 9\n", "{ node = \"w9\" }"),
            Machines::Of(&four)
        )
        .len(),
        1
    );
    assert_eq!(
        check_against(&text("", "{ node = \"w9\" }"), Machines::Unknown),
        [""; 0]
    );
    let groups =
        "{ kind = \"net.partition\", target = { groups = [[\"c1\"], [\"w7\"]] }, for = \"1s\" }";
    assert_eq!(
        fault_problems(groups).len(),
        1,
        "{:?}",
        fault_problems(groups)
    );
}

#[test]
fn manifests_that_would_be_refused_are_told_wherever_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let object = |kind: &str, name: &str| {
        format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n")
    };
    let wrong = format!(
        "{}---\n{}---\n{}",
        object("Secret", "a"),
        object("Secret", "B"),
        object("Secret", "C")
    );
    std::fs::write(folder.path().join("wrong.yml"), wrong).unwrap();
    std::fs::write(folder.path().join("secret.yml"), object("Secret", "a")).unwrap();
    let text = "flightcage = 1\n[deploy]\nfiles = [\"wrong.yml\"]\n\
        [[step]]\nid = \"a\"\napply = { file = \"wrong.yml\" }\n\
        [[step]]\nid = \"b\"\nrolling_update = { from = \"x\", to = \"secret.yml\" }\n";
    let name = "test".parse().unwrap();
    let refused = parse(
        &folder.path().join("demo.toml"),
        text,
        &Against::own_cluster(&name, no_names_in_capitals),
    )
    .unwrap_err();
    let told: Vec<(usize, bool)> = refused
        .problems()
        .iter()
        .map(|p| (p.line, p.message.contains("capitals")))
        .collect();
    assert_eq!(
        told,
        [(3, true), (3, true), (6, true), (6, true), (9, false)],
        "{}",
        refused.listing()
    );
    let places: Vec<&str> = refused.problems()[..2]
        .iter()
        .filter_map(|p| p.message.split("wrong.yml:").nth(1))
        .collect();
    assert!(
        places[0].starts_with("7:12: ") && places[1].starts_with("11:12: "),
        "{places:?}"
    );
}

#[test]
fn a_matrix_is_a_list_or_a_range_of_seeds() {
    let read = |matrix: &str| {
        let name = "test".parse().unwrap();
        let text = format!("flightcage = 1\n[matrix]\n{matrix}\n");
        parse(
            Path::new("demo.toml"),
            &text,
            &Against::own_cluster(&name, |_, _| Vec::new()),
        )
        .map(|scenario| scenario.cells(9))
    };
    let seeds = |matrix: &str| {
        read(matrix)
            .unwrap()
            .iter()
            .map(|cell| cell.seed)
            .collect::<Vec<u64>>()
    };
    assert_eq!(seeds("seed = { from = 1, to = 5 }"), [1, 2, 3, 4, 5]);
    assert_eq!(seeds("seed = [7, 3]"), [7, 3]);
    assert_eq!(seeds("seed = { from = 1, to = 5 }\nsample = 2").len(), 2);
    let table: &[(&str, &[&str])] = &[
        (
            "seed = 3",
            &[
                "3:8 the values of a matrix are a list or a range [such as `seed = [1, 2, 3]` or `seed = { from = 1, to = 5 }`]",
            ],
        ),
        (
            "seed = { from = 5, to = 1 }",
            &["3:8 no cell [a range runs from the smaller to the larger]"],
        ),
        (
            "seed = { from = 0, to = 1000 }",
            &["3:8 more than 1000 cells"],
        ),
        ("seed = [1, 2, 1]", &["3:15 `1` is there twice"]),
        (
            "seed = [1]\nsample = 2",
            &["4:10 a sample of 2 from 1 cells"],
        ),
        (
            "seed = [1]\nworkers = [2, 3]",
            &["4:1 unknown key `workers` [known: `seed`, `sample`]"],
        ),
        (
            "sample = 0",
            &["2:1 `seed` is missing", "3:10 `0` is not within 1 to 1000"],
        ),
    ];
    for (matrix, expected) in table {
        assert_eq!(
            check(&format!("flightcage = 1\n[matrix]\n{matrix}\n")),
            *expected,
            "{matrix}"
        );
    }
}

#[test]
fn names_are_lower_case_letters_digits_and_dashes() {
    for good in ["a", "-", "7-", "-a-", &"x".repeat(64)] {
        assert!(is_word(good), "{good}");
        let text = LOAD.replace("load.web", &format!("load.{good}"));
        assert_eq!(
            check(&format!(
                "{text}[[step]]\nid = \"{good}\"\nwait = {{ nodes_ready = 3, within = \"1s\" }}\n"
            )),
            [""; 0]
        );
    }
    for bad in ["", "A", "a_b", "a.b", "a b", "ä", &"x".repeat(WORD_MAX + 1)] {
        assert!(!is_word(bad), "{bad}");
    }
}

#[test]
fn controllers_of_other_namespaces_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let object = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: a, namespace: {namespace}}}\n---\n"
        )
    };
    std::fs::write(
        folder.path().join("a.yml"),
        object("default") + &object("other"),
    )
    .unwrap();
    let name = "test".parse().unwrap();
    let text = "flightcage = 1\n[deploy]\nfiles = [\"a.yml\"]\n";
    let refused = parse(
        &folder.path().join("demo.toml"),
        text,
        &Against::own_cluster(&name, |_, _| Vec::new()),
    )
    .unwrap_err();
    assert_eq!(refused.problems().len(), 1);
    assert!(
        refused.problems()[0]
            .message
            .ends_with("a.yml:5:1: ReplicationController `a` is in namespace `other`"),
        "{}",
        refused.listing()
    );
}

#[test]
fn what_is_no_manifest_file_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("folder")).unwrap();
    let large = std::fs::File::create(path("large.yml")).unwrap();
    large.set_len(1 << 30).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let text = "flightcage = 1\n[deploy]\nfiles = [\"/dev/zero\", \"folder\", \"pipe\", \"large.yml\", \"gone.yml\"]\n";
    let name = "test".parse().unwrap();
    let against = Against::own_cluster(&name, |_, _| Vec::new());
    let refusal = parse(&path("demo.toml"), text, &against).unwrap_err();
    let told: Vec<(usize, bool, Option<&str>)> = refusal
        .problems()
        .iter()
        .zip([
            "it is a device",
            "it is a directory",
            "it is a pipe",
            "it holds more than 64 MiB",
            "No such file",
        ])
        .map(|(problem, part)| {
            let is_said = problem.message.contains(part);
            (problem.column, is_said, problem.help.as_deref())
        })
        .collect();
    assert_eq!(
        told,
        [
            (10, true, Some("name a file of YAML or JSON")),
            (23, true, Some("name each of its files")),
            (33, true, Some("name a file of YAML or JSON")),
            (41, true, Some("is it a manifest? split it if it is")),
            (54, true, Some("names are relative to the scenario file")),
        ]
    );
}

#[test]
fn what_a_manifest_sets_without_effect_is_warned_of_and_kept_for_the_report() {
    fn ignored(_: &ResourceKind, _: &serde_json::Value) -> Vec<FieldProblem> {
        vec![FieldProblem {
            field: "data".into(),
            problem: "nobody reads it".into(),
            weight: Weight::NotApplied,
        }]
    }
    fn unenforced(kind: &ResourceKind, object: &serde_json::Value) -> Vec<FieldProblem> {
        let mut found = ignored(kind, object);
        found[0].weight = Weight::Unenforced;
        found
    }
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("web.yml");
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: web\ndata:\n  a: b\n";
    std::fs::write(&manifest, object).unwrap();
    let read = |check: Check, cluster: &str| {
        let text = format!("flightcage = 1\n{cluster}[deploy]\nfiles = [\"web.yml\"]\n");
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, check);
        parse(&folder.path().join("demo.toml"), &text, &against)
    };
    let scenario = read(ignored, "").unwrap();
    let [one] = scenario.not_applied.as_slice() else {
        panic!("{:?}", scenario.not_applied)
    };
    assert_eq!((one.line, one.column, one.field.as_str()), (5, 1, "data"));
    assert_eq!(scenario.warnings.len(), 1);
    let told = &scenario.warnings[0].message;
    assert!(
        told.contains("web.yml:5:1: ConfigMap `web`: `data` is not applied here: nobody reads it"),
        "{told}"
    );
    let refused = read(unenforced, "").unwrap_err();
    assert!(
        refused.problems()[0]
            .message
            .contains("web.yml:5:1: `data`: nobody reads it")
    );
    let accepted = read(unenforced, "[cluster]\naccept_unenforced = true\n").unwrap();
    assert_eq!(accepted.not_applied.len(), 1);
}

#[test]
fn images_that_the_cluster_does_not_run_are_told_before_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let object = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: c\n    image: nginx\n";
    std::fs::write(folder.path().join("web.yml"), object).unwrap();
    let name = "test".parse().unwrap();
    let read = |cluster: &str, machines: Machines<'_>| {
        let text = format!("flightcage = 1\n{cluster}[deploy]\nfiles = [\"web.yml\"]\n");
        let against = Against {
            machines,
            ..Against::own_cluster(&name, |_, _| Vec::new())
        };
        parse(&folder.path().join("demo.toml"), &text, &against)
    };
    let strict = "[cluster]\nimages = { allow = [\"quay.io/**\"] }\n";
    let refused = read(strict, Machines::OfFile).unwrap_err();
    let told = &refused.problems()[0].message;
    assert!(
        told.contains("web.yml:8:5: `spec.containers[0].image`: container `c`: image `nginx`"),
        "{told}"
    );
    let lax = ClusterSpec::with_workers(name.clone(), 2);
    assert!(read("", Machines::OfFile).is_ok());
    assert!(read(strict, Machines::Of(&lax)).is_ok());
    assert!(read(strict, Machines::Unknown).is_ok());
}
