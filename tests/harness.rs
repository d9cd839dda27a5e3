//! `flightcage::testing` as a project's tests use it: one cluster, restored before each test.
//!
//! Needs a host that `flightcage doctor` calls able. `tests/run` runs it.

use flightcage::testing::Cluster;

const MAP: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: left-by-a-test\ndata:\n  k: v\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: { app: web }\nspec:\n  containers:\n  - name: web\n    \
                   image: quay.io/purplebooth/flappy-endpoint:v1\n    ports: [{ containerPort: 80 }]\n";

/// Two of the same test: whichever comes second fails if the first one's object is still there.
fn sees_no_other_tests_object() {
    let cluster = Cluster::shared().pristine();
    cluster
        .get("configmap", "left-by-a-test")
        .expect_err("the cluster is pristine");
    cluster.apply(MAP);
    assert_eq!(
        cluster
            .get("configmap", "left-by-a-test")
            .expect("it was applied")["data"]["k"],
        "v"
    );
}

#[test]
fn a_test_sees_no_other_tests_object() {
    sees_no_other_tests_object();
}

#[test]
fn nor_does_the_next() {
    sees_no_other_tests_object();
}

#[tokio::test]
async fn a_pod_runs_and_an_asynchronous_test_has_a_client() {
    let cluster = Cluster::shared().pristine();
    cluster.apply(POD);
    cluster.wait_for("pod", "web", |pod| pod["status"]["phase"] == "Running");
    let pod: k8s_openapi::api::core::v1::Pod = cluster
        .client()
        .get("default", "web")
        .await
        .expect("it exists");
    assert!(
        pod.status
            .and_then(|status| status.pod_ip)
            .is_some_and(|address| address.starts_with("10.78."))
    );
}
