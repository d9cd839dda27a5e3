//! ServiceAccounts over the wire: a token in place of a certificate, what roles grant it, and its end.

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::in_process::{Running, authority, install};

struct Asking<'a> {
    client: &'a Client,
    server: &'a Running,
    token: Option<&'a str>,
}

impl Asking<'_> {
    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}{path}", self.server.url);
        let mut request = self.client.request(method, url);
        if !body.is_null() {
            request = request.json(&body);
        }
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.expect("answered");
        let code = response.status().as_u16();
        (code, response.json().await.expect("JSON"))
    }

    async fn get(&self, path: &str) -> u16 {
        self.ask(Method::GET, path, Value::Null).await.0
    }
}

#[tokio::test]
async fn a_token_opens_what_roles_grant_until_its_account_is_gone() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let authority = authority();
    install(&authority, directory.path());
    let server = Running::taking_tokens(directory.path()).await;
    let certified = authority.client(Some(authority.issue("admin", "system:masters")));
    let admin = Asking {
        client: &certified,
        server: &server,
        token: None,
    };
    let of_default = "/api/v1/namespaces/default";
    let (pods, secrets) = (
        format!("{of_default}/pods"),
        format!("{of_default}/secrets"),
    );
    let accounts = format!("{of_default}/serviceaccounts");
    let body = json!({"metadata": {"name": "bird"}});
    assert_eq!(admin.ask(Method::POST, &accounts, body).await.0, 201);
    let (code, issued) = admin
        .ask(Method::POST, &format!("{accounts}/bird/token"), json!({}))
        .await;
    assert_eq!(code, 201, "{issued}");
    let token = issued["status"]["token"].as_str().expect("a token");

    // Whoever shows nothing, or nonsense, is told nothing: not even what the cluster is.
    for shown in [None, Some("a.b.c")] {
        for path in ["/version", "/healthz", "/api", &pods] {
            // Its connection does not outlive the refusal.
            let client = authority.client(None);
            let stranger = Asking {
                client: &client,
                server: &server,
                token: shown,
            };
            assert_eq!(stranger.get(path).await, 401, "{path}");
        }
    }

    let client = authority.client(None);
    let bird = Asking {
        client: &client,
        server: &server,
        token: Some(token),
    };
    assert_eq!(bird.get("/version").await, 200);
    let (code, refused) = bird.ask(Method::GET, &pods, Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        json!(
            "pods is forbidden: User \"system:serviceaccount:default:bird\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        )
    );
    let (code, refused) = bird.ask(Method::GET, "/metrics", Value::Null).await;
    assert_eq!(code, 403, "{refused}");
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({"metadata": {"name": "birds-see"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "bird", "namespace": "default"}]});
    let mut wider = binding.clone();
    (wider["metadata"]["name"], wider["roleRef"]["name"]) = (json!("wider"), json!("admin"));
    assert_eq!(admin.ask(Method::POST, bindings, binding).await.0, 201);
    assert_eq!(bird.get(&pods).await, 200);
    assert_eq!(bird.get(&secrets).await, 403);
    assert_eq!(bird.ask(Method::POST, bindings, wider).await.0, 403);
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, review) = bird.ask(Method::POST, whoami, json!({})).await;
    assert_eq!(code, 201, "{review}");
    assert_eq!(
        review["status"]["userInfo"]["username"],
        json!("system:serviceaccount:default:bird")
    );

    let gone = format!("{accounts}/bird");
    assert_eq!(admin.ask(Method::DELETE, &gone, Value::Null).await.0, 200);
    assert_eq!(bird.get("/version").await, 401);
    server.stop().await;
}
