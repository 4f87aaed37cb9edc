//! What must hold of the events of any traffic, and of what is printed of them.

mod account;
mod exposition;
mod output;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use account::Account;
use output::Outputs;
use wstap::proto::{
    event::{CloseKind, Connection, Event, EventKind, Handshake, Rule, TcpCounts},
    flow::{ConnId, Direction},
    observer::{Config, Observer, Stats},
    time::Timestamp,
};

/// Bytes beyond [`Config::max_buffered`] that may be held: what a single step adds before it is
/// looked at.
const SLACK: u64 = 16 << 10;

/// An observer whose events are looked at as they come.
pub struct Judge {
    /// The observer.
    pub observer: Observer,
    config: Config,
    /// None where it is another run over the same bytes.
    outputs: Option<Outputs>,
    open: HashMap<ConnId, Account>,
    over: HashSet<ConnId>,
    /// Violations so far.
    broken: HashMap<(ConnId, Direction, Rule), u64>,
    counts: Counts,
    before: Stats,
    kept: Option<Vec<Event>>,
    /// The source says by itself what there was: what it says need not add up.
    trusts: bool,
}

/// Sums over all events.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    handshakes: u64,
    frames: u64,
    bytes: u64,
    messages: u64,
    violations: u64,
    closed: u64,
    evicted: u64,
    gaps: u64,
    resyncs: u64,
}

impl Judge {
    /// A new observer. It keeps events for [`Self::finish`] where `keep` says so.
    pub fn new(config: Config, keep: bool) -> Self {
        Self {
            observer: Observer::new(config.clone()),
            config,
            outputs: Some(Outputs::new()),
            open: HashMap::new(),
            over: HashSet::new(),
            broken: HashMap::new(),
            counts: Counts::default(),
            before: Stats::default(),
            kept: keep.then(Vec::new),
            trusts: false,
        }
    }

    /// From here on the source counts by itself, and may say what cannot be: no sums are held
    /// against its words, nor its words against what is printed.
    pub fn trust_source(&mut self) {
        self.trusts = true;
        self.outputs = None;
    }

    /// The same, of whose events nothing is printed: for another run over the same bytes.
    pub fn again(config: Config) -> Self {
        Self {
            outputs: None,
            ..Self::new(config, true)
        }
    }

    /// Takes the events that there are.
    pub fn look(&mut self) {
        while self.observer.poll_verdict().is_some() {}
        while let Some(event) = self.observer.poll_event() {
            self.event(&event);
            if let Some(outputs) = &mut self.outputs {
                outputs.event(&event);
            }
            if let Some(kept) = &mut self.kept {
                kept.push(event);
            }
        }
        self.weigh();
    }

    /// Ends the observation. The events, where they were kept.
    pub fn finish(mut self, now: Timestamp) -> Vec<Event> {
        let open = self.open.len() as u64;
        if let Some(outputs) = &self.outputs {
            outputs.scrape(now, &self.observer.stats(), &self.counts, open);
        }
        self.observer.finish(now);
        self.look();
        let ids: Vec<_> = self.open.keys().collect();
        assert!(ids.is_empty(), "opened and never closed: {ids:?}");
        let stats = self.observer.stats();
        assert_eq!((stats.tracked, stats.held), (0, 0), "memory at the end");
        if let Some(outputs) = self.outputs {
            outputs.finish(now, &stats, &self.counts);
        }
        self.kept.unwrap_or_default()
    }

    /// Memory and counters.
    fn weigh(&mut self) {
        let stats = self.observer.stats();
        let Self { config, counts, .. } = self;
        assert_eq!(stats.active, self.open.len() as u64, "WebSockets open");
        assert!(stats.active <= config.max_connections as u64);
        let most = config.max_connections + 2 * config.max_candidates;
        assert!(stats.tracked <= most as u64, "{} tracked", stats.tracked);
        assert!(
            stats.held <= config.max_buffered as u64 + SLACK,
            "{} bytes held back",
            stats.held
        );
        assert_eq!((stats.gaps, stats.resyncs), (counts.gaps, counts.resyncs));
        assert!(stats.frames_lost >= stats.gaps);
        // What a candidate that has to go holds back may be a handshake.
        let evictions = stats.exceeded.connections + stats.exceeded.candidates;
        assert!(counts.evicted <= evictions);
        for (before, now) in totals(&self.before).into_iter().zip(totals(&stats)) {
            assert!(before <= now, "{:?}, then {stats:?}", self.before);
        }
        self.before = stats;
    }

