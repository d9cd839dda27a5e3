//! A value that must not get out, in each field of a Secret and of what is like one: no answer, no log line and no file has it.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::in_process::{Running, authority, install};

/// Digits only, so that it can be a number as well as a text.
const CANARY: &str = "48151623424815";

/// All that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether the canary can be seen in it: as it is, or as a Secret holds it.
fn has_canary(text: &[u8]) -> bool {
    let encoded = STANDARD.encode(CANARY);
    let has = |part: &str| {
        text.windows(part.len())
            .any(|window| window == part.as_bytes())
    };
    // The last letters of base64 depend on what follows.
    has(CANARY) || has(&encoded[..16])
}

fn canary_number() -> Value {
    serde_json::from_str(CANARY).expect("a number")
}

/// Every wrong way of writing `field`, an object of texts.
fn wrong_data(field: &str) -> Vec<Value> {
    let number = canary_number();
    vec![
        json!({field: {"tls.key": number}}),
        json!({field: {"tls.key": [CANARY]}}),
        json!({field: {"tls.key": {"inner": CANARY}}}),
        json!({field: {"user": "u", "tls.key": number, "more": true}}),
        json!({field: CANARY}),
        json!({field: [CANARY]}),
        json!({field: number}),
        json!({field: {"a/b": STANDARD.encode(CANARY)}}),
    ]
}

/// Bodies of Secrets that are refused.
fn wrong_secrets() -> Vec<Value> {
    let number = canary_number();
    let mut wrong = [wrong_data("data"), wrong_data("stringData")].concat();
    wrong.extend([
        json!({"data": {"tls.key": format!("{CANARY}!")}}),
        json!({"data": {"tls.key": format!("{}!", STANDARD.encode(CANARY))}}),
        json!({"data": {"tls.key": format!("-----BEGIN {CANARY}")}}),
        json!({"immutable": CANARY}),
        json!({"type": number}),
        json!({"type": [CANARY]}),
        json!({"stringDat": {"password": CANARY}}),
        json!({"spec": {"password": CANARY}, "dta": [CANARY]}),
        json!({"metadata": {"labels": {"password": format!("{CANARY} !")}}}),
        json!({"metadata": {"labels": {"password": number}}}),
        json!({"metadata": {"annotations": {"password": number}}}),
        json!({"metadata": {"finalizers": CANARY}}),
        json!({"metadata": CANARY}),
    ]);
    wrong
}

