//! A TCP connection as the kernel program keeps it: key, state, and what the agent says about it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A TCP connection, the same value for both directions. IPv4 addresses are mapped (`::ffff:a.b.c.d`).
///
/// The end with the lower port comes first; with equal ports the end with the lower address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Ord, PartialOrd)]
#[repr(C)]
pub struct FlowKey {
    /// Both addresses, in network byte order.
    pub addr: [[u8; 16]; 2],
    /// Both ports, in host byte order.
    pub port: [u16; 2],
    /// Which network namespace the addresses belong to, where they mean something only inside it (see
    /// [`is_of_namespace`]); 0 for all others, and for the agent's own.
    pub scope: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// The key of a packet, and the index (0 or 1) of its sender in the key.
    #[inline(always)]
    #[must_use]
    pub fn new(
        source: [u8; 16],
        source_port: u16,
        destination: [u8; 16],
        destination_port: u16,
        scope: u32,
    ) -> (Self, usize) {
        let source_first = if source_port == destination_port {
            let (s, d) = (
                u128::from_be_bytes(source),
                u128::from_be_bytes(destination),
            );
            s <= d
        } else {
            source_port < destination_port
        };
        if source_first {
            let key = Self {
                addr: [source, destination],
                port: [source_port, destination_port],
                scope,
            };
            (key, 0)
        } else {
            let key = Self {
                addr: [destination, source],
                port: [destination_port, source_port],
                scope,
            };
            (key, 1)
        }
    }

    /// A number below [`crate::globals::HINTS`] that costs little to find.
    #[inline(always)]
    #[must_use]
    pub const fn hint(&self) -> u32 {
        let [a, b] = &self.addr;
        // The end of an address is what differs within a network.
        let ends = u32::from_ne_bytes([a[12], a[13], a[14], a[15]])
            ^ u32::from_ne_bytes([b[12], b[13], b[14], b[15]]).rotate_left(7);
        let ports = (self.port[0] as u32) << 16 | self.port[1] as u32;
        (ends ^ ports).wrapping_mul(0x9e37_79b1) >> (32 - crate::globals::HINTS.ilog2())
    }

    /// The key of a segment between two socket addresses, and the index of `source` in it.
    #[must_use]
    pub fn from_socket_addrs(
        source: SocketAddr,
        destination: SocketAddr,
        scope: u32,
    ) -> (Self, usize) {
        Self::new(
            mapped(source.ip()),
            source.port(),
            mapped(destination.ip()),
            destination.port(),
            scope,
        )
    }

    /// One end of the connection; `end` is 0 or 1, and anything else means 1.
    #[must_use]
    pub fn socket_addr(&self, end: usize) -> SocketAddr {
        let end = usize::from(end != 0);
        SocketAddr::new(unmapped(self.addr[end]), self.port[end])
    }
}

/// An address in the 16 bytes that keys and records use.
#[must_use]
pub fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that 16 bytes of a key or record stand for.
#[must_use]
pub fn unmapped(bytes: [u8; 16]) -> IpAddr {
    if let [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] = bytes {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(bytes))
    }
}

/// Whether an address, mapped and in network byte order, means something only inside a network
/// namespace: loopback (127.0.0.0/8, `::1`) and link-local ones (169.254.0.0/16, `fe80::/10`).
///
/// All others are taken to mean the same in all namespaces, so that a connection is the same wherever it
/// is seen.
#[inline(always)]
#[must_use]
pub const fn is_of_namespace(address: [u32; 4]) -> bool {
    let [a, b, c, d] = [
        u32::from_be(address[0]),
        u32::from_be(address[1]),
        u32::from_be(address[2]),
        u32::from_be(address[3]),
    ];
    if a | b != 0 {
        return a >> 22 == 0xfe80 >> 6;
    }
    match c {
        0xffff => d >> 24 == 127 || d >> 16 == 0xa9fe,
        0 => d == 1,
        _ => false,
    }
}

/// Where in another network namespace than the agent's a packet is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Vantage {
    /// What stands for the interface in [`hook`] and in records: indexes of different namespaces
    /// collide.
    pub interface: u32,
    /// The namespace's [`FlowKey::scope`]; not 0.
    pub scope: u32,
}

const _: () = assert!(size_of::<Vantage>() == 8);

/// The first [`Vantage::interface`]. No index of an interface is as high, and the last one fits into
/// [`hook`].
pub const FIRST_VANTAGE: u32 = 1 << 30;

