//! From a path to what it names.

use super::custom::Served;
use super::kinds::{self, Kind, Subresource};
use super::reviews::{self, Review};

/// What a path of the Kubernetes API names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/api`.
    LegacyVersions,
    /// `/apis`.
    Groups,
    /// `/apis/coordination.k8s.io`.
    Group(String),
    /// `/api/v1`, `/apis/coordination.k8s.io/v1`.
    Resources {
        /// Group; empty for the core group.
        group: String,
        /// Version.
        version: String,
    },
    /// Objects of a kind: of one namespace, or of all.
    Collection {
        /// Which kind.
        kind: &'static Kind,
        /// Which namespace; `None` is all of them.
        namespace: Option<String>,
    },
    /// A question, which is not kept.
    Review {
        /// Which.
        review: &'static Review,
        /// In which namespace.
        namespace: Option<String>,
    },
    /// One object or a part of it.
    Object {
        /// Which kind.
        kind: &'static Kind,
        /// Which namespace.
        namespace: Option<String>,
        /// Which object.
        name: String,
        /// Which part.
        subresource: Option<Subresource>,
    },
}

/// Reads a path, while these kinds are served; `None` is 404.
#[must_use]
pub fn parse(served: &Served, path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["api"] => Some(Target::LegacyVersions),
        ["apis"] => Some(Target::Groups),
        ["apis", group] => Some(Target::Group((*group).to_owned())),
        ["api", "v1"] => Some(Target::Resources {
            group: String::new(),
            version: "v1".to_owned(),
        }),
        ["apis", group, version] => Some(Target::Resources {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
        }),
        ["api", "v1", rest @ ..] => objects(served, "", "v1", rest),
        ["apis", group, version, rest @ ..] => match reviews::find(group, version, rest) {
            Some((review, namespace)) => Some(Target::Review { review, namespace }),
            None => objects(served, group, version, rest),
        },
        _ => None,
    }
}

fn objects(served: &Served, group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    match rest {
        ["namespaces", namespace, plural, rest @ ..] => {
            let found = served
                .find(group, version, plural)
                .filter(|kind| kind.namespaced);
            match found {
                Some(kind) => below(kind, Some((*namespace).to_owned()), rest),
                None => below(
                    served.find(group, version, "namespaces")?,
                    None,
                    &rest_of_namespace(namespace, plural, rest),
                ),
            }
        }
        [plural] => Some(Target::Collection {
            kind: served.find(group, version, plural)?,
            namespace: None,
        }),
        [plural, rest @ ..] => below(
            served
                .find(group, version, plural)
                .filter(|kind| !kind.namespaced)?,
            None,
            rest,
        ),
        [] => None,
    }
}

fn rest_of_namespace<'a>(namespace: &'a str, part: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [namespace, part]
        .into_iter()
        .chain(rest.iter().copied())
        .collect()
}

fn below(kind: &'static Kind, namespace: Option<String>, rest: &[&str]) -> Option<Target> {
    match rest {
        [] => Some(Target::Collection { kind, namespace }),
        [name] => Some(Target::Object {
            kind,
            namespace,
            name: (*name).to_owned(),
            subresource: None,
        }),
        [name, part] => {
            // A namespace is finalised where its other parts are written.
            let part = if kind.is(&kinds::NAMESPACE) && *part == "finalize" {
                None
            } else {
                Some(*part)
            };
            let subresource = match part {
                None => None,
                Some(part) => Some(
                    kind.subresources()
                        .iter()
                        .copied()
                        .find(|known| known.name() == part)?,
                ),
            };
            Some(Target::Object {
                kind,
                namespace,
                name: (*name).to_owned(),
                subresource,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<Target> {
        super::parse(&Served::default(), path)
    }

    #[test]
    fn paths() {
        let collection = |kind, namespace: Option<&str>| Target::Collection {
            kind,
            namespace: namespace.map(str::to_owned),
        };
        assert_eq!(parse("/api/v1/pods"), Some(collection(&kinds::POD, None)));
        assert_eq!(
            parse("/api/v1/namespaces/x/pods"),
            Some(collection(&kinds::POD, Some("x")))
        );
        assert_eq!(
            parse("/api/v1/namespaces"),
            Some(collection(&kinds::NAMESPACE, None))
        );
        let lease = parse("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/w1");
        assert!(matches!(lease, Some(Target::Object { kind, .. }) if kind.is(&kinds::LEASE)));
        let status = parse("/api/v1/namespaces/x/status");
        assert!(
            matches!(status, Some(Target::Object { subresource: Some(Subresource::Status), name, .. }) if name == "x")
        );
        let log = parse("/api/v1/namespaces/x/pods/p/log");
        assert!(matches!(
            log,
            Some(Target::Object {
                subresource: Some(Subresource::Log),
                ..
            })
        ));
        let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert!(matches!(
            parse(review),
            Some(Target::Review {
                namespace: None,
                ..
            })
        ));
        for missing in [
            "/",
            "/apis/authorization.k8s.io/v1/localsubjectaccessreviews",
            "/api/v2/pods",
            "/api/v1/birds",
            "/api/v1/pods/p",
            "/api/v1/nodes/n/scale",
        ] {
            assert_eq!(parse(missing), None, "{missing}");
        }
    }
}
