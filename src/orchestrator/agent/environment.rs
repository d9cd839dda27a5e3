//! A container's environment, command and arguments, from its pod and the objects that the pod names.
//!
//! Source: `pkg/kubelet/kubelet_pods.go` (`makeEnvironmentVariables`), `pkg/kubelet/envvars/envvars.go`,
//! `third_party/forked/golang/expansion/expand.go`. Pure: every object is fetched before.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, Pod, PodSpec, ResourceFieldSelector, Secret,
    Service,
};

use super::downward;

/// Why a container cannot be configured: Kubernetes' `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// An object is missing and not optional.
    #[error("{kind} \"{name}\" not found")]
    ObjectNotFound {
        /// `secret` or `configmap`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A key is missing and not optional.
    #[error("couldn't find key {key} in {kind} {name}")]
    KeyNotFound {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// The missing key.
        key: String,
    },
    /// A value is no UTF-8 text, so that it cannot be an environment variable.
    #[error("key {key} of {kind} {name} is not UTF-8 text, use a volume for it")]
    NotText {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field that this agent cannot give.
    #[error("environment variable {variable}: {field} is not supported")]
    UnsupportedField {
        /// The variable.
        variable: String,
        /// What it asked for.
        field: String,
    },
    /// A resource that is not one, or of no container of the pod.
    #[error("environment variable {variable}: {why}")]
    Resource {
        /// The variable.
        variable: String,
        /// What is wrong.
        why: String,
    },
}

/// What a container's environment is made from.
pub(crate) struct Sources<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// The pod's address.
    pub(crate) pod_address: Ipv4Addr,
    /// The node's address.
    pub(crate) host_address: Ipv4Addr,
    /// Secrets of the pod's namespace that it names, by name.
    pub(crate) secrets: &'a BTreeMap<String, Secret>,
    /// ConfigMaps of the pod's namespace that it names, by name.
    pub(crate) config_maps: &'a BTreeMap<String, ConfigMap>,
    /// Services of the pod's namespace, and `default/kubernetes`.
    pub(crate) services: &'a [Service],
    /// The node's memory, for containers without a limit.
    pub(crate) node_memory_bytes: u64,
}

/// A container's environment in the order in which it is defined; service variables come first and lose to the pod's own.
pub(crate) fn environment(
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let service = service_variables(sources);
    let mut result: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let values = if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            match sources.config_maps.get(&reference.name) {
                Some(map) => map.data.clone().unwrap_or_default(),
                None if optional => BTreeMap::new(),
                None => {
                    return Err(ConfigError::ObjectNotFound {
                        kind: "configmap",
                        name: reference.name.clone(),
                    });
                }
            }
        } else if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            match sources.secrets.get(&reference.name) {
                Some(secret) => secret
                    .data
                    .iter()
                    .flatten()
                    .map(|(key, value)| {
                        text("Secret", &reference.name, key, &value.0)
                            .map(|value| (key.clone(), value))
                    })
                    .collect::<Result<_, _>>()?,
                None if optional => BTreeMap::new(),
                None => {
                    return Err(ConfigError::ObjectNotFound {
                        kind: "secret",
                        name: reference.name.clone(),
                    });
                }
            }
        } else {
            BTreeMap::new()
        };
        for (key, value) in values {
            set(&mut result, format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let known = Known {
                    own: &result,
                    service: &service,
                };
                Some(expand(
                    variable.value.as_deref().unwrap_or_default(),
                    &known,
                ))
            }
            Some(from) => match &from.resource_field_ref {
                Some(wanted) => Some(resource(container, variable, wanted, sources)?),
                None => value_from(variable, from, sources)?,
            },
        };
        if let Some(value) = value {
            set(&mut result, variable.name.clone(), value);
        }
    }
    let mut all: Vec<(String, String)> = service
        .into_iter()
        .filter(|(name, _)| !result.iter().any(|(own, _)| own == name))
        .collect();
    all.append(&mut result);
    Ok(all)
}

/// Command or arguments with `$(NAME)` replaced from the container's environment.
pub(crate) fn expand_all(
    words: Option<&Vec<String>>,
    environment: &[(String, String)],
) -> Vec<String> {
    let none = BTreeMap::new();
    let known = Known {
        own: environment,
        service: &none,
    };
    words
        .into_iter()
        .flatten()
        .map(|word| expand(word, &known))
        .collect()
}

fn set(variables: &mut Vec<(String, String)>, name: String, value: String) {
    match variables.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => variables.push((name, value)),
    }
}

fn text(kind: &'static str, name: &str, key: &str, value: &[u8]) -> Result<String, ConfigError> {
    String::from_utf8(value.to_vec()).map_err(|_| ConfigError::NotText {
        kind,
        name: name.to_owned(),
        key: key.to_owned(),
    })
}

