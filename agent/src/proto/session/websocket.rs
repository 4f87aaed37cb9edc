//! A WebSocket from its opening to its end: frames of both directions, and how it closes.
//!
//! Owns what is counted per connection. Frames are decided at their header and their payload goes by
//! without being kept, but for what control frames and previews need.

use std::{sync::Arc, time::Duration};

use super::{
    Context, Ending,
    chain::{Chain, ChainFrame, Piece},
    incoming::{Incoming, Open, Reading},
    ping::Payload,
    search::{Peer, Search},
    violations::Violations,
};
use crate::proto::{
    deflate::Extensions,
    event::{
        Close, CloseBody, CloseKind, Connection, EventKind, Frame, Gap, Preview, Progress, Rule,
        TcpCounts,
    },
    flow::{Direction, PerDirection, Role},
    frame::{CloseCode, Header, HeaderDecoder, MAX_CONTROL_PAYLOAD, Opcode},
    message::Messages,
    time::Timestamp,
};

/// A WebSocket that is open.
#[derive(Debug)]
pub(super) struct WebSocket {
    connection: Arc<Connection>,
    /// Index of the client in the flow's key.
    client: usize,
    extensions: Extensions,
    incoming: PerDirection<Incoming>,
    violations: Violations,
    /// When payload bytes went by last, in either direction.
    last_activity: Timestamp,
    first_close: Option<FirstClose>,
    first_end: Option<FirstEnd>,
    reset: bool,
}

/// The close frame that came first.
#[derive(Debug)]
struct FirstClose {
    direction: Direction,
    quiet: Duration,
    code: Option<CloseCode>,
    reason: Option<String>,
}

/// The FIN or RST that came first.
#[derive(Debug)]
struct FirstEnd {
    role: Role,
    quiet: Duration,
}

