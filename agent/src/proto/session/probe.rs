//! A connection that is older than the observation: is it a WebSocket?

use super::{
    chain::{Chain, Demand, Fed, Piece},
    evidence::BIT,
    http::{Bytes, Http, begins_message},
    ping::Pings,
    search::{Peer, Search, log2},
};
use crate::proto::time::Timestamp;

/// What one direction has to prove. There are up to twice [`STARTS`] chances to err.
const SINGLE: i32 = 28 * BIT;

/// What it has to prove in addition for each segment of the other direction that begins with no
/// frame, as long as none does: other protocols have messages that look like frames in one direction
/// (MQTT's SUBSCRIBE), and answer each with something else.
const CONTRADICTED: i32 = 16 * BIT;

/// What both directions have to prove together, one of them masked and the other not.
const BOTH: i32 = 30 * BIT;

/// With so much a direction counts where the other has proven enough, beyond what the number of places
/// costs at which it might begin. With less it is searched on.
const CREDIBLE: i32 = 13 * BIT;

/// Segments, of both directions, at whose start frames may begin before it is given up.
const STARTS: u32 = 64;

/// A chain within segments that proves as much is waited for, when there are no more [`STARTS`].
const PROMISING: i32 = 20 * BIT;

/// For so many more segments: a large frame's header is followed by hundreds of segments before the
/// next, and of random bytes no chain is as promising. It bounds how long what is none is copied.
const PATIENCE: u32 = 4096;

/// Where [`STARTS`] are used up, large frames are looked for until a direction has sent so many bytes:
/// the header of one of 1 MiB and that of the next. [`STARTS`] segments of 64 KiB, which is how they
/// come from most network cards, are as much.
const BULK: u64 = 5 << 19;

/// Only a direction whose segments have so many bytes on average may be in the midst of a large
/// frame.
const BULK_SEGMENT: u64 = 1024;

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Probe {
    /// Requests and responses so far: where the answer to a request for a WebSocket went missing,
    /// that is what the frames belong to.
    pub http: Box<Http>,
    chains: [Option<Chain>; 2],
    /// Where frames are large, segments rarely begin with one.
    searches: [Search; 2],
    /// Segments of each side that began with no frame.
    misses: [u32; 2],
    /// Bytes and segments of each side.
    sent: [(u64, u64); 2],
    /// Bytes of each side in which large frames may be sought.
    allowance: u64,
    starts: u32,
    patience: u32,
    pieces: u64,
}

/// What comes of the bytes.
#[derive(Debug)]
pub(super) enum Found {
    /// Too little to tell.
    Nothing,
    /// A WebSocket; the rest of the bytes, from this position on, was not read.
    WebSocket(usize),
    /// It is none.
    Neither,
}

/// The chains of a WebSocket that was recognised.
#[derive(Debug)]
pub(super) struct Recognised {
    /// Index of the client.
    pub client: usize,
    /// By side.
    pub chains: [Option<Chain>; 2],
    /// When the first frame was seen.
    pub opened: Timestamp,
}

impl Probe {
    /// Nothing seen yet but `http`. Large frames are sought in `allowance` bytes of each side.
    pub fn new(http: Box<Http>, allowance: u64) -> Self {
        let search = || Search::for_large_frames().within(allowance);
        Self {
            http,
            chains: [None, None],
            searches: [search(), search()],
            allowance,
            misses: [0, 0],
            sent: [(0, 0); 2],
            starts: STARTS,
            patience: PATIENCE,
            pieces: 0,
        }
    }

    /// Chains that were given up for others since the last time.
    pub fn take_given_up(&mut self) -> u64 {
        self.searches.iter_mut().map(Search::take_given_up).sum()
    }

    /// Memory held beyond a fixed size.
    pub fn held(&self) -> usize {
        let chains: usize = self.chains.iter().flatten().map(Chain::held).sum();
        let searches: usize = self.searches.iter().map(Search::held).sum();
        chains + searches + self.http.held()
    }

    /// Whether HTTP begins with these bytes. What came before is forgotten then.
    pub fn is_http(&mut self, input: &Bytes<'_>) -> bool {
        let http = input.starts_segment && begins_message(input.bytes);
        if http {
            self.chains = [None, None];
            self.searches = std::array::from_fn(|side| {
                let allowance = self.allowance.saturating_sub(self.sent[side].0);
                Search::for_large_frames().within(allowance)
            });
        }
        http
    }

