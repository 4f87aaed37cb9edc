//! Capture files: pcap and pcapng, plain or compressed with gzip, from a file or a pipe.
//!
//! Owns the two formats and the way from a file to segments; what is inside a packet is
//! [`crate::packet`]'s. Memory is flat in the file's size: one record is held at a time.
//!
//! A damaged file is read up to the damage, which is reported with its position. A packet that is
//! no TCP segment is counted and left.

mod fields;
mod input;
mod pcap;
mod pcapng;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use self::{input::Input, pcap::Pcap, pcapng::Pcapng};
use crate::{
    packet::{LinkType, NoSegment, TcpPacket},
    proto::{segment::Segment, time::Timestamp},
};

/// The largest packet, or pcapng block with a packet, that is read; a longer one is damage. No
/// device or offload makes packets of more than a few hundred KiB.
pub const MAX_RECORD: usize = 16 << 20;

/// The most interfaces that a pcapng section may describe.
pub const MAX_INTERFACES: usize = 1 << 16;

/// Why a capture cannot be read, or not further. Positions are of the decompressed file.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened.
    #[error("cannot open the capture file {}: {error}; check the path and its permissions", path.display())]
    Open {
        /// Its name.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is no file.
    #[error("cannot read {}: it is a directory; name a file in it", path.display())]
    Directory {
        /// Its name.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("cannot read the capture at byte {offset}: {error}; check the file and its medium")]
    Io {
        /// Up to where it went well.
        offset: u64,
        /// What the system said.
        error: io::Error,
    },
    /// There is not one byte.
    #[error(
        "the capture is empty (0 bytes); if it is still being written, let the capturing program \
         flush it (tcpdump -U), else record it again"
    )]
    Empty,
    /// It is something else.
    #[error("not a capture file: it begins with {magic}, and neither pcap nor pcapng does; {}", magic.remedy())]
    NotACapture {
        /// What it begins with.
        magic: Magic,
    },
    /// It ends within a header, packet or block.
    #[error(
        "the capture is cut off: the record at byte {offset} has {available} of at least {needed} \
         bytes; all before it was read, record or copy the file again to have the rest"
    )]
    Truncated {
        /// Where the incomplete header, packet or block begins.
        offset: u64,
        /// Bytes that it must have at least, as far as can be told.
        needed: u64,
        /// Bytes of it that are there.
        available: u64,
    },
    /// It contradicts itself.
    #[error(
        "the capture is damaged at byte {offset}: {damage}; all before it was read, record or copy \
         the file again to have the rest"
    )]
    Damaged {
        /// Where the damaged header, packet or block begins.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// No packet of it begins with something that we can read.
    #[error(
        "the capture's link type is {0}, which cannot be read; record on an Ethernet, Linux cooked, \
         raw IP or loopback device, or convert it to one of these"
    )]
    UnsupportedLinkType(LinkTypeNumber),
}

/// What is wrong with a damaged capture.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A packet or block is longer than [`MAX_RECORD`].
    #[error("a packet or block of {len} bytes, where at most {MAX_RECORD} are possible")]
    TooLong {
        /// Its length.
        len: u32,
    },
    /// A block's length cannot be: too short for its type, or not a multiple of four.
    #[error("a block of type {kind:#x} with the impossible length {len}")]
    BlockLength {
        /// Its type.
        kind: u32,
        /// Its length.
        len: u32,
    },
    /// The two lengths of a block differ.
    #[error("a block that begins with the length {len} and ends with the length {repeated}")]
    Trailer {
        /// The first.
        len: u32,
        /// The second.
        repeated: u32,
    },
    /// A section header block without the byte-order magic.
    #[error("a section with the unknown byte-order magic {0:02x?}")]
    ByteOrder([u8; 4]),
    /// A section of a version that there is not.
    #[error("a section of pcapng version {0}, where only 1 is known")]
    Version(u16),
    /// The options of an interface description go beyond its block, or have a wrong size.
    #[error("an interface description with malformed options")]
    Options,
    /// More interfaces than [`MAX_INTERFACES`].
    #[error("more than {MAX_INTERFACES} interfaces in a section")]
    TooManyInterfaces,
    /// A packet of an interface that was not described before.
    #[error("a packet of interface {id}, where the section has described {known} interfaces")]
    UnknownInterface {
        /// The interface.
        id: u32,
        /// How many there are.
        known: usize,
    },
    /// A packet does not fit into its block.
    #[error("a packet of {captured} captured bytes that its block has no room for")]
    PacketLength {
        /// Its captured length.
        captured: u32,
    },
    /// The compressed data cannot be decompressed.
    #[error("the gzip data are corrupt ({0})")]
    Gzip(io::Error),
}

