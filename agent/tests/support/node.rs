//! A node of a cluster: the host's namespace with a bridge and an uplink, pods behind pairs of
//! devices that are named as network plugins do, Services by address translation as kube-proxy does
//! it, and whatever is outside.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
};

use super::netns::Netns;

/// The node, and the outside that its uplink leads to.
pub struct Node {
    /// Where the agent runs, as do the pods with `hostNetwork`.
    pub host: Netns,
    /// Behind the uplink; it knows the way to the pods' addresses.
    pub outside: Netns,
}

/// A pod: a namespace with one device, `eth0`.
pub struct Pod {
    pub ns: Netns,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Pod {
    /// Its address of one family.
    pub fn ip(&self, family: Family) -> IpAddr {
        family.pick(self.v4, self.v6)
    }

    /// A socket address of its.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}

/// Which of the Internet Protocols.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The word for addresses of this family in rules.
    fn word(self) -> &'static str {
        self.pick("ip", "ip6")
    }

    pub fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }
}

/// The mark of packets that are to be masqueraded, as kube-proxy's.
const MASQUERADE: &str = "0x4000";

impl Node {
    const UPLINK: [&str; 2] = ["192.0.2.10/24", "2001:db8::10/64"];
    const OUTSIDE: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];
    /// Of the host on every routed pod's device.
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 255, 1);

    /// A node with no pods and no Services.
    #[track_caller]
    pub fn new() -> Self {
        let (host, outside) = (Netns::new("node"), Netns::new("outside"));
        Netns::veth(
            (&host, "eth0", &Self::UPLINK),
            (&outside, "out0", &Self::OUTSIDE),
        );
        for route in ["192.0.2.1", "2001:db8::1"] {
            host.ip(&format!("route add default via {route}"));
        }
        outside.ip("route add 10.244.0.0/16 via 192.0.2.10");
        outside.ip("route add fd44::/16 via 2001:db8::10");
        host.ip("link add name cni0 type bridge");
        host.ip("address add 10.244.0.1/24 dev cni0");
        host.ip("address add fd44::1/64 dev cni0 nodad");
        host.ip("link set cni0 up");
        let node = Self { host, outside };
        // Marked packets leave with the host's address, and so does what goes outside from a pod that
        // has not been asked from there.
        node.rules(&format!(
            "table inet proxy {{
                 chain services {{ }}
                 chain prerouting {{ type nat hook prerouting priority -100; jump services; }}
                 chain output {{ type nat hook output priority -100; jump services; }}
                 chain postrouting {{
                     type nat hook postrouting priority 100;
                     meta mark & {MASQUERADE} != 0 masquerade fully-random
                     oifname eth0 ip saddr 10.244.0.0/16 masquerade fully-random
                     oifname eth0 ip6 saddr fd44::/16 masquerade fully-random
                 }}
             }}"
        ));
        node
    }

    /// How many devices of the host are up.
    #[track_caller]
    pub fn devices(&self) -> u64 {
        self.host.ip("-o link show up").lines().count() as u64
    }

    /// An address of the host, on the uplink.
    pub fn ip(family: Family) -> IpAddr {
        family.pick(
            Ipv4Addr::new(192, 0, 2, 10).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into(),
        )
    }

    /// The address of what is outside.
    pub fn outside_ip(family: Family) -> IpAddr {
        family.pick(
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        )
    }

    /// A pod behind a port of the bridge.
    #[track_caller]
    pub fn bridged(&self, device: &str, n: u8) -> Pod {
        let (v4, v6) = (format!("10.244.0.{n}/24"), format!("fd44::{n:x}/64"));
        let pod = self.pod(device, &v4, &v6);
        self.host.ip(&format!("link set {device} master cni0"));
        pod.ns.ip("route add default via 10.244.0.1");
        pod.ns.ip("route add default via fd44::1");
        pod
    }

    /// A pod behind a device that its address is routed to.
    #[track_caller]
    pub fn routed(&self, device: &str, n: u8) -> Pod {
        let (v4, v6) = (format!("10.244.1.{n}/32"), format!("fd44:1::{n:x}/128"));
        let pod = self.pod(device, &v4, &v6);
        let (host, gateway) = (&self.host, Self::GATEWAY);
        host.ip(&format!("address add {gateway}/32 dev {device}"));
        host.ip(&format!("address add fe80::1/64 dev {device} nodad"));
        host.ip(&format!("route add {v4} dev {device}"));
        host.ip(&format!("route add {v6} dev {device}"));
        let way = format!("route add default via {gateway} dev eth0 onlink");
        pod.ns.ip(&way);
        pod.ns.ip("route add default via fe80::1 dev eth0");
        pod
    }

    fn pod(&self, device: &str, v4: &str, v6: &str) -> Pod {
        let ns = Netns::new(device);
        Netns::veth((&ns, "eth0", &[v4, v6]), (&self.host, device, &[]));
        let ip = |address: &str| {
            let (ip, _) = address.split_once('/').expect("an address and a length");
            ip.parse().expect("an address")
        };
        let (v4, v6) = (ip(v4), ip(v6));
        Pod { ns, v4, v6 }
    }

    /// A Service at `at` that is answered by `back_ends` in turn. With `masquerades` they see the
    /// host's address, as with `externalTrafficPolicy: Cluster`; a pod that reaches itself always does.
    #[track_caller]
    pub fn service(&self, at: SocketAddr, back_ends: &[SocketAddr], masquerades: bool) {
        let family = if at.is_ipv4() { Family::V4 } else { Family::V6 };
        let (word, port) = (family.word(), at.port());
        let name = format!("{}-{port}", at.ip()).replace([':', '.'], "-");
        let name = format!("svc-{name}");
        let mark = format!("meta mark set meta mark or {MASQUERADE};");
        let (mut chains, mut map) = (String::new(), Vec::new());
        for (i, back_end) in back_ends.iter().enumerate() {
            let ip = back_end.ip();
            chains += &format!(
                "chain {name}-{i} {{ {word} saddr {ip} {mark} \
                 meta l4proto tcp dnat {word} to {back_end}; }}\n"
            );
            map.push(format!("{i} : goto {name}-{i}"));
        }
        let mark = if masquerades { &*mark } else { "" };
        self.rules(&format!(
            "table inet proxy {{
                 {chains}
                 chain {name} {{ {mark} numgen inc mod {} vmap {{ {} }}; }}
                 chain services {{ {word} daddr {} tcp dport {port} goto {name}; }}
             }}",
            back_ends.len(),
            map.join(", "),
            at.ip(),
        ));
    }

    #[track_caller]
    fn rules(&self, rules: &str) {
        let mut command = self.host.command("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped());
        let mut nft = command.spawn().expect("nft");
        let mut stdin = nft.stdin.take().expect("a pipe");
        stdin.write_all(rules.as_bytes()).expect("a running nft");
        drop(stdin);
        assert!(nft.wait().expect("nft").success(), "{rules}");
    }
}