/// What the kernel program remembers of a flow.
///
/// Only the kernel program writes it. What the agent has to say goes into a [`Verdict`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct FlowState {
    /// `CLOCK_MONOTONIC` nanoseconds of the last sampled segment.
    pub last_seen: u64,
    /// Tells this incarnation of the connection from others with the same key. Never 0.
    pub epoch: u32,
    /// Initial sequence number of the SYN, 0 where none was seen.
    pub isn: u32,
    /// By sender (index in the key): the hook that accounts for this direction, see [`hook`]. 0
    /// until a hook has claimed it.
    pub owner: [u32; 2],
    /// By sender: the sequence number behind the newest byte seen at the owner.
    pub high: [u32; 2],
    /// A [`stage`].
    pub stage: u32,
    /// Segments left before the stage gives up.
    pub budget: u32,
    /// Sequence number behind the last request for a WebSocket, 0 where it is not known.
    pub request_end: u32,
    /// Not used.
    pub reserved: u32,
    /// As [`Followed::closed_at`].
    pub closed_at: [u32; 2],
    /// By sender: as [`Walked::hole`].
    pub hole: [[u32; 2]; 2],
}

const _: () = assert!(size_of::<FlowState>() == 72);

/// What the kernel program remembers of a flow that is followed.
///
/// Only the kernel program writes it, what concerns the walk under [`Self::lock`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Followed {
    /// The kernel's spin lock.
    pub lock: u32,
    /// As [`FlowState::epoch`].
    pub epoch: u32,
    /// `CLOCK_MONOTONIC` nanoseconds of the last payload in either direction.
    pub last_seen: u64,
    /// As [`FlowState::isn`].
    pub isn: u32,
    /// Which pair of [`crate::tally::Tally`] is this flow's; 0 if it has none.
    pub tally: u32,
    /// See [`flag`]; set when it is entered, and by a [`Cursor`].
    pub flags: u32,
    /// By sender: [`Walked::high`] when the receiver closed its window; 0 if it has opened it since.
    pub closed_at: [u32; 2],
    /// Not 0 if nothing is copied whole until the ring buffer is nearly empty.
    pub muted: u32,
    /// By sender (index in the key).
    pub directions: [Walked; 2],
}

const _: () = assert!(size_of::<Followed>() == 200);

/// One direction of a [`Followed`] flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Walked {
    /// A [`Place`].
    pub place: u64,
    /// Sequence number behind the newest byte seen at the owner.
    pub high: u32,
    /// The hook that accounts for this direction, see [`hook`]. 0 until a hook has claimed it.
    pub owner: u32,
    /// See [`crate::oddity::note`].
    pub hole: [u32; 2],
    /// The slot of the segment that was set aside last because one before it is missing; 0 if none
    /// is. It names the next.
    pub waiting: u32,
    /// Frames so far.
    pub frames: u32,
    // What is above, most segments need: it is together, for the cache's sake.
    /// In [`mode::FAR`]: payload bytes from the place to the next header. In [`mode::CONTROL`]:
    /// payload bytes that are still to be copied, in the lowest eight bits, and above them how many
    /// come behind these before the next header.
    pub rest: u64,
    /// Payload bytes of the message under way.
    pub message_len: u64,
    /// The bytes of a header that the last segment cut off.
    pub carry: [u64; 2],
    /// `CLOCK_MONOTONIC` nanoseconds since when segments have been waiting, if any are. In
    /// [`mode::WHOLE`] and [`mode::TRIAL`] a [`Trial`].
    pub waiting_since: u64,
    /// Frames of the message under way.
    pub message_frames: u32,
    /// Records so far.
    pub records: u32,
}

impl Walked {
    /// A direction of which nothing is known but who has its account and how far it has come.
    #[inline(always)]
    #[must_use]
    pub const fn new(place: Place, owner: u32, high: u32) -> Self {
        Self {
            place: place.0,
            rest: 0,
            message_len: 0,
            carry: [0; 2],
            waiting_since: 0,
            high,
            owner,
            frames: 0,
            message_frames: 0,
            records: 0,
            hole: [0; 2],
            waiting: 0,
        }
    }
}

/// Where the walk of a direction is, in one word, so that it is read and compared at once: from the
/// low end the sequence number, a version that each step changes (16 bits), the message under way
/// ([`state`], 8 bits), the bytes of a header that are carried over (4 bits), the [`mode`] (4 bits).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place(pub u64);

