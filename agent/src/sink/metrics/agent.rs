//! The agent's own metrics: what it was given, what it lost, which of its bounds it met.

use prometheus::{TextEncoder, core::Collector, process_collector::ProcessCollector};
use wstap_common::counter::{COUNTERS, Counter, Group};

use super::{MetricsConfig, exposition::Exposition, names};
use crate::{proto::observer::Stats, sink::peer::PeerCounts};

/// Why a record is lost that was delivered and could not be read.
const UNDECODABLE: &str = "undecodable";

/// The kernel program's counters, summed over all CPUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KernelCounts(pub [u64; COUNTERS as usize]);

impl Default for KernelCounts {
    fn default() -> Self {
        Self([0; COUNTERS as usize])
    }
}

impl KernelCounts {
    /// One of them.
    #[must_use]
    pub fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }
}

/// What the agent knows of itself, apart from the events.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentStatus {
    /// What the observer has counted.
    pub observer: Stats,
    /// What the kernel program has counted, where there is one.
    pub kernel: Option<KernelCounts>,
    /// What the reader of the ring buffer has counted.
    pub reader: ReaderCounts,
    /// Interfaces to which the program is attached.
    pub interfaces_attached: u64,
    /// Other network namespaces.
    pub namespaces: NamespaceCounts,
}

impl AgentStatus {
    /// Records that did not reach the observer, by reason; every reason there is.
    pub fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let kernel = self.kernel.unwrap_or_default();
        in_group(Group::Lost)
            .map(move |counter| (counter.label(), kernel.of(counter)))
            .chain([(UNDECODABLE, self.reader.undecodable)])
    }
}

/// Of the network namespaces that are followed besides the agent's own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NamespaceCounts {
    /// Followed now.
    pub followed: u64,
    /// Could not be entered or looked for, so far.
    pub failed: u64,
    /// Were one too many, so far.
    pub turned_away: u64,
}

/// What the reader of the ring buffer has counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReaderCounts {
    /// Records that were none: the program and the agent are of different makes.
    pub undecodable: u64,
    /// Segments that were longer than what of them may be copied.
    pub cut: u64,
}

/// What the metrics know of themselves: how often their own bounds were exceeded, and the like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    pub(super) endpoints_gone: u64,
    /// Of whoever knows names, where there is one.
    pub(super) peers: Option<PeerCounts>,
    pub(super) endpoints: u64,
    pub(super) connection_series: u64,
    pub(super) lingering_series: u64,
    pub(super) close_codes: u64,
    pub(super) subprotocols: u64,
}

