//! The programs of one interface in another network namespace than the agent's.
//!
//! A program is not told in which namespace it runs, and indexes of interfaces mean something only
//! inside one. So each interface there has programs of its own, in which the answer is a constant.
//! They are as small as can be: they note it, and go on with what all of them share.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the signature of a program")]

use aya_ebpf::{
    Global,
    bindings::TC_ACT_UNSPEC,
    btf_maps::{PerCpuArray, ProgramArray},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use wstap_common::{flow::Vantage, globals::inner};

/// That of the object which this one goes on with.
#[btf_map]
static VANTAGE: PerCpuArray<Vantage, 1> = PerCpuArray::new();

/// What to go on with; the agent puts it here.
#[btf_map]
static INNER: ProgramArray<4> = ProgramArray::new();

#[unsafe(no_mangle)]
static INTERFACE: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
static SCOPE: Global<u32> = Global::new(0);

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
    if let Some(vantage) = VANTAGE.get_ptr_mut(0) {
        // SAFETY: this CPU's own slot, used by nobody else while this program and what follows run.
        let vantage = unsafe { &mut *vantage };
        vantage.interface = INTERFACE.load();
        vantage.scope = SCOPE.load();
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
