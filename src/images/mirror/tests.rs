use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use http::header;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tower::ServiceExt;

use super::*;
use crate::images::signature::tag_of;
use crate::images::signature::testing::Signer;
use crate::transport::Listen;

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(&Sha256::digest(bytes)))
}

async fn get(router: &Router, path: &str, range: Option<&str>) -> (StatusCode, HeaderMap, Vec<u8>) {
    let mut request = http::Request::get(path);
    if let Some(range) = range {
        request = request.header(header::RANGE, range);
    }
    let response = router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    (
        parts.status,
        parts.headers,
        axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec(),
    )
}

/// Upstream on loopback: knows `good:v1`, answers `locked` with a challenge nobody meets, sends wrong bytes for a blob.
async fn upstream(
    asked: Arc<AtomicUsize>,
    manifest: Vec<u8>,
    blob: Vec<u8>,
    corrupt: String,
) -> String {
    let (blob_path, corrupt_path) = (
        format!("/v2/good/blobs/{}", digest(&blob)),
        format!("/v2/good/blobs/{corrupt}"),
    );
    let fallback = move |uri: http::Uri| {
        asked.fetch_add(1, Ordering::Relaxed);
        let path = uri.path();
        let response = if path == "/v2/good/manifests/v1" {
            (
                [(header::CONTENT_TYPE, MANIFEST_TYPES[0])],
                manifest.clone(),
            )
                .into_response()
        } else if path == blob_path {
            blob.clone().into_response()
        } else if path == corrupt_path {
            b"other bytes".to_vec().into_response()
        } else if path.starts_with("/v2/locked/") {
            StatusCode::UNAUTHORIZED.into_response()
        } else {
            let body =
                serde_json::json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "none"}]});
            (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
        };
        std::future::ready(response)
    };
    let router = Router::new()
        .route("/v2/", axum::routing::get(|| async {}))
        .fallback(fallback);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum_serve(listener, router).await });
    address
}

async fn axum_serve(mut listener: tokio::net::TcpListener, router: Router) {
    while let Ok((stream, _)) = Listen::accept(&mut listener).await {
        let service = TowerToHyperService::new(router.clone());
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        tokio::spawn(async move {
            server
                .serve_connection(TokioIo::new(stream), service)
                .await
                .map_err(drop)
        });
    }
}

#[tokio::test]
async fn a_miss_is_fetched_once_verified_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = br#"{"schemaVersion":2,"layers":[]}"#.to_vec();
    let blob = b"0123456789".to_vec();
    let corrupt = digest(b"what was meant");
    let asked = Arc::new(AtomicUsize::new(0));
    let host = upstream(
        Arc::clone(&asked),
        manifest.clone(),
        blob.clone(),
        corrupt.clone(),
    )
    .await;
    let store = ImageStore::open(directory.path()).unwrap();
    let router = router(store, Upstreams::plain_http(vec![host.clone()]));

    let (status, headers, body) =
        get(&router, &format!("/v2/good/manifests/v1?ns={host}"), None).await;
    assert_eq!((status, &body), (StatusCode::OK, &manifest));
    assert_eq!(headers["docker-content-digest"], digest(&manifest));
    assert_eq!(headers[header::CONTENT_TYPE], MANIFEST_TYPES[0]);
    let blob_url = format!("/v2/good/blobs/{}?ns={host}", digest(&blob));
    assert_eq!(get(&router, &blob_url, None).await.2, blob);
    let before = asked.load(Ordering::Relaxed);
    let (status, headers, body) = get(&router, &blob_url, Some("bytes=2-4")).await;
    assert_eq!((status, &*body), (StatusCode::PARTIAL_CONTENT, &b"234"[..]));
    assert_eq!(headers[header::CONTENT_RANGE], "bytes 2-4/10");
    assert_eq!(
        get(&router, &format!("/v2/good/manifests/v1?ns={host}"), None)
            .await
            .0,
        StatusCode::OK
    );
    assert_eq!(
        asked.load(Ordering::Relaxed),
        before,
        "a kept blob is not fetched again"
    );

    // Wrong bytes are neither served nor kept.
    let (status, _, body) = get(
        &router,
        &format!("/v2/good/blobs/{corrupt}?ns={host}"),
        None,
    )
    .await;
    assert_eq!(
        status,
        StatusCode::BAD_GATEWAY,
        "{}",
        String::from_utf8_lossy(&body)
    );
    assert_eq!(
        std::fs::read_dir(directory.path().join("blobs/sha256"))
            .unwrap()
            .count(),
        2
    );
    assert_eq!(
        std::fs::read_dir(directory.path().join("partial"))
            .unwrap()
            .count(),
        0
    );

    for (path, code) in [
        (
            format!("/v2/good/manifests/v2?ns={host}"),
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/locked/manifests/v1?ns={host}"),
            "MANIFEST_UNKNOWN",
        ),
        (
            "/v2/good/manifests/v1?ns=unlisted.example".to_owned(),
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/good/blobs/{}?ns=unlisted.example", digest(b"none")),
            "BLOB_UNKNOWN",
        ),
        ("/v2/NOT-A-NAME".to_owned(), "NAME_UNKNOWN"),
    ] {
        let (status, _, body) = get(&router, &path, None).await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (status, body["errors"][0]["code"].as_str()),
            (StatusCode::NOT_FOUND, Some(code)),
            "{path}"
        );
    }
}

