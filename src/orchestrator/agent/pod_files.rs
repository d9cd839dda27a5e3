//! The files that every pod gets beside its volumes: resolv.conf, hosts and hostname.
//!
//! Source: `pkg/kubelet/kubelet_pods.go` (`managedHostsFileContent`), `pkg/kubelet/network/dns/dns.go`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;

use crate::model::addresses::{CLUSTER_DOMAIN, DNS_SERVICE};

/// The longest label of a name in DNS.
const HOSTNAME_LIMIT: usize = 63;
/// The longest host name that Linux takes (uname(2)).
const FQDN_LIMIT: usize = 64;

/// What the pod's containers see as their host name: `spec.hostnameOverride`; with `setHostnameAsFQDN` its name in DNS, which is cut if
/// Linux cannot take it; else [`hostname`].
pub(crate) fn container_hostname(pod: &Pod) -> String {
    let name = hostname(pod);
    let spec = pod.spec.as_ref();
    let overridden = spec.and_then(|spec| spec.hostname_override.clone());
    if let Some(name) = overridden.filter(|name| !name.is_empty()) {
        return name;
    }
    let full = spec.is_some_and(|spec| spec.set_hostname_as_fqdn == Some(true));
    match fqdn(pod, &name).filter(|_| full) {
        Some(mut full) => {
            full.truncate(FQDN_LIMIT);
            full
        }
        None => name,
    }
}

/// The pod's name in DNS, which it has with a subdomain.
fn fqdn(pod: &Pod, name: &str) -> Option<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref()?;
    (!subdomain.is_empty()).then(|| format!("{name}.{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}"))
}

/// The pod's host name in DNS: `spec.hostname`, else its name, cut as the kubelet cuts it.
pub(crate) fn hostname(pod: &Pod) -> String {
    let own = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty());
    let mut name = own
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    if name.len() > HOSTNAME_LIMIT {
        name.truncate(name.floor_char_boundary(HOSTNAME_LIMIT));
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    name
}

/// The pod's `/etc/resolv.conf`, after its `dnsPolicy` and `dnsConfig`. `host` is the node's own file, for `dnsPolicy: Default`.
pub(crate) fn resolv_conf(pod: &Pod, host: &str) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let policy = spec
        .and_then(|spec| spec.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let mut nameservers = Vec::new();
    let mut searches = Vec::new();
    let mut options = Vec::new();
    match policy {
        "None" => {}
        "Default" => return with_config(pod, host),
        "ClusterFirst" if host_network => return with_config(pod, host),
        _ => {
            nameservers.push(DNS_SERVICE.to_string());
            searches = vec![
                format!("{namespace}.svc.{CLUSTER_DOMAIN}"),
                format!("svc.{CLUSTER_DOMAIN}"),
                CLUSTER_DOMAIN.to_owned(),
            ];
            options.push("ndots:5".to_owned());
        }
    }
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        nameservers.extend(config.nameservers.iter().flatten().cloned());
        searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            options.retain(|known: &String| known.split(':').next() != Some(name));
            options.push(
                option
                    .value
                    .as_ref()
                    .map_or_else(|| name.clone(), |value| format!("{name}:{value}")),
            );
        }
    }
    let mut text = String::new();
    for nameserver in nameservers {
        let _ = writeln!(text, "nameserver {nameserver}");
    }
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

fn with_config(pod: &Pod, host: &str) -> String {
    let mut text = host.to_owned();
    for nameserver in pod
        .spec
        .iter()
        .filter_map(|spec| spec.dns_config.as_ref())
        .flat_map(|config| config.nameservers.iter().flatten())
    {
        let _ = writeln!(text, "nameserver {nameserver}");
    }
    text
}

/// The pod's `/etc/hosts`.
pub(crate) fn hosts(pod: &Pod, address: Ipv4Addr) -> String {
    let name = hostname(pod);
    let spec = pod.spec.as_ref();
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    match fqdn(pod, &name) {
        Some(full) => {
            let _ = writeln!(text, "{address}\t{full}\t{name}");
        }
        None => {
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    let aliases: Vec<_> = spec
        .and_then(|spec| spec.host_aliases.as_ref())
        .into_iter()
        .flatten()
        .collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(
                text,
                "{}\t{}",
                alias.ip,
                alias.hostnames.as_deref().unwrap_or_default().join("\t")
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata":{"name":"web-1","namespace":"shop"},"spec":spec}))
            .unwrap()
    }

    #[test]
    fn cluster_dns_first() {
        let text = resolv_conf(&pod(json!({"containers":[]})), "");
        assert_eq!(
            text,
            "nameserver 10.79.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        let text = resolv_conf(
            &pod(
                json!({"containers":[],"dnsConfig":{"options":[{"name":"ndots","value":"1"}],"searches":["a.b"]}}),
            ),
            "",
        );
        assert!(
            text.ends_with("cluster.local a.b\noptions ndots:1\n"),
            "{text}"
        );
        assert_eq!(
            resolv_conf(
                &pod(json!({"containers":[],"dnsPolicy":"Default"})),
                "nameserver 1.2.3.4\n"
            ),
            "nameserver 1.2.3.4\n"
        );
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let text = hosts(
            &pod(
                json!({"containers":[],"subdomain":"sub","hostAliases":[{"ip":"1.2.3.4","hostnames":["a","b"]}]}),
            ),
            Ipv4Addr::new(10, 78, 1, 5),
        );
        assert!(
            text.contains("10.78.1.5\tweb-1.sub.shop.svc.cluster.local\tweb-1\n"),
            "{text}"
        );
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
        let names = |spec: serde_json::Value| container_hostname(&pod(spec));
        assert_eq!(
            [
                names(json!({"setHostnameAsFQDN": true, "subdomain": "sub"})),
                names(json!({"setHostnameAsFQDN": true})),
                names(json!({"subdomain": "sub"})),
                names(
                    json!({"hostnameOverride": "of.its.own", "setHostnameAsFQDN": true, "subdomain": "sub"})
                ),
            ],
            [
                "web-1.sub.shop.svc.cluster.local",
                "web-1",
                "web-1",
                "of.its.own"
            ]
        );
        let long = pod(json!({"containers":[],"hostname":format!("{}-tail", "a".repeat(62))}));
        assert_eq!(hostname(&long), "a".repeat(62));
    }
}