impl WebSocket {
    /// A WebSocket that begins with the next byte of both directions.
    pub fn new(connection: Arc<Connection>, client: usize, extensions: Extensions) -> Self {
        let incoming = || Incoming::new(Reading::Header(HeaderDecoder::new()), Messages::new());
        Self {
            last_activity: connection.opened,
            connection,
            client,
            extensions,
            incoming: PerDirection {
                client_to_server: incoming(),
                server_to_client: incoming(),
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
    pub fn begin_anywhere(&mut self, direction: Direction, chain: Option<Chain>) {
        let mut search = Search::new(direction == Direction::ClientToServer, None);
        if let Some(chain) = chain {
            search.adopt(chain);
        }
        let incoming = &mut self.incoming[direction];
        incoming.reading = Reading::Search(Box::new(search));
        incoming.messages = Messages::unknown();
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
            _ => 0,
        };
        of(&self.incoming.client_to_server) + of(&self.incoming.server_to_client)
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
                        incoming.quiet = ts.saturating_since(self.last_activity);
                    }
                    let (taken, header) = decoder.decode(rest);
                    rest = &rest[taken..];
                    self.last_activity = self.last_activity.max(ts);
                    if let Some(header) = header {
                        self.begin_frame(d, header, ts, cx);
                    }
                }
                Reading::Payload(open) => {
                    let left = usize::try_from(open.left).unwrap_or(usize::MAX);
                    let (payload, behind) = rest.split_at(left.min(rest.len()));
                    rest = behind;
                    open.take(payload);
                    self.last_activity = self.last_activity.max(ts);
                    self.advance(d, ts, cx);
                }
                Reading::Search(search) => {
                    let whole = rest.len() == bytes.len();
                    let starts_segment = whole && starts_segment;
                    if starts_segment && search.missing().is_none() && rest.starts_with(b"GET ") {
                        // The request, which had not been seen when its answer was.
                        if let Some(at) = rest.windows(4).position(|end| end == b"\r\n\r\n") {
                            rest = &rest[at + 4..];
                            incoming.reading = Reading::Header(HeaderDecoder::new());
                            incoming.messages = Messages::new();
                            continue;
                        }
                    }
                    let piece = Piece {
                        ts,
                        bytes: rest,
                        starts_segment,
                        ends_segment,
                        quiet: ts.saturating_since(self.last_activity),
                        order: 0,
                    };
                    self.last_activity = self.last_activity.max(ts);
                    let gap = search.missing().is_some();
                    let room = cx.has_room(0);
                    cx.stats.exceeded.buffered += u64::from(!room);
                    let peer = Peer {
                        closed: opposite.closed,
                        pings: &opposite.pings,
                    };
                    let found = search.feed(&piece, cx.config.preview, room, peer);
                    let Some((chain, at)) = found else {
                        return;
                    };
                    rest = &rest[at..];
                    self.resume(d, chain, gap, cx);
                }
                Reading::Ended => return,
            }
        }
        self.report_progress(d, ts, cx);
    }

    /// Takes in bytes of one direction that were on the wire and are not available.
    pub fn handle_missing(&mut self, d: Direction, ts: Timestamp, len: u64, cx: &mut Context<'_>) {
        self.last_activity = self.last_activity.max(ts);
        let mut len = len;
        if let Reading::Payload(open) = &mut self.incoming[d].reading {
            let within = len.min(open.left);
            open.skip(within);
            len -= within;
            self.advance(d, ts, cx);
            self.report_progress(d, ts, cx);
        }
        if len == 0 {
            return;
        }
        let incoming = &mut self.incoming[d];
        match &mut incoming.reading {
            Reading::Search(search) => search.feed_missing(len, ts),
            Reading::Ended => {}
            Reading::Header(_) | Reading::Payload(_) => {
                let masked = d == Direction::ClientToServer;
                incoming.reading = Reading::Search(Box::new(Search::new(masked, Some(len))));
                incoming.messages = Messages::unknown();
            }
        }
    }

    /// The sender of one direction is done.
    pub fn handle_fin(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        self.note_end(d.sender(), ts);
        let closed = self.incoming[d.opposite()].closed;
        if let Reading::Search(search) = &mut self.incoming[d].reading
            && let gap = search.missing().is_some()
            && let Some(chain) = search.finish(closed)
        {
            self.resume(d, chain, gap, cx);
        }
        self.end_direction(d, ts, cx);
    }

    /// The connection was reset.
    pub fn handle_reset(&mut self, d: Direction, ts: Timestamp) {
        self.note_end(d.sender(), ts);
        self.reset = true;
    }

    fn note_end(&mut self, role: Role, ts: Timestamp) {
        let quiet = ts.saturating_since(self.last_activity);
        self.first_end.get_or_insert(FirstEnd { role, quiet });
    }

    /// Ends it. `tcp` are the counts of both directions.
    pub fn close(
        mut self,
        ending: Ending,
        ts: Timestamp,
        tcp: PerDirection<TcpCounts>,
        cx: &mut Context<'_>,
    ) {
        for direction in Direction::BOTH {
            self.end_direction(direction, ts, cx);
        }
        let [client, server] = Direction::BOTH.map(|d| self.incoming[d].closed);
        let kind = match ending {
            _ if client && server => CloseKind::Clean,
            _ if client || server => CloseKind::Half,
            _ if self.reset => CloseKind::Rst,
            Ending::Finished => CloseKind::Fin,
            // A new connection took its place: a FIN was seen or it had fallen silent unnoticed.
            Ending::Restarted if self.first_end.is_some() => CloseKind::Fin,
            Ending::Restarted | Ending::Idle => CloseKind::Idle,
            Ending::Evicted => CloseKind::Evicted,
            Ending::Eof => CloseKind::Eof,
        };
        let observed = !matches!(kind, CloseKind::Evicted | CloseKind::Eof);
        let (initiator, code, reason, silence) = match (self.first_close, self.first_end) {
            (Some(close), _) => (
                Some(close.direction.sender()),
                close.code,
                close.reason,
                Some(close.quiet),
            ),
            (None, _) if !observed => (None, None, None, None),
            (None, Some(end)) => (
                Some(end.role),
                Some(CloseCode::ABNORMAL),
                None,
                Some(end.quiet),
            ),
            (None, None) => (
                None,
                Some(CloseCode::ABNORMAL),
                None,
                Some(ts.saturating_since(self.last_activity)),
            ),
        };
        let of = |d: Direction| &self.incoming[d];
        let (c2s, s2c) = (of(Direction::ClientToServer), of(Direction::ServerToClient));
        let close = Close {
            kind,
            initiator,
            code,
            reason,
            duration: ts.saturating_since(self.connection.opened),
            silence,
            frames: PerDirection {
                client_to_server: c2s.frames,
                server_to_client: s2c.frames,
            },
            bytes: PerDirection {
                client_to_server: c2s.bytes,
                server_to_client: s2c.bytes,
            },
            tcp,
            unanswered_pings: PerDirection {
                client_to_server: c2s.pings.unanswered(),
                server_to_client: s2c.pings.unanswered(),
            },
        };
        cx.stats.active = cx.stats.active.saturating_sub(1);
        cx.emit(ts, &self.connection, EventKind::Close(Box::new(close)));
    }

    fn begin_frame(&mut self, d: Direction, header: Header, ts: Timestamp, cx: &mut Context<'_>) {
        self.check_header(d, &header, ts, cx);
        let incoming = &mut self.incoming[d];
        incoming.index += 1;
        incoming.frames.add(header.opcode, 1);
        if header.opcode == Opcode::Close {
            incoming.closed = true;
            let quiet = incoming.quiet;
            // Fewer than two bytes cannot hold a code (RFC 6455, section 7.1.5).
            let code = (header.len < 2).then_some(CloseCode::NO_STATUS);
            self.first_close.get_or_insert(FirstClose {
                direction: d,
                quiet,
                code,
                reason: None,
            });
        }
        incoming.reading =
            Reading::Payload(Open::new(header, ts, incoming.index, cx.config.preview));
        self.advance(d, ts, cx);
    }

    /// Rules that the header breaks.
    fn check_header(&mut self, d: Direction, header: &Header, ts: Timestamp, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        let closed = incoming.closed;
        let compressed = Messages::begins(header)
            && header.rsv & Header::RSV1 != 0
            && self.extensions.may_compress();
        let fragmentation = incoming.messages.begin_frame(header, compressed);
        let others = self.extensions.have_others();
        let reserved = header.rsv & !if compressed { Header::RSV1 } else { 0 };
        let opcode = header.opcode;
        let control = opcode.is_control();
        let mut broken = |rule, detail: &dyn Fn() -> String| {
            self.violations
                .report(&self.connection, d, ts, rule, detail, cx);
        };
        if closed {
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

    /// Payload of the open frame went by, or it has none: reports the frame where it is time, and
    /// ends it where it is over.
    fn advance(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        let Reading::Payload(open) = &self.incoming[d].reading else {
            return;
        };
        let over = open.left == 0;
        if !open.reported && open.is_ready() {
            self.report_frame(d, ts, cx);
        }
        if !over {
            return;
        }
        let header = self.incoming[d].reading.open_header();
        self.finish_progress(d, ts, cx);
        self.incoming[d].reading = Reading::Header(HeaderDecoder::new());
        if let Some(header) = header
            && let Some(message) = self.incoming[d].messages.end_frame(&header, d)
        {
            cx.emit(ts, &self.connection, EventKind::Message(message));
        }
    }

    /// Emits the open frame with what there is of its payload.
    fn report_frame(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        let Reading::Payload(open) = &mut self.incoming[d].reading else {
            return;
        };
        open.reported = true;
        let (header, header_ts, index) = (open.header, open.ts, open.index);
        let complete = open.intact && open.collected.len() as u64 == header.payload_len();
        // Nothing captured is not the same as nothing there.
        let captured = complete || !open.collected.is_empty();
        let shown = open.collected.len().min(cx.config.preview);
        let payload = (cx.config.preview > 0 && captured).then(|| {
            let bytes = open.unmasked_prefix(shown);
            Preview {
                truncated: (bytes.len() as u64) < header.payload_len(),
                bytes,
            }
        });
        let mut close = None;
        let mut rtt = None;
        match header.opcode {
            Opcode::Close => {
                let body = open.unmasked().to_vec();
                close = Some(self.close_body(d, ts, &header, &body, complete, cx));
            }
            Opcode::Ping if header.len <= MAX_CONTROL_PAYLOAD => {
                let ping = Payload::new(header.len, complete.then(|| open.unmasked()));
                if (self.incoming[d].pings).sent(header_ts, ping, cx.config.max_pings) {
                    cx.stats.exceeded.pings += 1;
                }
            }
            Opcode::Pong if header.len <= MAX_CONTROL_PAYLOAD => {
                let pong = Payload::new(header.len, complete.then(|| open.unmasked()));
                rtt = (self.incoming[d.opposite()].pings).answered(header_ts, pong);
            }
            _ => {}
        }
        let frame = Frame {
            direction: d,
            index,
            opcode: header.opcode,
            fin: header.fin,
            rsv: header.rsv,
            mask: header.mask,
            len: header.len,
            payload,
            close,
            rtt,
        };
        cx.emit(
            header_ts,
            &self.connection,
            EventKind::Frame(Box::new(frame)),
        );
    }

    /// Reads and checks what was captured of a close frame's body (RFC 6455, section 5.5.1).
    fn close_body(
        &mut self,
        d: Direction,
        ts: Timestamp,
        header: &Header,
        body: &[u8],
        complete: bool,
        cx: &mut Context<'_>,
    ) -> CloseBody {
        let mut broken = |rule, detail: &dyn Fn() -> String| {
            self.violations
                .report(&self.connection, d, ts, rule, detail, cx);
        };
        if header.len == 1 {
            broken(Rule::InvalidCloseLength, &|| "1".to_owned());
        }
        let Some((code, reason)) = body.split_first_chunk::<2>() else {
            return CloseBody::default();
        };
        let code = CloseCode(u16::from_be_bytes(*code));
        if !code.is_valid_on_wire() {
            broken(Rule::InvalidCloseCode, &|| code.0.to_string());
        }
        if let Err(error) = std::str::from_utf8(reason)
            && (complete || error.error_len().is_some())
        {
            let at = error.valid_up_to();
            broken(Rule::InvalidUtf8, &|| format!("close reason, byte {at}"));
        }
        let reason = String::from_utf8_lossy(reason).into_owned();
        if let Some(first) = &mut self.first_close
            && first.direction == d
            && first.code.is_none()
        {
            first.code = Some(code);
            first.reason = (!reason.is_empty()).then(|| reason.clone());
        }
        CloseBody {
            code: Some(code),
            reason,
        }
    }

    /// Reports payload of the open frame that was not reported yet.
    fn report_progress(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        if let Reading::Payload(open) = &mut incoming.reading
            && open.unreported > 0
        {
            let (opcode, bytes) = (open.header.opcode, std::mem::take(&mut open.unreported));
            incoming.bytes.add(opcode, bytes);
            let progress = Progress {
                direction: d,
                opcode,
                bytes,
                total: None,
            };
            cx.emit(ts, &self.connection, EventKind::Progress(progress));
        }
    }

    /// The open frame is over, complete or not.
    fn finish_progress(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        if let Reading::Payload(open) = &mut incoming.reading {
            let (opcode, bytes) = (open.header.opcode, std::mem::take(&mut open.unreported));
            incoming.bytes.add(opcode, bytes);
            let progress = Progress {
                direction: d,
                opcode,
                bytes,
                total: Some(open.seen),
            };
            cx.emit(ts, &self.connection, EventKind::Progress(progress));
        }
    }

    /// Nothing more comes in this direction.
    fn end_direction(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        if let Reading::Payload(open) = &self.incoming[d].reading {
            if !open.reported {
                self.report_frame(d, ts, cx);
            }
            self.finish_progress(d, ts, cx);
        }
        let reading = std::mem::replace(&mut self.incoming[d].reading, Reading::Ended);
        if let Reading::Search(search) = reading
            && let Some(bytes) = search.missing()
        {
            self.report_gap(d, ts, bytes, false, cx);
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
        let (aligned, missing) = (chain.starts_segment, chain.missing_before);
        let (frames, _) = chain.into_frames();
        let mut frames = frames.as_slice();
        // What looks like a header may by chance lead to the first that is one, once in some forty
        // times where payload is random. It is believed if something else speaks for it.
        if let [first, rest @ ..] = frames
            && !aligned
            && !first.is_credible()
            && !rest.is_empty()
        {
            frames = rest;
        }
        if let (true, Some(first)) = (gap, frames.first()) {
            self.report_gap(d, first.ts, missing, true, cx);
        }
        for frame in frames {
            self.replay(d, frame, cx);
        }
    }

    /// Takes in a frame that was read before it was known to be one.
    fn replay(&mut self, d: Direction, frame: &ChainFrame, cx: &mut Context<'_>) {
        self.incoming[d].quiet = frame.quiet;
        self.last_activity = self.last_activity.max(frame.last);
        self.begin_frame(d, frame.header, frame.ts, cx);
        if frame.seen > 0
            && let Reading::Payload(open) = &mut self.incoming[d].reading
        {
            open.take(&frame.payload);
            let not_kept = frame.seen.saturating_sub(frame.payload.len() as u64);
            if not_kept > 0 {
                open.skip(not_kept);
            }
            self.advance(d, frame.last, cx);
            self.report_progress(d, frame.last, cx);
        }
    }
}
