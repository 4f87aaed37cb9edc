//! Names for the ends of a connection: which pod or Service an address is, as far as somebody knows.
//!
//! Whoever knows implements [`PeerNames`]; the sinks that show names ask through it. A connection
//! keeps the names that it was given: an address may be another pod's by the time that the
//! connection ends.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::proto::{
    event::{Connection, Event, EventKind},
    flow::ConnId,
    time::Timestamp,
};

/// By how much a pod may be younger than a connection that is its own: the clocks are two, and the
/// pod's tells whole seconds.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// What has an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerKind {
    /// A pod.
    Pod,
    /// A Service, by its cluster address.
    Service,
}

/// Who has an address.
#[derive(Debug)]
pub struct Peer {
    /// What it is.
    pub kind: PeerKind,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its own name.
    pub name: Box<str>,
    /// What it belongs to: of a pod its Deployment or the like, empty where there is none; of a
    /// Service its own name.
    pub workload: Box<str>,
    /// When the pod was started, by the cluster's clock.
    pub since: Timestamp,
    gone: AtomicBool,
}

impl Peer {
    /// One that is there.
    #[must_use]
    pub fn new(
        kind: PeerKind,
        namespace: &str,
        name: &str,
        workload: &str,
        since: Timestamp,
    ) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
            workload: workload.into(),
            since,
            gone: AtomicBool::new(false),
        }
    }

    /// The pod's name; empty where this is none.
    #[must_use]
    pub fn pod(&self) -> &str {
        match self.kind {
            PeerKind::Pod => &self.name,
            PeerKind::Service => "",
        }
    }

    /// `namespace/name` of a peer that is of this kind.
    pub(super) fn shown(peer: &Option<Arc<Self>>, kind: PeerKind) -> Option<String> {
        let peer = peer.as_ref().filter(|peer| peer.kind == kind);
        peer.map(ToString::to_string)
    }

    /// Whether it is no more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// It is no more.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether a connection that was opened then may be its own.
    fn was_there(&self, opened: Timestamp) -> bool {
        self.since <= opened.saturating_add(CLOCK_SLACK)
    }
}

/// `namespace/name`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What whoever knows the names has to say of itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PeerCounts {
    /// Pods that are known by an address of their own.
    pub pods: u64,
    /// Times that listing or watching pods failed.
    pub pod_errors: u64,
    /// The same of Services.
    pub service_errors: u64,
    /// Times that a pod's workload could not be asked for, and was told from names.
    pub owners_guessed: u64,
    /// Times that there was no room for a pod.
    pub pods_exceeded: u64,
    /// Times that there was no room for a Service.
    pub services_exceeded: u64,
    /// Workloads that were forgotten to make room for others.
    pub owners_exceeded: u64,
}

/// Somebody who knows names. Asked on the path of events: an answer takes no longer than a look-up.
pub trait PeerNames: fmt::Debug + Send + Sync {
    /// Who has `address`, or had it until a moment ago.
    fn find(&self, address: IpAddr) -> Option<Arc<Peer>>;

    /// A number that changes whenever an address gets a name.
    fn generation(&self) -> u64;

    /// What there is to count.
    fn counts(&self) -> PeerCounts;
}

/// Names of both ends of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// The client's.
    pub client: Option<Arc<Peer>>,
    /// The server's.
    pub server: Option<Arc<Peer>>,
    /// What [`PeerNames::generation`] was when they were looked up.
    generation: u64,
}

impl Peers {
    /// The names that the ends have now. Who is gone opens nothing: an address of theirs is another's
    /// by now, whose name is still to come.
    #[must_use]
    pub fn find(names: &dyn PeerNames, connection: &Connection) -> Self {
        // Before the look-up: what changes meanwhile is looked up again.
        let generation = names.generation();
        let opens = connection.outcome.opens();
        let find = |address| (names.find(address)).filter(|peer| !(opens && peer.is_gone()));
        Self {
            client: find(connection.client.ip()),
            server: find(connection.server.ip()),
            generation,
        }
    }

    /// Looks for names that were not known when the connection was opened, if there is news. True if
    /// there is one. A pod that was started later than the connection has inherited the address, and is none of its
    /// ends.
    pub fn complete(&mut self, names: &dyn PeerNames, connection: &Connection) -> bool {
        if self.client.is_some() && self.server.is_some() {
            return false;
        }
        let generation = names.generation();
        if self.generation == generation {
            return false;
        }
        self.generation = generation;
        let mut found = false;
        for (peer, end) in [
            (&mut self.client, connection.client),
            (&mut self.server, connection.server),
        ] {
            if peer.is_none() {
                *peer = (names.find(end.ip())).filter(|peer| peer.was_there(connection.opened));
                found |= peer.is_some();
            }
        }
        found
    }

