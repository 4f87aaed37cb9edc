//! What is out of the ordinary in the segments of one direction, counted as they come: what was given
//! up, and what was held back, makes no difference.

use wstap_common::oddity::{self, OUT_OF_ORDER, RETRANSMITTED};

use crate::proto::{
    event::TcpCounts, packed::Packer, segment::Segment, seq::SeqNumber, time::Timestamp,
};

/// Sequence numbers that are further ahead are none of this connection.
const REACH: u32 = 1 << 30;

/// The counts of a direction, and what they take.
#[derive(Debug, Default)]
pub(super) struct Oddities {
    pub(super) counts: TcpCounts,
    /// The number behind the newest byte or FIN.
    high: SeqNumber,
    /// See [`oddity::note`].
    hole: [u32; 2],
    /// [`Self::high`] when the other side closed its window, which may have opened since without
    /// being seen.
    closed_at: Option<SeqNumber>,
    /// Where the next piece of a segment begins, and the time of the segment.
    pieces: Option<(SeqNumber, Timestamp)>,
}

impl Oddities {
    /// Writes or reads it, between segments; `near` is where the stream is.
    pub(super) fn pack(&mut self, near: u32, p: &mut Packer) {
        self.counts.pack(p);
        p.near_short(&mut self.high.0, near);
        let [from, to] = &mut self.hole;
        p.near_short(from, near);
        p.near_short(to, *from);
        p.option(&mut self.closed_at, |p, at| p.near_short(&mut at.0, near));
    }

    /// The direction begins at `seq`.
    pub(super) fn begin(&mut self, seq: SeqNumber) {
        self.high = seq;
        self.hole = [0; 2];
    }

    /// The other side acknowledges `ack`, and announces a window.
    pub(super) fn acknowledge(&mut self, ack: SeqNumber, window: u16) {
        if self.hole[0] != self.hole[1] {
            oddity::acknowledge(&mut self.hole, ack.0);
        }
        self.closed_at = (window == 0).then_some(self.high);
    }

    /// A segment that carries nothing.
    pub(super) fn note_empty(&mut self, segment: &Segment<'_>) {
        if !segment.flags.syn() && segment.window == 0 && segment.ack.is_some() {
            count(&mut self.counts.zero_windows);
        }
    }

    /// A segment that may be a keep-alive probe (RFC 9293, section 3.8.4): `seq` is that of its payload.
    /// Whether it is one.
    pub(super) fn note_probe(&mut self, seq: SeqNumber) -> bool {
        let is_probe = seq + 1 == self.high;
        // Whoever has something to send, and may not, asks in the same way whether it may.
        if is_probe && self.closed_at != Some(self.high) {
            count(&mut self.counts.keepalive_probes);
        }
        is_probe
    }

    /// A segment that carries payload or a FIN, or a piece of one.
    pub(super) fn note(&mut self, seq: SeqNumber, segment: &Segment<'_>) {
        let behind = seq + segment.len;
        if self.pieces != Some((seq, segment.ts)) {
            let len = segment.len.saturating_add(segment.behind);
            match oddity::note(self.high.0, &mut self.hole, seq.0, len) {
                OUT_OF_ORDER => count(&mut self.counts.out_of_order),
                RETRANSMITTED => count(&mut self.counts.retransmitted),
                _ => {}
            }
        }
        self.pieces = (segment.behind > 0).then_some((behind, segment.ts));
        let end = behind + segment.behind + u32::from(segment.flags.fin());
        let ahead = end.0.wrapping_sub(self.high.0);
        if ahead < REACH {
            self.high = end;
        }
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
