//! From the ring buffer to segments, and verdicts back to the kernel program.

use std::{
    cell::Cell,
    collections::HashSet,
    os::{fd::AsFd as _, unix::net::UnixStream},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use wstap_common::{
    flow::{self, CursorKey, FlowKey, Followed, Verdict},
    record::{
        DecodeError, RECORD_ARMING, RECORD_LOST, RECORD_RESUMED, RECORD_TRIAL, RECORD_WALK,
        RecordHeader, Walk as WalkRecord,
    },
    tally::element,
};

use super::{
    clock::{Clock, monotonic},
    program::{Cursors, Flows, Verdicts},
    slots::Slots,
    tallies::{Pairs, Tallies},
};
use crate::proto::{
    frame::Opcode,
    observer::{self, Decision},
    segment::{Segment, TcpFlags, Window},
    seq::SeqNumber,
    time::Timestamp,
    walk::{self, Entry, MessageState, Place, Sample, Walk},
};

/// Entries that [`Reader::sweep`] looks at in one go.
const SWEEP_STEP: usize = 4096;

/// Of TCP.
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// Reads records and answers with verdicts.
pub struct Reader {
    ring: RingBuf<MapData>,
    flows: Flows,
    verdicts: Verdicts,
    cursors: Cursors,
    pairs: Pairs,
    slots: Slots,
    clock: Clock,
    undecodable: u64,
    cut: u64,
}

/// What a record says.
pub enum Record<'a> {
    /// A segment, or a piece of one.
    Sample(&'a Segment<'a>, Sample),
    /// What the program has found in a segment.
    Walk(&'a Walk<'a>, &'a mut dyn Iterator<Item = Entry<'a>>),
}

/// What woke the reader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    /// Records, or the time is up.
    Records,
    /// The other end of the stop channel is closed.
    Stop,
}

impl Reader {
    pub(super) fn new(
        ring: RingBuf<MapData>,
        flows: Flows,
        verdicts: Verdicts,
        cursors: Cursors,
        pairs: Pairs,
        slots: Slots,
    ) -> Self {
        Self {
            ring,
            flows,
            verdicts,
            cursors,
            pairs,
            slots,
            clock: Clock::new(),
            undecodable: 0,
            cut: 0,
        }
    }

