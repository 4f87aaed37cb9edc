//! One WebSocket, as its events tell it: each is held against those before.

use std::{collections::HashMap, sync::Arc};

use wstap::proto::{
    event::{
        Close, CloseKind, Connection, Event, EventKind, Frame, Message, OpcodeCounts, Progress,
        Rule,
    },
    flow::{ConnId, Direction, PerDirection},
    frame::{CloseCode, MAX_CONTROL_PAYLOAD, Opcode},
    observer::Config,
};

/// A WebSocket that is open.
pub(super) struct Account {
    connection: Arc<Connection>,
    sides: PerDirection<Side>,
}

/// What was said of one direction.
#[derive(Default)]
struct Side {
    frames: OpcodeCounts,
    bytes: OpcodeCounts,
    last: Option<Frame>,
    /// Payload bytes that went by since the last frame was over.
    gone_by: u64,
    /// Frames that are over.
    finished: u64,
    /// The message under way, where it has a beginning.
    message: Option<(Opcode, u64, u64)>,
    /// A message that is complete and was not said to be.
    due: Option<(Opcode, u64, u64)>,
    /// The first close frame.
    closed: Option<Frame>,
    /// Pings that a pong could answer, and pongs that answered one of the other side.
    pings: u64,
    answers: u64,
    /// Frames that break a rule by their header alone.
    wrong_mask: u64,
    too_large: u64,
    fragmented: u64,
    oversized: u64,
    late: u64,
}

impl Account {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            sides: PerDirection::default(),
        }
    }

    /// Takes in what is neither a handshake nor a close.
    pub(super) fn event(&mut self, event: &Event, config: &Config) {
        assert!(
            Arc::ptr_eq(&event.connection, &self.connection),
            "another connection: {event:?}"
        );
        match &event.kind {
            EventKind::Frame(frame) => self.frame(frame, config),
            EventKind::Progress(progress) => self.sides[progress.direction].progress(progress),
            EventKind::Message(message) => self.sides[message.direction].message(message),
            EventKind::Gap(gap) => {
                let side = &mut self.sides[gap.direction];
                assert_eq!(side.due, None, "{event:?}");
                side.message = None;
            }
            EventKind::Counted(_)
            | EventKind::Violation(_)
            | EventKind::Handshake(_)
            | EventKind::Close(_) => {}
        }
    }

    fn frame(&mut self, frame: &Frame, config: &Config) {
        assert_eq!(frame.rsv & !7, 0);
        if let Some(preview) = &frame.payload {
            assert!(preview.bytes.len() <= config.preview, "{frame:?}");
            let inflated = config.inflate && !preview.compressed;
            assert!(preview.bytes.len() as u64 <= frame.len || inflated);
        } else {
            // Nothing there is shown as nothing.
            assert!(config.preview == 0 || frame.len > 0, "{frame:?}");
        }
        assert_eq!(frame.close.is_some(), frame.opcode == Opcode::Close);
        if let Some(close) = &frame.close {
            let most = 3 * config.preview.max(MAX_CONTROL_PAYLOAD as usize);
            assert!(close.reason.len() <= most, "{frame:?}");
            assert!(close.code.is_none_or(|_| frame.len >= 2), "{frame:?}");
        }
        if frame.rtt.is_some() {
            assert_eq!(frame.opcode, Opcode::Pong);
        }
        self.sides[frame.direction].frame(frame);
    }

    /// It is over: holds sums against what came before.
    pub(super) fn close(
        &self,
        event: &Event,
        close: &Close,
        broken: &HashMap<(ConnId, Direction, Rule), u64>,
    ) {
        let id = self.connection.id;
        for d in Direction::BOTH {
            let (side, opposite) = (&self.sides[d], &self.sides[d.opposite()]);
            assert_eq!(close.frames[d], side.frames, "frames of {event:?}");
            assert_eq!(close.bytes[d], side.bytes, "bytes of {event:?}");
            assert_eq!(side.finished, side.frames.total(), "over of {event:?}");
            assert_eq!((side.gone_by, side.due), (0, None), "{event:?}");
            assert_eq!(
                close.unanswered_pings[d] + opposite.answers,
                side.pings,
                "pings of {event:?}"
            );
            let mask = match d {
                Direction::ClientToServer => Rule::UnmaskedClientFrame,
                Direction::ServerToClient => Rule::MaskedServerFrame,
            };
            for (rule, frames) in [
                (mask, side.wrong_mask),
                (Rule::LengthTooLarge, side.too_large),
                (Rule::FragmentedControl, side.fragmented),
                (Rule::OversizedControl, side.oversized),
                (Rule::DataAfterClose, side.late),
            ] {
                let said = broken.get(&(id, d, rule)).copied().unwrap_or(0);
                assert_eq!(said, frames, "{} of {event:?}", rule.as_str());
            }
        }
        let closed = Direction::BOTH.map(|d| self.sides[d].closed.as_ref());
        let first = match closed {
            [Some(_), Some(_)] => {
                assert_eq!(close.kind, CloseKind::Clean, "{event:?}");
                None
            }
            [None, None] => {
                let kinds = [CloseKind::Clean, CloseKind::Half];
                assert!(!kinds.contains(&close.kind), "{event:?}");
                None
            }
            [first, second] => {
                assert_eq!(close.kind, CloseKind::Half, "{event:?}");
                first.or(second)
            }
        };
        if let Some(frame) = first {
            let body = frame.close.clone().unwrap_or_default();
            let bare = (frame.len < 2).then_some(CloseCode::NO_STATUS);
            assert_eq!(close.code, body.code.or(bare), "{event:?}");
            assert_eq!(close.initiator, Some(frame.direction.sender()), "{event:?}");
            let reason = close.reason.as_deref().unwrap_or_default();
            assert_eq!(reason, body.reason, "{event:?}");
        }
        let said = (close.code, close.initiator.is_some());
        match close.kind {
            CloseKind::Clean | CloseKind::Half => assert!(said.1, "{event:?}"),
            CloseKind::Rst => assert_eq!(said, (Some(CloseCode::ABNORMAL), true), "{event:?}"),
            CloseKind::Fin | CloseKind::Idle => {
                assert_eq!(said.0, Some(CloseCode::ABNORMAL), "{event:?}");
            }
            CloseKind::Evicted | CloseKind::Eof => assert_eq!(said, (None, false), "{event:?}"),
        }
    }
}

