//! The TC classifier of wstap: which bytes of which packets are worth copying.
//!
//! Four programs, one for each pair of link layer and direction, all of one body; and the same four for
//! what is seen in other network namespaces, which the programs of `inner.rs` go on with. Whatever
//! happens, the verdict is the one that lets the packet go on to whatever else is attached.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the signature of a program")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is handed over by value is copied to the stack first"
)]

mod flow;
mod follow;
mod glance;
mod head;
mod headers;
mod maps;
mod quick;
mod sample;
mod walk;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use wstap_common::{
    counter::Counter,
    flow::{FlowKey, Vantage, hook, is_of_namespace},
};

use crate::{
    flow::{Passage, decide},
    glance::{Glance, glance},
    maps::{BODY, HEARTBEAT, HEARTBEAT_TIMEOUT, PASSAGE, PORT_FILTER, PORTS, VANTAGE, count_at},
    quick::quick,
    sample::{bytes, recently},
};

/// Ethernet framing, ingress.
#[classifier]
fn wstap_eth_in(ctx: TcContext) -> i32 {
    enter(&ctx, true, false, false)
}

/// Ethernet framing, egress.
#[classifier]
fn wstap_eth_out(ctx: TcContext) -> i32 {
    enter(&ctx, true, true, false)
}

/// Packets that begin with the IP header, ingress.
#[classifier]
fn wstap_ip_in(ctx: TcContext) -> i32 {
    enter(&ctx, false, false, false)
}

/// Packets that begin with the IP header, egress.
#[classifier]
fn wstap_ip_out(ctx: TcContext) -> i32 {
    enter(&ctx, false, true, false)
}

/// As [`wstap_eth_in`], in another network namespace.
#[classifier]
fn inner_eth_in(ctx: TcContext) -> i32 {
    enter(&ctx, true, false, true)
}

/// As [`wstap_eth_out`], in another network namespace.
#[classifier]
fn inner_eth_out(ctx: TcContext) -> i32 {
    enter(&ctx, true, true, true)
}

/// As [`wstap_ip_in`], in another network namespace.
#[classifier]
fn inner_ip_in(ctx: TcContext) -> i32 {
    enter(&ctx, false, false, true)
}

/// As [`wstap_ip_out`], in another network namespace.
#[classifier]
fn inner_ip_out(ctx: TcContext) -> i32 {
    enter(&ctx, false, true, true)
}

/// Does nothing: what a program costs that has nothing to do, for benchmarks to subtract.
#[classifier]
fn wstap_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Looks at the headers, and goes on with [`wstap_body`] where there is more to do. That is the same for
/// all: so the verifier walks it once, and not for each of them.
#[inline(always)]
fn enter(ctx: &TcContext, ethernet: bool, egress: bool, inner: bool) -> i32 {
    let counter = look(ctx, ethernet, egress, inner);
    if counter == ON_ITS_WAY {
        // SAFETY: context and map are those of this program.
        unsafe { BODY.tail_call(ctx, 0) };
    }
    // Where the body is not there, which it is from load to the agent's end.
    count_at(
        if counter == ON_ITS_WAY {
            Counter::Inert as u32
        } else {
            counter
        },
        1,
    );
    TC_ACT_UNSPEC
}

/// Notes the hook and describes the segment in `PASSAGE`, or says what the packet counts as.
#[inline(always)]
fn look(ctx: &TcContext, ethernet: bool, egress: bool, inner: bool) -> u32 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return Counter::Missed as u32;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let passage = unsafe { &mut *passage };
    if !agent_is_alive(passage) {
        return Counter::Inert as u32;
    }
    let Vantage { interface, scope } = if inner {
        let Some(vantage) = VANTAGE.get_ptr(0) else {
            return Counter::Missed as u32;
        };
        // SAFETY: this CPU's own slot, which the program has filled that went on with this one.
        unsafe { *vantage }
    } else {
        Vantage {
            // SAFETY: the context is valid for the whole run of the program.
            interface: unsafe { (*ctx.skb.skb).ifindex },
            scope: 0,
        }
    };
    let hook = hook(interface, egress);
    passage.is_segment = match glance(ctx, ethernet, scope, passage) {
        Glance::Leave(counter) => return counter as u32,
        Glance::Segment => {
            if let Some(counter) = quick(ctx.skb.skb, hook, passage) {
                return counter as u32;
            }
            1
        }
        Glance::Unusual => {
            passage.scope = scope;
            0
        }
    };
    passage.hook = hook;
    passage.is_ethernet = ethernet.into();
    ON_ITS_WAY
}

/// What all hooks have in common.
#[classifier]
fn wstap_body(ctx: TcContext) -> i32 {
    let mut counter = Counter::Missed as u32;
    if let Some(passage) = PASSAGE.get_ptr_mut(0) {
        // SAFETY: this CPU's own slot, used by nobody else while this program runs.
        let passage = unsafe { &mut *passage };
        counter = ON_ITS_WAY;
        if passage.is_segment == 0 {
            counter = inspect(ctx.skb.skb) as u32;
        }
        if counter == ON_ITS_WAY {
            counter = decide(ctx.skb.skb, passage);
        }
    }
    count_at(counter, 1);
    TC_ACT_UNSPEC
}

/// The segment is described in `PASSAGE`, or what it is is still to be found out.
const ON_ITS_WAY: u32 = u32::MAX;

/// Finds the TCP segment in a packet and describes it in `PASSAGE`, or says what the packet counts as.
/// A function of its own, for the sake of the stack: what it needs of it is given back.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn inspect(skb: *mut __sk_buff) -> u64 {
    let ctx = TcContext::new(skb);
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return Counter::Missed as u64;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let passage = unsafe { &mut *passage };
    match headers::parse(&ctx, passage.is_ethernet != 0) {
        Ok(headers) => passage.headers = headers,
        Err(counter) => return counter as u64,
    }
    let headers = &passage.headers;
    if !is_watched(headers.source_port, headers.destination_port) {
        return Counter::Unwatched as u64;
    }
    let (key, sender) = FlowKey::new(
        bytes(headers.source),
        headers.source_port,
        bytes(headers.destination),
        headers.destination_port,
        scope_of(passage.scope, &headers.source, &headers.destination),
    );
    passage.key = key;
    passage.sender = sender as u32;
    u64::from(ON_ITS_WAY)
}

/// [`FlowKey::scope`] of a segment between two addresses that is seen in the namespace `scope`.
#[inline(always)]
fn scope_of(scope: u32, source: &[u32; 4], destination: &[u32; 4]) -> u32 {
    if scope != 0 && (is_of_namespace(*source) || is_of_namespace(*destination)) {
        scope
    } else {
        0
    }
}

/// A filter on a clsact qdisc outlives the agent that attached it; then it does nothing.
#[inline(always)]
fn agent_is_alive(passage: &mut Passage) -> bool {
    let timeout = HEARTBEAT_TIMEOUT.load();
    if timeout == 0 {
        return true;
    }
    HEARTBEAT
        .get(0)
        .is_some_and(|beat| recently(&mut passage.clock).saturating_sub(*beat) < timeout)
}

/// Whether segments between these ports are looked at.
#[inline(always)]
fn is_watched(source: u16, destination: u16) -> bool {
    PORT_FILTER.load() == 0 || watched(source) || watched(destination)
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