    /// Whether these are the very same peers.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Peer>>, b: &Option<Arc<Peer>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same(&self.client, &other.client) && same(&self.server, &other.server)
    }
}

/// Names of open connections, for a sink that remembers no connections otherwise. It has to be shown
/// every event: at the end of a connection its names are forgotten.
#[derive(Debug)]
pub struct Naming {
    names: Arc<dyn PeerNames>,
    open: HashMap<ConnId, Peers>,
}

impl Naming {
    /// Asks `names`.
    #[must_use]
    pub fn new(names: Arc<dyn PeerNames>) -> Self {
        Self {
            names,
            open: HashMap::new(),
        }
    }

    /// The names of the ends of an event's connection.
    pub fn follow(&mut self, event: &Event) -> Peers {
        let connection = &event.connection;
        match &event.kind {
            EventKind::Handshake(_) if connection.outcome.opens() => {
                let peers = Peers::find(&*self.names, connection);
                self.open.insert(connection.id, peers.clone());
                peers
            }
            EventKind::Close(_) => {
                let peers = self.open.remove(&connection.id);
                peers.unwrap_or_else(|| Peers::find(&*self.names, connection))
            }
            _ => match self.open.get_mut(&connection.id) {
                Some(peers) => {
                    peers.complete(&*self.names, connection);
                    peers.clone()
                }
                None => Peers::find(&*self.names, connection),
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::sink::sample;

    /// Names that a test gives and takes.
    #[derive(Debug, Default)]
    pub(in crate::sink) struct Known(Mutex<(HashMap<IpAddr, Arc<Peer>>, u64)>);

    impl Known {
        pub(in crate::sink) fn give(&self, address: &str, peer: Peer) -> Arc<Peer> {
            let peer = Arc::new(peer);
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.0.insert(address.parse().unwrap(), Arc::clone(&peer));
            known.1 += 1;
            peer
        }

        pub(in crate::sink) fn take(&self, address: &str) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(peer) = known.0.remove(&address.parse().unwrap()) {
                peer.leave();
            }
        }
    }

    impl PeerNames for Known {
        fn find(&self, address: IpAddr) -> Option<Arc<Peer>> {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.0.get(&address).cloned()
        }

        fn generation(&self) -> u64 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1
        }

        fn counts(&self) -> PeerCounts {
            PeerCounts {
                pods: 2,
                pod_errors: 1,
                ..PeerCounts::default()
            }
        }
    }

    pub(in crate::sink) fn pod(name: &str, workload: &str, since: Timestamp) -> Peer {
        Peer::new(PeerKind::Pod, "shop", name, workload, since)
    }

    fn client(peers: &Peers) -> Option<String> {
        peers.client.as_ref().map(ToString::to_string)
    }

    #[test]
    fn a_connection_keeps_its_names() {
        let known = Arc::new(Known::default());
        let mut naming = Naming::new(Arc::clone(&known) as Arc<dyn PeerNames>);
        known.give("192.0.2.1", pod("a", "", Timestamp(0)));
        let opened = naming.follow(&sample::event(sample::handshake()));
        assert_eq!(client(&opened).as_deref(), Some("shop/a"));
        known.take("192.0.2.1");
        known.give("192.0.2.1", pod("b", "", sample::TS));
        for kind in [sample::gap(true), sample::close(1000, "")] {
            let peers = naming.follow(&sample::event(kind));
            assert_eq!(client(&peers).as_deref(), Some("shop/a"));
        }
        assert!(naming.open.is_empty());
    }

    #[test]
    fn a_name_that_comes_late_is_given_to_whoever_was_there() {
        let known = Arc::new(Known::default());
        let mut naming = Naming::new(Arc::clone(&known) as Arc<dyn PeerNames>);
        let opened = naming.follow(&sample::event(sample::handshake()));
        assert_eq!(client(&opened), None);
        let later = sample::TS.saturating_add(Duration::from_secs(60));
        known.give("192.0.2.1", pod("heir", "", later));
        let gap = || sample::event(sample::gap(true));
        assert_eq!(client(&naming.follow(&gap())), None);
        known.give("192.0.2.1", pod("late", "", sample::TS));
        assert_eq!(client(&naming.follow(&gap())).as_deref(), Some("shop/late"));
    }
}
