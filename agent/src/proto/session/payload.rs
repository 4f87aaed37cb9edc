//! What becomes of the payload of a WebSocket's frames: what is shown of it, what it breaks, and how
//! much there was.

use super::{Context, incoming::Reading, ping::Payload, websocket::WebSocket};
use crate::proto::{
    event::{CloseBody, EventKind, Frame, Preview, Progress, Rule},
    flow::Direction,
    frame::{CloseCode, Header, HeaderDecoder, MAX_CONTROL_PAYLOAD, Opcode},
    time::Timestamp,
};

impl WebSocket {
    /// Takes in the beginning of `bytes`, as far as it is payload of the open frame: how many.
    pub(super) fn take_payload(
        &mut self,
        d: Direction,
        ts: Timestamp,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> usize {
        let incoming = &mut self.incoming[d];
        let Reading::Payload(open) = &mut incoming.reading else {
            return 0;
        };
        let left = usize::try_from(open.left).unwrap_or(usize::MAX);
        let payload = bytes.get(..left).unwrap_or(bytes);
        if incoming.content.is_reading() {
            incoming.content.feed(payload, &open.header, open.seen, cx);
        }
        open.take(payload);
        self.advance(d, ts, cx);
        payload.len()
    }

    /// Payload of the open frame is not available.
    pub(super) fn skip_payload(
        &mut self,
        d: Direction,
        ts: Timestamp,
        len: u64,
        cx: &mut Context<'_>,
    ) {
        let incoming = &mut self.incoming[d];
        if let (true, Reading::Payload(open)) = (len > 0, &mut incoming.reading) {
            incoming.content.skip(cx);
            open.skip(len);
            self.advance(d, ts, cx);
        }
    }

    /// Payload of the open frame went by, or it has none: reports the frame where it is time, and
    /// ends it where it is over.
    pub(super) fn advance(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        let Reading::Payload(open) = &incoming.reading else {
            return;
        };
        let (header, tallied) = (open.header, open.tallied);
        let over = open.left == 0;
        if over {
            incoming.content.end_frame(&header, cx);
        }
        let ready = match incoming.content.preview_is_ready() {
            Some(ready) if cx.config.preview > 0 => ready,
            _ => open.is_ready(),
        };
        if !open.reported && (ready || over) {
            self.report_frame(d, ts, cx);
        }
        self.report_faults(d, ts, cx);
        if !over {
            return;
        }
        self.finish_progress(d, ts, cx);
        let incoming = &mut self.incoming[d];
        incoming.reading = Reading::Header(HeaderDecoder::new());
        if header.opcode.is_control() || !header.fin {
            return;
        }
        let inflated_len = incoming.content.end_message();
        if let Some(mut message) = incoming.messages.end_frame(&header, d) {
            message.inflated_len = inflated_len;
            message.tallied = tallied;
            if !tallied {
                incoming.completed.add(message.len, inflated_len);
            }
            if cx.config.interest.messages {
                cx.emit(ts, &self.connection, EventKind::Message(message));
            }
        }
    }

    /// Reports what the payload breaks: behind its frame, with or without a preview.
    pub(super) fn report_faults(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        if !matches!(&incoming.reading, Reading::Payload(open) if open.reported) {
            return;
        }
        let Some(faults) = incoming.content.take_faults() else {
            return;
        };
        let mut broken = |rule, detail: &dyn Fn() -> String| {
            self.violations
                .report(&self.connection, d, ts, rule, detail, cx);
        };
        if let Some(at) = faults.utf8 {
            broken(Rule::InvalidUtf8, &|| format!("text, byte {at}"));
        }
        if faults.deflate {
            broken(Rule::InvalidDeflate, &String::new);
        }
    }

    /// Emits the open frame with what there is of its payload.
    pub(super) fn report_frame(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        let Reading::Payload(open) = &mut incoming.reading else {
            return;
        };
        open.reported = true;
        if !cx.config.interest.frames && !open.header.opcode.is_control() {
            return;
        }
        let (header, header_ts, index) = (open.header, open.ts, open.index);
        let tallied = open.tallied;
        let complete = open.intact && open.collected.len() as u64 == header.payload_len();
        // Nothing captured is not the same as nothing there.
        let captured = complete || !open.collected.is_empty();
        let shown = open.collected.len().min(cx.config.preview);
        let content = &mut incoming.content;
        let payload = (cx.config.preview > 0 && captured).then(|| {
            content.preview(open.left == 0).unwrap_or_else(|| {
                let bytes = open.unmasked_prefix(shown);
                Preview {
                    truncated: (bytes.len() as u64) < header.payload_len(),
                    bytes,
                    compressed: content.is_compressed(),
                }
            })
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
        if !cx.config.interest.frames {
            return;
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
            tallied,
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
            && (first.direction, first.index) == (d, self.incoming[d].index)
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
    pub(super) fn report_progress(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        if let Reading::Payload(open) = &self.incoming[d].reading
            && open.unreported > 0
        {
            self.progress(d, ts, None, cx);
        }
    }

    /// The open frame is over, complete or not.
    pub(super) fn finish_progress(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        if let Reading::Payload(open) = &self.incoming[d].reading {
            let total = Some(open.seen);
            self.progress(d, ts, total, cx);
        }
    }

    fn progress(&mut self, d: Direction, ts: Timestamp, total: Option<u64>, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        if let Reading::Payload(open) = &mut incoming.reading {
            let (opcode, bytes) = (open.header.opcode, std::mem::take(&mut open.unreported));
            if open.tallied {
                if matches!(opcode, Opcode::Reserved(_)) {
                    incoming.reserved.get_or_insert_default()[1].add(opcode, bytes);
                }
                return;
            }
            incoming.bytes.add(opcode, bytes);
            if !cx.config.interest.progress {
                return;
            }
            let progress = Progress {
                direction: d,
                opcode,
                bytes,
                total,
            };
            cx.emit(ts, &self.connection, EventKind::Progress(progress));
        }
    }
}
