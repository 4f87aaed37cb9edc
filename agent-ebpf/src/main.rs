//! The TC classifier of wstap: which bytes of which packets are worth copying.
//!
//! Four programs, one for each pair of link layer and direction, all of one body. Whatever happens,
//! the verdict is the one that lets the packet go on to whatever else is attached.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the signature of a program")]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod bound;
mod flow;
mod head;
mod headers;
mod maps;
mod sample;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use wstap_common::{
    counter::Counter,
    flow::{FlowKey, hook},
};

use crate::{
    flow::{Decision, Passage, decide},
    maps::{HEARTBEAT, HEARTBEAT_TIMEOUT, PASSAGE, PORT_FILTER, PORTS, count},
    sample::{bytes, now, sample},
};

/// Ethernet framing, ingress.
#[classifier]
fn wstap_eth_in(ctx: TcContext) -> i32 {
    classify(&ctx, true, false)
}

/// Ethernet framing, egress.
#[classifier]
fn wstap_eth_out(ctx: TcContext) -> i32 {
    classify(&ctx, true, true)
}

/// Packets that begin with the IP header, ingress.
#[classifier]
fn wstap_ip_in(ctx: TcContext) -> i32 {
    classify(&ctx, false, false)
}

/// Packets that begin with the IP header, egress.
#[classifier]
fn wstap_ip_out(ctx: TcContext) -> i32 {
    classify(&ctx, false, true)
}

/// Does nothing: what a program costs that has nothing to do, for benchmarks to subtract.
#[classifier]
fn wstap_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[inline(always)]
fn classify(ctx: &TcContext, ethernet: bool, egress: bool) -> i32 {
    if let Some(counter) = inspect(ctx, ethernet, egress) {
        count(counter, 1);
    }
    TC_ACT_UNSPEC
}

/// Looks at a packet, and says what it counts as where that is not counted yet.
#[inline(always)]
fn inspect(ctx: &TcContext, ethernet: bool, egress: bool) -> Option<Counter> {
    if !agent_is_alive() {
        return Some(Counter::Inert);
    }
    let headers = match headers::parse(ctx, ethernet) {
        Ok(headers) => headers,
        Err(counter) => return Some(counter),
    };
    if PORT_FILTER.load() != 0
        && !watched(headers.source_port)
        && !watched(headers.destination_port)
    {
        return Some(Counter::Unwatched);
    }
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return Some(Counter::Missed);
    };
    let (key, sender) = FlowKey::new(
        bytes(headers.source),
        headers.source_port,
        bytes(headers.destination),
        headers.destination_port,
        0,
    );
    // SAFETY: the context is valid for the whole run of the program.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let hook = hook(ifindex, egress);
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    unsafe {
        *passage = Passage {
            key,
            headers,
            sender: sender as u32,
            hook,
        }
    };
    pass(ctx.skb.skb);
    None
}

/// Decides about the segment in `PASSAGE`, copies it if so decided, and counts it. A function that is not inlined and has a name outside: the verifier walks it once, by
/// itself, where inlined it would walk it for every combination of headers that may precede it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pass(skb: *mut __sk_buff) -> u64 {
    let ctx = TcContext::new(skb);
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as in `inspect`, which has filled it.
    let passage = unsafe { &*passage };
    let counter = match decide(&ctx, passage) {
        Decision::Leave(counter) => counter,
        Decision::Copy(origin) => sample(&ctx, passage, &origin),
    };
    count(counter, 1);
    0
}

/// A filter on a clsact qdisc outlives the agent that attached it; then it does nothing.
#[inline(always)]
fn agent_is_alive() -> bool {
    let timeout = HEARTBEAT_TIMEOUT.load();
    if timeout == 0 {
        return true;
    }
    HEARTBEAT
        .get(0)
        .is_some_and(|beat| now().saturating_sub(*beat) < timeout)
}

#[inline(always)]
fn watched(port: u16) -> bool {
    PORTS
        .get(u32::from(port / 64))
        .is_some_and(|word| word >> (port % 64) & 1 != 0)
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
extern crate std;

/// The kernel reads the program's licence from here; its helpers are lent to GPL-compatible ones.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