    /// Takes in bytes. Without `room` it is given up.
    pub fn handle_bytes(&mut self, input: &Bytes<'_>, preview: usize, room: bool) -> Found {
        if !room {
            return Found::Neither;
        }
        let Bytes {
            side,
            ts,
            bytes,
            starts_segment,
            ends_segment,
            ..
        } = *input;
        self.pieces += 1;
        let (sent, segments) = &mut self.sent[side];
        *sent = sent.saturating_add(bytes.len() as u64);
        *segments += u64::from(starts_segment);
        let piece = Piece {
            ts,
            bytes,
            starts_segment,
            ends_segment,
            quiet: Default::default(),
            order: self.pieces,
            position: 0,
        };
        let other = self.chains[1 - side].as_ref();
        let paired = other.and_then(|other| {
            let bits = BOTH - other.bits();
            other.masked().map(|masked| (!masked, bits))
        });
        let misses = if other.is_none() {
            self.misses[1 - side]
        } else {
            0
        };
        let demand = Demand {
            bits: SINGLE + CONTRADICTED * misses.min(STARTS).cast_signed(),
            paired,
            preview,
            expects_close: false,
            pings: &Pings::default(),
            census: None,
            usual: Default::default(),
        };
        let fed = match &mut self.chains[side] {
            Some(chain) => chain.feed(&piece, 0, &demand),
            None => Fed::Dead,
        };
        let fed = match fed {
            Fed::Dead if starts_segment && self.starts > 0 => {
                self.starts -= 1;
                let chain = self.chains[side].insert(Chain::new(None, true));
                chain.places = log2(u64::from(STARTS - self.starts));
                let fed = chain.feed(&piece, 0, &demand);
                self.misses[side] += u32::from(fed == Fed::Dead);
                fed
            }
            fed => fed,
        };
        let fed = match fed {
            Fed::Proven(at) => Fed::Proven(at),
            fed => match self.search(side, &piece, preview) {
                Some(at) => Fed::Proven(at),
                None => fed,
            },
        };
        match fed {
            Fed::Alive => Found::Nothing,
            Fed::Proven(at) => {
                let masked = |side: usize| self.chains[side].as_ref().and_then(Chain::masked);
                let strong = |side: usize| {
                    (self.chains[side].as_ref()).is_some_and(|chain| chain.bits() >= BOTH / 2)
                };
                // Two that mask, or two that do not, speak something else.
                if masked(side) == masked(1 - side) && strong(1 - side) {
                    Found::Neither
                } else {
                    Found::WebSocket(at)
                }
            }
            Fed::Dead => {
                self.chains[side] = None;
                if self.starts == 0 && self.chains[1 - side].is_none() && !self.goes_on() {
                    Found::Neither
                } else {
                    Found::Nothing
                }
            }
        }
    }

    /// Looks for large frames anywhere in `piece`. Where they are proven, the position up to which
    /// they were read.
    fn search(&mut self, side: usize, piece: &Piece<'_>, preview: usize) -> Option<usize> {
        if self.starts == 0 {
            self.patience = self.patience.saturating_sub(1);
            if !self.goes_on() {
                return None;
            }
        }
        let peer = Peer {
            closed: false,
            pings: &Pings::default(),
        };
        let (chain, at) = self.searches[side].feed(piece, preview, true, peer)?;
        self.chains[side] = Some(chain);
        Some(at)
    }

    /// Whether it is worth while though there are no more [`STARTS`].
    fn goes_on(&self) -> bool {
        let bulk =
            |&(bytes, segments): &(u64, u64)| bytes < BULK && bytes / BULK_SEGMENT >= segments;
        self.sent.iter().any(|sent| sent.1 > 0 && bulk(sent))
            || self.patience > 0
                && self
                    .searches
                    .iter()
                    .any(|search| search.best() >= PROMISING)
    }

    /// Takes in bytes of `side` that are not available.
    pub fn handle_missing(&mut self, side: usize, ts: Timestamp, len: u64) {
        self.searches[side].feed_missing(len, ts);
        self.sent[side].0 = self.sent[side].0.saturating_add(len);
        let alive = match &mut self.chains[side] {
            Some(chain) => chain.feed_missing(len, ts),
            None => return,
        };
        if !alive {
            self.chains[side] = None;
        }
    }

    /// Hands out what [`Found::WebSocket`] is about; `side` is the one whose bytes proved it.
    pub fn recognised(&mut self, side: usize) -> Option<Recognised> {
        let mut chains = std::mem::take(&mut self.chains);
        let masked = chains[side].as_ref()?.masked()?;
        let client = if masked { side } else { 1 - side };
        let other = &mut chains[1 - side];
        if other.as_ref().is_some_and(|o| o.masked() != Some(!masked)) {
            *other = None;
        }
        for chain in chains.iter_mut().flatten() {
            chain.leave_out_doubtful();
        }
        let opened = (chains.iter().flatten())
            .filter(|chain| is_credible(chain))
            .filter_map(|chain| chain.frames().first())
            .map(|frame| frame.ts)
            .min()?;
        Some(Recognised {
            client,
            chains,
            opened,
        })
    }
}

/// Whether the frames of `chain` are believed where the other direction has proven enough.
pub(super) fn is_credible(chain: &Chain) -> bool {
    chain.bits() - chain.places >= CREDIBLE
}