/// Writes the agent's metrics.
pub(super) fn expose(
    out: &mut Exposition,
    status: &AgentStatus,
    metrics: &Own,
    config: &MetricsConfig,
) {
    let AgentStatus {
        observer,
        kernel,
        interfaces_attached,
        namespaces,
        ..
    } = status;
    let counts = kernel.unwrap_or_default();

    let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("WSTAP_REVISION"));
    out.family(&names::BUILD_INFO)
        .sample("", &[&version, &revision], 1);
    out.family(&names::INTERFACES_ATTACHED)
        .sample("", &[], interfaces_attached);
    out.family(&names::NETWORK_NAMESPACES)
        .sample("", &[], namespaces.followed);
    out.family(&names::NETWORK_NAMESPACES_FAILED)
        .sample("", &[], namespaces.failed);
    out.family(&names::CONNECTIONS_TRACKED)
        .sample("", &[], observer.tracked);
    out.family(&names::SAMPLES)
        .sample("", &[], counts.of(Counter::Samples));
    out.family(&names::SAMPLE_BYTES)
        .sample("", &[], counts.of(Counter::SampleBytes));
    let mut lost = out.family(&names::SAMPLES_LOST);
    for (reason, count) in status.lost() {
        lost.sample("", &[&reason], count);
    }
    out.family(&names::FRAMES_LOST)
        .sample("", &[], observer.frames_lost);
    out.family(&names::GAPS).sample("", &[], observer.gaps);
    out.family(&names::RESYNCS)
        .sample("", &[], observer.resyncs);
    out.family(&names::CONFLICTS)
        .sample("", &[], observer.conflicts);
    let mut exceeded = out.family(&names::LIMIT_EXCEEDED);
    for (limit, count) in limits(status, metrics) {
        exceeded.sample("", &[&limit], count);
    }
    let mut bounds = out.family(&names::LIMIT);
    for (limit, bound) in configured(config) {
        bounds.sample("", &[&limit], bound);
    }
    let mut packets = out.family(&names::KERNEL_PACKETS);
    for counter in in_group(Group::Packets) {
        packets.sample("", &[&counter.label()], counts.of(counter));
    }
    out.family(&names::PLACES_LOST)
        .sample("", &[], counts.of(Counter::PlaceLost));
    out.family(&names::PLACES_FOUND)
        .sample("", &[], counts.of(Counter::Resumed));
    out.family(&names::SEGMENTS_SET_ASIDE)
        .sample("", &[], counts.of(Counter::Drained));
    out.family(&names::WALKS_LOST)
        .sample("", &[], observer.walks_lost);
    out.family(&names::ENDPOINTS_GONE)
        .sample("", &[], metrics.endpoints_gone);
    if let Some(peers) = &metrics.peers {
        out.family(&names::KUBERNETES_PODS)
            .sample("", &[], peers.pods);
        let mut errors = out.family(&names::KUBERNETES_WATCH_ERRORS);
        errors.sample("", &[&"pods"], peers.pod_errors);
        errors.sample("", &[&"services"], peers.service_errors);
        out.family(&names::KUBERNETES_OWNERS_GUESSED)
            .sample("", &[], peers.owners_guessed);
    }
    // A ClientHello that the kernel recognises the agent never sees. Where something else came first
    // that had to be looked at (PROXY protocol), it is the agent that finds it.
    let tls = counts.of(Counter::Tls) + observer.unreadable_tls;
    out.family(&names::UNREADABLE_CONNECTIONS)
        .sample("", &[&"tls"], tls);
}

fn in_group(group: Group) -> impl Iterator<Item = Counter> {
    let all = Counter::ALL.iter().copied();
    all.filter(move |counter| counter.group() == group)
}

/// Every bound of the agent, with how often it was exceeded.
pub(super) fn limits(status: &AgentStatus, metrics: &Own) -> [(&'static str, u64); 21] {
    let observer = &status.observer.exceeded;
    let kernel = status.kernel.unwrap_or_default();
    let peers = metrics.peers.unwrap_or_default();
    [
        ("buffered", observer.buffered),
        ("buffered_per_direction", observer.buffered_per_direction),
        ("candidates", observer.candidates),
        ("close_codes", metrics.close_codes),
        ("connection_series", metrics.connection_series),
        ("connections", observer.connections),
        ("endpoints", metrics.endpoints),
        ("flows", kernel.of(Counter::FlowsFull)),
        ("head", observer.head),
        ("inflated", observer.inflated),
        ("inflaters", observer.inflaters),
        ("lingering_series", metrics.lingering_series),
        ("netns", status.namespaces.turned_away),
        ("owners", peers.owners_exceeded),
        ("pings", observer.pings),
        ("pods", peers.pods_exceeded),
        ("search", observer.search),
        ("services", peers.services_exceeded),
        ("snap_length", status.reader.cut),
        ("subprotocols", metrics.subprotocols),
        ("tallies", kernel.of(Counter::TalliesUsedUp)),
    ]
}

/// The bounds on what grows with connections, under the names that they have in [`limits`].
pub(super) fn configured(config: &MetricsConfig) -> [(&'static str, usize); 4] {
    [
        ("candidates", config.max_candidates),
        ("connection_series", config.connection_series),
        ("connections", config.max_connections),
        ("endpoints", config.max_endpoints),
    ]
}

/// `process_*`: CPU time, memory, file descriptors and threads of this process. Empty where `/proc`
/// cannot be read.
#[must_use]
pub fn process_metrics() -> String {
    let families = ProcessCollector::for_self().collect();
    TextEncoder::new()
        .encode_to_string(&families)
        .unwrap_or_default()
}
