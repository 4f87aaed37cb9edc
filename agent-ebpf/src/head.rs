//! A look at the payload of a segment: its first bytes, and whether a request asks for a WebSocket.

use aya_ebpf::{
    EbpfContext as _, bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes,
    programs::TcContext,
};
use wstap_ebpf::recognise::{Beginning, PEEK, TokenSearch, beginning};

use crate::{
    bound::{at_least_one, opaque},
    headers::Headers,
    maps::SCRATCH,
};

/// Bytes of a request's segment that are searched. One that is longer is left to the agent.
const SEARCHED: usize = 4096;
/// Bytes searched between two looks at the length.
const STRIDE: usize = 64;
/// Room for the bytes and for zeros behind them.
pub const SCAN: usize = SEARCHED + STRIDE;

/// What the segment begins like.
#[inline(always)]
pub fn peek(ctx: &TcContext, headers: &Headers) -> Beginning {
    let mut bytes = [0; PEEK];
    let len = opaque(u64::from(headers.len.min(PEEK as u32)));
    if len > PEEK as u64 {
        return Beginning::Other;
    }
    let len = opaque(len);
    if !at_least_one(len) {
        return Beginning::Other;
    }
    // SAFETY: `len` is no more than the room in `bytes`.
    let failed = unsafe {
        bpf_skb_load_bytes(
            ctx.as_ptr(),
            headers.payload,
            bytes.as_mut_ptr().cast(),
            len as u32,
        )
    };
    if failed != 0 {
        return Beginning::Other;
    }
    beginning(&bytes, headers.len)
}

/// Whether a segment that begins with a request may ask for a WebSocket: it has the word in it, or
/// it does not end where a head ends, or is too long to be searched.
#[inline(always)]
pub fn may_ask_for_websocket(ctx: &TcContext, headers: &Headers) -> bool {
    search(ctx.skb.skb, headers.payload, headers.len) != 0
}

/// The search itself. A function that is not inlined and has a name outside, so that the verifier
/// walks its loop once, by itself, and not for everything that may be known where it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search(skb: *mut __sk_buff, payload: u32, len: u32) -> u64 {
    u64::from(find(skb, payload, len))
}

#[inline(always)]
fn find(skb: *mut __sk_buff, payload: u32, len: u32) -> bool {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return true;
    };
    let scratch = scratch.cast::<u8>();
    let len = opaque(u64::from(len));
    if len > SEARCHED as u64 {
        return true;
    }
    let len = opaque(len);
    if len < 4 {
        return true;
    }
    // SAFETY: this CPU's own slot, used by nobody else while this program runs, has room for
    // `SEARCHED` bytes, and `len` is no more.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), payload, scratch.cast(), len as u32) };
    if failed != 0 {
        return true;
    }
    let len = len as usize;
    // SAFETY: `len` is at least 4 and at most `SEARCHED`.
    let end = unsafe { scratch.add(len - 4).cast::<u32>().read_unaligned() };
    if end != u32::from_ne_bytes(*b"\r\n\r\n") {
        return true;
    }
    // What an earlier request left behind is none of this one's.
    for i in 0..STRIDE {
        // SAFETY: behind the `SEARCHED` bytes there is room for a stride.
        unsafe { scratch.add(len + i).write(0) };
    }

    let mut search = TokenSearch::default();
    let mut at = 0;
    while at < SEARCHED && at < len {
        for i in 0..STRIDE {
            // SAFETY: `at` is below `SEARCHED`, and a stride fits behind it.
            search.push(unsafe { *scratch.add(at + i) });
        }
        at += STRIDE;
    }
    search.found()
}