    fn event(&mut self, event: &Event) {
        let id = event.connection.id;
        assert!(!self.over.contains(&id), "after its close: {event:?}");
        self.counts.add(&event.kind);
        if let EventKind::Violation(violation) = &event.kind {
            let count = self.broken.entry((id, violation.direction, violation.rule));
            let count = count.or_default();
            *count += 1;
            assert_eq!(violation.count, *count, "{event:?}");
            assert!(violation.detail.is_empty() || violation.is_milestone());
        }
        if let EventKind::Handshake(handshake) = &event.kind {
            assert!(!self.open.contains_key(&id), "opened already: {event:?}");
            check_handshake(&event.connection, handshake);
            if event.connection.outcome.opens() {
                let account = Account::new(Arc::clone(&event.connection));
                self.open.insert(id, account);
            }
            return;
        }
        let Some(account) = self.open.get_mut(&id) else {
            // A request or an answer may be faulty before anything is opened.
            assert!(
                matches!(event.kind, EventKind::Violation(_)),
                "before its handshake: {event:?}"
            );
            return;
        };
        if !self.trusts {
            account.event(event, &self.config);
        }
        if let EventKind::Close(close) = &event.kind {
            if !self.trusts {
                account.close(event, close, &self.broken);
            }
            self.open.remove(&id);
            self.over.insert(id);
        }
    }
}

impl Counts {
    fn add(&mut self, event: &EventKind) {
        match event {
            EventKind::Handshake(_) => self.handshakes += 1,
            EventKind::Frame(_) => self.frames += 1,
            EventKind::Progress(progress) => self.bytes += progress.bytes,
            EventKind::Counted(_) => {}
            EventKind::Message(_) => self.messages += 1,
            EventKind::Violation(_) => self.violations += 1,
            EventKind::Gap(gap) => {
                assert!(gap.bytes > 0);
                self.gaps += 1;
                self.resyncs += u64::from(gap.resynced);
            }
            EventKind::Close(close) => {
                self.closed += 1;
                self.evicted += u64::from(close.kind == CloseKind::Evicted);
            }
        }
    }
}

/// What only grows.
fn totals(stats: &Stats) -> [u64; 16] {
    let Stats {
        segments,
        active: _,
        tracked: _,
        held: _,
        gaps,
        resyncs,
        frames_lost,
        walks_lost,
        unreadable_tls,
        conflicts,
        exceeded,
    } = *stats;
    [
        segments,
        gaps,
        resyncs,
        frames_lost,
        walks_lost,
        unreadable_tls,
        conflicts,
        exceeded.connections,
        exceeded.candidates,
        exceeded.buffered_per_direction,
        exceeded.buffered,
        exceeded.head,
        exceeded.pings,
        exceeded.inflated,
        exceeded.inflaters,
        exceeded.search,
    ]
}

fn check_handshake(connection: &Connection, handshake: &Handshake) {
    let outcome = connection.outcome.as_str();
    let said = (handshake.status, handshake.method.as_deref());
    match outcome {
        "accepted" | "invalid" => assert_eq!(said.0, Some(101)),
        "rejected" => assert!(said.0.is_some_and(|status| status / 100 != 1)),
        _ => assert_eq!(said.0, None, "{outcome}"),
    }
    assert!(said.1.is_none_or(|method| method == "GET"));
    assert_eq!(said.1.is_some(), connection.path.is_some());
    assert!(handshake.offered_subprotocols.len() <= 32);
}

/// Events without what depends on how the bytes were cut into segments: of a payload that goes by,
/// only the sum counts.
pub fn essence(events: Vec<Event>) -> Vec<(Arc<Connection>, EventKind)> {
    events
        .into_iter()
        .filter_map(|mut event| {
            if let EventKind::Progress(progress) = &mut event.kind {
                progress.total?;
                progress.bytes = 0;
            }
            Some((event.connection, event.kind))
        })
        .collect()
}

/// As [`essence`], without what depends on how the segments were sent, either.
pub fn essence_of_streams(events: Vec<Event>) -> Vec<(Arc<Connection>, EventKind)> {
    let mut essence = essence(events);
    for (_, kind) in &mut essence {
        if let EventKind::Close(close) = kind {
            for direction in Direction::BOTH {
                close.tcp[direction] = TcpCounts::default();
            }
        }
    }
    essence
}
