//! The finished binary on this machine's kernel: real programs attached to real devices, in network
//! namespaces that each test makes for itself, against peers that count for themselves.
//!
//! They need root and the tools that `cargo xtask setup --tests` installs; where these are missing
//! the tests fail and say so. `WSTAP_TEST_KERNEL=0` skips them. They take turns, so
//! `--test-threads` makes no difference.

#[path = "../support/mod.rs"]
mod support;

#[path = "../autobahn/cases/mod.rs"]
mod cases;

#[path = "../support/pcap.rs"]
mod pcap;

mod autobahn;
mod browser;
mod churn;
mod cluster;
mod devices;
mod endings;
mod forgotten;
mod handshakes;
mod interfaces;
mod kubernetes;
mod lifecycle;
mod midstream;
mod namespaces;
mod other_traffic;
mod peers;
mod privileges;
mod prometheus;
mod proxies;
mod restarts;
mod scale;
mod tcp;
mod topology;
mod trace;
mod violations;
mod walk;
mod wire;

use std::net::SocketAddr;

use support::netns::Netns;

/// Both ways to attach.
const ATTACH: [&str; 2] = ["tcx", "clsact"];

/// A client's and a server's namespace, joined by a pair of devices: `c0` here, `s0` there.
struct Pair {
    client: Netns,
    server: Netns,
}

impl Pair {
    const CLIENT: [&str; 2] = ["10.77.0.1/24", "fd77::1/64"];
    const SERVER: [&str; 2] = ["10.77.0.2/24", "fd77::2/64"];
    /// The server's addresses.
    const V4: &str = "10.77.0.2:8080";
    const V6: &str = "[fd77::2]:8080";

    #[track_caller]
    fn new() -> Self {
        let pair = Self {
            client: Netns::new("client"),
            server: Netns::new("server"),
        };
        Netns::veth(
            (&pair.client, "c0", &Self::CLIENT),
            (&pair.server, "s0", &Self::SERVER),
        );
        pair
    }
}

/// A socket address that is written out.
#[track_caller]
fn at(address: &str) -> SocketAddr {
    address.parse().expect("a socket address")
}
