//! What cluster DNS answers, after the Kubernetes DNS specification 1.1. Pure.
//!
//! There is no other DNS behind it: a name outside the cluster does not exist, and is said so at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{EndpointSubset, Endpoints, Service};

use crate::model::addresses::CLUSTER_DOMAIN;

/// Seconds that answers, the negative ones too, may be cached.
const TTL_SECONDS: u32 = 5;

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) records: Vec<Record>,
    pub(super) authority: Vec<Record>,
}

impl Answer {
    /// An answer without records.
    pub(super) fn error(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            records: Vec::new(),
            authority: Vec::new(),
        }
    }
}

/// Everything that has a name.
#[derive(Debug, Default)]
pub(super) struct Zone {
    hosts: BTreeMap<String, Host>,
    /// Names that own nothing but have names below them.
    branches: BTreeSet<String>,
    reverse: BTreeMap<Ipv4Addr, String>,
}

#[derive(Debug, Default)]
struct Host {
    addresses: Vec<Ipv4Addr>,
    services: Vec<(u16, String)>,
    alias: Option<String>,
}

impl Zone {
    pub(super) fn build<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        endpoints: impl IntoIterator<Item = &'a Endpoints>,
    ) -> Self {
        let endpoints: BTreeMap<_, _> = endpoints
            .into_iter()
            .map(|object| {
                (
                    (
                        object.metadata.namespace.clone(),
                        object.metadata.name.clone(),
                    ),
                    object,
                )
            })
            .collect();
        let mut zone = Self::default();
        for service in services {
            let key = (
                service.metadata.namespace.clone(),
                service.metadata.name.clone(),
            );
            let subsets = endpoints
                .get(&key)
                .and_then(|object| object.subsets.as_deref())
                .unwrap_or_default();
            zone.add(service, subsets);
        }
        for name in zone.hosts.keys() {
            let mut rest = name.as_str();
            while let Some((_, parent)) = rest.split_once('.').filter(|_| rest != CLUSTER_DOMAIN) {
                zone.branches.insert(parent.to_owned());
                rest = parent;
            }
        }
        zone.branches.insert(CLUSTER_DOMAIN.to_owned());
        zone
    }

    fn add(&mut self, service: &Service, subsets: &[EndpointSubset]) {
        let (Some(namespace), Some(name), Some(spec)) = (
            &service.metadata.namespace,
            &service.metadata.name,
            &service.spec,
        ) else {
            return;
        };
        let host = format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}");
        if let Some(target) = spec
            .external_name
            .clone()
            .filter(|_| spec.type_.as_deref() == Some("ExternalName"))
        {
            self.hosts.entry(host).or_default().alias = Some(target);
            return;
        }
        match spec.cluster_ip.as_deref().map(str::parse::<Ipv4Addr>) {
            Some(Ok(ip)) => {
                self.hosts
                    .entry(host.clone())
                    .or_default()
                    .addresses
                    .push(ip);
                self.reverse.insert(ip, host.clone());
                for port in spec.ports.iter().flatten() {
                    self.add_service(
                        &host,
                        port.name.as_deref(),
                        port.protocol.as_deref(),
                        port.port,
                        &host,
                    );
                }
            }
            _ => self.add_headless(
                &host,
                subsets,
                spec.publish_not_ready_addresses == Some(true),
            ),
        }
    }

    fn add_headless(&mut self, host: &str, subsets: &[EndpointSubset], unready_too: bool) {
        self.hosts.entry(host.to_owned()).or_default();
        for subset in subsets {
            let unready = subset
                .not_ready_addresses
                .iter()
                .flatten()
                .filter(|_| unready_too);
            for address in subset.addresses.iter().flatten().chain(unready) {
                let Ok(ip) = address.ip.parse::<Ipv4Addr>() else {
                    continue;
                };
                let label = address
                    .hostname
                    .clone()
                    .unwrap_or_else(|| address.ip.replace('.', "-"));
                let pod = format!("{label}.{host}");
                self.hosts
                    .entry(host.to_owned())
                    .or_default()
                    .addresses
                    .push(ip);
                self.hosts
                    .entry(pod.clone())
                    .or_default()
                    .addresses
                    .push(ip);
                self.reverse.insert(ip, pod.clone());
                for port in subset.ports.iter().flatten() {
                    self.add_service(
                        host,
                        port.name.as_deref(),
                        port.protocol.as_deref(),
                        port.port,
                        &pod,
                    );
                }
            }
        }
    }

    /// `_name._protocol.host` for a named port.
    fn add_service(
        &mut self,
        host: &str,
        port_name: Option<&str>,
        protocol: Option<&str>,
        port: i32,
        target: &str,
    ) {
        let (Some(name), Ok(port)) = (
            port_name.filter(|name| !name.is_empty()),
            u16::try_from(port),
        ) else {
            return;
        };
        let owner = format!(
            "_{name}._{}.{host}",
            protocol.unwrap_or("TCP").to_ascii_lowercase()
        );
        self.hosts
            .entry(owner)
            .or_default()
            .services
            .push((port, target.to_owned()));
    }

    /// Answers one question.
    pub(super) fn answer(&self, question: &Name, kind: RecordType) -> Answer {
        let asked = question.to_ascii().to_ascii_lowercase();
        let asked = asked.trim_end_matches('.');
        if let Some(reversed) = asked.strip_suffix(".in-addr.arpa") {
            return self.answer_reverse(question, reversed, kind);
        }
        if asked != CLUSTER_DOMAIN && !asked.ends_with(&format!(".{CLUSTER_DOMAIN}")) {
            return Answer::error(ResponseCode::NXDomain);
        }
        let Some(host) = self.hosts.get(asked) else {
            let code = if self.branches.contains(asked) {
                ResponseCode::NoError
            } else {
                ResponseCode::NXDomain
            };
            return finish(question, code, Vec::new());
        };
        let mut data = Vec::new();
        if let Some(target) = host
            .alias
            .as_ref()
            .and_then(|target| fully_qualified(target))
        {
            data.push(RData::CNAME(CNAME(target)));
        }
        if matches!(kind, RecordType::A | RecordType::ANY) {
            data.extend(host.addresses.iter().map(|ip| RData::A(A(*ip))));
        }
        if matches!(kind, RecordType::SRV | RecordType::ANY) {
            let target = |(port, target): &(u16, String)| {
                Some(RData::SRV(SRV::new(
                    0,
                    100,
                    *port,
                    fully_qualified(target)?,
                )))
            };
            data.extend(host.services.iter().filter_map(target));
        }
        finish(question, ResponseCode::NoError, data)
    }

    fn answer_reverse(&self, question: &Name, reversed: &str, kind: RecordType) -> Answer {
        let forward: Vec<_> = reversed.rsplit('.').collect();
        let target = forward
            .join(".")
            .parse()
            .ok()
            .and_then(|ip: Ipv4Addr| self.reverse.get(&ip));
        match target.and_then(|target| fully_qualified(target)) {
            Some(target) if kind == RecordType::PTR => finish(
                question,
                ResponseCode::NoError,
                vec![RData::PTR(PTR(target))],
            ),
            Some(_) => finish(question, ResponseCode::NoError, Vec::new()),
            None => Answer::error(ResponseCode::NXDomain),
        }
    }
}

