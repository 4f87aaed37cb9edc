//! The pcapng format: blocks, each with its length at either end, in sections that have a byte
//! order and interfaces of their own.
//!
//! Reads the blocks that hold packets and what these refer to, and passes over all others.

use super::{
    CaptureError, Damage, MAX_INTERFACES, MAX_RECORD, Record,
    fields::{ByteOrder, Fields},
    input::Input,
};
use crate::{packet::LinkType, proto::time::Timestamp};

/// Type of a section header block: the same in both byte orders. A file begins with one.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Type and both lengths.
const BLOCK_FRAME: u32 = 12;

const OPTION_END: u16 = 0;
const OPTION_TSRESOL: u16 = 9;
const OPTION_TSOFFSET: u16 = 14;

/// Where in a file we are.
#[derive(Debug)]
pub(super) struct Pcapng {
    order: ByteOrder,
    /// Those of the section.
    interfaces: Vec<Interface>,
    /// The link type of the first interface of all, and whether there was one that can be read.
    first_link: Option<u16>,
    readable: bool,
    /// Time of the last packet that had one: simple packet blocks have none.
    last: Timestamp,
}

/// What a block was.
pub(super) enum Step<'a> {
    /// A packet.
    Packet(Record<'a>),
    /// Something else.
    Other,
    /// There is none: the file ends.
    End,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    /// 0: no limit.
    snap_len: u32,
    clock: Clock,
}

impl Pcapng {
    pub(super) fn new() -> Self {
        Self {
            order: ByteOrder::Little,
            interfaces: Vec::new(),
            first_link: None,
            readable: false,
            last: Timestamp(0),
        }
    }

    /// The link type to complain about, where the interfaces so far have none that can be read.
    pub(super) fn unreadable(&self) -> Option<u16> {
        self.first_link.filter(|_| !self.readable)
    }

