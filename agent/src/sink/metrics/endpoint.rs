//! Endpoints: what the series of many WebSockets share, and the bound on their number.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    exposition,
    names::{PEER_LABELS, Scope},
    path::PathLabel,
    series::Live,
    tally::{Tally, Totals},
};
use crate::{
    proto::{event::Connection, time::Timestamp},
    sink::peer::{Peer, PeerKind, PeerNames, Peers},
};

/// What stands in every label but `side` for the endpoints beyond the bound.
const OTHER: &str = "other";

/// Between two searches for endpoints that may go, where there is no room for a new one.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// Values of [`PEER_LABELS`], in their order.
type PeerValues = [Box<str>; PEER_LABELS.len()];

/// What tells endpoints apart. All labels follow from it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    server: SocketAddr,
    path: String,
    side: Side,
    /// Where there are names.
    peers: Option<Box<PeerValues>>,
}

impl Key {
    fn labels(&self) -> String {
        let server = self.server.to_string();
        labels(&server, &self.path, self.side, self.peers.as_deref())
    }
}

/// Renders the labels of an endpoint.
fn labels(server: &str, path: &str, side: Side, peers: Option<&PeerValues>) -> String {
    let mut names = Scope::Endpoint.labels().to_vec();
    let side = side.as_str();
    let mut values: Vec<&dyn Display> = vec![&server, &path, &side];
    if let Some(peers) = peers {
        names.extend(PEER_LABELS);
        values.extend(peers.iter().map(|value| value as &dyn Display));
    }
    exposition::labels(&names, &values)
}

fn peer_values(peers: &Peers) -> PeerValues {
    let of = |peer: &Option<Arc<Peer>>, value: fn(&Peer) -> &str| -> Box<str> {
        peer.as_deref().map_or("", value).into()
    };
    [
        of(&peers.server, |peer| &peer.namespace),
        of(&peers.server, Peer::pod),
        of(&peers.server, |peer| &peer.workload),
        of(&peers.client, |peer| &peer.namespace),
        of(&peers.client, |peer| &peer.workload),
    ]
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
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoint {
    /// Its labels, rendered.
    pub(super) labels: String,
    /// What was counted.
    pub(super) tally: Tally,
}

/// Where an endpoint is in [`Endpoints`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct EndpointId(u32);

/// Who has a place.
#[derive(Debug)]
struct Holder {
    key: Key,
    /// Who was last seen there.
    peers: Peers,
    /// When its pod was first found to be gone, with no connection open.
    left: Option<Timestamp>,
}

/// What is gone of an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Gone {
    /// The pod that was its server: nothing will ever be counted here again.
    Server,
    /// A pod that was a client of a server that is no pod of this node. Another of the same workload may come.
    Client,
}

impl Holder {
    fn gone(&self) -> Option<Gone> {
        let is_gone = |peer: &Option<Arc<Peer>>| {
            let pod = peer.as_ref().filter(|peer| peer.kind == PeerKind::Pod)?;
            Some(pod.is_gone())
        };
        match (is_gone(&self.peers.server), is_gone(&self.peers.client)) {
            (Some(true), _) => Some(Gone::Server),
            (None, Some(true)) => Some(Gone::Client),
            _ => None,
        }
    }
}

/// All endpoints.
///
/// When they are too many, a newcomer takes the place of one whose pod is gone; with a WebSocket, that of
/// one that never had any: whoever tries out paths and is refused does not push the working ones out.
#[derive(Debug)]
pub(super) struct Endpoints {
    limit: usize,
    path_label: PathLabel,
    /// How long series stay after their pod is gone.
    linger: Duration,
    is_local: IsLocal,
    names: Option<Arc<dyn PeerNames>>,
    places: HashMap<Key, usize>,
    /// The first is what is beyond the bound.
    endpoints: Vec<Endpoint>,
    /// By place in `endpoints`, less one; `None` where the place is nobody's.
    holders: Vec<Option<Holder>>,
    free: BTreeSet<usize>,
    /// Places of those that never had a WebSocket.
    idle: BTreeSet<usize>,
    exceeded: u64,
    gone: u64,
    /// What those have seen that are gone.
    seen: Totals,
    next_search: Timestamp,
}

impl Endpoints {
    /// None, and at most `limit`.
    pub(super) fn new(limit: usize, path_label: PathLabel, linger: Duration) -> Self {
        Self {
            limit,
            path_label,
            linger,
            is_local: IsLocal::default(),
            names: None,
            places: HashMap::new(),
            endpoints: vec![Endpoint {
                labels: labels(OTHER, OTHER, Side::Unknown, None),
                tally: Tally::default(),
            }],
            holders: Vec::new(),
            free: BTreeSet::new(),
            idle: BTreeSet::new(),
            exceeded: 0,
            gone: 0,
            seen: Totals::default(),
            next_search: Timestamp::default(),
        }
    }

    /// From now on addresses are told apart so.
    pub(super) fn set_local(&mut self, is_local: IsLocal) {
        self.is_local = is_local;
    }

    /// From now on endpoints have labels with names. To be said before there are any.
    pub(super) fn set_names(&mut self, names: Arc<dyn PeerNames>) {
        let other: PeerValues = std::array::from_fn(|_| OTHER.into());
        self.endpoints[0].labels = labels(OTHER, OTHER, Side::Unknown, Some(&other));
        self.names = Some(names);
    }

    /// Counts something of an endpoint.
    pub(super) fn tally(&mut self, id: EndpointId) -> &mut Tally {
        &mut self.endpoints[id.0 as usize].tally
    }

    /// The names of the ends of a connection, as they are now.
    pub(super) fn peers(&self, connection: &Connection) -> Peers {
        let names = self.names.as_deref();
        names.map_or_else(Peers::default, |names| Peers::find(names, connection))
    }

