//! The pcap format: a header for the file, then records of a header and a packet each.
//!
//! The variants are told by the magic number: byte order, microseconds or nanoseconds, and the one
//! with longer record headers that some old Linux tools wrote.

use super::{CaptureError, Damage, MAX_RECORD, Record, fields::ByteOrder, input::Input};
use crate::proto::time::Timestamp;

const FILE_HEADER: usize = 24;

/// What a file says of all its packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pcap {
    order: ByteOrder,
    /// Nanoseconds to the unit of a packet's fraction of a second.
    unit: u64,
    record_header: usize,
    /// Link type of every packet.
    pub(super) link: u16,
}

impl Pcap {
    /// The variant that begins with `magic`.
    pub(super) fn from_magic(magic: [u8; 4]) -> Option<Self> {
        let variant = |order, unit, record_header| Self {
            order,
            unit,
            record_header,
            link: 0,
        };
        [ByteOrder::Little, ByteOrder::Big]
            .into_iter()
            .find_map(|order| match order.u32(magic) {
                0xa1b2_c3d4 => Some(variant(order, 1_000, 16)),
                0xa1b2_3c4d => Some(variant(order, 1, 16)),
                0xa1b2_cd34 => Some(variant(order, 1_000, 24)),
                _ => None,
            })
    }

    /// Reads the rest of the file's header.
    ///
    /// The time zone in it is 0 in all files and ignored by all readers; the snap length is not a
    /// bound that writers keep.
    pub(super) fn read_header(&mut self, input: &mut Input) -> Result<(), CaptureError> {
        let mut header = self.order.fields(input.take(FILE_HEADER)?);
        header.skip(20);
        // The upper half says how long the frames' check sequence is, which the length in the IP
        // header leaves out anyway.
        let link = header.u32().unwrap_or_default() & 0xffff;
        self.link = u16::try_from(link).unwrap_or_default();
        Ok(())
    }

    /// The next packet, `None` at the end of the file.
    pub(super) fn next<'a>(
        &self,
        input: &'a mut Input,
    ) -> Result<Option<Record<'a>>, CaptureError> {
        let offset = input.offset();
        if input.at_end()? {
            return Ok(None);
        }
        let mut header = self.order.fields(input.require(self.record_header)?);
        let mut field = || header.u32().unwrap_or_default();
        let (seconds, fraction, captured, len) = (field(), field(), field(), field());
        let size = usize::try_from(captured).unwrap_or(usize::MAX);
        if size > MAX_RECORD {
            let damage = Damage::TooLong { len: captured };
            return Err(CaptureError::Damaged { offset, damage });
        }
        // At most 2^32 seconds and as many microseconds: below 2^63 nanoseconds.
        let nanos = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit;
        let record = input.take(self.record_header + size)?;
        Ok(Some(Record {
            ts: Timestamp(nanos),
            captured: record.get(self.record_header..).unwrap_or_default(),
            len,
            link: self.link,
            interface: None,
        }))
    }
}