    /// Reads the next block.
    pub(super) fn step<'a>(&mut self, input: &'a mut Input) -> Result<Step<'a>, CaptureError> {
        let offset = input.offset();
        let damaged = |damage| CaptureError::Damaged { offset, damage };

        if input.at_end()? {
            return Ok(Step::End);
        }
        let mut start = self.order.fields(input.require(8)?);
        let kind = start.u32().unwrap_or_default();
        let mut len = start.u32().unwrap_or_default();
        if kind == SECTION_HEADER {
            // A new section may have the other byte order, its length included.
            let (start, magic) = input
                .require(12)?
                .split_last_chunk()
                .unwrap_or((&[], &[0; 4]));
            self.order = ByteOrder::of(*magic, BYTE_ORDER_MAGIC).ok_or(CaptureError::Damaged {
                offset,
                damage: Damage::ByteOrder(*magic),
            })?;
            let mut start = self.order.fields(start);
            start.skip(4);
            len = start.u32().unwrap_or_default();
        }

        let least = match kind {
            SECTION_HEADER => 28,
            INTERFACE_DESCRIPTION => 20,
            OBSOLETE_PACKET | ENHANCED_PACKET => 32,
            SIMPLE_PACKET => 16,
            _ => BLOCK_FRAME,
        };
        if len < least || !len.is_multiple_of(4) {
            return Err(damaged(Damage::BlockLength { kind, len }));
        }
        if least == BLOCK_FRAME {
            self.pass_over(input, len)?;
            return Ok(Step::Other);
        }
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        if size > MAX_RECORD {
            return Err(damaged(Damage::TooLong { len }));
        }

        let block = input.take(size)?;
        let (block, trailer) = block.split_last_chunk().unwrap_or((block, &[0; 4]));
        let repeated = self.order.u32(*trailer);
        if repeated != len {
            return Err(damaged(Damage::Trailer { len, repeated }));
        }
        let mut body = self.order.fields(block);
        body.skip(8);
        let packet = match kind {
            SECTION_HEADER => self.section_header(body).map(|()| None),
            INTERFACE_DESCRIPTION => self.interface_description(body).map(|()| None),
            SIMPLE_PACKET => self.simple_packet(body).map(Some),
            _ => self.packet(body, kind == OBSOLETE_PACKET).map(Some),
        };
        Ok(packet.map_err(damaged)?.map_or(Step::Other, Step::Packet))
    }

    /// Passes over a block of `len` bytes without holding it.
    fn pass_over(&self, input: &mut Input, len: u32) -> Result<(), CaptureError> {
        let offset = input.offset();
        input.skip(u64::from(len - 4));
        let Some(trailer) = input.peek(4).first_chunk().copied() else {
            return Err(input.short(offset, u64::from(len)));
        };
        let repeated = self.order.u32(trailer);
        if repeated != len {
            let damage = Damage::Trailer { len, repeated };
            return Err(CaptureError::Damaged { offset, damage });
        }
        input.skip(4);
        Ok(())
    }

    fn section_header(&mut self, mut body: Fields<'_>) -> Result<(), Damage> {
        body.skip(4);
        let version = body.u16().unwrap_or_default();
        if version != 1 {
            return Err(Damage::Version(version));
        }
        self.interfaces.clear();
        Ok(())
    }

    fn interface_description(&mut self, mut body: Fields<'_>) -> Result<(), Damage> {
        if self.interfaces.len() == MAX_INTERFACES {
            return Err(Damage::TooManyInterfaces);
        }
        let link = body.u16().unwrap_or_default();
        body.skip(2);
        let snap_len = body.u32().unwrap_or_default();
        let mut clock = Clock::default();
        while let (Some(code), Some(len)) = (body.u16(), body.u16()) {
            if code == OPTION_END {
                break;
            }
            let value = body.padded(u32::from(len)).ok_or(Damage::Options)?;
            match code {
                OPTION_TSRESOL => {
                    let [resolution] = value.try_into().map_err(|_| Damage::Options)?;
                    clock.resolution = resolution;
                }
                OPTION_TSOFFSET => {
                    let seconds = value.try_into().map_err(|_| Damage::Options)?;
                    clock.offset = self.order.i64(seconds);
                }
                _ => {}
            }
        }
        self.first_link.get_or_insert(link);
        self.readable |= LinkType::from_number(link).is_some();
        self.interfaces.push(Interface {
            link,
            snap_len,
            clock,
        });
        Ok(())
    }

    /// Enhanced packet block, or the packet block that it replaced.
    fn packet<'a>(&mut self, mut body: Fields<'a>, obsolete: bool) -> Result<Record<'a>, Damage> {
        let id = if obsolete {
            let id = body.u16().unwrap_or_default();
            // Packets dropped since the last one.
            body.skip(2);
            u32::from(id)
        } else {
            body.u32().unwrap_or_default()
        };
        let interface = self.interface(id)?;
        let mut field = || body.u32().unwrap_or_default();
        let units = u64::from(field()) << 32 | u64::from(field());
        let (captured, len) = (field(), field());
        let captured = body
            .padded(captured)
            .ok_or(Damage::PacketLength { captured })?;
        self.last = interface.clock.time(units);
        Ok(Record {
            ts: self.last,
            captured,
            len,
            link: interface.link,
            interface: Some(id),
        })
    }

    /// Simple packet block: of the section's first interface, its captured length not stated.
    fn simple_packet<'a>(&mut self, mut body: Fields<'a>) -> Result<Record<'a>, Damage> {
        let interface = self.interface(0)?;
        let len = body.u32().unwrap_or_default();
        let snap_len = match interface.snap_len {
            0 => u32::MAX,
            limit => limit,
        };
        let captured = body.at_most(len.min(snap_len));
        Ok(Record {
            ts: self.last,
            captured,
            len,
            link: interface.link,
            interface: Some(0),
        })
    }

    fn interface(&self, id: u32) -> Result<Interface, Damage> {
        let known = self.interfaces.len();
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        self.interfaces
            .get(index)
            .copied()
            .ok_or(Damage::UnknownInterface { id, known })
    }
}

/// How an interface's packets tell the time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Clock {
    /// `if_tsresol`: units to the second, as a negative power of 10, or of 2 with the top bit set.
    resolution: u8,
    /// `if_tsoffset`: seconds to add.
    offset: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            resolution: 6,
            offset: 0,
        }
    }
}

impl Clock {
    /// The time after `units`. Before the epoch it is the epoch, and at most what 63 bits hold.
    fn time(self, units: u64) -> Timestamp {
        const SECOND: i128 = 1_000_000_000;
        let units = i128::from(units);
        let exponent = u32::from(self.resolution & 0x7f);
        // Below 2^64 * 10^9, so 94 bits.
        let nanos = match (self.resolution & 0x80, exponent) {
            (0, 0..=9) => units * SECOND / 10_i128.pow(exponent),
            // 10^20 is more than any count of units.
            (0, _) => 10_i128
                .checked_pow(exponent - 9)
                .map_or(0, |divisor| units / divisor),
            (_, _) => (units * SECOND) >> exponent,
        };
        let nanos = nanos + i128::from(self.offset) * SECOND;
        Timestamp(
            nanos
                .clamp(0, i128::from(i64::MAX))
                .try_into()
                .unwrap_or_default(),
        )
    }
}
