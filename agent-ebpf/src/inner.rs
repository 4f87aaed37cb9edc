//! The programs of one interface in another network namespace than the agent's.
//!
//! A program is not told in which namespace it runs, and indexes of interfaces mean something only
//! inside one. So each interface there has programs of its own, and a map of its own that says what it is
//! to all others. They are as small as can be: they note it, and go on with what all of them share.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the signature of a program")]

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    btf_maps::{Array, PerCpuArray, ProgramArray},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use wstap_common::{flow::Vantage, globals::inner};

/// This interface; the agent puts it here.
#[btf_map]
static HERE: Array<Vantage, 1> = Array::new();

/// That of the object which this one goes on with.
#[btf_map]
static VANTAGE: PerCpuArray<Vantage, 1> = PerCpuArray::new();

/// What to go on with; the agent puts it here.
#[btf_map]
static INNER: ProgramArray<4> = ProgramArray::new();

/// Ethernet framing, ingress.
#[classifier]
fn wstap_eth_in(ctx: TcContext) -> i32 {
    go_on(&ctx, inner(0, 0))
}

/// Ethernet framing, egress.
#[classifier]
fn wstap_eth_out(ctx: TcContext) -> i32 {
    go_on(&ctx, inner(0, 1))
}

/// Packets that begin with the IP header, ingress.
#[classifier]
fn wstap_ip_in(ctx: TcContext) -> i32 {
    go_on(&ctx, inner(1, 0))
}

/// Packets that begin with the IP header, egress.
#[classifier]
fn wstap_ip_out(ctx: TcContext) -> i32 {
    go_on(&ctx, inner(1, 1))
}

#[inline(always)]
fn go_on(ctx: &TcContext, with: u32) -> i32 {
    if let (Some(vantage), Some(here)) = (VANTAGE.get_ptr_mut(0), HERE.get(0)) {
        // SAFETY: this CPU's own slot, used by nobody else while this program and what follows run.
        unsafe { *vantage = *here };
        // SAFETY: context and map are those of this program.
        unsafe { INNER.tail_call(ctx, with) };
    }
    // Behind an agent that is gone.
    TC_ACT_UNSPEC
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