    /// The endpoint of an attempt to open a WebSocket, or of one that was found. With `opens`, the
    /// place is its own from now on.
    pub(super) fn admit(
        &mut self,
        connection: &Connection,
        peers: &Peers,
        opens: bool,
        now: Timestamp,
    ) -> EndpointId {
        let key = self.key(connection, peers);
        let place = match self.places.get(&key).copied() {
            Some(place) => place,
            None if self.has_room() || self.make_room(now) => self.add(key, peers),
            None => {
                self.exceeded += 1;
                if opens {
                    self.replace_idle(key, peers)
                } else {
                    0
                }
            }
        };
        if let Some(holder) = self.holder(place) {
            // Another pod of the same workload, or the same pod anew.
            holder.peers = peers.clone();
            holder.left = None;
        }
        if opens {
            self.idle.remove(&place);
        }
        EndpointId(place as u32)
    }

    /// The endpoint of a connection that is not open, for what happens before and after. The place
    /// may be given to another later.
    pub(super) fn unopened(&mut self, connection: &Connection, peers: &Peers) -> EndpointId {
        let key = self.key(connection, peers);
        let place = match self.places.get(&key) {
            Some(&place) => place,
            None if self.has_room() => self.add(key, peers),
            None => 0,
        };
        EndpointId(place as u32)
    }

    /// Gives an open connection the names that were not known when it was opened. It counts as open,
    /// and goes on being counted, with them; what was counted stays where it is.
    pub(super) fn name_late(&mut self, live: &mut Live, now: Timestamp) {
        let Some(names) = &self.names else {
            return;
        };
        if !live.peers.complete(&**names, &live.connection) {
            return;
        }
        self.tally(live.endpoint).ended();
        live.endpoint = self.admit(&live.connection, &live.peers, true, now);
        self.tally(live.endpoint).opened();
    }

    /// How often there was no place of its own for an endpoint.
    pub(super) fn exceeded(&self) -> u64 {
        self.exceeded
    }

    /// How many went after their pods.
    pub(super) fn gone(&self) -> u64 {
        self.gone
    }

    /// What all of them have seen together.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.seen;
        for endpoint in &self.endpoints {
            endpoint.tally.add_to(&mut totals);
        }
        totals
    }

    /// A copy of all, as they are now, in no particular order.
    pub(super) fn snapshot(&self) -> Vec<Endpoint> {
        let places = self.endpoints.iter().enumerate();
        let taken = places.filter(|(place, _)| !self.free.contains(place));
        taken.map(|(_, endpoint)| endpoint.clone()).collect()
    }

    /// Lets go of endpoints whose server was a pod that has been gone for long, where nothing is
    /// open. To be called behind [`Self::snapshot`]: what was counted last is to be seen.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.search(now, |gone| gone == Gone::Server);
    }

    /// Lets go of endpoints whose pod is gone, whichever it was, because others need the room. True if
    /// there is some.
    fn make_room(&mut self, now: Timestamp) -> bool {
        if self.names.is_none() || now < self.next_search {
            return false;
        }
        self.next_search = now.saturating_add(SEARCH_INTERVAL);
        self.search(now, |_| true);
        self.has_room()
    }

    fn search(&mut self, now: Timestamp, goes: impl Fn(Gone) -> bool) {
        if self.names.is_none() {
            return;
        }
        for place in 1..=self.holders.len() {
            let is_open = self.endpoints[place].tally.is_open();
            let linger = self.linger;
            let Some(holder) = self.holder(place) else {
                continue;
            };
            let Some(gone) = holder.gone().filter(|_| !is_open) else {
                holder.left = None;
                continue;
            };
            let left = *holder.left.get_or_insert(now);
            if goes(gone) && now >= left.saturating_add(linger) {
                self.remove(place);
            }
        }
    }

    fn key(&self, connection: &Connection, peers: &Peers) -> Key {
        Key {
            server: connection.server,
            path: self.path_label.apply(connection.path.as_deref()).into(),
            side: self.side(connection),
            peers: self.names.is_some().then(|| Box::new(peer_values(peers))),
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

    fn has_room(&self) -> bool {
        self.places.len() < self.limit
    }

    fn holder(&mut self, place: usize) -> Option<&mut Holder> {
        self.holders.get_mut(place.checked_sub(1)?)?.as_mut()
    }

    fn add(&mut self, key: Key, peers: &Peers) -> usize {
        let place = self.free.pop_first().unwrap_or_else(|| {
            self.endpoints.push(Endpoint::default());
            self.holders.push(None);
            self.holders.len()
        });
        self.endpoints[place].labels = key.labels();
        self.holders[place - 1] = Some(Holder {
            key: key.clone(),
            peers: peers.clone(),
            left: None,
        });
        self.places.insert(key, place);
        self.idle.insert(place);
        place
    }

    /// Takes an endpoint's place from it: what it has counted.
    fn vacate(&mut self, place: usize) -> Tally {
        if let Some(holder) = self.holders[place - 1].take() {
            self.places.remove(&holder.key);
        }
        self.idle.remove(&place);
        self.free.insert(place);
        std::mem::take(&mut self.endpoints[place]).tally
    }

    fn remove(&mut self, place: usize) {
        let tally = self.vacate(place);
        tally.add_to(&mut self.seen);
        self.gone += 1;
    }

    fn replace_idle(&mut self, key: Key, peers: &Peers) -> usize {
        let Some(&place) = self.idle.first() else {
            return 0;
        };
        let tally = self.vacate(place);
        self.endpoints[0].tally.absorb(&tally);
        self.add(key, peers)
    }
}