fn resource(
    container: &Container,
    variable: &EnvVar,
    wanted: &ResourceFieldSelector,
    sources: &Sources<'_>,
) -> Result<String, ConfigError> {
    let nothing = PodSpec::default();
    let spec = sources.pod.spec.as_ref().unwrap_or(&nothing);
    downward::resource(spec, Some(container), wanted, sources.node_memory_bytes).map_err(|why| {
        ConfigError::Resource {
            variable: variable.name.clone(),
            why,
        }
    })
}

fn value_from(
    variable: &EnvVar,
    from: &EnvVarSource,
    sources: &Sources<'_>,
) -> Result<Option<String>, ConfigError> {
    if let Some(field) = &from.field_ref {
        return field_value(sources, &field.field_path)
            .map(Some)
            .ok_or_else(|| ConfigError::UnsupportedField {
                variable: variable.name.clone(),
                field: format!("fieldRef {}", field.field_path),
            });
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(secret) = sources.secrets.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(ConfigError::ObjectNotFound {
                    kind: "secret",
                    name: reference.name.clone(),
                })
            };
        };
        return match secret
            .data
            .as_ref()
            .and_then(|data| data.get(&reference.key))
        {
            Some(value) => text("Secret", &reference.name, &reference.key, &value.0).map(Some),
            None if optional => Ok(None),
            None => Err(ConfigError::KeyNotFound {
                kind: "Secret",
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
        };
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(map) = sources.config_maps.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(ConfigError::ObjectNotFound {
                    kind: "configmap",
                    name: reference.name.clone(),
                })
            };
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(ConfigError::KeyNotFound {
                kind: "ConfigMap",
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
        };
    }
    Err(ConfigError::UnsupportedField {
        variable: variable.name.clone(),
        field: "this valueFrom".to_owned(),
    })
}

fn field_value(sources: &Sources<'_>, path: &str) -> Option<String> {
    let metadata = &sources.pod.metadata;
    let spec = sources.pod.spec.as_ref();
    let keyed = |prefix: &str| {
        path.strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")
            .map(str::to_owned)
    };
    if let Some(key) = keyed("metadata.labels") {
        return Some(
            metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(&key))
                .cloned()
                .unwrap_or_default(),
        );
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(
            metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(&key))
                .cloned()
                .unwrap_or_default(),
        );
    }
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => Some(
            spec.and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_default(),
        ),
        "status.podIP" | "status.podIPs" => Some(sources.pod_address.to_string()),
        "status.hostIP" | "status.hostIPs" => Some(sources.host_address.to_string()),
        _ => None,
    }
}

/// The variables of `default/kubernetes`, and with `enableServiceLinks` those of every Service of the pod's namespace.
fn service_variables(sources: &Sources<'_>) -> BTreeMap<String, String> {
    let links = sources
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let namespace = sources
        .pod
        .metadata
        .namespace
        .as_deref()
        .unwrap_or("default");
    let mut variables = BTreeMap::new();
    let mut add = |service: &Service| {
        let (Some(name), Some(spec)) = (service.metadata.name.as_deref(), service.spec.as_ref())
        else {
            return;
        };
        let Some(address) = spec
            .cluster_ip
            .as_deref()
            .filter(|address| !address.is_empty() && *address != "None")
        else {
            return;
        };
        let Some(ports) = spec.ports.as_deref().filter(|ports| !ports.is_empty()) else {
            return;
        };
        let prefix = variable_name(name);
        variables.insert(format!("{prefix}_SERVICE_HOST"), address.to_owned());
        variables.insert(format!("{prefix}_SERVICE_PORT"), ports[0].port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                variables.insert(
                    format!("{prefix}_SERVICE_PORT_{}", variable_name(name)),
                    port.port.to_string(),
                );
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!(
                "{}://{address}:{}",
                protocol.to_ascii_lowercase(),
                port.port
            );
            let link = format!("{prefix}_PORT_{}_{protocol}", port.port);
            if index == 0 {
                variables.insert(format!("{prefix}_PORT"), url.clone());
            }
            variables.insert(format!("{link}_PROTO"), protocol.to_ascii_lowercase());
            variables.insert(format!("{link}_PORT"), port.port.to_string());
            variables.insert(format!("{link}_ADDR"), address.to_owned());
            variables.insert(link, url);
        }
    };
    let is_kubernetes = |service: &Service| {
        service.metadata.name.as_deref() == Some("kubernetes")
            && service.metadata.namespace.as_deref() == Some("default")
    };
    sources
        .services
        .iter()
        .filter(|service| is_kubernetes(service))
        .for_each(&mut add);
    if links {
        sources
            .services
            .iter()
            .filter(|service| {
                service.metadata.namespace.as_deref() == Some(namespace) && !is_kubernetes(service)
            })
            .for_each(&mut add);
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

struct Known<'a> {
    own: &'a [(String, String)],
    service: &'a BTreeMap<String, String>,
}

impl Known<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let own = self
            .own
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value);
        own.or_else(|| self.service.get(name)).map(String::as_str)
    }
}

