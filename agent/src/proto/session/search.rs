//! Getting back in sync: where in the bytes of one direction the next frame begins.

use super::chain::{Chain, Demand, Fed, Piece};
use crate::proto::time::Timestamp;

/// Bits that are enough to be in sync again. A search goes over some 2^16 bytes, each of which may
/// be a beginning; fewer than one search in 10^6 may be wrong.
const ENOUGH: u32 = 36;

/// Chains that are followed at the same time. Of random bytes some twenty are.
const MAX_CHAINS: usize = 48;

/// The search in one direction.
#[derive(Debug)]
pub(super) struct Search {
    masked: bool,
    chains: Vec<Chain>,
    /// Bytes missing since the search began; `None` where nothing is known to be missing.
    missing: Option<u64>,
    held: usize,
}

impl Search {
    /// A search behind `missing` bytes, or in the midst of a direction where that is `None`.
    pub fn new(masked: bool, missing: Option<u64>) -> Self {
        Self {
            masked,
            chains: Vec::new(),
            missing,
            held: 0,
        }
    }

    /// A chain that already runs.
    pub fn adopt(&mut self, mut chain: Chain) {
        if chain.masked().is_none_or(|masked| masked == self.masked) {
            chain.trust_mask();
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

    /// Takes in bytes that are missing.
    pub fn feed_missing(&mut self, len: u64, ts: Timestamp) {
        if let Some(missing) = &mut self.missing {
            *missing = missing.saturating_add(len);
        }
        self.chains.retain_mut(|chain| chain.feed_missing(len, ts));
        self.weigh();
    }

    /// Takes in bytes. Yields the chain that proves enough first, and the position behind its last
    /// header. Without `room` no chain is begun that goes on behind the bytes.
    pub fn feed(
        &mut self,
        piece: &Piece<'_>,
        preview: usize,
        room: bool,
    ) -> Option<(Chain, usize)> {
        let demand = Demand {
            bits: ENOUGH,
            paired: None,
            preview,
        };
        let mut best: Option<(Chain, usize)> = None;
        let mut alive = Vec::new();
        for mut chain in std::mem::take(&mut self.chains) {
            match chain.feed(piece, 0, &demand) {
                Fed::Alive => alive.push(chain),
                Fed::Dead => {}
                Fed::Proven(at) => {
                    if best.as_ref().is_none_or(|(_, earlier)| at < *earlier) {
                        best = Some((chain, at));
                    }
                }
            }
        }
        self.chains = alive;
        for (from, first) in piece.bytes.iter().enumerate() {
            if best.as_ref().is_some_and(|(_, at)| from >= *at) {
                break;
            }
            let second = piece.bytes.get(from + 1).copied();
            if !Chain::can_begin(*first, second, self.masked) {
                continue;
            }
            if self.masked && repeats(piece.bytes, from) {
                continue;
            }
            let mut chain = Chain::new(Some(self.masked), from == 0 && piece.starts_segment);
            chain.missing_before = self.missing.unwrap_or(0);
            match chain.feed(piece, from, &demand) {
                Fed::Alive if room => self.keep(chain),
                Fed::Alive => {}
                Fed::Dead => {}
                Fed::Proven(at) => {
                    if best.as_ref().is_none_or(|(_, earlier)| at < *earlier) {
                        best = Some((chain, at));
                    }
                }
            }
        }
        self.weigh();
        best
    }

    fn keep(&mut self, chain: Chain) {
        if self.chains.len() < MAX_CHAINS {
            self.chains.push(chain);
            return;
        }
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

/// Whether the bytes around `at` repeat after four: payload of one byte throughout (zeros, most
/// often) under a masking key. Wherever that looks like a header it does so every four bytes, each
/// as credible as the one before. A header of its own looks so once in 2^31.
fn repeats(bytes: &[u8], at: usize) -> bool {
    let word = |at: usize| bytes.get(at..)?.first_chunk::<4>();
    let here = word(at);
    here.is_some() && (here == word(at + 4) || at.checked_sub(4).and_then(word) == here)
}
