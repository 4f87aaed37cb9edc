//! What must hold of the events of any traffic.

use std::{collections::HashMap, sync::Arc};

use wstap::proto::{
    event::{Connection, Event, EventKind, OpcodeCounts},
    flow::{ConnId, Direction, PerDirection},
    observer::{Config, Observer},
    time::Timestamp,
};

/// Bytes beyond [`Config::max_buffered`] that may be held: what a single step adds before it is
/// looked at.
const SLACK: u64 = 1 << 20;

/// An observer whose events are looked at as they come.
pub struct Judge {
    /// The observer.
    pub observer: Observer,
    max_buffered: u64,
    open: HashMap<ConnId, Account>,
    over: HashMap<ConnId, Timestamp>,
    kept: Option<Vec<Event>>,
}

/// What one WebSocket's events have said so far.
#[derive(Default)]
struct Account {
    last_index: PerDirection<u64>,
    frames: PerDirection<OpcodeCounts>,
    bytes: PerDirection<OpcodeCounts>,
}

impl Judge {
    /// A new observer. It keeps events for [`Self::finish`] where `keep` says so.
    pub fn new(config: Config, keep: bool) -> Self {
        Self {
            max_buffered: config.max_buffered as u64,
            observer: Observer::new(config),
            open: HashMap::new(),
            over: HashMap::new(),
            kept: keep.then(Vec::new),
        }
    }

    /// Takes the events that there are.
    pub fn look(&mut self) {
        while self.observer.poll_verdict().is_some() {}
        while let Some(event) = self.observer.poll_event() {
            self.event(&event);
            if let Some(kept) = &mut self.kept {
                kept.push(event);
            }
        }
        let stats = self.observer.stats();
        assert_eq!(stats.active, self.open.len() as u64, "WebSockets open");
        assert!(
            stats.held <= self.max_buffered + SLACK,
            "{} bytes held back",
            stats.held
        );
    }

    /// Ends the observation. The events, where they were kept.
    pub fn finish(mut self, now: Timestamp) -> Vec<Event> {
        self.observer.finish(now);
        self.look();
        let ids: Vec<_> = self.open.keys().collect();
        assert!(ids.is_empty(), "opened and never closed: {ids:?}");
        let stats = self.observer.stats();
        assert_eq!((stats.tracked, stats.held), (0, 0), "memory at the end");
        self.kept.unwrap_or_default()
    }

    fn event(&mut self, event: &Event) {
        let id = event.connection.id;
        assert!(!self.over.contains_key(&id), "after its close: {event:?}");
        if let EventKind::Handshake(_) = event.kind {
            assert!(!self.open.contains_key(&id), "opened already: {event:?}");
            if event.connection.outcome.opens() {
                self.open.insert(id, Account::default());
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
        match &event.kind {
            EventKind::Frame(frame) => {
                let last = &mut account.last_index[frame.direction];
                assert_eq!(frame.index, *last + 1, "{event:?}");
                *last = frame.index;
                account.frames[frame.direction].add(frame.opcode, 1);
                assert_eq!(frame.opcode.bits() & !15, 0);
                assert_eq!(frame.rsv & !7, 0);
            }
            EventKind::Progress(progress) => {
                account.bytes[progress.direction].add(progress.opcode, progress.bytes);
            }
            EventKind::Message(message) => assert!(message.frames > 0, "{event:?}"),
            EventKind::Violation(violation) => assert!(violation.count > 0, "{event:?}"),
            EventKind::Gap(_) | EventKind::Handshake(_) => {}
            EventKind::Close(close) => {
                for direction in Direction::BOTH {
                    let (said, summed) = (close.frames[direction], account.frames[direction]);
                    assert_eq!(said, summed, "frames of {event:?}");
                    let (said, summed) = (close.bytes[direction], account.bytes[direction]);
                    assert_eq!(said, summed, "bytes of {event:?}");
                }
                self.open.remove(&id);
                self.over.insert(id, event.ts);
            }
        }
    }
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
