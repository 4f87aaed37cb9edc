//! Endpoints: what the series of many WebSockets share, and the bound on their number.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{
    exposition,
    names::Scope,
    path::PathLabel,
    tally::{Tally, Totals},
};
use crate::proto::event::Connection;

/// What stands in every label but `side` for the endpoints beyond the bound.
const OTHER: &str = "other";

/// What tells endpoints apart. All labels follow from it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    server: SocketAddr,
    path: String,
    side: Side,
}

impl Key {
    fn labels(&self) -> String {
        labels(&self.server.to_string(), &self.path, self.side)
    }
}

/// Renders the labels of an endpoint.
fn labels(server: &str, path: &str, side: Side) -> String {
    exposition::labels(Scope::Endpoint.labels(), &[&server, &path, &side.as_str()])
}

/// Which end of a connection is on this node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Side {
    /// Only the client's.
    Client,
    /// Only the server's.
    Server,
    /// Both.
    Both,
    /// None, or nobody knows which addresses are this node's.
    Unknown,
}

impl Side {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Both => "both",
            Self::Unknown => "unknown",
        }
    }
}

/// Tells the addresses of this node from others.
pub(super) struct IsLocal(pub(super) Box<dyn Fn(IpAddr) -> bool + Send>);

impl Default for IsLocal {
    fn default() -> Self {
        Self(Box::new(|_| false))
    }
}

impl fmt::Debug for IsLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IsLocal")
    }
}

/// An endpoint.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// Its labels, rendered.
    pub(super) labels: String,
    /// What was counted.
    pub(super) tally: Tally,
}

/// Where an endpoint is in [`Endpoints`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct EndpointId(u32);

/// All endpoints.
///
/// When they are too many, a newcomer with a WebSocket takes the place of one that never had any:
/// whoever tries out paths and is refused does not push the working ones out.
#[derive(Debug)]
pub(super) struct Endpoints {
    limit: usize,
    path_label: PathLabel,
    is_local: IsLocal,
    places: HashMap<Key, usize>,
    /// The first is what is beyond the bound.
    endpoints: Vec<Endpoint>,
    /// By place in `endpoints`, less one.
    keys: Vec<Key>,
    /// Places of those that never had a WebSocket.
    idle: BTreeSet<usize>,
    exceeded: u64,
}

impl Endpoints {
    /// None, and at most `limit`.
    pub(super) fn new(limit: usize, path_label: PathLabel) -> Self {
        Self {
            limit,
            path_label,
            is_local: IsLocal::default(),
            places: HashMap::new(),
            endpoints: vec![Endpoint {
                labels: labels(OTHER, OTHER, Side::Unknown),
                tally: Tally::default(),
            }],
            keys: Vec::new(),
            idle: BTreeSet::new(),
            exceeded: 0,
        }
    }

    /// From now on addresses are told apart so.
    pub(super) fn set_local(&mut self, is_local: IsLocal) {
        self.is_local = is_local;
    }

    /// Counts something of an endpoint.
    pub(super) fn tally(&mut self, id: EndpointId) -> &mut Tally {
        &mut self.endpoints[id.0 as usize].tally
    }

    /// The endpoint of an attempt to open a WebSocket, or of one that was found. With `opens`, the
    /// place is its own from now on.
    pub(super) fn admit(&mut self, connection: &Connection, opens: bool) -> EndpointId {
        let key = self.key(connection);
        let place = match self.places.get(&key) {
            Some(&place) => place,
            None if self.keys.len() < self.limit => self.add(key),
            None => {
                self.exceeded += 1;
                if opens { self.replace_idle(key) } else { 0 }
            }
        };
        if opens {
            self.idle.remove(&place);
        }
        EndpointId(place as u32)
    }

    /// The endpoint of a connection that is not open, for what happens before and after. The place
    /// may be given to another later.
    pub(super) fn unopened(&mut self, connection: &Connection) -> EndpointId {
        let key = self.key(connection);
        let place = match self.places.get(&key) {
            Some(&place) => place,
            None if self.keys.len() < self.limit => self.add(key),
            None => 0,
        };
        EndpointId(place as u32)
    }

    /// How often there was no place of its own for an endpoint.
    pub(super) fn exceeded(&self) -> u64 {
        self.exceeded
    }

    /// What all of them have seen together.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for endpoint in &self.endpoints {
            endpoint.tally.add_to(&mut totals);
        }
        totals
    }

    /// A copy of all, as they are now, in no particular order.
    pub(super) fn snapshot(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    fn key(&self, connection: &Connection) -> Key {
        Key {
            server: connection.server,
            path: self.path_label.apply(connection.path.as_deref()).into(),
            side: self.side(connection),
        }
    }

    fn side(&self, connection: &Connection) -> Side {
        let is_here = |end: SocketAddr| (self.is_local.0)(end.ip());
        match (is_here(connection.client), is_here(connection.server)) {
            (true, true) => Side::Both,
            (true, false) => Side::Client,
            (false, true) => Side::Server,
            (false, false) => Side::Unknown,
        }
    }

    fn add(&mut self, key: Key) -> usize {
        let place = self.endpoints.len();
        self.endpoints.push(Endpoint {
            labels: key.labels(),
            tally: Tally::default(),
        });
        self.keys.push(key.clone());
        self.places.insert(key, place);
        self.idle.insert(place);
        place
    }

    fn replace_idle(&mut self, key: Key) -> usize {
        let Some(place) = self.idle.pop_first() else {
            return 0;
        };
        let newcomer = Endpoint {
            labels: key.labels(),
            tally: Tally::default(),
        };
        let gone = std::mem::replace(&mut self.endpoints[place], newcomer);
        self.endpoints[0].tally.absorb(&gone.tally);
        let gone = std::mem::replace(&mut self.keys[place - 1], key.clone());
        self.places.remove(&gone);
        self.places.insert(key, place);
        place
    }
}
