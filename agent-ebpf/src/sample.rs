//! Copies a segment to the ring buffer.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns, bpf_ringbuf_query, bpf_skb_load_bytes},
};
use wstap_common::{
    counter::Counter,
    record::{
        HEADER_LEN, MAX_PIECES, MAX_SNAP_LENGTH, RECORD_ARMING, RECORD_SEGMENT, RECORD_TRIAL,
        RecordHeader, SIZE_CLASSES,
    },
};

use wstap_ebpf::bound::{at_least_one, opaque};

use crate::{
    flow::{Clock, Passage},
    headers::{FIN, RST, SYN},
    maps::{CROWDED_BYTES, HEADER, PASSAGE, RECORDS, SNAP_LENGTH, WAKEUP_BYTES, count},
};

/// Payload bytes of the largest record.
const LARGEST: u32 = (SIZE_CLASSES[4] - HEADER_LEN) as u32;

/// What a record says beside what the packet says.
pub struct Origin {
    /// `wstap_common::flow::FlowState::epoch`.
    pub epoch: u32,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub now: u64,
    /// Whether the agent should look at once: it has something to decide.
    pub urgent: bool,
    /// `RECORD_SEGMENT`, `RECORD_ARMING` or `RECORD_TRIAL`.
    pub kind: u32,
    /// As in the record.
    pub tally: u32,
    /// As in the record.
    pub boundary: u32,
}

/// Nanoseconds on `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// As [`now`], and at most a tick of the kernel's timer (1 to 10 ms) late. What it costs is a look at that
/// timer's count.
#[inline(always)]
pub fn recently(clock: &mut Clock) -> u64 {
    // SAFETY: a helper without arguments.
    let tick = unsafe { bpf_jiffies64() };
    if clock.tick != tick {
        clock.tick = tick;
        clock.time = now();
    }
    clock.time
}

/// As [`now`], so that what [`recently`] says afterwards is not earlier.
#[inline(always)]
pub fn precisely(clock: &mut Clock) -> u64 {
    clock.time = now();
    clock.time
}

/// Copies the segment, up to the snap length where it is one of a flow that is followed; says what the
/// packet counts as.
#[inline(always)]
pub fn sample(skb: *mut __sk_buff, passage: &Passage, origin: &Origin) -> Counter {
    describe(passage, origin);
    copy_described(skb, origin.urgent)
}

/// Copies the segment whose record has been described.
#[inline(always)]
pub fn copy_described(skb: *mut __sk_buff, urgent: bool) -> Counter {
    if copy_segment(skb, urgent.into()) != 0 {
        Counter::Sampled
    } else {
        Counter::Missed
    }
}

/// Writes the header of the segment's records.
#[inline(always)]
pub fn describe(passage: &Passage, origin: &Origin) {
    let headers = &passage.headers;
    let Some(header) = HEADER.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs. Field by field: the
    // stack has no room for it.
    let header = unsafe { &mut *header };
    header.time = origin.now;
    header.ifindex = passage.hook >> 1;
    header.epoch = origin.epoch;
    header.source = bytes(headers.source);
    header.destination = bytes(headers.destination);
    header.source_port = headers.source_port;
    header.destination_port = headers.destination_port;
    header.seq = headers.seq;
    header.ack = headers.ack;
    header.len = headers.len;
    header.captured = 0;
    header.window = headers.window;
    header.flags = headers.flags;
    header.egress = (passage.hook & 1) as u8;
    header.kind = origin.kind;
    header.scope = passage.key.scope;
    header.tally = origin.tally;
    header.boundary = origin.boundary;
}

/// Writes the records of the segment that `HEADER` describes; says whether there is one at least. A
/// function that is not inlined and has a name outside, so that the verifier walks it once, by
/// itself, and not for everything that may be known where it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_segment(skb: *mut __sk_buff, urgent: u32) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let payload = unsafe { (*passage).headers.payload };
    u64::from(copy_pieces(skb, payload, urgent != 0))
}

#[inline(always)]
fn copy_pieces(skb: *mut __sk_buff, payload: u32, urgent: bool) -> bool {
    let Some(header) = HEADER.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: as in `sample`.
    let header = unsafe { &*header };
    // What the agent decides by, it gets whole: half a request is no handshake.
    let snap = if urgent {
        MAX_SNAP_LENGTH
    } else {
        SNAP_LENGTH.load()
    };
    let wanted = header.len.min(snap);

    let mut done = 0;
    let mut delivered = 0;
    // All but the last piece have one size; whoever is beyond is cut off.
    for _ in 1..MAX_PIECES {
        if wanted - done <= LARGEST {
            break;
        }
        delivered |= copy_largest(skb, payload, done);
        done += LARGEST;
    }
    delivered |= copy_last(skb, payload, done, wanted - done, urgent.into());
    delivered != 0
}

/// Writes the last record of the segment that `HEADER` describes, with `rest` of its bytes from `offset` on; 0
/// if it could not. A function of its own, so that the verifier walks it once, and not for each
/// number of pieces before.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_last(
    skb: *mut __sk_buff,
    payload: u32,
    offset: u32,
    rest: u32,
    urgent: u32,
) -> u64 {
    let Some(header) = HEADER.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as in `sample`.
    let header = unsafe { &*header };
    let wakeup = wakeup(urgent != 0);
    let piece = Piece {
        header,
        payload,
        offset,
        len: header.len.wrapping_sub(offset),
        last: true,
    };
    let delivered = if rest <= (SIZE_CLASSES[0] - HEADER_LEN) as u32 {
        piece.emit::<{ SIZE_CLASSES[0] }>(skb, rest, wakeup)
    } else if rest <= (SIZE_CLASSES[1] - HEADER_LEN) as u32 {
        piece.emit::<{ SIZE_CLASSES[1] }>(skb, rest, wakeup)
    } else if rest <= (SIZE_CLASSES[2] - HEADER_LEN) as u32 {
        piece.emit::<{ SIZE_CLASSES[2] }>(skb, rest, wakeup)
    } else if rest <= (SIZE_CLASSES[3] - HEADER_LEN) as u32 {
        piece.emit::<{ SIZE_CLASSES[3] }>(skb, rest, wakeup)
    } else {
        piece.emit::<{ SIZE_CLASSES[4] }>(skb, rest.min(LARGEST), wakeup)
    };
    u64::from(delivered)
}

