//! The command line as a user meets it: exit codes, every problem at once, hints. No machines.

use std::path::Path;

use assert_cmd::Command;

/// A command with a home of its own.
fn flightcage(home: &Path) -> Command {
    let mut command = Command::cargo_bin("flightcage").expect("the binary was built");
    command
        .env("FLIGHTCAGE_HOME", home)
        .env_remove("FLIGHTCAGE_NAME")
        .env_remove("RUST_LOG")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs a command in an empty home and returns what it did; nothing may be left in that home's clusters.
fn check(arguments: &[&str]) -> Ran {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let output = flightcage(home.path())
        .args(arguments)
        .output()
        .expect("the binary runs");
    let clusters = std::fs::read_dir(home.path().join("clusters")).map_or(0, Iterator::count);
    assert_eq!(
        clusters,
        0,
        "`flightcage {}` left a cluster",
        arguments.join(" ")
    );
    Ran {
        code: output.status.code().expect("it was not killed"),
        stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("output is UTF-8"),
    }
}

#[test]
fn help_teaches_the_first_command() {
    let ran = check(&["--help"]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.stdout.contains("flightcage demo --yes"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("Exit codes"), "{}", ran.stdout);
}

#[test]
fn usage_errors_exit_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["fly"],
        &["run"],
        &["--name", "Not A Name", "down"],
        &["node", "explode", "w1"],
        &["run", "x.toml", "--shard", "3/2"],
        &["watch", "--port", "0"],
        &["shrink"],
        &["new"],
        &["shrink", "x.toml", "--repeat", "0"],
    ] {
        assert_eq!(check(arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn a_wrong_scenario_gets_every_problem_with_its_place() {
    for verb in ["lint", "run"] {
        let ran = check(&[verb, "tests/fixtures/wrong.toml"]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        for place in [":2:1: ", ":5:", ":6:", ":11:", ":18:", ":22:"] {
            assert!(
                ran.stderr.contains(&format!("wrong.toml{place}")),
                "{verb}: nothing at {place}:\n{}",
                ran.stderr
            );
        }
        assert!(
            ran.stderr.contains("needs"),
            "no suggestion for `nedds`:\n{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("recycled"), "{}", ran.stderr);
    }
}

#[test]
fn a_missing_file_is_invalid_input() {
    let ran = check(&["run", "no-such-scenario.toml"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("no-such-scenario.toml"),
        "{}",
        ran.stderr
    );
}

#[test]
fn the_shipped_scenarios_are_right_and_can_be_planned() {
    let ran = check(&[
        "lint",
        "scenarios/failover.toml",
        "scenarios/rolling-update.toml",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = check(&["plan", "scenarios/failover.toml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("node.power_off"), "{}", ran.stdout);
}

#[test]
fn down_without_a_cluster_is_fine_and_status_says_what_to_do() {
    assert_eq!(check(&["down"]).code, 0);
    let ran = check(&["status"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("flightcage up"), "{}", ran.stderr);
}

#[test]
fn a_manifest_that_is_not_one_is_refused_with_its_place() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let file = home.path().join("bad.yml");
    std::fs::write(&file, "apiVersion: v1\nkind: Pod\nmetadata: {}\n---\nkind: Podd\napiVersion: v1\nmetadata: {name: x}\n")
        .expect("a file can be written");
    let ran = check(&["apply", "-f", file.to_str().expect("the path is UTF-8")]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("bad.yml:"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("Podd"),
        "both documents are judged:\n{}",
        ran.stderr
    );
}

#[test]
fn a_wrong_box_cluster_or_manifest_gets_every_problem_with_its_place() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    for (name, text, arguments, places) in [
        (
            "box.toml",
            "description = 3\npackges = [\"a\"]\n",
            &["box", "build"][..],
            &[
                ":1:1: `suite` is missing",
                ":1:15: ",
                ":2:1: unknown key `packges`",
            ][..],
        ),
        (
            "cluster.toml",
            "[cluster]\nworker = 2\nmemory = \"512\"\n",
            &["up", "-f"],
            &[":2:1: unknown key `worker`", ":3:10: `512` has no unit"],
        ),
        (
            "pod.yml",
            "kind: Pod\n---\napiVersion: v1\nkind: Nope\n",
            &["apply", "-f"],
            &[":1:1: `apiVersion` is missing", ":4:1: unknown kind `Nope`"],
        ),
        (
            "broken.yml",
            "a: [b\n",
            &["apply", "-f"],
            &[":1:4: not YAML"],
        ),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        let path = path.to_str().expect("the path is UTF-8");
        let ran = check(&[arguments, &[path]].concat());
        assert_eq!(ran.code, 2, "{name}: {}", ran.stderr);
        for place in places {
            assert!(
                ran.stderr.contains(&format!("{path}{place}")),
                "{name}: nothing at {place}:\n{}",
                ran.stderr
            );
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_wrong_usage() {
    for arguments in [
        &["up", "-f", "/nowhere"][..],
        &["plan", "/nowhere"],
        &["apply", "-f", "/nowhere"],
        &["box", "build", "/nowhere.toml"],
    ] {
        let ran = check(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("/nowhere"), "{}", ran.stderr);
    }
    let ran = check(&["run", "--kubeconfig", "/nowhere", "scenarios/failover.toml"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
}

#[test]
fn an_empty_home_has_nothing_to_list_or_prune() {
    let ran = check(&["ls", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
    assert_eq!(
        (ran.code, &listed["clusters"], &listed["abandoned"]),
        (0, &serde_json::json!([]), &serde_json::json!([]))
    );
    assert_eq!(
        check(&["prune", "--all", "--yes"]).stdout,
        "nothing is left to clear\n"
    );
}

#[test]
fn pruning_asks_first_and_clears_what_a_killed_command_left() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let clusters = home.path().join("clusters");
    std::fs::create_dir_all(clusters.join("dead/machines/w1")).expect("it can be made");
    let unfinished = home.path().join("cache/boxes/building-x");
    std::fs::create_dir_all(&unfinished).expect("it can be made");
    let run = |arguments: &[&str]| {
        flightcage(home.path())
            .args(arguments)
            .output()
            .expect("the binary runs")
    };
    let output = run(&["prune"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("cluster dead"));
    assert!(
        unfinished.exists() && clusters.join("dead").exists(),
        "nothing was changed"
    );
    assert_eq!(run(&["prune", "--yes"]).status.code(), Some(0));
    assert!(!unfinished.exists() && !clusters.join("dead").exists());
}

#[test]
fn init_writes_files_that_are_right_and_never_over_others() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let run = |arguments: &[&str]| {
        flightcage(home.path())
            .current_dir(folder.path())
            .args(arguments)
            .output()
            .expect("the binary runs")
            .status
            .code()
    };
    assert_eq!(run(&["init", "cluster"]), Some(0));
    assert_eq!(run(&["init", "cluster"]), Some(2));
    assert_eq!(run(&["init", "cluster", "--force"]), Some(0));
    assert!(folder.path().join("flightcage.toml").is_file());
    assert_eq!(run(&["init", "scenario", "-o", "mine.toml"]), Some(0));
    assert_eq!(run(&["lint", "mine.toml"]), Some(0));
    let printed = check(&["init", "scenario", "-o", "-"]);
    assert_eq!(
        (printed.code, printed.stdout.contains("[load.web]")),
        (0, true)
    );
}

#[test]
fn boxes_and_images_are_listed_and_wrong_names_are_refused() {
    let boxes = check(&["box", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&boxes.stdout).expect("it is JSON");
    let names: Vec<&str> = listed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["flightcage-os", "flatcar", "fedora-coreos"]);
    assert_eq!(check(&["image", "list", "--json"]).stdout.trim(), "[]");
    let built = check(&["box", "fetch", "flightcage-os"]);
    assert_eq!(
        (
            built.code,
            built.stderr.contains("flightcage box build flightcage-os")
        ),
        (2, true),
        "{}",
        built.stderr
    );
    assert_eq!(check(&["box", "fetch", "no-such-box"]).code, 2);
    assert_eq!(check(&["image", "pull", "Not A Name"]).code, 2);
    assert_eq!(check(&["image", "load", "/nowhere.tar"]).code, 2);
}

/// Digits, so that it can be a number as well as a text.
const CANARY: &str = "48151623424815";

#[test]
fn no_message_about_a_wrong_manifest_repeats_a_secrets_value() {
    let wrong = [
        "stringData: {password: CANARY}",
        "stringData: {password: [CANARY], user: a}",
        "stringData: \"CANARY\"",
        "stringData:\n  password: \"CANARY\n  other: [",
        "stringData:\n  password: CANARY\n  password: CANARY",
        "stringData:\n\tpassword: CANARY",
        "stringData: *CANARY",
        "stringData:\n  password: CANARY: x",
        "stringData: {password: !!binary CANARY}",
        "data: {tls.key: CANARY}",
        "data: {tls.key: \"CANARY!\"}",
        "data: {tls.key: \"-----BEGIN CANARY\"}",
        "data: [\"CANARY\"]",
        "immutable: \"CANARY\"",
        "type: [CANARY]",
        "stringDat: {password: \"CANARY\"}",
        "stringData: {a: b}\nspec: {password: \"CANARY\"}",
        "stringData: {a: b}\nmetadata: {name: s, annotations: {password: CANARY}}",
    ];
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let manifest = home.path().join("secret.yml");
    let scenario = home.path().join("secret.toml");
    let load = "[load.web]\nurl = \"https://s/\"\nrate = \"5/s\"\nstreams = [\"new\"]\ngood = { status = 200 }\n";
    let text =
        format!("flightcage = 1\n[deploy]\nfiles = [\"secret.yml\"]\nwait = \"60s\"\n{load}");
    std::fs::write(&scenario, text).expect("a file can be written");
    for part in wrong {
        let (metadata, part) = (
            if part.contains("metadata:") {
                ""
            } else {
                "metadata: {name: s}\n"
            },
            part.replace("CANARY", CANARY),
        );
        let text = format!("apiVersion: v1\nkind: Secret\n{metadata}{part}\n");
        std::fs::write(&manifest, text).expect("a file can be written");
        let (manifest, scenario) = (
            manifest.display().to_string(),
            scenario.display().to_string(),
        );
        for arguments in [
            &["apply", "-f", &manifest][..],
            &["lint", &scenario],
            &["plan", &scenario],
            &["run", &scenario],
        ] {
            let ran = check(arguments);
            assert_eq!(ran.code, 2, "{arguments:?}: {part}\n{}", ran.stderr);
            assert!(ran.stderr.contains("secret.yml:"), "{part}\n{}", ran.stderr);
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!said.contains(CANARY), "{arguments:?}: {part}\n{said}");
        }
    }
}

#[test]
fn a_cluster_that_is_not_there_can_neither_stand_still_nor_be_carried() {
    for verb in ["pause", "resume"] {
        let ran = check(&[verb]);
        assert_eq!(ran.code, 1, "{verb}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("flightcage up"),
            "{verb}: {}",
            ran.stderr
        );
    }
    for wrong in [
        &["snapshot", "export", "none", "none.fcs"][..],
        &["snapshot", "import", "no-such-file.fcs"],
        // A file that is there, and no archive.
        &["snapshot", "import", "Cargo.toml"],
        &["store", "import", "no-such-file.jsonl"],
        // Nothing is overwritten.
        &["store", "export", "Cargo.toml"],
    ] {
        let ran = check(wrong);
        assert_eq!(ran.code, 2, "{wrong:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(wrong[2]), "{wrong:?}: {}", ran.stderr);
    }
}
