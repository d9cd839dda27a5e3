//! Pods' network: a bridge on the node, a namespace and a veth pair for each pod, routes to other nodes' pods. IPv4 only,
//! no address translation: every pod and node address is routable inside the fabric.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use futures::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

use super::helper::chain;

const BRIDGE: &str = "fc0";
/// Before the main table, which routes to pods.
const FENCE_PRIORITY: u32 = 100;

/// The pods' addresses of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodNetwork {
    base: u32,
    prefix: u8,
}

impl PodNetwork {
    /// Parses `10.78.1.0/24`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|prefix| (8..=28).contains(prefix))?;
        let mask = u32::MAX << (32 - prefix);
        Some(Self {
            base: address.parse::<Ipv4Addr>().ok()?.to_bits() & mask,
            prefix,
        })
    }

    /// The node's own address on the bridge, the pods' gateway.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + 1)
    }

    /// The bridge's hardware address, locally administered.
    fn bridge_mac(self) -> [u8; 6] {
        let [a, b, c, d] = self.gateway().octets();
        [0x02, 0xfc, a, b, c, d]
    }

    /// The next free address after `last`, so that one just given back rests longest.
    pub(crate) fn allocate(
        self,
        used: &BTreeSet<Ipv4Addr>,
        last: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let size = 1u32 << (32 - self.prefix);
        let first = 2; // after the network and the gateway
        let count = size - 1 - first; // without the broadcast address
        let start = last.map_or(0, |last| {
            (last.to_bits().wrapping_sub(self.base).wrapping_sub(first) + 1) % count
        });
        (0..count)
            .map(|step| Ipv4Addr::from_bits(self.base + first + (start + step) % count))
            .find(|address| !used.contains(address))
    }
}

/// What `flightcage __pod network` is asked to make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NamespaceRequest {
    /// Where the namespace is to be found.
    pub(crate) path: PathBuf,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Ipv4Addr,
    /// Name of the node's end of the pair.
    pub(crate) link: String,
}

impl NamespaceRequest {
    pub(crate) fn new(
        network: PodNetwork,
        path: PathBuf,
        pod_uid: &str,
        address: Ipv4Addr,
    ) -> Self {
        Self {
            path,
            address,
            prefix: network.prefix,
            gateway: network.gateway(),
            link: link_name(pod_uid),
        }
    }
}