impl Side {
    fn frame(&mut self, frame: &Frame) {
        assert_eq!(self.due, None, "before {frame:?}");
        assert_eq!(frame.index, self.frames.total() + 1, "{frame:?}");
        assert_eq!(self.finished, self.frames.total(), "{frame:?}");
        let opcode = frame.opcode;
        let control = opcode.is_control();
        self.frames.add(opcode, 1);
        let masks = frame.direction == Direction::ClientToServer;
        self.wrong_mask += u64::from(frame.mask.is_some() != masks);
        self.too_large += u64::from(frame.len > u64::MAX >> 1);
        self.fragmented += u64::from(control && !frame.fin);
        self.oversized += u64::from(control && frame.len > MAX_CONTROL_PAYLOAD);
        let pings = matches!(opcode, Opcode::Ping | Opcode::Pong);
        self.late += u64::from(self.closed.is_some() && !pings);
        self.pings += u64::from(opcode == Opcode::Ping && frame.len <= MAX_CONTROL_PAYLOAD);
        self.answers += u64::from(frame.rtt.is_some());
        if opcode == Opcode::Close && self.closed.is_none() {
            self.closed = Some(frame.clone());
        }
        if !control {
            let len = frame.len & (u64::MAX >> 1);
            if opcode == Opcode::Continuation {
                if let Some((_, sum, frames)) = &mut self.message {
                    *sum = sum.saturating_add(len);
                    *frames += 1;
                }
            } else {
                self.message = Some((opcode, len, 1));
            }
        }
        self.last = Some(frame.clone());
    }

    fn progress(&mut self, progress: &Progress) {
        self.bytes.add(progress.opcode, progress.bytes);
        self.gone_by += progress.bytes;
        let Some(total) = progress.total else {
            assert!(progress.bytes > 0, "{progress:?}");
            return;
        };
        assert_eq!(self.gone_by, total, "{progress:?}");
        self.gone_by = 0;
        self.finished += 1;
        assert_eq!(self.finished, self.frames.total(), "{progress:?}");
        let Some(frame) = &self.last else {
            panic!("before its frame: {progress:?}");
        };
        assert_eq!(frame.opcode, progress.opcode);
        let len = frame.len & (u64::MAX >> 1);
        assert!(total <= len, "{progress:?} of {frame:?}");
        if total == len && frame.fin && !frame.opcode.is_control() {
            let message = self.message.take();
            // What a reserved opcode begins is of no known type.
            self.due = message.filter(|m| matches!(m.0, Opcode::Text | Opcode::Binary));
        }
    }

    fn message(&mut self, message: &Message) {
        let due = self.due.take();
        let said = (message.opcode, message.len, message.frames);
        assert_eq!(due, Some(said), "{message:?}");
        if message.inflated_len.is_some() {
            assert!(message.compressed || message.frames > 0);
        }
    }
}
