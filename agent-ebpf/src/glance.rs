//! A look at the headers that nearly all packets have: Ethernet or none, IPv4 without options or IPv6
//! without extension headers, TCP, all of it in the linear part. The rest is left to [`crate::headers`].
//!
//! It is small, and so each program has its own: what is no TCP goes no further.

use aya_ebpf::programs::TcContext;
use wstap_common::{counter::Counter, flow::FlowKey};

use crate::{
    flow::Passage,
    headers::{
        ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, Headers, IPPROTO_TCP,
        end_of_packet, is_extension, mapped,
    },
    is_watched,
    sample::bytes,
    scope_of,
};

/// Bytes of an IPv4 header without options.
const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
const IPV6_LEN: usize = 40;
/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;

/// What a packet is.
pub enum Glance {
    /// Nothing to look at; it counts as this.
    Leave(Counter),
    /// A TCP segment, which is described in the passage now.
    Segment,
    /// Maybe a TCP segment, under other headers than most have.
    Unusual,
}

/// Looks at a packet that is seen in the namespace `scope`. What it is goes straight into `passage`, of which the verifier knows nothing: so what
/// follows is the same to it, whichever way has led there.
#[inline(always)]
pub fn glance(ctx: &TcContext, ethernet: bool, scope: u32, passage: &mut Passage) -> Glance {
    let offset = if ethernet { ETH_HLEN } else { 0 };
    let Some(ip) = linear(ctx, offset + IPV4_LEN) else {
        return Glance::Unusual;
    };
    // SAFETY: within what has been tested.
    let (protocol, version) = unsafe {
        let first = read::<u16>(ip, offset) as u8;
        let protocol = if ethernet {
            u16::from_be(read(ip, 12))
        } else {
            match first >> 4 {
                4 => ETH_P_IP,
                6 => ETH_P_IPV6,
                _ => 0,
            }
        };
        (protocol, first)
    };
    match protocol {
        ETH_P_IP => {
            // SAFETY: as above.
            let (transport, fragment) =
                unsafe { (read::<u8>(ip, offset + 9), read::<u16>(ip, offset + 6)) };
            if transport != IPPROTO_TCP {
                return Glance::Leave(Counter::NotTcp);
            }
            if version & 0x0f != 5 || u16::from_be(fragment) & 0x1fff != 0 {
                return Glance::Unusual;
            }
            let Some(packet) = linear(ctx, offset + IPV4_LEN + TCP_LEN) else {
                return Glance::Unusual;
            };
            // SAFETY: as above.
            let (len, source, destination) = unsafe {
                (
                    u16::from_be(read(packet, offset + 2)),
                    read::<u32>(packet, offset + 12),
                    read::<u32>(packet, offset + 16),
                )
            };
            let end = end_of_packet(ctx, offset, len.into());
            segment(
                passage,
                scope,
                packet,
                offset + IPV4_LEN,
                end,
                mapped(source),
                mapped(destination),
            )
        }
        ETH_P_IPV6 => {
            // SAFETY: as above.
            let next = unsafe { read::<u8>(ip, offset + 6) };
            if next != IPPROTO_TCP {
                return if is_extension(next) {
                    Glance::Unusual
                } else {
                    Glance::Leave(Counter::NotTcp)
                };
            }
            let Some(packet) = linear(ctx, offset + IPV6_LEN + TCP_LEN) else {
                return Glance::Unusual;
            };
            // SAFETY: as above.
            let (len, source, destination) = unsafe {
                (
                    u16::from_be(read(packet, offset + 4)),
                    read::<[u32; 4]>(packet, offset + 8),
                    read::<[u32; 4]>(packet, offset + 24),
                )
            };
            // As `headers` has it: 0 in a packet too large for the field.
            let len = if len == 0 { 0 } else { u32::from(len) + 40 };
            let end = end_of_packet(ctx, offset, len);
            segment(
                passage,
                scope,
                packet,
                offset + IPV6_LEN,
                end,
                source,
                destination,
            )
        }
        ETH_P_8021Q | ETH_P_8021AD => Glance::Unusual,
        _ => Glance::Leave(Counter::NotTcp),
    }
}

/// The packet's linear part, if it has `len` bytes.
#[inline(always)]
fn linear(ctx: &TcContext, len: usize) -> Option<*const u8> {
    let start = ctx.data();
    (start + len <= ctx.data_end()).then_some(start as *const u8)
}

/// Reads in network byte order.
///
/// # Safety
///
/// It must be there, and the kernel handle unaligned reads, as those do that lend packet access.
#[inline(always)]
unsafe fn read<T: Copy>(packet: *const u8, offset: usize) -> T {
    // SAFETY: the caller says so.
    unsafe { *packet.add(offset).cast::<T>() }
}

#[inline(always)]
fn segment(
    passage: &mut Passage,
    scope: u32,
    packet: *const u8,
    offset: usize,
    end: u32,
    source: [u32; 4],
    destination: [u32; 4],
) -> Glance {
    // SAFETY: the caller has tested that the header is there.
    let (ports, seq, ack, rest) = unsafe {
        (
            u32::from_be(read(packet, offset)),
            u32::from_be(read(packet, offset + 4)),
            u32::from_be(read(packet, offset + 8)),
            u32::from_be(read(packet, offset + 12)),
        )
    };
    let header_len = (rest >> 28) * 4;
    let payload = offset as u32 + header_len;
    let (source_port, destination_port) = ((ports >> 16) as u16, ports as u16);
    // Of equal ports the addresses say which comes first.
    if header_len < TCP_LEN as u32 || payload > end || source_port == destination_port {
        return Glance::Unusual;
    }
    if !is_watched(source_port, destination_port) {
        return Glance::Leave(Counter::Unwatched);
    }
    passage.headers = Headers {
        source,
        destination,
        source_port,
        destination_port,
        seq,
        ack,
        flags: (rest >> 16) as u8,
        window: rest as u16,
        payload,
        len: end - payload,
    };
    let scope = scope_of(scope, &source, &destination);
    let (source, destination) = (bytes(source), bytes(destination));
    if source_port < destination_port {
        passage.key = FlowKey {
            addr: [source, destination],
            port: [source_port, destination_port],
            scope,
        };
        passage.sender = 0;
    } else {
        passage.key = FlowKey {
            addr: [destination, source],
            port: [destination_port, source_port],
            scope,
        };
        passage.sender = 1;
    }
    Glance::Segment
}
