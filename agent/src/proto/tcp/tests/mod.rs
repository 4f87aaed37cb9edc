//! One test a behaviour; the names say which. Here is what they are written with.

use std::time::Duration;

use super::*;
use crate::proto::{
    flow::FlowKey,
    segment::{TcpFlags, Window},
};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

pub(super) const PATIENCE: Duration = Duration::from_secs(1);
pub(super) const SECOND: u64 = 1_000_000_000;

pub(super) const LIMITS: Limits = Limits {
    buffered_per_direction: 4 << 20,
    buffered_total: 256 << 20,
    gap_patience: PATIENCE,
    causal_order: false,
};

pub(super) const CAUSAL: Limits = Limits {
    causal_order: true,
    ..LIMITS
};

mod incarnation;
mod reassembly;
mod waiting;

/// A segment that owns what it carries.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) side: usize,
    pub(super) ts: u64,
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) len: u32,
    pub(super) behind: u32,
    pub(super) windows: Vec<(u32, Vec<u8>)>,
}

pub(super) fn wire(side: usize, ts: u64, flags: u8, seq: u32, payload: &[u8]) -> Wire {
    Wire {
        side,
        ts,
        seq,
        ack: None,
        flags,
        window: 1000,
        len: payload.len() as u32,
        behind: 0,
        windows: vec![(0, payload.to_vec())],
    }
}

impl Wire {
    pub(super) fn ack(mut self, ack: u32) -> Self {
        self.ack = Some(ack);
        self.flags |= ACK;
        self
    }

    pub(super) fn windows(mut self, len: u32, windows: &[(u32, &[u8])]) -> Self {
        self.len = len;
        self.windows = windows.iter().map(|&(at, b)| (at, b.to_vec())).collect();
        self
    }

    pub(super) fn behind(mut self, behind: u32) -> Self {
        self.behind = behind;
        self
    }

    pub(super) fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }
}

/// What a stream yielded, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Got {
    Bytes(usize, u64, u64, Vec<u8>, bool),
    Missing(usize, u64, u64, u64, bool),
    Fin(usize, u64),
    Reset(usize, u64),
    Restart(usize, u64),
}

pub(super) struct Bench {
    pub(super) flow: TcpFlow,
    pub(super) limits: Limits,
    pub(super) shared: Shared,
    pub(super) got: Vec<Got>,
}

fn record(got: &mut Vec<Got>) -> impl FnMut(StreamEvent<'_>) {
    |event| {
        got.push(match event {
            StreamEvent::Bytes {
                side,
                ts,
                offset,
                bytes,
                starts_segment,
                ..
            } => Got::Bytes(side, ts.0, offset, bytes.to_vec(), starts_segment),
            StreamEvent::Missing {
                side,
                ts,
                offset,
                len,
                lost,
            } => Got::Missing(side, ts.0, offset, len, lost),
            StreamEvent::Fin { side, ts } => Got::Fin(side, ts.0),
            StreamEvent::Reset { side, ts } => Got::Reset(side, ts.0),
            StreamEvent::Restart { side, ts } => Got::Restart(side, ts.0),
        });
    }
}

impl Bench {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            flow: TcpFlow::new(),
            limits,
            shared: Shared::default(),
            got: Vec::new(),
        }
    }

    /// Both SYNs seen: side 0 sends from 100 on, side 1 from 500 on.
    pub(super) fn open(limits: Limits) -> Self {
        let mut bench = Self::new(limits);
        bench.send(wire(0, 0, SYN, 99, b""));
        bench.send(wire(1, 0, SYN, 499, b"").ack(100));
        bench.expect(&[]);
        bench
    }

    #[allow(clippy::needless_pass_by_value)]
    pub(super) fn send(&mut self, wire: Wire) {
        let ends = [
            "10.0.0.1:1000".parse().expect("an address"),
            "10.0.0.2:80".parse().expect("an address"),
        ];
        let windows: Vec<_> = wire
            .windows
            .iter()
            .map(|(offset, bytes)| Window {
                offset: *offset,
                bytes,
            })
            .collect();
        let segment = Segment {
            ts: Timestamp(wire.ts),
            source: ends[wire.side],
            destination: ends[1 - wire.side],
            seq: SeqNumber(wire.seq),
            ack: wire.ack.map(SeqNumber),
            flags: TcpFlags(wire.flags),
            window: wire.window,
            len: wire.len,
            behind: wire.behind,
            windows: &windows,
            interface: None,
            scope: 0,
            epoch: 0,
        };
        let (_, side) = FlowKey::new(segment.source, segment.destination, 0);
        let deliver = &mut record(&mut self.got);
        let (limits, shared) = (&self.limits, &mut self.shared);
        self.flow
            .handle_segment(side, &segment, limits, shared, deliver);
    }

    pub(super) fn timeout(&mut self, now: u64) {
        let deliver = &mut record(&mut self.got);
        let (limits, shared) = (&self.limits, &mut self.shared);
        self.flow
            .handle_timeout(Timestamp(now), limits, shared, deliver);
    }

    pub(super) fn flush(&mut self) {
        let deliver = &mut record(&mut self.got);
        let (limits, shared) = (&self.limits, &mut self.shared);
        self.flow.flush(limits, shared, deliver);
    }

    #[track_caller]
    pub(super) fn expect(&mut self, expected: &[Got]) {
        assert_eq!(std::mem::take(&mut self.got), expected);
    }

    pub(super) fn counts(&self, side: usize) -> (u64, u64, u64, u64) {
        let counts = self.flow.counts(side);
        (
            counts.retransmitted,
            counts.out_of_order,
            counts.keepalive_probes,
            counts.zero_windows,
        )
    }
}

pub(super) fn bytes(side: usize, ts: u64, offset: u64, bytes: &[u8]) -> Got {
    Got::Bytes(side, ts, offset, bytes.to_vec(), true)
}

pub(super) fn rest(side: usize, ts: u64, offset: u64, bytes: &[u8]) -> Got {
    Got::Bytes(side, ts, offset, bytes.to_vec(), false)
}

pub(super) fn lost(side: usize, ts: u64, offset: u64, len: u64) -> Got {
    Got::Missing(side, ts, offset, len, true)
}

pub(super) fn uncaptured(side: usize, ts: u64, offset: u64, len: u64) -> Got {
    Got::Missing(side, ts, offset, len, false)
}