impl Place {
    /// A place of which nothing is known but that segments are copied whole.
    pub const WHOLE: Self = Self::new(0, 0, state::UNKNOWN, 0, mode::WHOLE);

    /// Puts a word together.
    #[inline(always)]
    #[must_use]
    pub const fn new(next: u32, version: u16, state: u8, carried: u8, mode: u8) -> Self {
        Self(
            next as u64
                | (version as u64) << 32
                | (state as u64) << 48
                | ((carried & 0xf) as u64) << 56
                | (mode as u64) << 60,
        )
    }

    /// Sequence number of the next byte that is needed; in [`mode::FAR`] any byte before it.
    #[inline(always)]
    #[must_use]
    pub const fn next(self) -> u32 {
        self.0 as u32
    }

    /// Steps so far.
    #[inline(always)]
    #[must_use]
    pub const fn version(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// See [`state`].
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> u8 {
        (self.0 >> 48) as u8
    }

    /// Bytes in [`Walked::carry`].
    #[inline(always)]
    #[must_use]
    pub const fn carried(self) -> u8 {
        (self.0 >> 56) as u8 & 0xf
    }

    /// See [`mode`].
    #[inline(always)]
    #[must_use]
    pub const fn mode(self) -> u8 {
        (self.0 >> 60) as u8
    }
}

/// How a direction is followed.
pub mod mode {
    /// Every segment is copied whole: the place is not known.
    pub const WHOLE: u8 = 0;
    /// The next header is at the place.
    pub const NEAR: u8 = 1;
    /// The next header is [`super::Walked::rest`] bytes behind the place, which are more than
    /// sequence numbers can tell apart.
    pub const FAR: u8 = 2;
    /// Payload that is to be copied, mostly a control frame's, goes on at the place.
    pub const CONTROL: u8 = 3;
    /// Every segment is copied whole, and walked besides from where a header may have been: see
    /// [`super::Trial`].
    pub const TRIAL: u8 = 4;
}

/// A direction that is copied whole, in one word: from the low end the sequence number where a trial
/// began (32 bits), [`Place::version`] since when it is copied whole (16 bits), when the trial began
/// ([`Trial::when`], 8 bits), and how many segments are being copied at this moment that were walked
/// on trial (8 bits).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trial(pub u64);

impl Trial {
    /// Puts a word together.
    #[inline(always)]
    #[must_use]
    pub const fn new(begin: u32, version: u16, since: u8, copying: u8) -> Self {
        Self(begin as u64 | (version as u64) << 32 | (since as u64) << 48 | (copying as u64) << 56)
    }

    /// Where it began.
    #[inline(always)]
    #[must_use]
    pub const fn begin(self) -> u32 {
        self.0 as u32
    }

