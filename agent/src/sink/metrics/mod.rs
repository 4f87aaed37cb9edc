//! Prometheus metrics: takes events, keeps counts by endpoint and by connection, and writes them
//! out on demand.
//!
//! One thread writes, and scrapes read: everything is under one lock, which a scrape holds only to
//! copy the numbers. An event costs one look-up of its connection and some additions; label values
//! are rendered once for each endpoint. Every label value is bounded, and so is the number of
//! series.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

mod agent;
mod code;
mod connections;
mod endpoint;
mod exposition;
mod histogram;
pub mod names;
mod path;
mod series;
mod subprotocol;
mod tally;

pub use agent::{AgentStatus, KernelCounts, NamespaceCounts, ReaderCounts, process_metrics};
pub use code::MAX_CLOSE_CODES;
pub use path::{MAX_LENGTH as MAX_PATH_LABEL_LENGTH, PathLabel};
pub use subprotocol::MAX_SUBPROTOCOLS;
pub use tally::Totals;

use super::{Sink, peer::PeerNames};
use crate::proto::{
    event::{Close, Connection, Event, EventKind, Handshake, Hop},
    flow::ConnId,
    time::Timestamp,
};
use agent::Own;
use code::CloseCodes;
use endpoint::{Endpoints, IsLocal};
use exposition::Exposition;
use series::{Connections, Joined, Live, Series};
use subprotocol::Subprotocols;
use tally::Tally;

/// Connections that `/connections` copies under the lock at a time.
const CONNECTIONS_AT_ONCE: usize = 256;

/// Bounds and wishes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MetricsConfig {
    /// Endpoints with series of their own; the rest share one set.
    pub max_endpoints: usize,
    /// Live connections with series of their own, and ended ones that linger; 0 for none.
    pub connection_series: usize,
    /// How long the series of a connection stay after its end, and those of an endpoint after its pod's.
    pub series_linger: Duration,
    /// How request targets become labels.
    pub path_label: PathLabel,
    /// WebSockets that the observer follows; shown, and enforced by it.
    pub max_connections: usize,
    /// Other TCP connections that it remembers; the same.
    pub max_candidates: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            max_endpoints: 500,
            connection_series: 1000,
            series_linger: Duration::from_secs(60),
            path_label: PathLabel::default(),
            max_connections: 100_000,
            max_candidates: 65_536,
        }
    }
}

/// The metrics. Shared between the thread that handles events and whoever reads them.
#[derive(Debug)]
pub struct Metrics {
    config: MetricsConfig,
    names: Option<Arc<dyn PeerNames>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    endpoints: Endpoints,
    connections: Connections,
    series: Series,
    close_codes: CloseCodes,
    subprotocols: Subprotocols,
    agent: AgentStatus,
}

impl Metrics {
    /// Metrics of an agent that has seen nothing.
    #[must_use]
    pub fn new(config: &MetricsConfig) -> Self {
        Self {
            config: *config,
            names: None,
            state: Mutex::new(State {
                endpoints: Endpoints::new(
                    config.max_endpoints,
                    config.path_label,
                    config.series_linger,
                ),
                connections: Connections::new(),
                series: Series::new(config.connection_series, config.series_linger),
                close_codes: CloseCodes::default(),
                subprotocols: Subprotocols::default(),
                agent: AgentStatus::default(),
            }),
        }
    }

    /// The same with names of pods: endpoints have their labels from now on.
    #[must_use]
    pub fn with_names(mut self, names: Arc<dyn PeerNames>) -> Self {
        self.state().endpoints.set_names(Arc::clone(&names));
        self.names = Some(names);
        self
    }

    /// Says which addresses are this node's, for the label `side`. Without it that is `unknown`.
    pub fn set_local(&self, is_local: impl Fn(IpAddr) -> bool + Send + 'static) {
        let is_local = IsLocal(Box::new(is_local));
        self.state().endpoints.set_local(is_local);
    }

    /// Takes in an event.
    pub fn observe(&self, event: &Event) {
        self.state().observe(event);
    }

    /// Takes in what the agent knows of itself. The numbers are totals; the latest hold.
    pub fn update_agent(&self, status: &AgentStatus) {
        self.state().agent = *status;
    }

    /// All metrics but those of the process in the text format 0.0.4. The same events give the same
    /// text. `now` decides which ended connections still have series, and which endpoints have them for the
    /// last time.
    #[must_use]
    pub fn expose(&self, now: Timestamp) -> String {
        let mut state = self.state();
        state.series.expire(now);
        let shown = state.series.snapshot(&state.connections);
        let mut endpoints = state.endpoints.snapshot();
        // Behind the snapshot, so that what was counted last is seen once more.
        state.endpoints.expire(now);
        let status = state.agent;
        let mut own = state.own();
        drop(state);
        own.peers = self.names.as_ref().map(|names| names.counts());

        endpoints.sort_by(|a, b| a.labels.cmp(&b.labels));
        let mut out = Exposition::default();
        tally::expose(&mut out, &endpoints);
        series::expose(&mut out, &shown, self.config.path_label);
        agent::expose(&mut out, &status, &own, &self.config);
        out.finish()
    }

