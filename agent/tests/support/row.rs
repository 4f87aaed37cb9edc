//! A client, a server, and what is between them.

use std::net::SocketAddr;

use super::netns::Netns;

/// Three namespaces in a row. The one in the middle has the devices `pc` towards the client and `ps` towards
/// the server.
pub struct Row {
    pub client: Netns,
    pub middle: Netns,
    pub server: Netns,
}

impl Row {
    #[track_caller]
    pub fn new() -> Self {
        let row = Self {
            client: Netns::new("client"),
            middle: Netns::new("middle"),
            server: Netns::new("server"),
        };
        Netns::veth(
            (&row.client, "c0", &["10.77.1.2/24"]),
            (&row.middle, "pc", &["10.77.1.1/24"]),
        );
        Netns::veth(
            (&row.server, "s0", &["10.77.2.2/24"]),
            (&row.middle, "ps", &["10.77.2.1/24"]),
        );
        row
    }

    /// Client and server reach each other through the middle.
    #[track_caller]
    pub fn route(&self) {
        self.client.ip("route add default via 10.77.1.1");
        self.server.ip("route add default via 10.77.2.1");
    }

    /// The middle translates: who asks for [`Self::service`] gets to [`Self::translated`], which sees the middle's
    /// address, and has no way back but to that.
    #[track_caller]
    pub fn translate(&self) {
        self.client.ip("route add default via 10.77.1.1");
        for rule in [
            "add table ip nat",
            "add chain ip nat prerouting { type nat hook prerouting priority -100; }",
            "add chain ip nat postrouting { type nat hook postrouting priority 100; }",
            "add rule ip nat prerouting ip daddr 10.96.0.10 tcp dport 80 dnat to 10.77.2.2:8080",
            "add rule ip nat postrouting oifname \"ps\" masquerade",
        ] {
            self.middle.run("nft", &[rule]);
        }
    }

    /// What the client asks for where the middle translates.
    pub fn service() -> SocketAddr {
        SocketAddr::from(([10, 96, 0, 10], 80))
    }

    /// Who answers there.
    pub fn translated() -> SocketAddr {
        SocketAddr::from(([10, 77, 2, 2], 8080))
    }

    /// Where a proxy in the middle listens.
    pub fn front() -> SocketAddr {
        SocketAddr::from(([10, 77, 1, 1], 8080))
    }

    /// Where the server does.
    pub fn back() -> SocketAddr {
        SocketAddr::from(([10, 77, 2, 2], 9000))
    }
}