/// The first bytes of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Magic {
    bytes: [u8; 4],
    len: usize,
}

impl Magic {
    fn new(file: &[u8]) -> Self {
        let mut bytes = [0; 4];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(file) {
            *to = *from;
            len += 1;
        }
        Self { bytes, len }
    }

    /// The bytes, at most four.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn remedy(&self) -> &'static str {
        match self.bytes() {
            [0x28, 0xb5, 0x2f, 0xfd] => "it looks like zstd: decompress it first (zstd -dc)",
            [0xfd, b'7', b'z', b'X'] => "it looks like xz: decompress it first (xz -dc)",
            [0x04, 0x22, 0x4d, 0x18] => "it looks like lz4: decompress it first (lz4 -dc)",
            [b'B', b'Z', b'h', _] => "it looks like bzip2: decompress it first (bzip2 -dc)",
            [b's', b'n', b'o', b'o'] => "it looks like snoop: convert it first (editcap -F pcapng)",
            [0x1f, 0x8b, ..] => "it is compressed twice: decompress it first (gzip -dc)",
            _ => "record with tcpdump -w, or convert it first (editcap -F pcapng)",
        }
    }
}

impl fmt::Display for Magic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.bytes().iter().enumerate() {
            write!(f, "{}{byte:02x}", if i > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

/// A link-layer header type as files number them, shown with its name where it is a usual one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkTypeNumber(pub u16);

impl fmt::Display for LinkTypeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            6 => " (IEEE802_5)",
            9 => " (PPP)",
            50 => " (PPP_HDLC)",
            51 => " (PPP_ETHER)",
            105 => " (IEEE802_11)",
            117 => " (PFLOG)",
            119 => " (IEEE802_11_PRISM)",
            127 => " (IEEE802_11_RADIOTAP)",
            163 => " (IEEE802_11_AVS)",
            189 => " (USB_LINUX)",
            192 => " (PPI)",
            220 => " (USB_LINUX_MMAPPED)",
            227 => " (CAN_SOCKETCAN)",
            239 => " (NFLOG)",
            249 => " (USBPCAP)",
            252 => " (WIRESHARK_UPPER_PDU)",
            253 => " (NETLINK)",
            _ => "",
        };
        write!(f, "{}{name}", self.0)
    }
}

/// What was found in a capture. Every packet is in one of the counts after `packets`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CaptureCounts {
    /// Bytes read, after decompression.
    pub bytes: u64,
    /// Packets, of any kind.
    pub packets: u64,
    /// TCP segments: those that were handed on.
    pub segments: u64,
    /// Packets that carry something else.
    pub not_tcp: u64,
    /// Fragments of TCP segments other than the first.
    pub fragments: u64,
    /// Packets of which the snap length left too little to see the TCP header.
    pub cut: u64,
    /// Packets whose headers contradict themselves.
    pub malformed: u64,
    /// Packets of interfaces with a link type that cannot be read.
    pub unsupported_link_type: u64,
}

/// A packet as a file has it.
struct Record<'a> {
    ts: Timestamp,
    captured: &'a [u8],
    /// Bytes on the wire.
    len: u32,
    link: u16,
    interface: Option<u32>,
}

enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

/// A capture file that is being read.
pub struct CaptureFile {
    input: Input,
    format: Format,
    counts: CaptureCounts,
}

