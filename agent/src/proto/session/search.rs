//! Getting back in sync: where in the bytes of one direction the next frame begins.

use super::{
    census::Census,
    chain::{Chain, Demand, Fed, Piece},
    evidence::BIT,
    paths::Paths,
    ping::Pings,
};
use crate::proto::{frame::Opcode, time::Timestamp};

/// What a chain has to prove, beyond what the number of places costs at which it might begin.
///
/// The n-th byte of a search needs log2 n bits more, and so does a byte at the start of its n-th
/// segment: of any number of random bytes a search takes a false chain for true with a probability
/// of 2^-24 times the natural logarithm of their number and of that of their segments, once in
/// 10^6.
const ENOUGH: i32 = 24 * BIT;

/// What it is worth that a chain ends with the direction: one in four ends with a segment.
const ENDS: i32 = 2 * BIT;

/// What it is worth that the close frame is the last thing sent: it is rare anywhere else.
const CLOSES: i32 = 4 * BIT;

/// Chains that are followed at the same time. Of random bytes some twenty are. Beyond, the one that
/// proves least is given up, and counted.
const MAX_CHAINS: usize = 48;

/// What the other direction says about this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<'a> {
    /// It has sent its close frame.
    pub closed: bool,
    /// Its pings.
    pub pings: &'a Pings,
}

/// The search in one direction.
#[derive(Debug)]
pub(super) struct Search {
    masked: Option<bool>,
    /// Only chains that begin with a length of more than one byte are begun.
    long_only: bool,
    chains: Vec<Chain>,
    /// Bytes missing since the search began; `None` where nothing is known to be missing.
    missing: Option<u64>,
    /// Bytes and segments that were searched.
    searched: (u64, u64),
    held: usize,
    paths: Paths,
    census: Census,
    given_up: u64,
}

impl Search {
    /// A search behind `missing` bytes, or in the midst of a direction where that is `None`.
    pub fn new(masked: bool, missing: Option<u64>) -> Self {
        Self {
            masked: Some(masked),
            long_only: false,
            chains: Vec::new(),
            missing,
            searched: (0, 0),
            held: 0,
            paths: Paths::default(),
            census: Census::default(),
            given_up: 0,
        }
    }

    /// A search for large frames anywhere in what may be no WebSocket.
    pub fn for_large_frames() -> Self {
        Self {
            masked: None,
            long_only: true,
            ..Self::new(false, None)
        }
    }

    /// A chain that already runs.
    pub fn adopt(&mut self, mut chain: Chain) {
        if chain
            .masked()
            .is_none_or(|masked| Some(masked) == self.masked)
        {
            chain.trust_mask();
            chain.needed = ENOUGH;
            self.held += chain.held();
            self.chains.push(chain);
        }
    }

    /// Bytes that were missing, where that is a gap.
    pub fn missing(&self) -> Option<u64> {
        self.missing
    }

    /// Memory held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// What the best chain so far proves.
    pub fn best(&self) -> i32 {
        self.chains.iter().map(Chain::bits).max().unwrap_or(0)
    }

    /// Takes in bytes that are missing.
    pub fn feed_missing(&mut self, len: u64, ts: Timestamp) {
        if let Some(missing) = &mut self.missing {
            *missing = missing.saturating_add(len);
        }
        self.chains.retain_mut(|chain| chain.feed_missing(len, ts));
        self.weigh();
    }

    /// Takes in bytes. Yields the chain that proves enough first, and the position up to which it
    /// was read. Without `room` no chain is begun that goes on behind the bytes.
    pub fn feed(
        &mut self,
        piece: &Piece<'_>,
        preview: usize,
        room: bool,
        peer: Peer<'_>,
    ) -> Option<(Chain, usize)> {
        let mut census = std::mem::take(&mut self.census);
        census.add(piece.bytes);
        let piece = &Piece {
            position: self.searched.0,
            ..*piece
        };
        let demand = Demand {
            bits: 0,
            paired: None,
            preview,
            expects_close: peer.closed,
            pings: peer.pings,
            census: Some(&census),
        };
        let mut paths = std::mem::take(&mut self.paths);
        paths.clear(piece.bytes.len());
        self.searched.1 += u64::from(piece.starts_segment);
        let mut best = None;
        // What begins with the segment goes first: nothing else begins within its header.
        let mut begun = None;
        if piece.starts_segment {
            begun = self.begin(piece, 0, &demand, &mut paths, &mut best);
        }
        let mut alive = Vec::new();
        for mut chain in std::mem::take(&mut self.chains) {
            match chain.feed_among(piece, 0, &demand, &mut paths) {
                Fed::Alive => alive.push(chain),
                Fed::Dead => {}
                Fed::Proven(at) => offer(&mut best, chain, at),
            }
        }
        self.chains = alive;
        if let Some(chain) = begun
            && room
        {
            self.keep(chain);
        }
        let skipped = usize::from(piece.starts_segment);
        for (from, first) in piece.bytes.iter().enumerate().skip(skipped) {
            if !self.may_begin(*first, piece.bytes.get(from + 1).copied()) {
                continue;
            }
            if best.as_ref().is_some_and(|(_, at)| from >= *at) {
                break;
            }
            if let Some(chain) = self.begin(piece, from, &demand, &mut paths, &mut best)
                && room
            {
                self.keep(chain);
            }
        }
        self.searched.0 += piece.bytes.len() as u64;
        self.paths = paths;
        self.census = census;
        self.weigh();
        if let Some((chain, _)) = &mut best {
            chain.leave_out_doubtful();
        }
        best
    }