    /// The tallies of the flows that are followed.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        self.pairs.tallies(self.clock.face())
    }

    /// Waits for records, at most for `timeout`.
    ///
    /// # Errors
    ///
    /// The descriptors cannot be waited for.
    pub fn wait(&self, timeout: Duration, stop: &UnixStream) -> std::io::Result<Woken> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ring.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(match fds[0].any() {
            Some(true) => Woken::Stop,
            _ => Woken::Records,
        })
    }

    /// Hands over what the records say that are there, at most `limit`, each with no copy made, as long
    /// as `take` wants more; how many.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(Record<'_>) -> bool) -> usize {
        self.pairs.fill();
        let pairs = &self.pairs;
        self.slots.reclaim(|pair, epoch| pairs.are_of(pair, epoch));
        let mut records = 0;
        let wants_more = Cell::new(true);
        let mut take = |record: Record<'_>| wants_more.set(take(record));
        while records < limit && wants_more.get() {
            let Some(record) = self.ring.next() else {
                break;
            };
            records += 1;
            match with_record(&record, &self.clock, &mut take) {
                Ok(cut) => self.cut = self.cut.saturating_add(cut.into()),
                Err(error) => undecodable(&mut self.undecodable, error),
            }
        }
        records
    }

    /// The time of day now, by the clock of the segments.
    pub fn now(&mut self) -> Timestamp {
        self.clock.now()
    }

    /// Records that were none: the program and the agent are of different makes.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Segments that were longer than the snap length.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Tells the program what the observer has decided.
    pub fn apply(&mut self, verdict: &observer::Verdict) {
        // 0 is no incarnation's number.
        if verdict.epoch == 0 {
            return;
        }
        let [a, b] = verdict.flow.ends;
        let (key, _) = FlowKey::from_socket_addrs(a, b, verdict.flow.scope);
        let decision = match verdict.decision {
            Decision::Follow => Some(Verdict::FOLLOW),
            Decision::Rejected => Some(Verdict::REJECTED),
            Decision::Ignore | Decision::Ended => Some(Verdict::IGNORE),
            // The program follows it again when it speaks.
            Decision::Idle => None,
        };
        if let Some(decision) = decision {
            let value = Verdict {
                epoch: verdict.epoch,
                decision,
            };
            // An LRU map makes room for itself.
            if let Err(error) = self.verdicts.insert(key, value, 0) {
                log::warn!("telling the kernel program of a verdict: {error}");
            }
        }
        // After the verdict: what is followed no more and not unwanted is followed anew. The program
        // follows whatever switches protocols, so that what is ignored may be among the followed.
        if matches!(decision, None | Some(Verdict::IGNORE)) {
            self.forget(&key, |flow| flow.epoch == verdict.epoch);
            // The program may have removed it by itself, for the next connection of the same key.
            if !self.is_followed(&key, verdict.epoch) {
                self.pairs.release(verdict.tally, verdict.epoch);
            }
        }
    }

    /// Tells the program where a direction goes on whose place it has lost.
    pub fn place(&mut self, cursor: &walk::Cursor) {
        let ends = cursor.flow.ends;
        let (source, destination) = (ends[cursor.side & 1], ends[1 - (cursor.side & 1)]);
        let scope = cursor.flow.scope;
        let (flow, sender) = FlowKey::from_socket_addrs(source, destination, scope);
        let key = CursorKey {
            flow,
            sender: sender as u32,
        };
        let (state, message_len, message_frames) = match cursor.place.message {
            MessageState::Between => (0, 0, 0),
            MessageState::Unknown => (flow::state::UNKNOWN, 0, 0),
            MessageState::Within {
                opcode,
                compressed,
                frames,
                len,
            } => {
                let compressed = if compressed {
                    flow::state::COMPRESSED
                } else {
                    0
                };
                (opcode.bits() | compressed, len, frames)
            }
        };
        let closed = if cursor.place.closed {
            flow::state::CLOSED
        } else {
            0
        };
        let client = if cursor.is_client { sender } else { 1 - sender };
        let compresses = if cursor.compresses {
            flow::flag::DEFLATE
        } else {
            0
        };
        let value = flow::Cursor {
            epoch: cursor.epoch,
            next: cursor.next.0,
            message_len,
            message_frames,
            frames: cursor.place.index,
            version: cursor.version,
            state: u32::from(state | closed) | (client as u32 | compresses) << 8,
        };
        // An LRU map makes room for itself.
        if let Err(error) = self.cursors.insert(key, value, 0) {
            log::warn!("telling the kernel program of a place: {error}");
        }
    }

    /// Removes followed flows that have been silent for longer than `idle`: the observer has ended
    /// such connections, or never knew them because their records were lost. A map of a hundred
    /// thousand flows takes some tens of milliseconds; how many were removed.
    pub fn sweep(&mut self, idle: Duration) -> usize {
        let idle = u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX);
        let Some(limit) = monotonic().checked_sub(idle) else {
            return 0;
        };
        // Collected first: removing an element while its successor is asked for begins anew.
        let mut silent = Vec::new();
        let mut owned = HashSet::new();
        for (key, flow) in self.flows.iter().filter_map(Result::ok) {
            owned.insert(flow.tally);
            if flow.last_seen < limit && silent.len() < SWEEP_STEP {
                silent.push(key);
            }
        }
        self.pairs.sweep(&owned);
        let mut removed = 0;
        for key in silent {
            removed += usize::from(self.forget(&key, |flow| flow.last_seen < limit));
        }
        removed
    }

    /// Removes a followed flow if it is the one that is meant; the key may be another's by now. If it
    /// becomes another's this very moment, that one is removed, and followed again as soon as it
    /// speaks.
    fn forget(&mut self, key: &FlowKey, is_meant: impl FnOnce(&Followed) -> bool) -> bool {
        match self.flows.get(key, 0) {
            Ok(flow) if is_meant(&flow) && self.flows.remove(key).is_ok() => {
                self.pairs.release(element(flow.tally, 0), flow.epoch);
                true
            }
            _ => false,
        }
    }

    fn is_followed(&self, key: &FlowKey, epoch: u32) -> bool {
        self.flows.get(key, 0).is_ok_and(|flow| flow.epoch == epoch)
    }
}

/// Lets time pass.
///
/// # Errors
///
/// The descriptor cannot be waited for.
pub fn pause(timeout: Duration, stop: &UnixStream) -> std::io::Result<Woken> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(0) | Err(Errno::EINTR) => Ok(Woken::Records),
        Ok(_) => Ok(Woken::Stop),
        Err(error) => Err(error.into()),
    }
}