    /// What was seen in all.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.state().endpoints.totals()
    }

    /// The live connections as a JSON array, oldest first. `now` is what their age is taken from.
    #[must_use]
    pub fn connections_json(&self, now: Timestamp) -> String {
        let mut ids: Vec<ConnId> = self.state().connections.keys().copied().collect();
        ids.sort_unstable();
        let mut text = String::from("[");
        for ids in ids.chunks(CONNECTIONS_AT_ONCE) {
            let state = self.state();
            let live: Vec<Live> = ids
                .iter()
                .filter_map(|id| state.connections.get(id))
                .map(|live| (**live).clone())
                .collect();
            drop(state);
            connections::append(&mut text, &live, now);
        }
        text.push_str("\n]\n");
        text
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counts are valid after every step, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Arc<Metrics> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.observe(event);
        Ok(())
    }
}

impl Sink for Metrics {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.observe(event);
        Ok(())
    }
}

impl State {
    fn observe(&mut self, event: &Event) {
        let connection = &event.connection;
        match &event.kind {
            EventKind::Handshake(handshake) => self.handshake(event, handshake),
            EventKind::Close(close) => self.close(event, close),
            EventKind::Frame(frame) => {
                let Some(live) = self.connections.get_mut(&connection.id) else {
                    return self.unopened(connection).frame(frame);
                };
                self.endpoints.name_late(live, event.ts);
                live.last_seen = event.ts;
                let challenges = live.frame(frame, &self.series);
                self.endpoints.tally(live.endpoint).frame(frame);
                if challenges {
                    self.series.challenge(connection.id, &mut self.connections);
                }
            }
            EventKind::Counted(counted) => {
                let Some(live) = self.connections.get_mut(&connection.id) else {
                    return self.unopened(connection).counted(counted);
                };
                self.endpoints.name_late(live, event.ts);
                live.last_seen = live.last_seen.max(event.ts);
                let challenges = live.counted(counted, &self.series);
                self.endpoints.tally(live.endpoint).counted(counted);
                if challenges {
                    self.series.challenge(connection.id, &mut self.connections);
                }
            }
            EventKind::Progress(progress) => {
                let Some(live) = self.connections.get_mut(&connection.id) else {
                    return self.unopened(connection).progress(progress);
                };
                self.endpoints.name_late(live, event.ts);
                live.last_seen = event.ts;
                live.progress(progress);
                self.endpoints.tally(live.endpoint).progress(progress);
            }
            EventKind::Message(message) => self.tally(connection).message(message),
            EventKind::Violation(violation) => self.tally(connection).violation(violation),
            // Gaps are counted by the observer.
            EventKind::Gap(_) => {}
        }
    }

    /// Where events of a connection are counted.
    fn tally(&mut self, connection: &Connection) -> &mut Tally {
        match self.connections.get(&connection.id) {
            Some(live) => self.endpoints.tally(live.endpoint),
            None => self.unopened(connection),
        }
    }

    /// Where events of a connection are counted that is not, or no longer, open: what breaks the
    /// rules of the handshake comes before it.
    fn unopened(&mut self, connection: &Connection) -> &mut Tally {
        let peers = self.endpoints.peers(connection);
        let id = self.endpoints.unopened(connection, &peers);
        self.endpoints.tally(id)
    }

    fn handshake(&mut self, event: &Event, handshake: &Handshake) {
        let connection = &event.connection;
        let opens = connection.outcome.opens();
        let peers = self.endpoints.peers(connection);
        let endpoint = self.endpoints.admit(connection, &peers, opens, event.ts);
        let subprotocol = (self.subprotocols).label(connection.subprotocol.as_deref());
        let tally = self.endpoints.tally(endpoint);
        tally.handshake(connection.outcome, handshake, subprotocol);
        if !opens {
            return;
        }
        tally.opened();
        if let Some(previous) = self.connections.remove(&connection.id) {
            // Its end never came; two openings must not count as two open.
            self.endpoints.tally(previous.endpoint).ended();
            self.series.forget(&previous);
        }
        let mut live = Live::new(Arc::clone(connection), endpoint, peers, event.ts);
        self.series.open(&mut live);
        self.connections.insert(connection.id, Box::new(live));
        self.join(connection);
    }

    /// Has the other hops of a proxied connection name it in turn.
    fn join(&mut self, connection: &Connection) {
        let Connection {
            id,
            next_hop,
            previous_hop,
            ..
        } = connection;
        let mut tell = |hop: &Option<Box<Hop>>, tell: fn(&mut Joined, ConnId)| {
            if let Some(hop) = hop
                && let Some(live) = self.connections.get_mut(&hop.id)
            {
                tell(live.joined.get_or_insert_default(), *id);
            }
        };
        tell(next_hop, |next, id| next.previous = Some(id));
        tell(previous_hop, |previous, id| previous.next = Some(id));
    }

    fn close(&mut self, event: &Event, close: &Close) {
        let code = self.close_codes.label(close);
        let Some(live) = self.connections.remove(&event.connection.id) else {
            return self.unopened(&event.connection).close(close, code);
        };
        let tally = self.endpoints.tally(live.endpoint);
        tally.close(close, code);
        tally.ended();
        self.series.close(*live, close, event.ts);
        self.release();
    }

    /// Gives memory back after a crowd has left.
    fn release(&mut self) {
        let (used, room) = (self.connections.len(), self.connections.capacity());
        if room > 1024 && used < room / 8 {
            self.connections.shrink_to(used * 2);
        }
    }

    fn own(&self) -> Own {
        Own {
            endpoints_gone: self.endpoints.gone(),
            peers: None,
            endpoints: self.endpoints.exceeded(),
            connection_series: self.series.refused(),
            lingering_series: self.series.cut_short(),
            close_codes: self.close_codes.exceeded(),
            subprotocols: self.subprotocols.exceeded(),
        }
    }
}

#[cfg(test)]
mod tests;
