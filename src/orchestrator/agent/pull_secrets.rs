//! Image pull secrets: the logins that a pod brings for the registries of its images.
//!
//! They are read when an image is pulled, handed to the mirror for that pull, and kept nowhere. Invariant: no message and no log has
//! anything of a secret but its name; what is wrong with one is an event of the pod, and the pull goes on without it, as the kubelet's
//! does. Registries are matched as by the kubelet (pkg/credentialprovider/keyring.go): host by host name, whose parts may be `*`, then
//! the longest path.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde::Deserialize;

use super::events::Severity;
use super::objects::{self, PodApi};
use super::runtime::{Image, Login, PullError, PullPolicy, Runtime};
use super::work::Context;
use crate::model::image_reference::Reference;

/// Type and key of a secret that has Docker's configuration, and of the older form, which has its `auths` only.
const TYPES: [(&str, &str); 2] = [
    ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
    ("kubernetes.io/dockercfg", ".dockercfg"),
];

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// The logins of a pod, by what they are for.
#[derive(Debug, Default)]
struct Logins(Vec<(Place, Login)>);

/// A registry, or a part of it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    host: String,
    path: String,
}

impl Place {
    /// Reads a key of `auths`: `quay.io`, `quay.io/team`, `https://index.docker.io/v1/`.
    fn parse(text: &str) -> Self {
        let text = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let path = path.trim_matches('/');
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            other => other,
        };
        Self {
            host: host.to_owned(),
            // Registries' own prefixes, as Docker writes them.
            path: match path {
                "v1" | "v2" => String::new(),
                other => other.to_owned(),
            },
        }
    }

    fn is_for(&self, image: &Reference) -> bool {
        let (own, other): (Vec<&str>, Vec<&str>) = (
            self.host.split('.').collect(),
            image.registry.split('.').collect(),
        );
        let same_host = own.len() == other.len()
            && own
                .iter()
                .zip(&other)
                .all(|(own, other)| *own == "*" || own == other);
        let below = image.repository.strip_prefix(self.path.as_str());
        same_host
            && (self.path.is_empty()
                || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

impl Logins {
    /// That of the longest path, and the first of those.
    fn of(&self, image: &str) -> Option<&Login> {
        let image = Reference::parse(image)?;
        let fitting = self.0.iter().filter(|(place, _)| place.is_for(&image));
        fitting
            .rev()
            .max_by_key(|(place, _)| place.path.len())
            .map(|(_, login)| login)
    }

    /// Adds what a secret has, or says what is wrong with it.
    fn add(&mut self, secret: &Secret) -> Result<(), String> {
        let kind = secret.type_.as_deref().unwrap_or_default();
        let known = TYPES.iter().find(|(known, _)| *known == kind);
        let Some((kind, key)) = known else {
            return Err(format!("it is not of the type `{}`", TYPES[0].0));
        };
        let data = secret.data.as_ref().and_then(|data| data.get(*key));
        let Some(data) = data else {
            return Err(format!("it has no `{key}`"));
        };
        // serde's own words would repeat what stands there.
        let unreadable = |_| format!("its `{key}` is not Docker's configuration");
        let auths = if *kind == TYPES[0].0 {
            let config = serde_json::from_slice::<DockerConfig>(&data.0);
            config.map_err(unreadable)?.auths
        } else {
            serde_json::from_slice(&data.0).map_err(unreadable)?
        };
        let mut unusable = 0;
        for (registry, auth) in auths {
            match login(auth) {
                Some(login) => self.0.push((Place::parse(&registry), login)),
                None => unusable += 1,
            }
        }
        match unusable {
            0 => Ok(()),
            count => Err(format!(
                "{count} of its registries have neither user and password nor an `auth` of both"
            )),
        }
    }
}

fn login(auth: Auth) -> Option<Login> {
    if !auth.username.is_empty() {
        return Some(Login::new(auth.username, auth.password));
    }
    let decoded = String::from_utf8(STANDARD.decode(auth.auth.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    (!user.is_empty())
        .then(|| Login::new(user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// Reads the pod's pull secrets; what is wrong with them is said by name.
async fn read<A: PodApi>(api: &A, pod: &Pod) -> (Logins, Vec<String>) {
    let (namespace, ..) = objects::key(pod);
    let (mut logins, mut problems) = (Logins::default(), Vec::new());
    let names = pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for name in names.map(|reference| reference.name.as_str()) {
        let added = match api.secret(namespace, name).await {
            Ok(Some(secret)) => logins.add(&secret),
            Ok(None) => Err("there is none of this name".to_owned()),
            Err(why) => Err(why),
        };
        if let Err(why) = added {
            problems.push(format!("`{name}`: {why}"));
        }
    }
    (logins, problems)
}

/// Pulls an image with the login that the pod has for its registry, if it has one.
pub(crate) async fn pull<R: Runtime, A: PodApi>(
    context: &Context<R, A>,
    pod: &Pod,
    container: &str,
    image: &str,
    policy: PullPolicy,
) -> Result<Image, PullError> {
    let (logins, problems) = read(&*context.api, pod).await;
    if !problems.is_empty() {
        let message = format!(
            "Unable to use some image pull secrets; attempting to pull the image may not succeed: {}",
            problems.join("; ")
        );
        let reason = "FailedToRetrieveImagePullSecret";
        context
            .events
            .record(pod, Some(container), Severity::Warning, reason, message);
    }
    match logins.of(image) {
        Some(login) => context.runtime.pull_with(image, policy, login).await,
        None => context.runtime.pull(image, policy).await,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn secret(kind: &str, key: &str, text: &str) -> Secret {
        Secret {
            type_: Some(kind.to_owned()),
            data: Some(BTreeMap::from([(
                key.to_owned(),
                ByteString(text.as_bytes().to_vec()),
            )])),
            ..Secret::default()
        }
    }

    fn config(auths: &serde_json::Value) -> Secret {
        secret(
            TYPES[0].0,
            TYPES[0].1,
            &json!({ "auths": auths }).to_string(),
        )
    }

    fn user<'a>(logins: &'a Logins, image: &str) -> Option<&'a str> {
        logins.of(image).map(Login::username)
    }

    #[test]
    fn the_login_of_the_nearest_place_is_taken() {
        let mut logins = Logins::default();
        let auths = json!({
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:a:b")},
            "quay.io": {"username": "all", "password": "p"},
            "quay.io/team": {"username": "team", "password": "p"},
            "*.example.com": {"username": "star", "password": "p"},
        });
        logins.add(&config(&auths)).expect("right");
        let old = json!({"localhost:5000": {"username": "old", "password": "p"}});
        logins
            .add(&secret(TYPES[1].0, TYPES[1].1, &old.to_string()))
            .expect("right");
        for (image, expected) in [
            ("nginx", Some("hub")),
            ("quay.io/other/a:v1", Some("all")),
            ("quay.io/team/a", Some("team")),
            ("quay.io/teams/a", Some("all")),
            ("eu.example.com/a", Some("star")),
            ("a.eu.example.com/a", None),
            ("localhost:5000/a", Some("old")),
            ("ghcr.io/a", None),
            ("NOT AN IMAGE", None),
        ] {
            assert_eq!(user(&logins, image), expected, "{image}");
        }
        assert_eq!(logins.of("nginx").map(Login::password), Some("a:b"));
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_told_without_its_values() {
        for (wrong, told) in [
            (secret("Opaque", TYPES[0].1, "{}"), "not of the type"),
            (secret(TYPES[0].0, "other", "{}"), "no `.dockerconfigjson`"),
            (
                secret(TYPES[0].0, TYPES[0].1, "{\"auths\": \"geheim\"}"),
                "not Docker's configuration",
            ),
            (
                config(&json!({"quay.io": {"auth": "geheim"}})),
                "1 of its registries",
            ),
        ] {
            let said = Logins::default().add(&wrong).expect_err("wrong");
            assert!(said.contains(told) && !said.contains("geheim"), "{said}");
        }
        let login = Login::new("u".to_owned(), "geheim".to_owned());
        assert!(!format!("{login:?}").contains("geheim"));
    }
}