impl CaptureFile {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened or is no capture that could be read.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::from_reader(Box::new(Self::open_file(path)?))
    }

    /// Opens a file without reading from it: what [`Self::from_reader`] takes, for those who have
    /// something to put in between.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened, or is a directory.
    pub fn open_file(path: &Path) -> Result<File, CaptureError> {
        let file = File::open(path).map_err(|error| CaptureError::Open {
            path: path.to_owned(),
            error,
        })?;
        if file.metadata().is_ok_and(|file| file.is_dir()) {
            return Err(CaptureError::Directory {
                path: path.to_owned(),
            });
        }
        Ok(file)
    }

    /// Reads from anything. It need be neither buffered nor able to seek; a packet that has come
    /// is handed on before more is waited for.
    ///
    /// # Errors
    ///
    /// Where it is no capture that could be read.
    pub fn from_reader(input: Box<dyn Read>) -> Result<Self, CaptureError> {
        let mut input = Input::new(input, false);
        if let [0x1f, 0x8b, ..] = input.peek(4) {
            input = Input::new(Box::new(MultiGzDecoder::new(input)), true);
        }
        if input.at_end()? {
            return Err(CaptureError::Empty);
        }
        let start = input.peek(4);
        let magic = Magic::new(start);
        let Some(first) = start.first_chunk().copied() else {
            return Err(if begins_a_magic(start) {
                input.short(0, 4)
            } else {
                CaptureError::NotACapture { magic }
            });
        };
        let format = if first == pcapng::SECTION_HEADER.to_be_bytes() {
            Format::Pcapng(Pcapng::new())
        } else if let Some(mut pcap) = Pcap::from_magic(first) {
            pcap.read_header(&mut input)?;
            if LinkType::from_number(pcap.link).is_none() {
                return Err(CaptureError::UnsupportedLinkType(LinkTypeNumber(pcap.link)));
            }
            Format::Pcap(pcap)
        } else {
            return Err(CaptureError::NotACapture { magic });
        };
        Ok(Self {
            input,
            format,
            counts: CaptureCounts::default(),
        })
    }

    /// Calls `each` for every TCP segment, in the order of the file, to its end or until `each`
    /// breaks. After a break, another call goes on behind the segment that broke.
    ///
    /// Times are the packets' own. A simple packet block of a pcapng file has none and is given
    /// that of the packet before it.
    ///
    /// # Errors
    ///
    /// Where the file is damaged or cannot be read on, all before that having been handed on; and
    /// at the end of a pcapng file, where it describes interfaces and none can be read.
    pub fn read(
        &mut self,
        each: &mut dyn FnMut(&Segment<'_>) -> ControlFlow<()>,
    ) -> Result<(), CaptureError> {
        loop {
            let record = match &mut self.format {
                Format::Pcap(pcap) => match pcap.next(&mut self.input)? {
                    Some(record) => record,
                    None => return Ok(()),
                },
                Format::Pcapng(pcapng) => match pcapng.step(&mut self.input)? {
                    pcapng::Step::Packet(record) => record,
                    pcapng::Step::Other => continue,
                    pcapng::Step::End => match pcapng.unreadable() {
                        None => return Ok(()),
                        Some(link) => {
                            let link = LinkTypeNumber(link);
                            return Err(CaptureError::UnsupportedLinkType(link));
                        }
                    },
                },
            };
            if self.counts.hand_on(&record, each).is_break() {
                return Ok(());
            }
        }
    }

    /// What was found so far.
    #[must_use]
    pub fn counts(&self) -> CaptureCounts {
        CaptureCounts {
            bytes: self.input.offset(),
            ..self.counts
        }
    }
}

impl CaptureCounts {
    /// Counts a packet, and hands it on if it is a segment.
    fn hand_on(
        &mut self,
        record: &Record<'_>,
        each: &mut dyn FnMut(&Segment<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.packets += 1;
        let Some(link) = LinkType::from_number(record.link) else {
            self.unsupported_link_type += 1;
            return ControlFlow::Continue(());
        };
        let count = match TcpPacket::parse(link, record.captured, record.len) {
            Ok(packet) => {
                self.segments += 1;
                let window = packet.captured();
                return each(&packet.segment(record.ts, record.interface, &window));
            }
            Err(NoSegment::NotTcp) => &mut self.not_tcp,
            Err(NoSegment::Fragment) => &mut self.fragments,
            Err(NoSegment::Cut) => &mut self.cut,
            Err(NoSegment::Malformed) => &mut self.malformed,
        };
        *count += 1;
        ControlFlow::Continue(())
    }
}

/// Whether fewer than four bytes could be the beginning of a capture.
fn begins_a_magic(bytes: &[u8]) -> bool {
    let magics = [
        pcapng::SECTION_HEADER,
        0xa1b2_c3d4,
        0xa1b2_3c4d,
        0xa1b2_cd34,
    ];
    magics
        .iter()
        .flat_map(|magic| [magic.to_le_bytes(), magic.to_be_bytes()])
        .any(|magic| magic.starts_with(bytes))
}

#[cfg(test)]
mod tests;

// The binary's tests write captures too.
#[cfg(test)]
#[path = "../../../tests/support/pcap.rs"]
pub(crate) mod writer;
