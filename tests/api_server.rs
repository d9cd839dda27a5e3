//! The API server over loopback, with mTLS as in a cluster: who gets in, a watch, a restart, hostile clients, secrets.

#[path = "api_server/canary.rs"]
mod canary;
#[path = "api_server/hostile.rs"]
mod hostile;
mod in_process;
#[path = "api_server/tokens.rs"]
mod tokens;

use in_process::{Running, authority, install};
use serde_json::{Value, json};

async fn json_of(response: reqwest::Response) -> (u16, Value) {
    (
        response.status().as_u16(),
        response.json().await.expect("JSON"),
    )
}

#[tokio::test]
async fn a_cluster_sees_its_clients_certificates_and_keeps_its_objects() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let authority = authority();
    install(&authority, directory.path());
    let server = Running::start(directory.path()).await;
    let admin = authority.client(Some(authority.issue("admin", "system:masters")));

    // Nobody is anonymous, and another authority's admin is nobody.
    let maps = format!("{}/api/v1/namespaces/default/configmaps", server.url);
    assert!(authority.client(None).get(&maps).send().await.is_err());
    let stranger = in_process::authority();
    let pem = stranger.issue("admin", "system:masters");
    assert!(authority.client(Some(pem)).get(&maps).send().await.is_err());
    let node = authority.client(Some(authority.issue("system:node:w1", "system:nodes")));
    let (code, refused) = json_of(
        node.get(format!("{}/api/v1/secrets", server.url))
            .send()
            .await
            .expect("answered"),
    )
    .await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));

    // A watch begins at once and tells of what follows.
    let mut watch = admin
        // The cluster's certificate is in every namespace, sooner or later.
        .get(format!(
            "{maps}?watch=1&resourceVersion=0&fieldSelector=metadata.name!=kube-root-ca.crt"
        ))
        .send()
        .await
        .expect("headers come at once");
    let body = json!({"metadata": {"generateName": "map-"}, "data": {"k": "v"}});
    let (code, created) = json_of(
        admin
            .post(&maps)
            .json(&body)
            .send()
            .await
            .expect("answered"),
    )
    .await;
    assert_eq!(code, 201, "{created}");
    let line = watch.chunk().await.expect("no error").expect("an event");
    let event: Value = serde_json::from_slice(&line).expect("one line of JSON");
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("ADDED"), &created["metadata"]["name"])
    );

    // A stale write is refused, a wrong object with its causes.
    let name = created["metadata"]["name"].as_str().expect("a name");
    let patch = admin
        .patch(format!("{maps}/{name}"))
        .header("content-type", "application/merge-patch+json");
    assert_eq!(
        json_of(
            patch
                .body("{\"data\":{\"k\":\"w\"}}")
                .send()
                .await
                .expect("answered")
        )
        .await
        .0,
        200
    );
    let (code, stale) = json_of(
        admin
            .put(format!("{maps}/{name}"))
            .json(&created)
            .send()
            .await
            .expect("answered"),
    )
    .await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));
    let pods = format!("{}/api/v1/namespaces/default/pods", server.url);
    let wrong = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "C"}]}});
    let (code, invalid) = json_of(
        admin
            .post(&pods)
            .json(&wrong)
            .send()
            .await
            .expect("answered"),
    )
    .await;
    assert_eq!(code, 422, "{invalid}");
    assert_eq!(
        invalid["details"]["causes"].as_array().map(Vec::len),
        Some(2)
    );

    // What was acknowledged is there after a restart.
    drop(watch);
    server.stop().await;
    let server = Running::start(directory.path()).await;
    let (code, found) = json_of(
        admin
            .get(format!(
                "{}/api/v1/namespaces/default/configmaps/{name}",
                server.url
            ))
            .send()
            .await
            .expect("answered"),
    )
    .await;
    assert_eq!((code, &found["data"]["k"]), (200, &json!("w")));
    server.stop().await;
}

/// To `run --kubeconfig` this server is a Kubernetes that is not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_scenario_that_breaks_nodes_is_skipped_on_a_foreign_kubernetes() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let authority = authority();
    install(&authority, directory.path());
    let server = Running::start(directory.path()).await;
    let at = |name: &str| directory.path().join(name).display().to_string();
    in_process::kubeconfig(&authority, directory.path(), &server.url);
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_flightcage"))
        .env("FLIGHTCAGE_HOME", directory.path().join("home"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "run",
            "scenarios/failover.toml",
            "--kubeconfig",
            &at("kubeconfig"),
            "--report",
            &at("report"),
        ])
        .output()
        .await
        .expect("the binary runs");
    assert_eq!(
        output.status.code(),
        Some(5),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report =
        std::fs::read(directory.path().join("report/failover/report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(
        (&report["verdict"], &report["target"]["provider"]),
        (&json!("skipped"), &json!("kubeconfig"))
    );
    assert_eq!(report["reasons"], json!(["the target lacks `node.power`"]));
    server.stop().await;
}