/// Hands over what a record of the ring buffer says, with no copy made; whether it is of a segment
/// that was longer than what was copied of it.
///
/// # Errors
///
/// [`DecodeError`] where the bytes are no record.
pub fn with_record(
    record: &[u8],
    clock: &Clock,
    take: &mut impl FnMut(Record<'_>),
) -> Result<bool, DecodeError> {
    let (header, body) = RecordHeader::decode(record)?;
    if matches!(header.kind, RECORD_WALK | RECORD_LOST | RECORD_RESUMED) {
        with_walk(&header, &WalkRecord::decode(body)?, clock, take);
        return Ok(false);
    }
    with_segment(&header, body, clock, take);
    Ok(header.captured < header.len)
}

/// Hands over a decoded record as the segment that it is.
fn with_segment(
    header: &RecordHeader,
    captured: &[u8],
    clock: &Clock,
    take: &mut impl FnMut(Record<'_>),
) {
    let mut segment = bare(header, clock);
    let mut captured = captured;
    let mut sample = Sample {
        tally: tally_of(header),
        boundary: None,
        is_trial: header.kind == RECORD_TRIAL,
    };
    if header.kind == RECORD_ARMING {
        let syn = u32::from(segment.flags.syn());
        let before = (header.boundary).wrapping_sub(header.seq.wrapping_add(syn));
        if before.cast_signed() <= 0 && segment.len > 0 {
            // A further piece of the segment.
            return;
        }
        if before < segment.len {
            segment.behind = segment.len - before;
            segment.len = before;
            captured = captured.get(..before as usize).unwrap_or(captured);
            // What ends behind the boundary ends in a walk.
            segment.flags = TcpFlags(segment.flags.0 & !(FIN | RST));
        }
        sample.boundary = Some(SeqNumber(header.boundary));
    } else {
        segment.behind = header.boundary;
    }
    let window = [Window {
        offset: 0,
        bytes: captured,
    }];
    segment.windows = if captured.is_empty() { &[] } else { &window };
    take(Record::Sample(&segment, sample));
}

/// Hands over what the program has found in a segment.
fn with_walk(
    header: &RecordHeader,
    record: &WalkRecord<'_>,
    clock: &Clock,
    take: &mut impl FnMut(Record<'_>),
) {
    let of = &record.header;
    let [state, ..] = of.state.to_le_bytes();
    let walk = Walk {
        segment: bare(header, clock),
        tally: tally_of(header),
        quiet_since: clock.timestamp(of.quiet_since),
        from: SeqNumber(of.from),
        high: SeqNumber(of.high),
        number: of.number,
        place: place(of.frames, state, of.message_len, of.message_frames),
        lost: (header.kind == RECORD_LOST).then_some(of.state >> 16),
        resumed: header.kind == RECORD_RESUMED,
    };
    let mut entries = record.entries().map(|(entry, bytes)| Entry {
        seq: SeqNumber(entry.seq),
        place: place(
            entry.index,
            entry.state,
            entry.message_len,
            entry.message_frames,
        ),
        continues: entry.continues != 0,
        bytes,
    });
    take(Record::Walk(&walk, &mut entries));
}

/// The number of the sender's tally, 0 where it has none.
fn tally_of(header: &RecordHeader) -> u32 {
    if header.tally == 0 {
        return 0;
    }
    let (_, sender) = FlowKey::from_socket_addrs(header.source(), header.destination(), 0);
    element(header.tally, sender as u32)
}

fn place(index: u32, state: u8, message_len: u64, message_frames: u32) -> Place {
    let message = match state & flow::state::OPCODE {
        0 if state & flow::state::UNKNOWN != 0 => MessageState::Unknown,
        0 => MessageState::Between,
        opcode => MessageState::Within {
            opcode: Opcode::from_bits(opcode),
            compressed: state & flow::state::COMPRESSED != 0,
            frames: message_frames,
            len: message_len,
        },
    };
    Place {
        index,
        message,
        closed: state & flow::state::CLOSED != 0,
    }
}

/// The segment of a record without its bytes.
fn bare(header: &RecordHeader, clock: &Clock) -> Segment<'static> {
    let flags = TcpFlags(header.flags);
    Segment {
        ts: clock.timestamp(header.time),
        source: header.source(),
        destination: header.destination(),
        seq: SeqNumber(header.seq),
        ack: flags.ack().then_some(SeqNumber(header.ack)),
        flags,
        window: header.window,
        len: header.len,
        behind: 0,
        windows: &[],
        interface: Some(header.ifindex),
        scope: header.scope,
        epoch: header.epoch,
    }
}

fn undecodable(count: &mut u64, error: DecodeError) {
    if *count == 0 {
        log::error!("reading the ring buffer: {error}; program and agent do not fit together");
    }
    *count = count.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_a_segment() {
        let header = RecordHeader {
            time: 5,
            ifindex: 3,
            epoch: 9,
            source: flow::mapped("192.0.2.1".parse().unwrap()),
            destination: flow::mapped("2001:db8::1".parse().unwrap()),
            source_port: 1234,
            destination_port: 80,
            seq: 7,
            ack: 11,
            len: 10,
            captured: 3,
            window: 512,
            flags: 0x10,
            egress: 1,
            kind: 1,
            scope: 0,
            tally: 0,
            boundary: 0,
        };
        let clock = Clock::new();
        let mut seen = 0;
        with_segment(&header, b"abc", &clock, &mut |record: Record<'_>| {
            seen += 1;
            let Record::Sample(segment, _) = record else {
                return;
            };
            assert_eq!(segment.source, "192.0.2.1:1234".parse().unwrap());
            assert_eq!(segment.destination, "[2001:db8::1]:80".parse().unwrap());
            assert_eq!(segment.ack, Some(SeqNumber(11)));
            assert_eq!((segment.seq, segment.len), (SeqNumber(7), 10));
            assert_eq!(segment.windows[0].bytes, b"abc");
            assert_eq!((segment.interface, segment.epoch), (Some(3), 9));
        });
        let bare = RecordHeader {
            flags: 0x04,
            captured: 0,
            ..header
        };
        with_segment(&bare, b"", &clock, &mut |record: Record<'_>| {
            seen += 1;
            let Record::Sample(segment, _) = record else {
                return;
            };
            assert_eq!(segment.ack, None);
            assert!(segment.windows.is_empty());
        });
        assert_eq!(seen, 2);
    }
}