/// Interface names have at most 15 bytes: a hash of the UID is in it.
pub(crate) fn link_name(pod_uid: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, pod_uid.as_bytes());
    digest.as_ref()[..5]
        .iter()
        .fold("fcv".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// The node's side. Everything is idempotent.
pub(crate) struct NodeNetwork {
    handle: Handle,
    bridge: u32,
}

impl NodeNetwork {
    /// Makes the bridge and the routes. `routes`: pod network and the node it is behind.
    pub(crate) async fn open(
        network: PodNetwork,
        routes: &[(PodNetwork, Ipv4Addr)],
    ) -> Result<Self, String> {
        fs::write("/proc/sys/net/ipv4/ip_forward", b"1")
            .map_err(|error| format!("turn IP forwarding on: {error}"))?;
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| format!("open netlink: {error}"))?;
        tokio::spawn(connection);
        if index(&handle, BRIDGE).await?.is_none() {
            let made = handle
                .link()
                .add(LinkBridge::new(BRIDGE).build())
                .execute()
                .await;
            made.map_err(|error| format!("make bridge `{BRIDGE}`: {}", chain(&error)))?;
        }
        let bridge = index(&handle, BRIDGE)
            .await?
            .ok_or_else(|| format!("bridge `{BRIDGE}` vanished"))?;
        let made = handle
            .address()
            .add(bridge, IpAddr::V4(network.gateway()), network.prefix)
            .replace()
            .execute()
            .await;
        made.map_err(|error| format!("set the address of `{BRIDGE}`: {}", chain(&error)))?;
        // An address of its own: by itself a bridge takes its lowest port's, and when that pod goes, the others' packets to the gateway
        // are lost until they have asked for its new one.
        let up = LinkUnspec::new_with_index(bridge)
            .address(network.bridge_mac().to_vec())
            .up()
            .build();
        let made = handle.link().set(up).execute().await;
        made.map_err(|error| {
            format!(
                "set the address of `{BRIDGE}` and set it up: {}",
                chain(&error)
            )
        })?;
        for (network, node) in routes {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::from_bits(network.base), network.prefix)
                .gateway(*node)
                .build();
            let made = handle.route().add(route).replace().execute().await;
            made.map_err(|error| format!("route pods behind node {node}: {}", chain(&error)))?;
        }
        Ok(Self { handle, bridge })
    }

    /// Takes a pod's link, just made by the helper, into the bridge.
    pub(crate) async fn attach(&self, link: &str) -> Result<(), String> {
        let message = LinkUnspec::new_with_name(link)
            .controller(self.bridge)
            .up()
            .build();
        let made = self.handle.link().set(message).execute().await;
        made.map_err(|error| format!("attach `{link}` to `{BRIDGE}`: {}", chain(&error)))
    }

    /// Removes a pod's link; its other end goes with it.
    pub(crate) async fn detach(&self, link: &str) -> Result<(), String> {
        if let Some(link) = index(&self.handle, link).await? {
            // The namespace's own end may take it away at the same time.
            let _ = self.handle.link().del(link).execute().await;
        }
        Ok(())
    }

    /// Refuses, or lets through again, what comes from other machines for this node's pods. A routing rule does it at once for open
    /// connections too, and says so to the sender (ICMP), who can turn to another endpoint. The node's own traffic to its pods has no
    /// incoming interface and is not affected.
    pub(crate) async fn fence(
        &self,
        pods: PodNetwork,
        node: Ipv4Addr,
        up: bool,
    ) -> Result<(), String> {
        let nic = self.nic_of(node).await?;
        let mut add = self
            .handle
            .rule()
            .add()
            .v4()
            .input_interface(nic)
            .destination_prefix(Ipv4Addr::from_bits(pods.base), pods.prefix)
            .priority(FENCE_PRIORITY)
            .action(RuleAction::Prohibit);
        let rule = add.message_mut().clone();
        let done = if up {
            add.execute().await
        } else {
            self.handle.rule().del(rule).execute().await
        };
        let settled = if up {
            rustix::io::Errno::EXIST
        } else {
            rustix::io::Errno::NOENT
        };
        match done {
            Err(rtnetlink::Error::NetlinkError(message))
                if message.raw_code() == -settled.raw_os_error() =>
            {
                Ok(())
            }
            other => {
                other.map_err(|error| format!("set the rule that fences pods: {}", chain(&error)))
            }
        }
    }

    /// Name of the interface that has the node's address.
    async fn nic_of(&self, node: Ipv4Addr) -> Result<String, String> {
        let addresses = self
            .handle
            .address()
            .get()
            .set_address_filter(IpAddr::V4(node))
            .execute();
        let found: Vec<_> = addresses
            .try_collect()
            .await
            .map_err(|error| format!("look for {node}: {}", chain(&error)))?;
        let number = found
            .first()
            .map(|found| found.header.index)
            .ok_or_else(|| format!("no interface has {node}"))?;
        let link = self
            .handle
            .link()
            .get()
            .match_index(number)
            .execute()
            .try_next()
            .await;
        let link =
            link.map_err(|error| format!("look for the interface of {node}: {}", chain(&error)))?;
        let name = link
            .into_iter()
            .flat_map(|link| link.attributes)
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
        name.ok_or_else(|| format!("the interface of {node} has no name"))
    }
}

async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, String> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(message))
            if message.raw_code() == -rustix::io::Errno::NODEV.raw_os_error() =>
        {
            Ok(None)
        }
        Err(error) => Err(format!("look for link `{name}`: {}", chain(&error))),
    }
}

