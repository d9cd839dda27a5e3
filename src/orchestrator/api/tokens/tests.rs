//! From a request to the end of a token.

use std::sync::Arc;

use super::*;
use crate::orchestrator::api::registry::DeleteOptions;
use crate::orchestrator::api::registry::tests::registry;

const NOW: i64 = 1_796_040_000;

async fn with_pod() -> Arc<Registry> {
    let registry = registry().await;
    let account = json!({"metadata": {"name": "bird"}});
    let kind = &kinds::SERVICE_ACCOUNT;
    registry
        .create(kind, Some("default"), account)
        .await
        .expect("created");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "w1", "serviceAccountName": "bird",
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]}});
    registry
        .create(&kinds::POD, Some("default"), pod)
        .await
        .expect("created");
    registry
}

fn admin() -> Identity {
    Identity {
        user: "admin".to_owned(),
        groups: vec!["system:masters".to_owned()],
    }
}

fn node(name: &str) -> Identity {
    Identity {
        user: format!("system:node:{name}"),
        groups: vec!["system:nodes".to_owned()],
    }
}

fn token(answer: &Value) -> &str {
    answer["status"]["token"].as_str().expect("a token")
}

fn bound() -> Value {
    json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}})
}

fn request(
    tokens: &Tokens,
    registry: &Registry,
    who: &Identity,
    body: &Value,
) -> Result<Value, crate::orchestrator::api::status::Status> {
    tokens.request(registry, who, ("default", "bird"), body, NOW)
}

#[tokio::test]
async fn a_token_dies_with_its_time_its_pod_and_its_account() {
    let registry = with_pod().await;
    let tokens = Tokens::ephemeral().expect("random bytes");
    let unbound = request(&tokens, &registry, &admin(), &json!({})).expect("issued");
    let of_pod = request(&tokens, &registry, &admin(), &bound()).expect("issued");
    let good = |answer: &Value, now: i64| {
        let verified = tokens.verify(token(answer)).expect("our own");
        verified.good(&registry, now)
    };
    let found = good(&unbound, NOW).expect("good");
    assert_eq!(found.who.user, "system:serviceaccount:default:bird");
    assert!(good(&unbound, NOW + 3599).is_ok());
    assert!(good(&unbound, NOW + 3600).is_err() && good(&unbound, NOW - 1).is_err());
    let found = good(&of_pod, NOW).expect("good");
    assert_eq!(
        found.extra["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    let at_once = DeleteOptions::parse(&json!({"gracePeriodSeconds": 0})).expect("options");
    registry
        .delete(&kinds::POD, Some("default"), "p", at_once.clone())
        .await
        .expect("deleted");
    assert!(good(&of_pod, NOW).is_err() && good(&unbound, NOW).is_ok());
    let account = &kinds::SERVICE_ACCOUNT;
    registry
        .delete(account, Some("default"), "bird", at_once)
        .await
        .expect("deleted");
    let again = json!({"metadata": {"name": "bird"}});
    registry
        .create(account, Some("default"), again)
        .await
        .expect("created");
    assert!(good(&unbound, NOW).is_err(), "another of its name");
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_in_kubernetes_words() {
    let registry = with_pod().await;
    let tokens = Tokens::ephemeral().expect("random bytes");
    let code = |body: Value| {
        request(&tokens, &registry, &admin(), &body).map_or_else(|status| status.code, |_| 201)
    };
    assert_eq!(code(json!({"spec": {"expirationSeconds": 600}})), 201);
    for (body, wanted) in [
        (json!([]), 400),
        (json!({"kind": "Pod"}), 400),
        (json!({"spec": {"expirationSeconds": 599}}), 422),
        (
            json!({"spec": {"expirationSeconds": (1_i64 << 32) + 1}}),
            422,
        ),
        (json!({"spec": {"expirationSeconds": "x"}}), 400),
        (json!({"spec": {"audiences": [1]}}), 400),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Bird", "apiVersion": "v1"}}}),
            400,
        ),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "no"}}}),
            404,
        ),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "x"}}}),
            409,
        ),
    ] {
        assert_eq!(code(body.clone()), wanted, "{body}");
    }
}

#[tokio::test]
async fn a_node_asks_for_its_own_pods_only() {
    let registry = with_pod().await;
    let tokens = Tokens::ephemeral().expect("random bytes");
    let may = |who: &str, body: &Value| request(&tokens, &registry, &node(who), body).is_ok();
    assert!(may("w1", &bound()));
    assert!(!may("w2", &bound()) && !may("w1", &json!({})));
    let mut vault = bound();
    vault["spec"]["audiences"] = json!(["vault"]);
    assert!(may("w1", &vault));
    vault["spec"]["audiences"] = json!(["bank"]);
    assert!(!may("w1", &vault));
}

#[tokio::test]
async fn a_review_tells_whose_it_is_and_for_whom() {
    let registry = with_pod().await;
    let tokens = Tokens::ephemeral().expect("random bytes");
    let vault = json!({"spec": {"audiences": ["vault"]}});
    let issued = request(&tokens, &registry, &admin(), &vault).expect("issued");
    let asked = |spec: Value| tokens.review(&registry, &spec, NOW);
    let other = asked(json!({"token": token(&issued)}));
    assert_eq!(other.get("authenticated"), None);
    let told = asked(json!({"token": token(&issued), "audiences": ["bank", "vault"]}));
    assert_eq!(told["authenticated"], json!(true));
    assert_eq!(told["audiences"], json!(["vault"]));
    let name = "system:serviceaccount:default:bird";
    assert_eq!(told["user"]["username"], json!(name));
    assert!(asked(json!({"token": "x.y.z"}))["error"].is_string());
    assert!(asked(json!({}))["error"].is_string());
}
