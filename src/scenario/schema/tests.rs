//! The schema and the reader accept and refuse the same files: those that are shipped, and wrong ones.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::check::Checker;
use super::schema;
use crate::scenario::file::{Against, Machines, parse};

/// What the reader says, apart from what only the folder around a file shows.
fn read(text: &str) -> Result<(), Vec<String>> {
    read_at(Path::new("demo.toml"), text)
}

/// The same of a file that may include others.
fn read_at(path: &Path, text: &str) -> Result<(), Vec<String>> {
    let name = "test".parse().unwrap();
    let against = Against {
        machines: Machines::Gone,
        ..Against::own_cluster(&name, |_, _| Vec::new())
    };
    let read = parse(path, text, &against);
    read.map(drop).map_err(|refusal| {
        let told = refusal.problems().iter();
        told.map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
            .collect()
    })
}

/// A file as a schema sees it; `None` if it is not TOML.
fn document(text: &str) -> Option<Json> {
    let table: toml::Table = toml::from_str(text).ok()?;
    serde_json::to_value(table).ok()
}

fn shipped() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("src/cli/init/scenario.toml")];
    for folder in ["scenarios", "scenarios/planted", "tests/fixtures/scenarios"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        files.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "toml")));
    }
    files.sort();
    let text = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    files.into_iter().map(text).collect()
}

/// Everything that a file may hold.
const WHOLE: &str = r#"
flightcage = 1
needs = ["node.power", "pod.kill"]
[matrix]
seed = { from = 1, to = 3 }
sample = 2
[cluster]
workers = 2
[deploy]
files = ["web.yml"]
tls_secret = { name = "tls", crt = "tls.crt", key = "tls.key", host = "web" }
wait = "4m"
[load.web]
url = "https://web.default:8443/a?b=c"
method = "POST"
headers = { "X-A" = "b" }
body = "{}"
rate = { auto = "45%", at_most = "50/s" }
streams = ["new", "reused"]
deadline = "1.5s"
good = { status = [200, 204], header = { "X-A" = "b" }, body_contains = "yes", json = { "/ok" = true } }
version = { header = "X-Version" }
endpoint = { header = "X-Pod" }
baseline = { for = "10s", good = "99.5%", p99 = "250ms", within = "90s" }
[[step]]
id = "kill"
fault = { kind = "pod.kill", target = { labels = { app = "web" }, count = "minority" } }
[[step]]
id = "slow"
when = { step = "kill", plus = "5s" }
fault = { kind = "net.shape", target = { between = ["w1", "w2"] }, loss = "1%", rate = "1mbit/s", for = "5s" }
[[step]]
id = "cut"
fault = { kind = "net.partition", target = { groups = [["c1"], ["w1", "w2"]] }, for = "5s" }
[[step]]
id = "clock"
fault = { kind = "clock.step", target = { node = "w1" }, by = "-2m", for = "5s" }
[[step]]
id = "memory"
fault = { kind = "node.memory", target = { node_running_most_of = "web" }, size = "64MiB", for = "5s" }
[[step]]
id = "update"
rolling_update = { from = "web", to = "web2.yml", update_period = "1s", within = "2m", ends = "done" }
[[step]]
id = "one"
when = { step = "update", replaced = 1 }
wait = { replicas_ready = { rc = "web", count = 2, avoiding = "slow" }, within = "60s" }
[[step]]
id = "nodes"
wait = { nodes_ready = 3, within = "60s" }
[[step]]
id = "object"
wait = { kind = "Deployment", name = "web", where = { "status.readyReplicas" = 3 }, within = "60s" }
[[step]]
id = "back"
rollback = { old = "web", new = "web2", within = "60s" }
[[step]]
id = "pod"
delete_pod = { rc = "web", grace = "0s" }
[[step]]
id = "exec"
exec = { rc = "web", command = ["true"], pods = "all", contains = "", within = "5s" }
[[step]]
id = "apply"
apply = { file = "more.yml" }
[[step]]
id = "ask"
http = { url = "http://web/", status = 200, within = "5s" }
[[step]]
id = "scale"
scale = { kind = "deploy", name = "web", replicas = 3, within = "60s" }
[[step]]
id = "delete"
delete = { kind = "cm", name = "site", within = "5s" }
[expect]
web.failed = "<= 5%"
web.worst = { window = "20s", failed = "<= 50%" }
web.outages = "<= 2"
web.downtime = "<= 5s"
web.new.p999 = "< 400ms"
web.new.during.slow.max = "<= 900ms"
web.during.kill.failed = "<= 10%"
web.recovery.kill = { within = "30s", hold = "5s" }
web.final_version = "v2"
replicas.web = 3
restarts."deployment/web" = "<= 1"
pods_deleted = "<= 3"
faults_left = 0
never = [{ kind = "Pod", selector = "app=web", where = { "status.phase" = "Failed" } }]
always = [{ kind = "Secret", name = "tls", exists = true }, { kind = "Deployment", condition = "Available" }]
"#;