fn finish(question: &Name, code: ResponseCode, data: Vec<RData>) -> Answer {
    let authority = if data.is_empty() {
        start_of_authority().into_iter().collect()
    } else {
        Vec::new()
    };
    let record = |data| Record::from_rdata(question.clone(), TTL_SECONDS, data);
    Answer {
        code,
        authoritative: true,
        records: data.into_iter().map(record).collect(),
        authority,
    }
}

/// Goes with every negative answer: it says how long that may be cached (RFC 2308).
fn start_of_authority() -> Option<Record> {
    let zone = fully_qualified(CLUSTER_DOMAIN)?;
    let server = fully_qualified(&format!("ns.dns.{CLUSTER_DOMAIN}"))?;
    let contact = fully_qualified(&format!("hostmaster.{CLUSTER_DOMAIN}"))?;
    let soa = SOA::new(server, contact, 1, 7200, 1800, 86_400, TTL_SECONDS);
    Some(Record::from_rdata(zone, TTL_SECONDS, RData::SOA(soa)))
}

/// `None` when the text cannot be a DNS name, which a foreign API server might let through.
fn fully_qualified(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn zone() -> Zone {
        let services: Vec<Service> = serde_json::from_value(json!([
            { "metadata": { "namespace": "default", "name": "kubernetes" },
              "spec": { "clusterIP": "10.79.0.1", "ports": [{ "name": "https", "port": 443 }] } },
            { "metadata": { "namespace": "default", "name": "flappy-silex" },
              "spec": { "clusterIP": "10.79.0.20", "ports": [{ "name": "http", "port": 80 }] } },
            { "metadata": { "namespace": "data", "name": "db" },
              "spec": { "clusterIP": "None", "ports": [{ "name": "sql", "port": 5432 }] } },
            { "metadata": { "namespace": "data", "name": "away" },
              "spec": { "type": "ExternalName", "externalName": "example.com" } },
        ]))
        .unwrap();
        let endpoints: Vec<Endpoints> = serde_json::from_value(json!([
            { "metadata": { "namespace": "data", "name": "db" }, "subsets": [{
                "addresses": [{ "ip": "10.78.1.2" }, { "ip": "10.78.2.2", "hostname": "db-1" }],
                "notReadyAddresses": [{ "ip": "10.78.1.9" }],
                "ports": [{ "name": "sql", "port": 15432 }] }] },
        ]))
        .unwrap();
        Zone::build(&services, &endpoints)
    }

    /// Code and records as text.
    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let answer = zone().answer(&name.parse().unwrap(), kind);
        assert!(
            answer
                .records
                .iter()
                .all(|record| record.ttl == TTL_SECONDS)
        );
        (
            answer.code,
            answer
                .records
                .iter()
                .map(|record| record.data.to_string())
                .collect(),
        )
    }

    fn found(records: &[&str]) -> (ResponseCode, Vec<String>) {
        (
            ResponseCode::NoError,
            records.iter().map(ToString::to_string).collect(),
        )
    }

    fn missing() -> (ResponseCode, Vec<String>) {
        (ResponseCode::NXDomain, Vec::new())
    }

    #[test]
    fn services_have_addresses_in_any_case_and_no_ipv6() {
        assert_eq!(
            ask("flappy-silex.default.svc.cluster.local.", RecordType::A),
            found(&["10.79.0.20"])
        );
        assert_eq!(
            ask("Kubernetes.Default.svc.cluster.local.", RecordType::A),
            found(&["10.79.0.1"])
        );
        assert_eq!(
            ask("flappy-silex.default.svc.cluster.local.", RecordType::AAAA),
            found(&[])
        );
        assert_eq!(
            ask("away.data.svc.cluster.local.", RecordType::A),
            found(&["example.com."])
        );
    }

    #[test]
    fn the_search_list_ends_at_the_right_name() {
        // What glibc asks for `flappy-silex` and for `flappy-silex.default`, in order.
        assert_eq!(
            ask(
                "flappy-silex.default.default.svc.cluster.local.",
                RecordType::A
            ),
            missing()
        );
        assert_eq!(
            ask("flappy-silex.svc.cluster.local.", RecordType::A),
            missing()
        );
        assert_eq!(ask("flappy-silex.cluster.local.", RecordType::A), missing());
        assert_eq!(ask("flappy-silex.", RecordType::A), missing());
        assert_eq!(ask("quay.io.", RecordType::A), missing());
        // A name above others exists, but owns nothing.
        assert_eq!(ask("default.svc.cluster.local.", RecordType::A), found(&[]));
        assert_eq!(ask("cluster.local.", RecordType::A), found(&[]));
        assert_eq!(ask("notcluster.local.", RecordType::A), missing());
    }

    #[test]
    fn headless_services_and_ports_name_their_ready_pods() {
        assert_eq!(
            ask("db.data.svc.cluster.local.", RecordType::A),
            found(&["10.78.1.2", "10.78.2.2"])
        );
        assert_eq!(
            ask("db-1.db.data.svc.cluster.local.", RecordType::A),
            found(&["10.78.2.2"])
        );
        assert_eq!(
            ask("10-78-1-9.db.data.svc.cluster.local.", RecordType::A),
            missing()
        );
        let pods = [
            "0 100 15432 10-78-1-2.db.data.svc.cluster.local.",
            "0 100 15432 db-1.db.data.svc.cluster.local.",
        ];
        assert_eq!(
            ask("_sql._tcp.db.data.svc.cluster.local.", RecordType::SRV),
            found(&pods)
        );
        let silex = ["0 100 80 flappy-silex.default.svc.cluster.local."];
        assert_eq!(
            ask(
                "_http._tcp.flappy-silex.default.svc.cluster.local.",
                RecordType::SRV
            ),
            found(&silex)
        );
    }

    #[test]
    fn addresses_have_names() {
        assert_eq!(
            ask("20.0.79.10.in-addr.arpa.", RecordType::PTR),
            found(&["flappy-silex.default.svc.cluster.local."])
        );
        assert_eq!(ask("9.9.9.9.in-addr.arpa.", RecordType::PTR), missing());
    }

    #[test]
    fn negative_answers_say_how_long_they_hold() {
        let answer = zone().answer(
            &"nobody.default.svc.cluster.local.".parse().unwrap(),
            RecordType::A,
        );
        assert!(answer.authoritative);
        assert_eq!(answer.authority.len(), 1);
    }
}