/// Pods whose environment is wrong.
fn wrong_pods() -> Vec<Value> {
    let number = canary_number();
    let container = |part: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        let (field, value) = part
            .as_object()
            .and_then(|map| map.iter().next())
            .expect("one field");
        container[field] = value.clone();
        json!({"spec": {"containers": [container]}})
    };
    vec![
        container(json!({"env": [{"name": "A", "value": number}]})),
        container(json!({"env": [{"name": "A", "value": [CANARY]}]})),
        container(json!({"env": [{"name": "A", "valu": CANARY}]})),
        container(json!({"env": {"A": CANARY}})),
        container(json!({"env": [{"name": "1 A", "value": CANARY}]})),
        container(json!({"command": [number]})),
        container(json!({"args": CANARY})),
        container(
            json!({"livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "A", "value": number}]}}}),
        ),
    ]
}

/// Patches of a Secret that holds the canary, and of its fields: type and body.
fn patches() -> Vec<(&'static str, String)> {
    let number = canary_number();
    let json_patch = |operation: Value| {
        (
            "application/json-patch+json",
            json!([operation]).to_string(),
        )
    };
    let mut patches = vec![
        json_patch(json!({"op": "test", "path": "/data/k", "value": CANARY})),
        json_patch(json!({"op": "replace", "path": "/data/nothing", "value": CANARY})),
        json_patch(json!({"op": "add", "path": "/data/k", "value": number})),
        json_patch(json!({"op": "add", "path": "/data", "value": CANARY})),
        json_patch(json!({"op": CANARY, "path": "/data/k", "value": CANARY})),
        ("application/json-patch+json", format!("\"{CANARY}\"")),
        (
            "application/json-patch+json",
            format!("[{{\"op\": \"add\", \"value\": \"{CANARY}"),
        ),
        (
            "application/strategic-merge-patch+json",
            json!({"data": {"$patch": CANARY}}).to_string(),
        ),
        (
            "application/strategic-merge-patch+json",
            json!({"$retainKeys": CANARY, "data": CANARY}).to_string(),
        ),
        (
            "application/strategic-merge-patch+json",
            format!("\"{CANARY}\""),
        ),
        (
            "application/apply-patch+yaml",
            format!("stringData:\n  password: {CANARY}\n bad"),
        ),
        (NO_SUCH_PATCH, format!("{{\"stringData\": {CANARY}}}")),
    ];
    for wrong in wrong_secrets() {
        patches.push(("application/merge-patch+json", wrong.to_string()));
        patches.push(("application/strategic-merge-patch+json", wrong.to_string()));
    }
    patches
}

/// A type of patch that there is not.
const NO_SUCH_PATCH: &str = "application/x-patch";

/// Bodies that cannot be read at all: type and text.
fn unreadable() -> Vec<(&'static str, String)> {
    vec![
        (
            "application/json",
            format!("{{\"stringData\": {{\"password\": \"{CANARY}}}"),
        ),
        (
            "application/json",
            format!("{{\"stringData\": {{\"password\": {CANARY}x}}}}"),
        ),
        ("application/json", format!("\"{CANARY}\"")),
        ("application/json", CANARY.to_owned()),
        (
            "application/yaml",
            format!("stringData:\n  password: \"{CANARY}\n  x: ["),
        ),
        (
            "application/yaml",
            format!("stringData:\n  password: {CANARY}\n  password: {CANARY}\n"),
        ),
        (
            "application/yaml",
            format!("stringData:\n\tpassword: {CANARY}\n"),
        ),
        ("application/yaml", format!("stringData: *{CANARY}\n")),
        (
            "application/vnd.kubernetes.protobuf",
            format!("k8s\0{CANARY}"),
        ),
        (
            "application/vnd.kubernetes.protobuf",
            format!("k8s\0\n\x0c\n\x02v1\x12\x06Secret\x12\x10{CANARY}{CANARY}"),
        ),
        ("text/plain", CANARY.to_owned()),
    ]
}

struct Asker {
    client: Client,
    /// What was found so far.
    leaks: Vec<String>,
    refused: usize,
}

impl Asker {
    /// Sends it; only an answer that is no error may show what was stored.
    async fn ask(&mut self, method: Method, url: &str, media: &str, body: String) {
        let sent = self
            .client
            .request(method.clone(), url)
            .header("content-type", media);
        let answer = sent.body(body.clone()).send().await.expect("answered");
        let code = answer.status();
        let headers = format!("{:?}", answer.headers());
        let text = answer.bytes().await.expect("to its end");
        let refused = code.is_client_error() || code.is_server_error();
        self.refused += usize::from(refused);
        assert_ne!(code.as_u16(), 500, "{body}");
        if has_canary(headers.as_bytes()) || (refused && has_canary(&text)) {
            self.leaks.push(format!(
                "{method} {body}\n  → {code} {headers} {}",
                String::from_utf8_lossy(&text)
            ));
        }
    }
}

fn named(mut object: Value, kind: &str, name: &str) -> String {
    object["kind"] = json!(kind);
    object["apiVersion"] = json!("v1");
    if object.get("metadata").is_none() {
        object["metadata"] = json!({});
    }
    if object["metadata"].is_object() {
        object["metadata"]["name"] = json!(name);
    }
    object.to_string()
}

#[tokio::test]
async fn no_answer_log_line_or_file_has_a_secrets_value() {
    let log = Log::default();
    let written = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || written.clone())
        .init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let authority = authority();
    install(&authority, directory.path());
    let server = Running::start(directory.path()).await;
    let user = |name: &str, group: &str| Asker {
        client: authority.client(Some(authority.issue(name, group))),
        leaks: Vec::new(),
        refused: 0,
    };
    let mut users = [
        user("admin", "system:masters"),
        user("system:node:w1", "system:nodes"),
        user("system:kube-proxy:w1", "system:kube-proxies"),
        user("stranger", "strangers"),
    ];
    let secrets = format!("{}/api/v1/namespaces/default/secrets", server.url);
    let pods = format!("{}/api/v1/namespaces/default/pods", server.url);
    let maps = format!("{}/api/v1/namespaces/default/configmaps", server.url);
    let right = named(
        json!({"stringData": {"k": CANARY, "tls.key": CANARY}}),
        "Secret",
        "s",
    );
    for asker in &mut users {
        asker
            .ask(Method::POST, &secrets, "application/json", right.clone())
            .await;
        // Once more: it is there already.
        asker
            .ask(Method::POST, &secrets, "application/json", right.clone())
            .await;
        let one = format!("{secrets}/s");
        for wrong in wrong_secrets() {
            let body = named(wrong, "Secret", "s");
            for validation in ["Strict", "Warn"] {
                let url = format!("{secrets}?fieldValidation={validation}");
                asker
                    .ask(
                        Method::POST,
                        &url,
                        "application/json",
                        body.replace("\"s\"", "\"new\""),
                    )
                    .await;
                let url = format!("{one}?fieldValidation={validation}&dryRun=All");
                asker
                    .ask(Method::PUT, &url, "application/json", body.clone())
                    .await;
            }
            asker
                .ask(Method::POST, &pods, "application/json", body.clone())
                .await;
            asker
                .ask(
                    Method::POST,
                    &maps,
                    "application/json",
                    body.replace("Secret", "ConfigMap"),
                )
                .await;
        }
        for (media, body) in unreadable() {
            asker.ask(Method::POST, &secrets, media, body.clone()).await;
            asker.ask(Method::PUT, &one, media, body.clone()).await;
            asker.ask(Method::DELETE, &one, media, body).await;
        }
        for (media, body) in patches() {
            let url = format!("{one}?dryRun=All");
            asker.ask(Method::PATCH, &url, media, body).await;
        }
        for wrong in wrong_pods() {
            for validation in ["Strict", "Warn"] {
                let url = format!("{pods}?dryRun=All&fieldValidation={validation}");
                asker
                    .ask(
                        Method::POST,
                        &url,
                        "application/json",
                        named(wrong.clone(), "Pod", "p"),
                    )
                    .await;
            }
        }
        let stale = json!({"metadata": {"resourceVersion": "1"}, "stringData": {"k": CANARY}});
        asker
            .ask(
                Method::PUT,
                &one,
                "application/json",
                named(stale, "Secret", "s"),
            )
            .await;
        let other_type = json!({"type": CANARY, "stringData": {"k": CANARY}});
        asker
            .ask(
                Method::PUT,
                &one,
                "application/json",
                named(other_type, "Secret", "s"),
            )
            .await;
    }
    let leaks: Vec<String> = users
        .iter_mut()
        .flat_map(|user| std::mem::take(&mut user.leaks))
        .collect();
    assert!(
        leaks.is_empty(),
        "{} leaks:\n{}",
        leaks.len(),
        leaks.join("\n")
    );
    assert!(
        users.iter().all(|user| user.refused > 100),
        "they were meant to be refused"
    );
    let metrics = users[0]
        .client
        .get(format!("{}/metrics", server.url))
        .send()
        .await;
    let metrics = metrics.expect("answered").text().await.expect("text");
    assert!(!has_canary(metrics.as_bytes()) && metrics.contains("\nflightcage_panics_total 0\n"));
    server.stop().await;
    let log = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let lines = String::from_utf8_lossy(&log);
    assert!(lines.contains("audit"), "the log was caught");
    let leaked: Vec<&str> = lines
        .lines()
        .filter(|line| has_canary(line.as_bytes()))
        .collect();
    assert!(leaked.is_empty(), "{}", leaked.join("\n"));
    let store = std::fs::read(directory.path().join("data/store.redb")).expect("read");
    assert!(!has_canary(&store), "Secrets are encrypted at rest");
}
