//! A WebSocket from its opening to its end: frames of both directions, and how it closes.
//!
//! Owns what is counted per connection. Frames are decided at their header; what becomes of their
//! payload is in [`super::payload`].

mod ending;

pub(super) use ending::FirstClose;
use ending::FirstEnd;

use std::{sync::Arc, time::Duration};

use super::{
    Context,
    chain::{Chain, ChainFrame, Piece},
    content::{Content, Part},
    incoming::{Incoming, Open, Reading},
    search::{Peer, Search},
    violations::Violations,
};
use crate::proto::{
    deflate::{Extensions, Unit},
    event::{Connection, EventKind, Gap, Rule},
    flow::{Direction, PerDirection},
    frame::{CloseCode, Header, HeaderDecoder, MAX_CONTROL_PAYLOAD, Opcode},
    message::Messages,
    time::Timestamp,
    upgrade::{HeadBuffer, Kind, Pushed},
};

/// A WebSocket that is open.
#[derive(Debug)]
pub(super) struct WebSocket {
    pub(super) connection: Arc<Connection>,
    /// Index of the client in the flow's key.
    client: usize,
    pub(super) extensions: Extensions,
    pub(super) incoming: PerDirection<Incoming>,
    pub(super) violations: Violations,
    /// When payload bytes went by last, in either direction.
    pub(super) last_activity: Timestamp,
    /// When payload bytes went by last, by the word of the source; maybe those that come next.
    pub(super) heard: Timestamp,
    pub(super) first_close: Option<FirstClose>,
    first_end: Option<FirstEnd>,
    reset: bool,
}

impl WebSocket {
    /// A WebSocket that begins with the next byte of both directions.
    pub fn new(connection: Arc<Connection>, client: usize, extensions: Extensions) -> Self {
        let incoming = |direction| {
            let reading = Reading::Header(HeaderDecoder::new());
            let content = Content::new(extensions.deflate(), direction);
            Incoming::new(reading, Messages::new(), content)
        };
        Self {
            last_activity: connection.opened,
            heard: Timestamp::default(),
            connection,
            client,
            extensions,
            incoming: PerDirection {
                client_to_server: incoming(Direction::ClientToServer),
                server_to_client: incoming(Direction::ServerToClient),
            },
            violations: Violations::default(),
            first_close: None,
            first_end: None,
            reset: false,
        }
    }

    /// Counts violations on top of those of the handshake.
    pub fn with_violations(mut self, violations: Violations) -> Self {
        self.violations = violations;
        self
    }

    /// The place in `direction` is not known: the search begins with the next byte, and with `chain`
    /// where there is one already.
    pub fn begin_anywhere(
        &mut self,
        direction: Direction,
        chain: Option<Chain>,
        cx: &mut Context<'_>,
    ) {
        let incoming = &mut self.incoming[direction];
        let mut search = Search::new(direction == Direction::ClientToServer, None)
            .within(incoming.allowance(cx.config.max_searched));
        if let Some(chain) = chain {
            search.adopt(chain);
        }
        incoming.reading = Reading::Search(Box::new(search));
        incoming.messages = Messages::unknown();
        incoming.content.lose(cx);
    }

    /// The client's request is still to come, or the rest of it: `head` is what there is.
    pub fn await_request(&mut self, head: HeadBuffer) {
        let incoming = &mut self.incoming[Direction::ClientToServer];
        incoming.reading = Reading::Request(Box::new(head));
    }

    /// Frames were recognised in either direction before it was known that these are a WebSocket.
    /// `chains` are theirs.
    pub fn begin_with(&mut self, chains: PerDirection<Option<Chain>>, cx: &mut Context<'_>) {
        let mut frames = Vec::new();
        let mut decoders = PerDirection::default();
        let both = [
            (Direction::ClientToServer, chains.client_to_server),
            (Direction::ServerToClient, chains.server_to_client),
        ];
        for (direction, chain) in both {
            let Some(chain) = chain else { continue };
            self.incoming[direction].messages = Messages::unknown();
            self.incoming[direction].content.lose(cx);
            let (of_chain, decoder) = chain.into_frames();
            decoders[direction] = decoder;
            frames.extend(of_chain.into_iter().map(|frame| (direction, frame)));
        }
        frames.sort_by_key(|(_, frame)| frame.order);
        for (direction, frame) in frames {
            self.replay(direction, &frame, cx);
        }
        for direction in Direction::BOTH {
            if let Some(decoder) = decoders[direction] {
                self.incoming[direction].reading = Reading::Header(decoder);
            }
        }
    }