    /// Begins a chain at `from`, where one may begin, and reads what there is. The chain, if it goes on
    /// behind that.
    fn begin(
        &self,
        piece: &Piece<'_>,
        from: usize,
        demand: &Demand<'_>,
        paths: &mut Paths,
        best: &mut Option<(Chain, usize)>,
    ) -> Option<Chain> {
        let first = *piece.bytes.get(from)?;
        let second = piece.bytes.get(from + 1).copied();
        // The one that goes through here proves what one that begins here would.
        if !self.may_begin(first, second)
            || paths.is_taken(from)
            || self.masked != Some(false) && repeats(piece.bytes, from)
        {
            return None;
        }
        let aligned = from == 0 && piece.starts_segment;
        let mut chain = Chain::new(self.masked, aligned);
        chain.missing_before = self.missing.unwrap_or(0);
        chain.places = log2(if aligned {
            self.searched.1
        } else {
            self.searched.0 + from as u64
        });
        chain.needed = ENOUGH + chain.places;
        match chain.feed_among(piece, from, demand, paths) {
            Fed::Alive => return Some(chain),
            Fed::Dead => {}
            Fed::Proven(at) => offer(best, chain, at),
        }
        None
    }

    /// Chains that were given up for others since the last time.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// The sender has finished: the chain that ends there and proves most, if that is enough. Where
    /// it might begin is counted from the end.
    pub fn finish(&mut self, peer_closed: bool) -> Option<Chain> {
        let proves = |chain: &Chain| {
            let (bytes, segments) = chain.span();
            let places = if chain.starts_segment {
                u64::from(segments)
            } else {
                bytes
            };
            let last = chain.frames().last();
            let closes = last.is_some_and(|frame| frame.header.opcode == Opcode::Close);
            let closes = if closes && !peer_closed { CLOSES } else { 0 };
            chain.bits() + ENDS + closes - log2(places)
        };
        let chains = self.chains.iter().enumerate();
        let (at, proven) = chains
            .filter(|(_, chain)| chain.is_between_frames())
            .map(|(at, chain)| (at, proves(chain)))
            .max_by_key(|(_, bits)| *bits)?;
        (proven >= ENOUGH).then(|| self.chains.swap_remove(at))
    }

    fn may_begin(&self, first: u8, second: Option<u8>) -> bool {
        Chain::can_begin(first, second, self.masked)
            && !(self.long_only && second.is_none_or(|second| second & 0x7f < 126))
    }

    fn keep(&mut self, chain: Chain) {
        if self.chains.len() < MAX_CHAINS {
            self.chains.push(chain);
            return;
        }
        self.given_up += 1;
        // The one that proves least makes room; of equals, the one that has waited longest.
        let weakest = (self.chains.iter().enumerate()).min_by_key(|(_, chain)| chain.bits());
        if let Some((at, weakest)) = weakest
            && weakest.bits() <= chain.bits()
        {
            self.chains.remove(at);
            self.chains.push(chain);
        }
    }

    fn weigh(&mut self) {
        self.held = self.chains.iter().map(Chain::held).sum();
    }
}

/// Keeps the chain that proves enough first.
fn offer(best: &mut Option<(Chain, usize)>, chain: Chain, at: usize) {
    if best.as_ref().is_none_or(|(_, earlier)| at < *earlier) {
        *best = Some((chain, at));
    }
}

/// Whether the bytes around `at` repeat after four: payload of one byte throughout (zeros, most
/// often) under a masking key. Wherever that looks like a header it does so every four bytes, each
/// as credible as the one before. A header of its own looks so once in 2^31.
fn repeats(bytes: &[u8], at: usize) -> bool {
    let word = |at: usize| bytes.get(at..)?.first_chunk::<4>();
    let here = word(at);
    here.is_some() && (here == word(at + 4) || at.checked_sub(4).and_then(word) == here)
}

/// The binary logarithm, rounded up, as evidence.
pub(super) fn log2(n: u64) -> i32 {
    (u64::BITS - n.max(1).saturating_sub(1).leading_zeros()).cast_signed() * BIT
}