/// Replaces `$(NAME)` by a known variable; an unknown one stays as it is, `$$` is a dollar sign.
fn expand(input: &str, known: &Known<'_>) -> String {
    let mut result = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            if let Some(value) = known.get(name) {
                result.push_str(value);
            } else {
                result.push_str("$(");
                result.push_str(name);
                result.push(')');
            }
            rest = after;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        pod: serde_json::Value,
        services: serde_json::Value,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let services: Vec<Service> = serde_json::from_value(services).unwrap();
        let secret: Secret = serde_json::from_value(
            json!({"metadata":{"name":"s"},"data":{"user":"YWRtaW4=","raw":"/w=="}}),
        )
        .unwrap();
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata":{"name":"m"},"data":{"a":"1","b":"2"}}))
                .unwrap();
        let sources = Sources {
            pod: &pod,
            pod_address: Ipv4Addr::new(10, 78, 1, 5),
            host_address: Ipv4Addr::new(10, 77, 0, 12),
            secrets: &BTreeMap::from([("s".to_owned(), secret)]),
            config_maps: &BTreeMap::from([("m".to_owned(), map)]),
            services: &services,
            node_memory_bytes: 512 << 20,
        };
        environment(&pod.spec.as_ref().unwrap().containers[0], &sources)
            .map(|variables| variables.into_iter().collect())
    }

    fn pod(container: serde_json::Value) -> serde_json::Value {
        json!({"metadata":{"name":"p","namespace":"default","uid":"u","labels":{"app":"x"}},
               "spec":{"nodeName":"w1","containers":[container]}})
    }

    #[test]
    fn values_fields_and_keys() {
        let got = check(
            pod(json!({"name":"c","envFrom":[{"prefix":"M_","configMapRef":{"name":"m"}}],"env":[
                {"name":"A","value":"x"},{"name":"B","value":"$(A)-$(M_a)-$(NO)-$$(A)-$"},
                {"name":"M_b","value":"own"},
                {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
                {"name":"L","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['app']"}}},
                {"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"user"}}},
                {"name":"O","valueFrom":{"secretKeyRef":{"name":"gone","key":"user","optional":true}}}]})),
            json!([]),
        )
        .unwrap();
        for (name, value) in [
            ("A", "x"),
            ("B", "x-1-$(NO)-$(A)-$"),
            ("M_a", "1"),
            ("M_b", "own"),
            ("IP", "10.78.1.5"),
            ("L", "x"),
            ("S", "admin"),
        ] {
            assert_eq!(got.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!got.contains_key("O"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let env = |from: serde_json::Value| {
            check(
                pod(json!({"name":"c","env":[{"name":"V","valueFrom":from}]})),
                json!([]),
            )
            .unwrap_err()
        };
        assert_eq!(
            env(json!({"secretKeyRef":{"name":"gone","key":"k"}})).to_string(),
            "secret \"gone\" not found"
        );
        assert_eq!(
            env(json!({"configMapKeyRef":{"name":"m","key":"k"}})).to_string(),
            "couldn't find key k in ConfigMap m"
        );
        assert!(
            env(json!({"secretKeyRef":{"name":"s","key":"raw"}}))
                .to_string()
                .contains("UTF-8")
        );
        assert!(
            env(json!({"fieldRef":{"fieldPath":"spec.nope"}}))
                .to_string()
                .contains("spec.nope")
        );
    }

    #[test]
    fn services_become_variables() {
        let services = json!([
            {"metadata":{"name":"kubernetes","namespace":"default"},"spec":{"clusterIP":"10.79.0.1","ports":[{"name":"https","port":443}]}},
            {"metadata":{"name":"flappy-silex","namespace":"default"},"spec":{"clusterIP":"10.79.1.2","ports":[{"name":"http","port":80,"protocol":"TCP"}]}},
            {"metadata":{"name":"headless","namespace":"default"},"spec":{"clusterIP":"None","ports":[{"port":80}]}},
            {"metadata":{"name":"other","namespace":"elsewhere"},"spec":{"clusterIP":"10.79.1.3","ports":[{"port":80}]}}]);
        let got = check(
            pod(json!({"name":"c","env":[{"name":"U","value":"$(FLAPPY_SILEX_SERVICE_HOST)"}]})),
            services.clone(),
        )
        .unwrap();
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", "10.79.0.1"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("FLAPPY_SILEX_SERVICE_PORT", "80"),
            ("FLAPPY_SILEX_PORT", "tcp://10.79.1.2:80"),
            ("FLAPPY_SILEX_PORT_80_TCP", "tcp://10.79.1.2:80"),
            ("FLAPPY_SILEX_PORT_80_TCP_ADDR", "10.79.1.2"),
            ("U", "10.79.1.2"),
        ] {
            assert_eq!(got.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(
            !got.keys()
                .any(|name| name.starts_with("HEADLESS") || name.starts_with("OTHER"))
        );
        let mut without = pod(json!({"name":"c"}));
        without["spec"]["enableServiceLinks"] = json!(false);
        let got = check(without, services).unwrap();
        assert!(
            got.contains_key("KUBERNETES_SERVICE_HOST")
                && !got.contains_key("FLAPPY_SILEX_SERVICE_HOST")
        );
    }
}
