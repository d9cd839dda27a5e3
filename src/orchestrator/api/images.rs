//! Which images are admitted: the cluster file's `[cluster] images`, for pods and for everything that pods are made from.
//!
//! Asked for new objects and for those whose spec changes, after their values were found right. An object that was there before
//! keeps what it has. Signatures are not looked at here: the mirror has them, and serves no image without one (`images::mirror`).

use serde_json::Value;

use super::kinds::Kind;
use super::kinds::parts::causes::{Cause, clipped};
use super::status::Status;
use crate::kubernetes::pod_images;
use crate::model::image_policy::ImagePolicy;

/// Refuses an object with an image that may not run here, and names every one of them.
pub(super) fn admit(
    policy: &ImagePolicy,
    kind: &Kind,
    object: &Value,
    name: &str,
) -> Result<(), Status> {
    let refused = pod_images::of(kind.kind, object)
        .into_iter()
        .filter_map(|used| {
            let reason = policy.refusal(used.image)?;
            Some(Cause {
                reason: "FieldValueForbidden",
                field: used.field,
                message: format!(
                    "{}: image `{}` is not allowed by `[cluster] images`: {}",
                    clipped(&used.user),
                    clipped(used.image),
                    clipped(&reason)
                ),
            })
        });
    let refused: Vec<Cause> = refused.collect();
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Status::not_admitted(kind, name, refused))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::fields::{self, Found};
    use crate::model::image_policy::ImagePattern;
    use crate::orchestrator::api::kinds;
    use crate::orchestrator::api::patch::Patch;
    use crate::orchestrator::api::registry::Registry;
    use crate::orchestrator::api::registry::tests::registry;

    fn strict() -> ImagePolicy {
        ImagePolicy {
            allow: vec![ImagePattern::parse("quay.io/purplebooth/*").expect("a pattern")],
            pinned: true,
            signed_by: None,
        }
    }

    fn pinned(name: &str) -> String {
        format!("quay.io/purplebooth/{name}@sha256:{}", "0a".repeat(32))
    }

    async fn strict_registry() -> Registry {
        let Ok(registry) = std::sync::Arc::try_unwrap(registry().await) else {
            panic!("nobody else has it yet");
        };
        registry.admitting(strict())
    }

    fn pod(name: &str, images: &[&str]) -> Value {
        let containers: Vec<Value> = images
            .iter()
            .enumerate()
            .map(|(number, image)| json!({"name": format!("c{number}"), "image": image}))
            .collect();
        json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": {"containers": containers}})
    }

    #[tokio::test]
    async fn every_wrong_container_is_named_and_nothing_is_stored() {
        let registry = strict_registry().await;
        let right = pinned("a");
        let refused = registry
            .create(
                &kinds::POD,
                Some("default"),
                pod(
                    "web",
                    &["nginx", right.as_str(), "quay.io/purplebooth/b:v1"],
                ),
            )
            .await
            .expect_err("refused");
        assert_eq!((refused.code, refused.reason), (403, "Forbidden"));
        assert!(
            refused.message.starts_with(
                "pods \"web\" is forbidden: [spec.containers[0].image: container `c0`: image `nginx` is not allowed"
            ),
            "{}",
            refused.message
        );
        let causes = refused.details.expect("details").causes;
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.containers[0].image", "spec.containers[2].image"]
        );
        assert!(causes[1].message.contains("the tag `v1` may move"));
        let found = registry.get(&kinds::POD, Some("default"), "web");
        assert!(found.is_err_and(|status| status.is_not_found()));
        registry
            .create(&kinds::POD, Some("default"), pod("web", &[right.as_str()]))
            .await
            .expect("admitted");
    }

    #[tokio::test]
    async fn a_change_of_the_image_is_asked_about_and_any_other_is_not() {
        let registry = strict_registry().await;
        let right = pinned("a");
        registry
            .create(&kinds::POD, Some("default"), pod("web", &[right.as_str()]))
            .await
            .expect("admitted");
        let change = |patch: Value| {
            registry.patch(
                &kinds::POD,
                Some("default"),
                "web",
                None,
                Patch::Strategic(patch),
            )
        };
        let refused = change(json!({"spec": {"containers": [{"name": "c0", "image": "evil"}]}}))
            .await
            .expect_err("refused");
        assert_eq!(refused.code, 403);
        change(json!({"metadata": {"labels": {"a": "c"}}}))
            .await
            .expect("a label may change");
    }

    #[tokio::test]
    async fn templates_are_asked_about_before_they_make_pods() {
        let registry = strict_registry().await;
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("p", &["nginx"])["spec"]});
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template.clone()}});
        let refused = registry
            .create(&kinds::DEPLOYMENT, Some("default"), deployment)
            .await
            .expect_err("refused");
        assert_eq!(refused.code, 403);
        let mut once = template;
        once["spec"]["restartPolicy"] = json!("Never");
        let schedule = json!({"metadata": {"name": "d"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": once}}}});
        let refused = registry
            .create(&kinds::CRON_JOB, Some("default"), schedule)
            .await
            .expect_err("refused");
        let field = "spec.jobTemplate.spec.template.spec.containers[0].image";
        assert_eq!(refused.details.expect("details").causes[0].field, field);
    }

    #[test]
    fn every_kind_that_makes_pods_is_looked_at() {
        let spec = json!({"containers": [{"image": "a"}]});
        let everywhere = json!({"spec": {"containers": [{"image": "a"}], "template": {"spec": spec.clone()},
            "jobTemplate": {"spec": {"template": {"spec": spec}}}}});
        for kind in kinds::ALL {
            let found = fields::walk(&kind.api_version(), kind.kind, &everywhere);
            let makes_pods = found.unwrap_or_default().iter().any(|finding| {
                matches!(finding.found, Found::Used(..))
                    && finding.field().ends_with("containers[0].image")
            });
            let looked_at = !pod_images::of(kind.kind, &everywhere).is_empty();
            assert_eq!(looked_at, makes_pods, "{}", kind.kind);
        }
    }
}