/// Writes a record of the largest size, the bytes at `offset` in the segment that `HEADER` describes; 0
/// if it could not. A function of its own, so that the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_largest(skb: *mut __sk_buff, payload: u32, offset: u32) -> u64 {
    let Some(header) = HEADER.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let header = unsafe { &*header };
    let piece = Piece {
        header,
        payload,
        offset,
        len: LARGEST,
        last: false,
    };
    u64::from(piece.emit::<{ SIZE_CLASSES[4] }>(skb, LARGEST, BPF_RB_NO_WAKEUP.into()))
}

/// Waking the reader costs more than a record: it is done for what cannot wait, and where enough
/// has gathered.
#[inline(always)]
pub fn wakeup(urgent: bool) -> u64 {
    let enough = WAKEUP_BYTES.load();
    if urgent {
        BPF_RB_FORCE_WAKEUP.into()
    } else if enough == 0 {
        0
    } else if gathered() >= u64::from(enough) {
        BPF_RB_FORCE_WAKEUP.into()
    } else {
        BPF_RB_NO_WAKEUP.into()
    }
}

/// As [`wakeup`] of small records that come one after the other: looks at what has gathered at every
/// sixteenth only. `number` counts them.
#[inline(always)]
pub fn wakeup_now_and_then(number: u32) -> u64 {
    if number & 15 == 0 || WAKEUP_BYTES.load() == 0 {
        wakeup(false)
    } else {
        BPF_RB_NO_WAKEUP.into()
    }
}

/// Whether the room left in the ring buffer is for what matters more than a flow that is copied whole:
/// handshakes, walks and endings, of which there is little, and each counts. Once it has come to that the
/// flow waits until most of what is there has been read: so what it loses lies together, and between
/// there is enough for frames to be recognised again.
#[inline(always)]
pub fn is_crowded(muted: u32) -> bool {
    let bound = CROWDED_BYTES.load();
    gathered() > u64::from(if muted != 0 { bound / 4 } else { bound })
}

/// Bytes in the ring buffer that have not been read.
#[inline(always)]
fn gathered() -> u64 {
    // SAFETY: the helper reads the map that it is given, and that is a ring buffer.
    unsafe {
        bpf_ringbuf_query(
            (&raw const RECORDS).cast_mut().cast(),
            BPF_RB_AVAIL_DATA.into(),
        )
    }
}

struct Piece<'a> {
    header: &'a RecordHeader,
    /// Where the segment's payload begins in the packet.
    payload: u32,
    /// Where the piece begins in the payload.
    offset: u32,
    /// Payload bytes that it stands for.
    len: u32,
    /// Whether the segment ends with it.
    last: bool,
}

impl Piece<'_> {
    /// Writes a record of `SIZE` bytes, `captured` of them payload; says whether it could.
    #[inline(always)]
    fn emit<const SIZE: usize>(&self, skb: *mut __sk_buff, captured: u32, wakeup: u64) -> bool {
        let Some(mut record) = RECORDS.reserve_bytes(SIZE, 0) else {
            count(Counter::LostRingFull, 1);
            return false;
        };
        let mut header = *self.header;
        header.len = self.len;
        header.captured = captured;
        if self.offset != 0 {
            // A SYN takes the sequence number before the payload's first.
            let syn = u32::from(header.flags & SYN != 0);
            header.seq = header.seq.wrapping_add(self.offset).wrapping_add(syn);
            header.flags &= !SYN;
            if header.kind == RECORD_TRIAL {
                header.kind = RECORD_SEGMENT;
            }
        }
        if !self.last {
            header.flags &= !(FIN | RST);
            if header.kind != RECORD_ARMING {
                header.boundary = self.header.len - self.offset - self.len;
            }
        }
        let to = record.as_mut_ptr();
        // SAFETY: the ring hands out memory aligned to eight bytes, and `SIZE` is more than a
        // header.
        unsafe { to.cast::<RecordHeader>().write(header) };
        // Two tests that stay two: merged into one of `captured - 1`, as the compiler would have
        // it, they tell the verifier nothing of `captured`.
        let captured = opaque(u64::from(captured));
        if at_least_one(captured) {
            let captured = opaque(captured);
            if captured <= (SIZE - HEADER_LEN) as u64 {
                // SAFETY: behind the header there is room for `captured` bytes.
                let failed = unsafe {
                    bpf_skb_load_bytes(
                        skb.cast(),
                        self.payload + self.offset,
                        to.add(HEADER_LEN).cast(),
                        captured as u32,
                    )
                };
                if failed != 0 {
                    record.discard(wakeup);
                    count(Counter::LostCopy, 1);
                    return false;
                }
            }
        }
        record.submit(wakeup);
        count(Counter::Samples, 1);
        count(Counter::SampleBytes, captured);
        true
    }
}

/// An address as keys and records have it.
#[inline(always)]
pub fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: sixteen bytes either way, every pattern valid.
    unsafe { core::mem::transmute(words) }
}