#[test]
fn what_is_shipped_is_accepted_by_both() {
    let checker = Checker::new(schema());
    assert!(shipped().len() > 25);
    let variables = WHOLE
        .replace(
            "[matrix]",
            "[var]\nsize = \"64MiB\"\nfor = \"5s\"\n[matrix]",
        )
        .replace("\"64MiB\", for = \"5s\"", "\"${size}\", for = \"${for}\"");
    let own = [
        (PathBuf::from("whole"), WHOLE.to_owned()),
        (PathBuf::from("variables"), variables),
    ];
    for (path, text) in shipped().into_iter().chain(own) {
        assert_eq!(read_at(&path, &text), Ok(()), "{}", path.display());
        let document = document(&text).unwrap();
        assert!(checker.accepts(&document), "{}", path.display());
    }
}

#[test]
fn what_is_wrong_is_refused_by_both() {
    let checker = Checker::new(schema());
    let wrong = [
        ("flightcage = 1", "flightcage = 2"),
        ("flightcage = 1", ""),
        ("needs = [", "nedds = ["),
        ("\"node.power\"", "\"node.pover\""),
        ("{ from = 1, to = 3 }", "[]"),
        ("{ from = 1, to = 3 }", "[1, 1]"),
        ("sample = 2", "sample = 0"),
        ("workers = 2", "workres = 2"),
        ("files = [\"web.yml\"]", "files = [1]"),
        ("wait = \"4m\"", "wait = \"240\""),
        ("crt = \"tls.crt\", ", ""),
        ("\"https://web.default:8443/a?b=c\"", "\"ftp://web/\""),
        ("\"https://web.default:8443/a?b=c\"", "\"https://Web/\""),
        ("\"POST\"", "\"post\""),
        ("\"POST\"", "\"CONNECT\""),
        ("\"X-A\" = \"b\" }\nbody", "\"X A\" = \"b\" }\nbody"),
        ("\"45%\"", "\"45\""),
        ("\"50/s\"", "\"50/h\""),
        ("[\"new\", \"reused\"]", "[\"new\", \"recycled\"]"),
        ("[\"new\", \"reused\"]", "[]"),
        ("[\"new\", \"reused\"]", "[\"new\", \"new\"]"),
        ("\"1.5s\"", "\"0s\""),
        ("\"1.5s\"", "1.5"),
        ("[200, 204]", "[200, 99]"),
        ("[200, 204]", "[]"),
        ("\"/ok\" = true", "ok = true"),
        ("\"/ok\" = true", "\"/ok\" = 1.5"),
        ("good = \"99.5%\"", "good = \"101%\""),
        ("for = \"10s\", ", ""),
        ("id = \"kill\"", ""),
        ("id = \"kill\"", "id = \"Kill\""),
        (
            "id = \"kill\"",
            "id = \"kill\"\napply = { file = \"a.yml\" }",
        ),
        ("apply = { file = \"more.yml\" }", ""),
        ("plus = \"5s\"", "plus = \"5s\", replaced = 1"),
        ("\"pod.kill\", target", "\"pod.kil\", target"),
        (
            "{ labels = { app = \"web\" }, count",
            "{ labels = {}, count",
        ),
        ("\"minority\"", "\"some\""),
        ("loss = \"1%\", rate = \"1mbit/s\", ", ""),
        ("loss = \"1%\"", "lost = \"1%\""),
        ("\"1mbit/s\"", "\"1mb/s\""),
        ("between = [\"w1\", \"w2\"]", "between = [\"w1\"]"),
        (
            "between = [\"w1\", \"w2\"]",
            "groups = [[\"w1\"], [\"w2\"]]",
        ),
        ("between = [\"w1\", \"w2\"]", "node = \"w1\", from = \"w2\""),
        ("[[\"c1\"], [\"w1\", \"w2\"]]", "[[\"c1\"]]"),
        ("by = \"-2m\", ", ""),
        ("by = \"-2m\"", "by = \"2m\""),
        ("size = \"64MiB\"", "size = \"64MiB\", share = \"5%\""),
        ("size = \"64MiB\"", "size = \"64\""),
        ("size = \"64MiB\", for = \"5s\"", "size = \"64MiB\""),
        ("ends = \"done\"", "ends = \"ended\""),
        ("count = 2, avoiding", "count = \"2\", avoiding"),
        ("nodes_ready = 3, ", "nodes_ready = 3, kind = \"Node\", "),
        ("where = { \"status.readyReplicas\" = 3 }", "where = {}"),
        ("where = { \"status.readyReplicas\" = 3 }, ", ""),
        ("grace = \"0s\"", "grace = 0"),
        ("command = [\"true\"]", "command = []"),
        ("pods = \"all\"", "pods = \"any\""),
        ("status = 200, within", "status = 600, within"),
        ("replicas = 3, within", "replicas = -1, within"),
        ("name = \"site\"", "name = \"a/b\""),
        ("web.failed = \"<= 5%\"", "web.faild = \"<= 5%\""),
        ("web.failed = \"<= 5%\"", "web.failed = \"5%\""),
        ("web.failed = \"<= 5%\"", "web.failed = \"<= 5s\""),
        ("web.outages = \"<= 2\"", "web.outages = \"<= 2.5\""),
        ("window = \"20s\", ", ""),
        ("web.new.p999", "web.new.final_version"),
        ("web.during.kill.failed", "web.during.kill.fails"),
        ("hold = \"5s\"", "holds = \"5s\""),
        ("replicas.web = 3", "replicas.web = 3.5"),
        ("faults_left = 0", "faults_left = \"none\""),
        (
            "selector = \"app=web\"",
            "selector = \"app=web\", name = \"web\"",
        ),
        ("kind = \"Secret\", name", "kind = \"Secret\", names"),
        ("name = \"tls\", exists = true", "name = \"tls\""),
        ("kind = \"Deployment\", condition", "condition"),
    ];
    for (right, wrong) in wrong {
        assert_eq!(WHOLE.matches(right).count(), 1, "{right}");
        let text = WHOLE.replace(right, wrong);
        assert!(read(&text).is_err(), "the reader accepts {wrong:?}");
        if let Some(document) = document(&text) {
            assert!(
                !checker.accepts(&document),
                "the schema accepts {wrong:?} for {right:?}"
            );
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("tests/fixtures/wrong.toml")).unwrap();
    assert!(read(&text).is_err() && !checker.accepts(&document(&text).unwrap()));
}

/// A document as TOML on a line for each key of the file.
fn toml_of(document: &Json) -> String {
    let entries = document.as_object().unwrap().iter();
    let lines =
        entries.map(|(key, value)| format!("{} = {}\n", Json::from(key.as_str()), inline(value)));
    lines.collect()
}

fn inline(value: &Json) -> String {
    match value {
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(entries) => {
            let entries = entries.iter();
            let entries: Vec<String> = entries
                .map(|(key, value)| format!("{} = {}", Json::from(key.as_str()), inline(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        plain => plain.to_string(),
    }
}

/// Every place of a document, but those inside `[cluster]`, of which a schema knows only the keys.
fn places(value: &Json, at: &str, found: &mut Vec<String>) {
    let mut inside = |key: &str, value: &Json| {
        let key = key.replace('~', "~0").replace('/', "~1");
        let place = format!("{at}/{key}");
        if at != "/cluster" {
            found.push(place.clone());
            places(value, &place, found);
        }
    };
    match value {
        Json::Object(entries) => entries.iter().for_each(|(key, value)| inside(key, value)),
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                inside(&index.to_string(), item);
            }
        }
        _ => {}
    }
}

/// Whatever is spoiled in a file, the schema is never stricter than the reader; and what has the wrong type or an unknown key is
/// refused by both.
#[test]
fn wherever_a_file_is_spoiled_both_say_the_same() {
    let checker = Checker::new(schema());
    let whole = document(WHOLE).unwrap();
    assert_eq!(read(&toml_of(&whole)), Ok(()));
    let mut all = Vec::new();
    places(&whole, "", &mut all);
    assert!(all.len() > 150, "{}", all.len());
    for place in &all {
        let mut spoiled = Vec::new();
        for other in [json!(7), json!({ "x": "y" })] {
            let mut document = whole.clone();
            *document.pointer_mut(place).unwrap() = other;
            spoiled.push(document);
        }
        let (around, key) = place.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        let mut document = whole.clone();
        if let Some(entries) = document.pointer_mut(around).unwrap().as_object_mut() {
            let value = entries.remove(&key).unwrap();
            entries.insert(format!("{key}x"), value);
            spoiled.push(document);
        }
        for document in spoiled {
            let accepts = checker.accepts(&document);
            let text = toml_of(&document);
            match read(&text) {
                Ok(()) => assert!(
                    accepts,
                    "only the schema refuses a file spoiled at {place}\n{text}"
                ),
                Err(problems) => {
                    let structural = problems.iter().any(|problem| {
                        let (_, what) = problem.split_once(' ').unwrap();
                        what.starts_with("unknown key") || what.starts_with("expected")
                    });
                    assert!(
                        !(structural && accepts),
                        "only the reader refuses a file spoiled at {place}: {problems:?}"
                    );
                }
            }
        }
    }
}