/// A store with an index of one image, and the digests of both.
fn signed_store() -> (tempfile::TempDir, ImageStore, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let image = store
        .put_blob(br#"{"schemaVersion":2,"layers":[]}"#)
        .unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"digest": image.digest}]});
    let index = store.put_blob(index.to_string().as_bytes()).unwrap();
    let top = Resolved {
        digest: index.digest.clone(),
        media_type: MANIFEST_TYPES[1].to_owned(),
    };
    store.tag("quay.io/purplebooth/flappy:v1", &top).unwrap();
    (directory, store, index.digest, image.digest)
}

/// Puts a signature of `digest` beside the image.
fn sign(store: &ImageStore, signer: &Signer, digest: &str) {
    let (payload, signature) = signer.sign(digest);
    let payload = store.put_blob(&payload).unwrap();
    let manifest = store
        .put_blob(&Signer::manifest(&payload.digest, &signature))
        .unwrap();
    let name = format!("quay.io/purplebooth/flappy:{}", tag_of(digest));
    let manifest = Resolved {
        digest: manifest.digest,
        media_type: MANIFEST_TYPES[0].to_owned(),
    };
    store.tag(&name, &manifest).unwrap();
}

#[tokio::test]
async fn with_a_key_only_what_its_owner_signed_is_served() {
    let (_directory, store, index, image) = signed_store();
    let (owner, other) = (Signer::generate(), Signer::generate());
    let router = router_of_signed(store.clone(), Upstreams::none(), owner.key());
    let url = |reference: &str| format!("/v2/purplebooth/flappy/manifests/{reference}?ns=quay.io");
    let refused = async |reference: &str| {
        let (status, _, body) = get(&router, &url(reference), None).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{reference}");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        body["errors"][0]["message"].as_str().unwrap().to_owned()
    };
    assert!(refused("v1").await.contains("it has no signature"));
    sign(&store, &other, &index);
    let told = refused("v1").await;
    assert!(
        told.starts_with(&format!("quay.io/purplebooth/flappy@{index} is not signed"))
            && told.contains("of 1 signatures"),
        "{told}"
    );
    // What is named by a signed index is vouched for with it, and not before.
    sign(&store, &owner, &index);
    refused(&image).await;
    for reference in ["v1", &index, &image] {
        let (status, _, _) = get(&router, &url(reference), None).await;
        assert_eq!(status, StatusCode::OK, "{reference}");
    }
    // Signatures are no images, and another repository has its own.
    refused(&tag_of(&index)).await;
    let elsewhere = format!("/v2/purplebooth/other/manifests/{index}?ns=quay.io");
    assert_eq!(
        get(&router, &elsewhere, None).await.0,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn a_login_is_handed_on_and_its_refusal_told_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = br#"{"schemaVersion":2,"layers":[]}"#.to_vec();
    let asked = Arc::new(AtomicUsize::new(0));
    let host = upstream(asked, manifest, Vec::new(), digest(b"none")).await;
    let store = ImageStore::open(directory.path()).unwrap();
    let router = router(store, Upstreams::plain_http(vec![host.clone()]));
    for (repository, status) in [("locked", 401), ("good", 200)] {
        let path = format!("/v2/{repository}/manifests/v1?ns={host}");
        let request = http::Request::get(path)
            // `user:geheim`
            .header(header::AUTHORIZATION, "Basic dXNlcjpnZWhlaW0=")
            .body(Body::empty())
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{repository}");
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        let body = String::from_utf8(body.unwrap().to_vec()).unwrap();
        assert!(!body.contains("geheim"), "{body}");
        if status == 401 {
            assert!(body.contains("refuses the login"), "{body}");
        }
    }
}
