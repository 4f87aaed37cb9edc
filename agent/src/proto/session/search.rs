//! Getting back in sync: where in the bytes of one direction the next frame begins.

use std::time::Duration;

use super::{
    census::Census,
    chain::{Chain, Demand, Fed, Piece},
    evidence::BIT,
    paths::Paths,
    ping::Pings,
    usual::Usual,
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

/// Headers in a chain that were common in the direction before a gap: so many are enough where no
/// other chain has them.
///
/// Random bytes are four kinds of two bytes each so often in a row once in 2^84. Others may be by
/// design: a record of fixed size has at some place in it what its frame's header is. But then the frame's
/// headers are there, too, as regularly, and which is which cannot be told.
const USUAL: u32 = 6;

/// With so many a chain speaks against others. It begins within a frame of them, and so has one less
/// at most.
const USUAL_RIVAL: u32 = 3;

/// Bytes that chains are followed through one by one. A chain has its last frame behind fewer than [`USUAL`]
/// before its rival, so they have to be compared now and then.
const STRETCH: usize = 2048;

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
    census: Census,
    given_up: u64,
    usual: Usual,
    /// A chain that had [`USUAL_RIVAL`] ended since that was looked at.
    rival_ended: bool,
    /// Bytes in which chains may begin.
    allowance: u64,
    exhausted: bool,
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
            census: Census::default(),
            given_up: 0,
            usual: Usual::default(),
            rival_ended: false,
            allowance: u64::MAX,
            exhausted: false,
        }
    }

    /// Where `usual` were the headers that were common.
    pub fn among(self, usual: Usual) -> Self {
        Self { usual, ..self }
    }

    /// With no chain begun behind so many bytes.
    pub fn within(self, allowance: u64) -> Self {
        Self { allowance, ..self }
    }

    /// Bytes that were searched.
    pub fn searched(&self) -> u64 {
        self.searched.0
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
        if self.searched.0 >= self.allowance {
            self.given_up += u64::from(!self.exhausted);
            self.exhausted = true;
            if self.chains.is_empty() {
                return None;
            }
        }
        // Without common headers there is nothing to compare, and without room no chain to keep.
        let stretch = if self.usual.is_empty() || !room {
            piece.bytes.len()
        } else {
            STRETCH
        };
        let last = piece.bytes.len().saturating_sub(1) / stretch.max(1);
        for (n, bytes) in piece.bytes.chunks(stretch.max(1)).enumerate() {
            let from = n * stretch;
            let piece = &Piece {
                bytes,
                starts_segment: piece.starts_segment && n == 0,
                ends_segment: piece.ends_segment && n == last,
                quiet: if n == 0 { piece.quiet } else { Duration::ZERO },
                ..*piece
            };
            let best = self.feed_stretch(piece, preview, room, peer);
            if let Some((mut chain, at)) = best.or_else(|| self.most_usual(bytes.len())) {
                chain.leave_out_doubtful();
                return Some((chain, from + at));
            }
        }
        None
    }

    /// The chain that has enough headers that were common, where no other has.
    fn most_usual(&mut self, len: usize) -> Option<(Chain, usize)> {
        if std::mem::take(&mut self.rival_ended) {
            // It may be the one that was right, and what it had counts no more in what follows.
            self.chains.iter_mut().for_each(|chain| chain.usual = 0);
            return None;
        }
        let chains = self.chains.iter().enumerate();
        let (at, best) = chains.max_by_key(|(_, chain)| chain.usual)?;
        let is_rival =
            |chain: &Chain| chain.usual >= USUAL_RIVAL && chain.last_header() != best.last_header();
        if best.usual < USUAL || !best.is_behind_header() || self.chains.iter().any(is_rival) {
            return None;
        }
        let chain = self.chains.swap_remove(at);
        self.weigh();
        Some((chain, len))
    }

    fn feed_stretch(
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
            usual: self.usual,
        };
        let mut paths = Paths::new(piece.bytes.len());
        self.searched.1 += u64::from(piece.starts_segment);
        let mut best = None;
        // What begins with the segment goes first: nothing else begins within its header.
        let mut begun = None;
        let may_begin = !self.exhausted;
        if piece.starts_segment && may_begin {
            begun = self.begin(piece, 0, &demand, &mut paths, &mut best);
        }
        let mut alive = Vec::new();
        for mut chain in std::mem::take(&mut self.chains) {
            match chain.feed_among(piece, 0, &demand, &mut paths) {
                Fed::Alive => alive.push(chain),
                Fed::Dead => self.rival_ended |= chain.usual >= USUAL_RIVAL,
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
            if !may_begin {
                break;
            }
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
        self.census = census;
        self.weigh();
        best
    }

    /// Begins a chain at `from`, where one may begin, and reads what there is. The chain, if it goes on
    /// behind that.
    fn begin(
        &mut self,
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
            Fed::Dead => self.rival_ended |= chain.usual >= USUAL_RIVAL,
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
        if let Some((at, bits)) = self.weakest()
            && bits <= chain.bits()
        {
            let ended = self.chains.remove(at);
            self.rival_ended |= ended.usual > 0;
            self.chains.push(chain);
        } else {
            self.rival_ended |= chain.usual > 0;
        }
    }

    /// Which chain makes room first, and what it proves: least; of equals, it has waited longest.
    fn weakest(&self) -> Option<(usize, i32)> {
        let bits = self.chains.iter().map(Chain::bits).enumerate();
        bits.min_by_key(|(_, bits)| *bits)
    }

    /// Gives up chains until no more than `room` bytes are held. Whether any had to be.
    pub fn fit(&mut self, room: usize) -> bool {
        let fits = self.held <= room;
        while self.held > room
            && let Some((at, _)) = self.weakest()
        {
            self.chains.remove(at);
            self.weigh();
        }
        !fits
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
