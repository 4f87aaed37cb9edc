//! From the ring buffer to segments, and verdicts back to the kernel program.

use std::{
    os::{fd::AsFd as _, unix::net::UnixStream},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use wstap_common::{
    flow::{FlowKey, Verdict},
    record::{DecodeError, RecordHeader},
};

use super::{
    clock::{Clock, monotonic},
    program::{Flows, Verdicts},
};
use crate::proto::{
    observer::{self, Decision},
    segment::{Segment, TcpFlags, Window},
    seq::SeqNumber,
    time::Timestamp,
};

/// Entries that [`Reader::sweep`] looks at in one go.
const SWEEP_STEP: usize = 4096;

/// Reads records and answers with verdicts.
pub struct Reader {
    ring: RingBuf<MapData>,
    flows: Flows,
    verdicts: Verdicts,
    clock: Clock,
    undecodable: u64,
    cut: u64,
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
    pub(super) fn new(ring: RingBuf<MapData>, flows: Flows, verdicts: Verdicts) -> Self {
        Self {
            ring,
            flows,
            verdicts,
            clock: Clock::new(),
            undecodable: 0,
            cut: 0,
        }
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

    /// Hands over the segments that are there, at most `limit`, each with no copy made; how many.
    pub fn drain(&mut self, limit: usize, mut segment: impl FnMut(&Segment<'_>)) -> usize {
        let mut records = 0;
        while records < limit {
            let Some(record) = self.ring.next() else {
                break;
            };
            records += 1;
            match RecordHeader::decode(&record) {
                Ok((header, captured)) => {
                    self.cut = self
                        .cut
                        .saturating_add((header.captured < header.len).into());
                    with_segment(&header, captured, &self.clock, &mut segment);
                }
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
        let silent: Vec<_> = self
            .flows
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, flow)| flow.last_seen < limit)
            .map(|(key, _)| key)
            .take(SWEEP_STEP)
            .collect();
        let mut removed = 0;
        for key in silent {
            removed += usize::from(self.forget(&key, |flow| flow.last_seen < limit));
        }
        removed
    }

    /// Removes a followed flow if it is the one that is meant; the key may be another's by now. If it
    /// becomes another's this very moment, that one is removed, and followed again as soon as it
    /// speaks.
    fn forget(
        &mut self,
        key: &FlowKey,
        is_meant: impl FnOnce(&wstap_common::flow::FlowState) -> bool,
    ) -> bool {
        match self.flows.get(key, 0) {
            Ok(flow) if is_meant(&flow) => self.flows.remove(key).is_ok(),
            _ => false,
        }
    }
}

/// Hands over a decoded record as the segment that it is, with no copy made.
pub fn with_segment(
    header: &RecordHeader,
    captured: &[u8],
    clock: &Clock,
    segment: &mut impl FnMut(&Segment<'_>),
) {
    let flags = TcpFlags(header.flags);
    let window = [Window {
        offset: 0,
        bytes: captured,
    }];
    segment(&Segment {
        ts: clock.timestamp(header.time),
        source: header.source(),
        destination: header.destination(),
        seq: SeqNumber(header.seq),
        ack: flags.ack().then_some(SeqNumber(header.ack)),
        flags,
        window: header.window,
        len: header.len,
        windows: if captured.is_empty() { &[] } else { &window },
        interface: Some(header.ifindex),
        scope: header.scope,
        epoch: header.epoch,
    });
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
            source: wstap_common::flow::mapped("192.0.2.1".parse().unwrap()),
            destination: wstap_common::flow::mapped("2001:db8::1".parse().unwrap()),
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
        };
        let clock = Clock::new();
        let mut seen = 0;
        with_segment(&header, b"abc", &clock, &mut |segment: &Segment<'_>| {
            seen += 1;
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
        with_segment(&bare, b"", &clock, &mut |segment: &Segment<'_>| {
            seen += 1;
            assert_eq!(segment.ack, None);
            assert!(segment.windows.is_empty());
        });
        assert_eq!(seen, 2);
    }
}
