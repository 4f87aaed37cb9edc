//! A look at the payload of a segment: its first bytes, and whether a request asks for a WebSocket.

use aya_ebpf::{
    EbpfContext as _, bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes,
    programs::TcContext,
};
use wstap_ebpf::recognise::{Beginning, HeadSearch, PEEK, beginning};

use crate::{headers::Headers, maps::SCRATCH};
use wstap_ebpf::bound::{at_least_one, load_u64, opaque, store_u64};

/// Bytes of a request's segment that are searched. One that is longer is left to the agent.
const SEARCHED: usize = 4096;
/// Bytes of a response's segment that are searched for the end of its head.
const HEAD: usize = 1024;
/// Bytes searched between two looks at the length.
const STRIDE: usize = 64;

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

/// Of [`examine_request`]: it may ask for a WebSocket. It has the word in it, or it does not end
/// where a head ends, or is too long to be searched.
pub const REQUEST: u64 = 1;
/// Of [`examine_request`]: it is one head and nothing else.
pub const ONLY_HEAD: u64 = 2;

/// Looks at a segment that begins with a request.
#[inline(always)]
pub fn examine_request(ctx: &TcContext, headers: &Headers) -> u64 {
    search(ctx.skb.skb, headers.payload, headers.len)
}

/// The search itself. A function that is not inlined and has a name outside, so that the verifier
/// walks its loop once, by itself, and not for everything that may be known where it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search(skb: *mut __sk_buff, payload: u32, len: u32) -> u64 {
    let Some((scratch, len)) = load(skb, payload, len) else {
        return REQUEST;
    };
    // SAFETY: `len` is at least 4 and at most `SEARCHED`.
    let end = unsafe { load_u64(scratch.bytes.as_ptr().add(len - 4)) };
    if end & 0xffff_ffff != BLANK_LINE {
        return REQUEST;
    }
    let mut at = 0;
    while at < SEARCHED && at < len {
        look_for_token(at as u64);
        at += STRIDE;
    }
    if !scratch.search.found() {
        0
    } else if scratch.search.heads() == 1 {
        REQUEST | ONLY_HEAD
    } else {
        REQUEST
    }
}

/// Looks at a stride of the request in `SCRATCH`. A function of its own, so that the verifier walks it
/// once and not for each stride.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_for_token(at: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let scratch = unsafe { &mut *scratch };
    let at = opaque(at);
    if at >= SEARCHED as u64 {
        return 0;
    }
    let mut search = scratch.search;
    for i in 0..STRIDE {
        // SAFETY: `at` is below `SEARCHED`, and a stride and a word fit behind it.
        search.request(unsafe { load_u64(scratch.bytes.as_ptr().add(at as usize + i)) });
    }
    scratch.search = search;
    0
}

const BLANK_LINE: u64 = u32::from_le_bytes(*b"\r\n\r\n") as u64;

/// Where in a segment that begins with a response its head ends: how many bytes of the segment it
/// has, 0 if it does not end in it or is too long to be searched; and, above 32 bits, whether it
/// speaks of an extension that compresses.
#[inline(always)]
pub fn blank_line(ctx: &TcContext, headers: &Headers) -> u64 {
    response_head(ctx.skb.skb, headers.payload, headers.len)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn response_head(skb: *mut __sk_buff, payload: u32, len: u32) -> u64 {
    let wanted = if len > HEAD as u32 { HEAD as u32 } else { len };
    let Some((scratch, len)) = load(skb, payload, wanted) else {
        return 0;
    };
    let mut at = 0;
    while at < HEAD && at < len {
        look_for_end(at as u64);
        at += STRIDE;
    }
    scratch.search.head_len() | u64::from(scratch.search.found()) << 32
}

/// As [`look_for_token`], at a stride of the response.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_for_end(at: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let scratch = unsafe { &mut *scratch };
    let at = opaque(at);
    if at >= SEARCHED as u64 {
        return 0;
    }
    let mut search = scratch.search;
    for i in 0..STRIDE {
        // SAFETY: `at` is below `SEARCHED`, and a stride and a word fit behind it.
        let word = unsafe { load_u64(scratch.bytes.as_ptr().add(at as usize + i)) };
        search.response(at + i as u64, word);
    }
    scratch.search = search;
    0
}

/// Where a head is searched.
#[repr(C)]
pub struct Scratch {
    search: HeadSearch,
    bytes: [u8; SEARCHED + STRIDE + 8],
}

/// Loads the beginning of a segment into `SCRATCH`, with zeros behind it; and how many bytes.
#[inline(always)]
fn load(skb: *mut __sk_buff, payload: u32, len: u32) -> Option<(&'static mut Scratch, usize)> {
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(0)? };
    let len = opaque(u64::from(len));
    if len > SEARCHED as u64 {
        return None;
    }
    let len = opaque(len);
    if len < 4 {
        return None;
    }
    let bytes = scratch.bytes.as_mut_ptr();
    // SAFETY: there is room for `SEARCHED` bytes, and `len` is no more.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), payload, bytes.cast(), len as u32) };
    if failed != 0 {
        return None;
    }
    let len = len as usize;
    // What an earlier head left behind is none of this one's.
    for i in 0..(STRIDE + 8) / 8 {
        // SAFETY: behind the `SEARCHED` bytes there is room for a stride and a word.
        unsafe { store_u64(bytes.add(len + i * 8), 0) };
    }
    scratch.search = HeadSearch::default();
    Some((scratch, len))
}