/// Whether a namespace is held at `path`.
pub(crate) fn namespace_exists(path: &Path) -> bool {
    /// `NSFS_MAGIC` of linux/magic.h.
    const NSFS: u64 = 0x6e73_6673;
    rustix::fs::statfs(path)
        .is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == NSFS))
}

/// Lets go of a namespace. An absent one is fine.
pub(crate) fn remove_namespace(path: &Path) -> io::Result<()> {
    while namespace_exists(path) {
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a pod's namespace with `lo` and `eth0`. Runs in a process of its own, which has one thread.
pub(crate) fn make_namespace(request: &NamespaceRequest) -> Result<(), String> {
    let node = fs::File::open("/proc/self/ns/net")
        .map_err(|error| format!("open the node's network: {error}"))?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe only for UnshareFlags::FILES, and this process has one thread"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
        .map_err(|error| format!("make a network namespace: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    let runtime = runtime.map_err(|error| format!("start: {error}"))?;
    runtime.block_on(configure(request, &node))?;
    // As containerd does: a pod's own network lets any user listen on low ports and ping.
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0");
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", b"0 2147483647");
    // Last, so that a namespace which is found is whole.
    fs::write(&request.path, b"")
        .and_then(|()| {
            Ok(rustix::mount::mount_bind(
                "/proc/self/ns/net",
                &request.path,
            )?)
        })
        .map_err(|error| {
            format!(
                "hold the network namespace at `{}`: {error}",
                request.path.display()
            )
        })
}

async fn configure(request: &NamespaceRequest, node: &fs::File) -> Result<(), String> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("open netlink: {error}"))?;
    tokio::spawn(connection);
    let step =
        |what: &'static str| move |error: rtnetlink::Error| format!("{what}: {}", chain(&error));
    handle
        .link()
        .add(LinkVeth::new("eth0", &request.link).build())
        .execute()
        .await
        .map_err(step("make a veth pair"))?;
    let message = LinkUnspec::new_with_name(&request.link)
        .setns_by_fd(node.as_raw_fd())
        .build();
    handle
        .link()
        .set(message)
        .execute()
        .await
        .map_err(step("hand the veth's end to the node"))?;
    let lo = index(&handle, "lo")
        .await?
        .ok_or("a namespace without `lo`")?;
    let eth0 = index(&handle, "eth0").await?.ok_or("`eth0` vanished")?;
    for link in [lo, eth0] {
        handle
            .link()
            .set(LinkUnspec::new_with_index(link).up().build())
            .execute()
            .await
            .map_err(step("set a link up"))?;
    }
    let address = handle
        .address()
        .add(eth0, IpAddr::V4(request.address), request.prefix);
    address
        .execute()
        .await
        .map_err(step("set the pod's address"))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(request.gateway)
        .build();
    handle
        .route()
        .add(route)
        .execute()
        .await
        .map_err(step("set the pod's default route"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round_before_they_are_reused() {
        let network = PodNetwork::parse("10.78.3.0/28").unwrap();
        assert_eq!(network.gateway(), Ipv4Addr::new(10, 78, 3, 1));
        let mut used = BTreeSet::new();
        let first = network.allocate(&used, None).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 78, 3, 2));
        // Given back, it is not the next one.
        let second = network.allocate(&used, Some(first)).unwrap();
        assert_eq!(second, Ipv4Addr::new(10, 78, 3, 3));
        assert_eq!(
            network.allocate(&used, Some(Ipv4Addr::new(10, 78, 3, 14))),
            Some(first)
        );
        let mut last = None;
        while let Some(address) = network.allocate(&used, last) {
            assert!(used.insert(address));
            last = Some(address);
        }
        assert_eq!(used.len(), 13);
        assert!(!used.contains(&Ipv4Addr::new(10, 78, 3, 15)));
    }

    #[test]
    fn wrong_networks_are_refused() {
        for wrong in ["10.78.1.0", "10.78.1.0/31", "10.78.1.0/4", "x/24", ""] {
            assert_eq!(PodNetwork::parse(wrong), None, "{wrong}");
        }
        assert!(link_name("b7c3…").len() <= 15);
    }
}
