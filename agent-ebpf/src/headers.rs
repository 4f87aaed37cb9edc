//! From the link layer to the TCP payload: where the headers are and what they say.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use wstap_common::counter::Counter;
use wstap_ebpf::bound::opaque;

/// What the headers of a TCP segment say. Addresses are in network byte order, IPv4 mapped.
pub struct Headers {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub source_port: u16,
    pub destination_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// Where the payload begins in the packet.
    pub payload: u32,
    /// Payload bytes, by the IP length and the packet's own.
    pub len: u32,
}

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

impl Headers {
    #[inline(always)]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

pub const ETH_HLEN: usize = 14;
pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
pub const ETH_P_8021Q: u16 = 0x8100;
pub const ETH_P_8021AD: u16 = 0x88a8;

const IPPROTO_HOPOPTS: u8 = 0;
pub const IPPROTO_TCP: u8 = 6;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_AH: u8 = 51;
const IPPROTO_DSTOPTS: u8 = 60;

/// VLAN tags in the packet that are skipped; the outermost of a received packet is usually beside
/// the packet, not in it.
const MAX_VLAN_TAGS: usize = 2;
/// IPv6 extension headers that are skipped.
const MAX_EXTENSION_HEADERS: usize = 6;

/// Plain integers, which may be read from any bytes.
///
/// # Safety
///
/// Every bit pattern must be valid.
unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for [u8; 2] {}
// SAFETY: integers.
unsafe impl Plain for u16 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for [u32; 4] {}

/// Reads from the packet at `offset`, in network byte order. Directly where the bytes are in the
/// linear part, which nearly all headers are; through a helper otherwise, which leaves the packet
/// as it is (pulling data into the linear part would not). Not for a single byte at offset 0: the
/// compiler makes `data < end` of the test for it, of which the verifier takes no notice.
#[inline(always)]
fn read<T: Plain>(ctx: &TcContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() <= ctx.data_end() {
        // SAFETY: within the packet, as just checked; the verifier checks it again. BPF programs
        // with packet access load only where the kernel handles unaligned reads.
        return Some(unsafe { *(start as *const T) });
    }
    load(ctx.skb.skb, offset)
}

/// As [`read`], through the helper.
#[inline(always)]
fn load<T: Plain>(skb: *mut __sk_buff, offset: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` has room for as many bytes as are asked for.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            offset as u32,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        )
    };
    if failed != 0 {
        return None;
    }
    // SAFETY: the helper has filled it, and any bytes make a `Plain`.
    Some(unsafe { value.assume_init() })
}

/// Finds the TCP segment of a packet; otherwise says under what the packet counts.
#[inline(always)]
pub fn parse(ctx: &TcContext, ethernet: bool) -> Result<Headers, Counter> {
    let (offset, protocol) = if ethernet { link(ctx)? } else { raw(ctx)? };
    match protocol {
        ETH_P_IP => ipv4(ctx, offset),
        ETH_P_IPV6 => ipv6(ctx, offset),
        _ => Err(Counter::NotTcp),
    }
}

#[inline(always)]
fn link(ctx: &TcContext) -> Result<(usize, u16), Counter> {
    let mut protocol = u16::from_be(read(ctx, 12).ok_or(Counter::NotTcp)?);
    let mut offset = ETH_HLEN;
    for _ in 0..MAX_VLAN_TAGS {
        if protocol != ETH_P_8021Q && protocol != ETH_P_8021AD {
            break;
        }
        protocol = u16::from_be(read(ctx, offset + 2).ok_or(Counter::Malformed)?);
        offset += 4;
    }
    Ok((offset, protocol))
}

/// A device without link-layer headers: the IP version tells the protocol.
#[inline(always)]
fn raw(ctx: &TcContext) -> Result<(usize, u16), Counter> {
    let first: [u8; 2] = read(ctx, 0).ok_or(Counter::NotTcp)?;
    match first[0] >> 4 {
        4 => Ok((0, ETH_P_IP)),
        6 => Ok((0, ETH_P_IPV6)),
        _ => Err(Counter::NotTcp),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, offset: usize) -> Result<Headers, Counter> {
    const MALFORMED: Counter = Counter::Malformed;
    let protocol: u8 = read(ctx, offset + 9).ok_or(MALFORMED)?;
    if protocol != IPPROTO_TCP {
        return Err(Counter::NotTcp);
    }
    let first: [u8; 2] = read(ctx, offset).ok_or(MALFORMED)?;
    let header_len = usize::from(first[0] & 0x0f) * 4;
    if header_len < 20 {
        return Err(MALFORMED);
    }
    let fragment = u16::from_be(read(ctx, offset + 6).ok_or(MALFORMED)?);
    if fragment & 0x1fff != 0 {
        return Err(Counter::Fragment);
    }
    let total_len = u16::from_be(read(ctx, offset + 2).ok_or(MALFORMED)?);
    let source: u32 = read(ctx, offset + 12).ok_or(MALFORMED)?;
    let destination: u32 = read(ctx, offset + 16).ok_or(MALFORMED)?;
    let end = end_of_packet(ctx, offset, u32::from(total_len));
    tcp(
        ctx,
        offset + header_len,
        end,
        mapped(source),
        mapped(destination),
    )
}

/// Whether what follows is an extension header of IPv6 that is skipped.
#[inline(always)]
pub fn is_extension(next: u8) -> bool {
    matches!(
        next,
        IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS | IPPROTO_FRAGMENT | IPPROTO_AH
    )
}

/// An IPv4 address as keys have it.
#[inline(always)]
pub fn mapped(ipv4: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), ipv4]
}

/// Of [`skip`], above 32 bits: the packet is a fragment other than the first.
const FRAGMENT: u64 = 1;
/// Of [`skip`], above 32 bits: the packet ends in it.
const CUT_OFF: u64 = 2;

/// Skips the extension header of kind `next` at `at`: what comes behind it, and from the eighth bit on, where. A
/// function of its own, so that the verifier walks it once, and not for all that may come before.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skip(skb: *mut __sk_buff, next: u64, at: u64) -> u64 {
    let Some([following, len]) = load::<[u8; 2]>(skb, at as usize) else {
        return CUT_OFF << 32;
    };
    let len = u64::from(len);
    let size = match next as u8 {
        IPPROTO_FRAGMENT => {
            let Some(fragment) = load::<u16>(skb, at as usize + 2) else {
                return CUT_OFF << 32;
            };
            if u16::from_be(fragment) & 0xfff8 != 0 {
                return FRAGMENT << 32;
            }
            8
        }
        // RFC 4302, section 2.2: in words of four bytes, less two.
        IPPROTO_AH => (len + 2) * 4,
        // RFC 8200, section 4: in words of eight bytes, less the first.
        _ => (len + 1) * 8,
    };
    u64::from(following) | (at + size) << 8
}

#[inline(always)]
fn ipv6(ctx: &TcContext, offset: usize) -> Result<Headers, Counter> {
    const MALFORMED: Counter = Counter::Malformed;
    let mut next: u8 = read(ctx, offset + 6).ok_or(MALFORMED)?;
    let payload_len = u16::from_be(read(ctx, offset + 4).ok_or(MALFORMED)?);
    let mut at = offset + 40;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if next == IPPROTO_TCP {
            break;
        }
        if !is_extension(next) {
            return Err(Counter::NotTcp);
        }
        let behind = skip(ctx.skb.skb, next.into(), at as u64);
        match behind >> 32 {
            0 => {}
            FRAGMENT => return Err(Counter::Fragment),
            _ => return Err(MALFORMED),
        }
        next = behind as u8;
        at = (behind as u32 >> 8) as usize;
    }
    // More than that many headers can have: so the verifier knows it too.
    let at = opaque(at as u64);
    if at > 16 << 10 {
        return Err(MALFORMED);
    }
    let at = at as usize;
    if next != IPPROTO_TCP {
        return Err(MALFORMED);
    }
    let source: [u32; 4] = read(ctx, offset + 8).ok_or(MALFORMED)?;
    let destination: [u32; 4] = read(ctx, offset + 24).ok_or(MALFORMED)?;
    let len = if payload_len == 0 {
        0
    } else {
        u32::from(payload_len) + 40
    };
    let end = end_of_packet(ctx, offset, len);
    tcp(ctx, at, end, source, destination)
}

/// Where the IP packet at `offset` ends. `len` is what its header says, 0 where it cannot say it: a
/// BIG TCP super-packet. What lies behind is padding of the link layer (RFC 894: at least 46 bytes).
#[inline(always)]
pub fn end_of_packet(ctx: &TcContext, offset: usize, len: u32) -> u32 {
    let end = ctx.len();
    let stated = offset as u32 + len;
    if len == 0 || stated > end {
        end
    } else {
        stated
    }
}

#[inline(always)]
fn tcp(
    ctx: &TcContext,
    offset: usize,
    end: u32,
    source: [u32; 4],
    destination: [u32; 4],
) -> Result<Headers, Counter> {
    const MALFORMED: Counter = Counter::Malformed;
    let ports = u32::from_be(read(ctx, offset).ok_or(MALFORMED)?);
    let seq = u32::from_be(read(ctx, offset + 4).ok_or(MALFORMED)?);
    let ack = u32::from_be(read(ctx, offset + 8).ok_or(MALFORMED)?);
    let rest = u32::from_be(read(ctx, offset + 12).ok_or(MALFORMED)?);
    let header_len = (rest >> 28) * 4;
    let payload = offset as u32 + header_len;
    if header_len < 20 || payload > end {
        return Err(MALFORMED);
    }
    Ok(Headers {
        source,
        destination,
        source_port: (ports >> 16) as u16,
        destination_port: ports as u16,
        seq,
        ack,
        flags: (rest >> 16) as u8,
        window: rest as u16,
        payload,
        len: end - payload,
    })
}
