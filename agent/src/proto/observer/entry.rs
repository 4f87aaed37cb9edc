//! A connection in the observer's table.

use super::{doze::Dozing, walks::Walks};
use crate::proto::{
    event::TcpCounts, flow::FlowKey, segment::Segment, seq::SeqNumber, session::Session,
    tcp::TcpFlow, time::Timestamp,
};

/// A TCP connection.
#[derive(Debug)]
pub(super) struct Entry {
    /// [`Segment::epoch`] of the last segment.
    pub(super) epoch: u32,
    /// Place in the order in which connections were first seen.
    pub(super) born: u64,
    /// Sequence numbers of the SYNs, by side.
    pub(super) syn: [Option<SeqNumber>; 2],
    pub(super) timer: Option<Timestamp>,
    /// When the source was told last that nothing more is wanted.
    pub(super) told: Timestamp,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    Live(Box<Live>),
    /// Live, and silent.
    Dozing(Box<Dozing>),
    /// Nothing more is wanted of it.
    Ignored,
    /// It is over; what still comes is late until then.
    Over {
        until: Timestamp,
    },
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) tcp: TcpFlow,
    pub(super) session: Session,
    pub(super) walks: Option<Box<Walks>>,
}

impl Live {
    pub(super) fn new(key: &FlowKey, interface: Option<u32>) -> Box<Self> {
        Box::new(Self {
            tcp: TcpFlow::new(),
            session: Session::new(key.ends, interface),
            walks: None,
        })
    }

    pub(super) fn counts(&self) -> [TcpCounts; 2] {
        [self.tcp.counts(0), self.tcp.counts(1)]
    }
}

impl Entry {
    /// The parts of a connection that is live and has tallies.
    pub(super) fn walked(&mut self) -> Option<(&mut TcpFlow, &mut Session, &mut Walks)> {
        let State::Live(live) = &mut self.state else {
            return None;
        };
        let walks = live.walks.as_mut()?;
        Some((&mut live.tcp, &mut live.session, walks))
    }

    /// Whether `segment`, sent by `side`, belongs to a later connection than this one, which is over
    /// or unwanted.
    pub(super) fn is_followed_by(&self, side: usize, segment: &Segment<'_>) -> bool {
        if segment.flags.syn() {
            return self.syn[side] != Some(segment.seq);
        }
        match self.state {
            State::Over { until } => segment.len > 0 && segment.ts > until,
            _ => false,
        }
    }
}