    /// Index of the client in the flow's key.
    pub fn client(&self) -> usize {
        self.client
    }

    /// Whether a FIN or RST was seen.
    pub fn is_ending(&self) -> bool {
        self.first_end.is_some() || self.reset
    }

    /// The direction in which `side` sends.
    pub fn direction(&self, side: usize) -> Direction {
        if side == self.client {
            Direction::ClientToServer
        } else {
            Direction::ServerToClient
        }
    }

    /// Memory held beyond a fixed size.
    pub fn held(&self) -> usize {
        let of = |incoming: &Incoming| match &incoming.reading {
            Reading::Search(search) => search.held(),
            Reading::Request(head) => head.bytes().len(),
            _ => 0,
        };
        of(&self.incoming.client_to_server) + of(&self.incoming.server_to_client)
    }

    /// Gives back what counts for a limit.
    pub fn release(&mut self, cx: &mut Context<'_>) {
        for direction in Direction::BOTH {
            self.incoming[direction].content.release(cx);
        }
    }

    /// Takes in bytes of one direction.
    pub fn handle_bytes(
        &mut self,
        d: Direction,
        ts: Timestamp,
        bytes: &[u8],
        (starts_segment, ends_segment): (bool, bool),
        cx: &mut Context<'_>,
    ) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (incoming, opposite) = self.incoming.pair_mut(d);
            match &mut incoming.reading {
                Reading::Header(decoder) => {
                    if decoder.is_empty() {
                        incoming.quiet = quiet(ts, self.last_activity, self.heard);
                        // As nearly all headers come.
                        if let Some((taken, header)) = Header::whole(rest) {
                            rest = rest.get(taken..).unwrap_or_default();
                            self.last_activity = self.last_activity.max(ts);
                            self.begin_frame(d, header, ts, cx);
                            continue;
                        }
                    }
                    let (taken, header) = decoder.decode(rest);
                    rest = &rest[taken..];
                    self.last_activity = self.last_activity.max(ts);
                    if let Some(header) = header {
                        self.begin_frame(d, header, ts, cx);
                    }
                }
                Reading::Payload(_) => {
                    self.last_activity = self.last_activity.max(ts);
                    let taken = self.take_payload(d, ts, rest, cx);
                    rest = rest.get(taken..).unwrap_or_default();
                }
                Reading::Search(search) => {
                    let whole = rest.len() == bytes.len();
                    let starts_segment = whole && starts_segment;
                    let piece = Piece {
                        ts,
                        bytes: rest,
                        starts_segment,
                        ends_segment,
                        quiet: ts.saturating_since(self.last_activity),
                        order: 0,
                        position: 0,
                    };
                    self.last_activity = self.last_activity.max(ts);
                    let gap = search.missing().is_some();
                    let room = cx.has_room(0);
                    let most = cx.room_for(search.held());
                    let peer = Peer {
                        closed: opposite.closed,
                        pings: &opposite.pings,
                    };
                    let found = search.feed(&piece, cx.config.preview, room, peer);
                    cx.stats.exceeded.search += search.take_given_up();
                    let Some((chain, at)) = found else {
                        let fits = !search.fit(most) && room;
                        cx.stats.exceeded.buffered += u64::from(!fits);
                        return;
                    };
                    incoming.searched += search.searched();
                    rest = rest.get(at..).unwrap_or_default();
                    self.resume(d, chain, gap, cx);
                }
                Reading::Request(_) => {
                    let taken = self.take_request(d, ts, rest, cx);
                    rest = rest.get(taken..).unwrap_or_default();
                }
                Reading::Ended => return,
            }
        }
        self.report_progress(d, ts, cx);
    }

    /// Takes in the beginning of `bytes`, as far as it belongs to the request: how many. Where there is
    /// no request after all, what came so far may be frames.
    fn take_request(
        &mut self,
        d: Direction,
        ts: Timestamp,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> usize {
        let incoming = &mut self.incoming[d];
        let Reading::Request(head) = &mut incoming.reading else {
            return 0;
        };
        self.last_activity = self.last_activity.max(ts);
        let before = head.bytes().len();
        let has_room = cx.has_room(bytes.len());
        let pushed = if has_room {
            head.push(bytes, cx.config.max_head)
        } else {
            Pushed::TooLong
        };
        match (pushed, head.kind()) {
            (Pushed::Incomplete, Kind::Request | Kind::Undecided) => return bytes.len(),
            (Pushed::Complete(taken), Kind::Request) => {
                incoming.reading = Reading::Header(HeaderDecoder::new());
                incoming.messages = Messages::new();
                incoming.content.begin();
                return taken;
            }
            (Pushed::TooLong, _) if has_room => cx.stats.exceeded.head += 1,
            _ => cx.stats.exceeded.buffered += u64::from(!has_room),
        }
        let head = std::mem::take(head);
        let masked = d == Direction::ClientToServer;
        incoming.reading = Reading::Search(Box::new(Search::new(masked, None)));
        let before = head.bytes().get(..before).unwrap_or_default();
        self.handle_bytes(d, ts, before, (true, false), cx);
        0
    }

    /// Takes in bytes of one direction that were on the wire and are not available.
    pub fn handle_missing(&mut self, d: Direction, ts: Timestamp, len: u64, cx: &mut Context<'_>) {
        self.last_activity = self.last_activity.max(ts);
        let mut len = len;
        if let Reading::Payload(open) = &self.incoming[d].reading {
            let within = len.min(open.left);
            len -= within;
            self.skip_payload(d, ts, within, cx);
            self.report_progress(d, ts, cx);
        }
        if len == 0 {
            return;
        }
        let incoming = &mut self.incoming[d];
        match &mut incoming.reading {
            Reading::Search(search) => search.feed_missing(len, ts),
            Reading::Ended => {}
            Reading::Request(_) => {
                let masked = d == Direction::ClientToServer;
                incoming.reading = Reading::Search(Box::new(Search::new(masked, None)));
            }
            Reading::Header(_) | Reading::Payload(_) => {
                let masked = d == Direction::ClientToServer;
                let search = Search::new(masked, Some(len))
                    .among(incoming.usual)
                    .within(incoming.allowance(cx.config.max_searched));
                incoming.reading = Reading::Search(Box::new(search));
                incoming.messages = Messages::unknown();
                incoming.content.lose(cx);
            }
        }
    }

    fn begin_frame(&mut self, d: Direction, header: Header, ts: Timestamp, cx: &mut Context<'_>) {
        self.check_header(d, &header, ts, cx);
        let incoming = &mut self.incoming[d];
        incoming.index += 1;
        incoming.usual.add(&header);
        let tallied = incoming.tallied;
        if !tallied {
            incoming.frames.add(header.opcode, 1);
        } else if matches!(header.opcode, Opcode::Reserved(_)) {
            incoming.reserved.get_or_insert_default()[0].add(header.opcode, 1);
        }
        if header.opcode == Opcode::Close {
            incoming.closed = true;
            let quiet = incoming.quiet;
            // Fewer than two bytes cannot hold a code (RFC 6455, section 7.1.5).
            let code = (header.len < 2).then_some(CloseCode::NO_STATUS);
            self.first_close.get_or_insert(FirstClose {
                direction: d,
                index: incoming.index,
                quiet,
                code,
                reason: None,
            });
        }
        let mut open = Open::new(header, ts, incoming.index, cx.config.preview);
        open.tallied = tallied;
        incoming.reading = Reading::Payload(open);
        self.advance(d, ts, cx);
    }

    /// Rules that the header breaks.
    fn check_header(&mut self, d: Direction, header: &Header, ts: Timestamp, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        let closed = incoming.closed;
        let unit = self.extensions.unit();
        let rsv1 = header.rsv & Header::RSV1 != 0
            && match unit {
                Some(Unit::Message) => Messages::begins(header),
                Some(Unit::Frame) => !header.opcode.is_control(),
                None => false,
            };
        let fragmentation = incoming.messages.begin_frame(header, rsv1);
        let part = match () {
            () if Messages::begins(header) => Part::Begins,
            () if incoming.messages.is_within() => Part::Continues,
            () => Part::Unknown,
        };
        incoming.content.begin_frame(header, part, rsv1, cx);
        let others = self.extensions.have_others();
        let defined = if rsv1 || self.extensions == Extensions::Unknown {
            Header::RSV1
        } else {
            0
        };
        let reserved = header.rsv & !defined;
        let opcode = header.opcode;
        let control = opcode.is_control();
        let mut broken = |rule, detail: &dyn Fn() -> String| {
            self.violations
                .report(&self.connection, d, ts, rule, detail, cx);
        };
        // A ping may still be sent, and one that comes has to be answered (RFC 6455, section 5.5.2).
        if closed && !matches!(opcode, Opcode::Ping | Opcode::Pong) {
            broken(Rule::DataAfterClose, &|| opcode.as_str().to_owned());
        }
        match (d, header.mask) {
            (Direction::ClientToServer, None) => {
                broken(Rule::UnmaskedClientFrame, &|| opcode.as_str().to_owned());
            }
            (Direction::ServerToClient, Some(mask)) => {
                broken(Rule::MaskedServerFrame, &|| {
                    format!("{:08x}", u32::from_be_bytes(mask))
                });
            }
            _ => {}
        }
        if reserved != 0 && !others {
            broken(Rule::ReservedBits, &|| header.rsv.to_string());
        }
        if matches!(opcode, Opcode::Reserved(_)) && !others {
            broken(Rule::ReservedOpcode, &|| opcode.as_str().to_owned());
        }
        if header.is_too_large() {
            broken(Rule::LengthTooLarge, &|| header.len.to_string());
        }
        if !header.minimal {
            broken(Rule::NonminimalLength, &|| header.len.to_string());
        }
        if control && !header.fin {
            broken(Rule::FragmentedControl, &|| opcode.as_str().to_owned());
        }
        if control && header.len > MAX_CONTROL_PAYLOAD {
            broken(Rule::OversizedControl, &|| header.len.to_string());
        }
        if let Some(rule) = fragmentation {
            broken(rule, &|| opcode.as_str().to_owned());
        }
    }

    fn report_gap(
        &mut self,
        d: Direction,
        ts: Timestamp,
        bytes: u64,
        resynced: bool,
        cx: &mut Context<'_>,
    ) {
        cx.stats.gaps += 1;
        cx.stats.resyncs += u64::from(resynced);
        // How many there were cannot be told; a header that was needed was one of them.
        cx.stats.frames_lost += 1;
        let gap = Gap {
            direction: d,
            bytes,
            resynced,
        };
        cx.emit(ts, &self.connection, EventKind::Gap(gap));
    }

    /// The search, behind a gap or not, found `chain`, which is what was read since.
    fn resume(&mut self, d: Direction, chain: Chain, gap: bool, cx: &mut Context<'_>) {
        let missing = chain.missing_before;
        let (frames, _) = chain.into_frames();
        if let (true, Some(first)) = (gap, frames.first()) {
            self.report_gap(d, first.ts, missing, true, cx);
        }
        for frame in &frames {
            self.replay(d, frame, cx);
        }
    }

    /// Takes in a frame that was read before it was known to be one.
    fn replay(&mut self, d: Direction, frame: &ChainFrame, cx: &mut Context<'_>) {
        self.incoming[d].quiet = frame.quiet;
        self.last_activity = self.last_activity.max(frame.last);
        self.begin_frame(d, frame.header, frame.ts, cx);
        if frame.seen > 0 {
            let kept = frame.payload.len() as u64;
            self.take_payload(d, frame.last, &frame.payload, cx);
            self.skip_payload(d, frame.last, frame.seen.saturating_sub(kept), cx);
            self.report_progress(d, frame.last, cx);
        }
    }
}

/// How far what the source says of a time may be from what a segment says of the same.
const SLACK: Duration = Duration::from_micros(200);

/// How long it was quiet until `ts`.
fn quiet(ts: Timestamp, last_activity: Timestamp, heard: Timestamp) -> Duration {
    // What was heard may be what is handed over now.
    let before = heard.saturating_add(SLACK) < ts;
    let since = if before {
        last_activity.max(heard)
    } else {
        last_activity
    };
    ts.saturating_since(since)
}