    /// See [`Trial`].
    #[inline(always)]
    #[must_use]
    pub const fn version(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// See [`Trial`].
    #[inline(always)]
    #[must_use]
    pub const fn since(self) -> u8 {
        (self.0 >> 48) as u8
    }

    /// See [`Trial`].
    #[inline(always)]
    #[must_use]
    pub const fn copying(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// A time of `CLOCK_MONOTONIC`, in nanoseconds, as a trial has it: in sixtieths of a second, nearly.
    #[inline(always)]
    #[must_use]
    pub const fn when(now: u64) -> u8 {
        (now >> 24) as u8
    }
}

/// The message under way in a direction.
pub mod state {
    /// The opcode of the message under way, 0 if there is none.
    pub const OPCODE: u8 = 0x0f;
    /// The message under way is compressed.
    pub const COMPRESSED: u8 = 0x10;
    /// A message may be under way whose beginning was not seen.
    pub const UNKNOWN: u8 = 0x20;
    /// A close frame was seen.
    pub const CLOSED: u8 = 0x40;
}

/// Of a [`Followed`] flow.
pub mod flag {
    /// Index of the client in the key.
    pub const CLIENT: u32 = 1;
    /// RSV1 may say that a message is compressed: an extension that does so was agreed on, or it is
    /// not known what was.
    pub const DEFLATE: u32 = 2;
}

/// Which direction a [`Cursor`] is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct CursorKey {
    /// The flow.
    pub flow: FlowKey,
    /// Index of the sender in it.
    pub sender: u32,
}

/// The agent's word on where a direction goes on that is copied whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Cursor {
    /// The incarnation that is meant.
    pub epoch: u32,
    /// Sequence number of the next header; or where a trial began, with what was before it, if that is
    /// where a header is.
    pub next: u32,
    /// Payload bytes of the message under way.
    pub message_len: u64,
    /// Frames of the message under way.
    pub message_frames: u32,
    /// Frames so far.
    pub frames: u32,
    /// [`Place::version`] since when the direction has been copied whole.
    pub version: u32,
    /// See [`state`], and from bit 8 on [`flag`].
    pub state: u32,
}

const _: () = assert!(size_of::<Cursor>() == 32);

/// Identifies a hook: the interface and the direction in it.
#[inline(always)]
#[must_use]
pub const fn hook(ifindex: u32, egress: bool) -> u32 {
    (ifindex << 1) | egress as u32
}

/// What is known of a flow. Plain numbers, because the verifier's kernels read them from maps.
pub mod stage {
    /// Opened under our eyes, no payload yet.
    pub const FRESH: u32 = 0;
    /// Speaks HTTP: each segment is checked for an upgrade request.
    pub const HTTP: u32 = 1;
    /// An upgrade was asked for: both directions are sampled until it is decided.
    pub const UPGRADING: u32 = 2;
    /// Older than the agent: segments are checked for a plausible beginning.
    pub const UNKNOWN: u32 = 3;
    /// Older than the agent and began with a plausible frame header: sampled until the agent has
    /// decided or the budget is spent.
    pub const PROBING: u32 = 4;
    /// The budget of [`PROBING`] or [`UPGRADING`] is spent; the agent's verdict is awaited.
    pub const WAITING: u32 = 5;
    /// The upgrade was answered with another status: sampled for the rest of the answer's head,
    /// then as [`HTTP`] again.
    pub const REFUSED: u32 = 6;
    /// No WebSocket, or one that nobody wants.
    pub const IGNORED: u32 = 7;
    /// A WebSocket, which lives in the map of followed flows. If it is not there, the agent has
    /// removed it: for good where a verdict says so, else until it speaks again.
    pub const FOLLOWED: u32 = 8;
}

/// The agent's word on a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Verdict {
    /// The incarnation that is meant; for any other the verdict is void.
    pub epoch: u32,
    /// One of [`Verdict::FOLLOW`], [`Verdict::IGNORE`], [`Verdict::REJECTED`].
    pub decision: u32,
}

const _: () = assert!(size_of::<Verdict>() == 8);

impl Verdict {
    /// It is a WebSocket: follow it.
    pub const FOLLOW: u32 = 1;
    /// It is none, or is over: copy nothing more of it.
    pub const IGNORE: u32 = 2;
    /// The upgrade was refused: back to watching for the next one.
    pub const REJECTED: u32 = 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(s: &str) -> SocketAddr {
        s.parse().unwrap()
    }

    #[test]
    fn both_directions_have_one_key() {
        for (a, b) in [
            ("10.0.0.1:80", "10.0.0.2:40000"),
            ("10.0.0.1:80", "10.0.0.2:80"),
            ("[::1]:9000", "[::1]:9001"),
            ("[fe80::1]:1", "10.0.0.1:1"),
        ] {
            let (forth, sender) = FlowKey::from_socket_addrs(addr(a), addr(b), 0);
            let (back, receiver) = FlowKey::from_socket_addrs(addr(b), addr(a), 0);
            assert_eq!(forth, back);
            assert_eq!((sender, receiver), (sender, 1 - sender));
            assert_eq!(forth.socket_addr(sender), addr(a));
            assert_eq!(forth.socket_addr(receiver), addr(b));
        }
    }

    #[test]
    fn addresses_of_a_namespace() {
        let is_of_namespace = |address: &str| {
            let octets = mapped(address.parse().unwrap());
            let (words, _) = octets.as_chunks::<4>();
            is_of_namespace([0, 1, 2, 3].map(|i| u32::from_ne_bytes(words[i])))
        };
        for address in [
            "127.0.0.1",
            "127.9.0.3",
            "169.254.1.1",
            "::1",
            "fe80::1",
            "febf::9",
        ] {
            assert!(is_of_namespace(address), "{address}");
        }
        for address in [
            "10.0.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "::",
            "::2",
            "::127.0.0.1",
            "fec0::1",
            "fd00::1",
            "2001:db8::1",
            "0:0:1::1",
        ] {
            assert!(!is_of_namespace(address), "{address}");
        }
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        assert_eq!(
            unmapped(mapped("192.0.2.1".parse().unwrap())),
            "192.0.2.1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(
            unmapped(mapped("::1".parse().unwrap())),
            "::1".parse::<IpAddr>().unwrap()
        );
    }
}
