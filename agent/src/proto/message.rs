//! Messages (RFC 6455, section 5.4): which data frames belong together, in one direction.
//!
//! Owns the state of fragmentation and the rules about it; knows nothing of bytes. What a message
//! says (UTF-8, inflating) is not decided here.

use super::{
    event::{Message, Rule},
    flow::Direction,
    frame::{Header, Opcode},
    packed::Packer,
    walk::MessageState,
};

/// Fragmentation in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The next data frame begins a message.
    Between,
    /// A message may be under way whose beginning was not seen.
    Unknown,
    /// A message is under way.
    Within(Open),
}

#[derive(Clone, Copy, Debug)]
struct Open {
    opcode: Opcode,
    compressed: bool,
    frames: u64,
    len: u64,
}

impl Messages {
    /// At the beginning of a direction.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Between,
        }
    }

    /// In the midst of a direction, or behind bytes that were missing.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            state: State::Unknown,
        }
    }

    /// Whether no message is known to be under way.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_within()
    }

    /// Writes or reads what is known where none is.
    pub(super) fn pack(&mut self, p: &mut Packer) {
        let mut is_unknown = matches!(self.state, State::Unknown);
        p.flag(&mut is_unknown);
        *self = if is_unknown {
            Self::unknown()
        } else {
            Self::new()
        };
    }

    /// Whether `header` would be the first frame of a message: only there RSV1 means compression
    /// (RFC 7692, section 6).
    #[must_use]
    pub fn begins(header: &Header) -> bool {
        !header.opcode.is_control() && header.opcode != Opcode::Continuation
    }

    /// Whether a message is under way whose beginning was seen.
    #[must_use]
    pub fn is_within(&self) -> bool {
        matches!(self.state, State::Within(_))
    }

    /// Takes in a frame's header. Yields the rule that it breaks by coming now.
    ///
    /// `compressed` says whether RSV1 of this frame is set and means compression.
    pub fn begin_frame(&mut self, header: &Header, compressed: bool) -> Option<Rule> {
        if header.opcode.is_control() {
            return None;
        }
        if Self::begins(header) {
            let rule = matches!(self.state, State::Within(_)).then_some(Rule::ExpectedContinuation);
            self.state = State::Within(Open {
                opcode: header.opcode,
                compressed,
                frames: 1,
                len: header.payload_len(),
            });
            return rule;
        }
        match &mut self.state {
            State::Between => Some(Rule::UnexpectedContinuation),
            State::Unknown => None,
            State::Within(open) => {
                open.frames += 1;
                open.compressed |= compressed;
                open.len = open.len.saturating_add(header.payload_len());
                None
            }
        }
    }

    /// The payload of the frame with this header is over. Yields the message that this completes.
    pub fn end_frame(&mut self, header: &Header, direction: Direction) -> Option<Message> {
        if header.opcode.is_control() || !header.fin {
            return None;
        }
        let State::Within(open) = std::mem::replace(&mut self.state, State::Between) else {
            return None;
        };
        // A reserved opcode says nothing about the type of its message.
        matches!(open.opcode, Opcode::Text | Opcode::Binary).then_some(Message {
            direction,
            opcode: open.opcode,
            len: open.len,
            frames: open.frames,
            compressed: open.compressed,
            inflated_len: None,
            tallied: false,
        })
    }

    /// Behind frames that were not seen and of which only this is known.
    #[must_use]
    pub fn at(state: MessageState) -> Self {
        let state = match state {
            MessageState::Between => State::Between,
            MessageState::Unknown => State::Unknown,
            MessageState::Within {
                opcode,
                compressed,
                frames,
                len,
            } => State::Within(Open {
                opcode,
                compressed,
                frames: frames.into(),
                len,
            }),
        };
        Self { state }
    }

    /// The message that will be under way behind a frame whose header was taken in, and which is
    /// still open.
    #[must_use]
    pub fn behind(&self, open: Option<&Header>) -> MessageState {
        if open.is_some_and(|header| header.fin && !header.opcode.is_control()) {
            return MessageState::Between;
        }
        match self.state {
            State::Between => MessageState::Between,
            State::Unknown => MessageState::Unknown,
            State::Within(open) => MessageState::Within {
                opcode: open.opcode,
                compressed: open.compressed,
                frames: u32::try_from(open.frames).unwrap_or(u32::MAX),
                len: open.len,
            },
        }
    }
}

impl Default for Messages {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fin: bool, opcode: Opcode, len: u64) -> Header {
        Header {
            fin,
            rsv: 0,
            opcode,
            mask: None,
            len,
            minimal: true,
        }
    }

    fn frame(
        messages: &mut Messages,
        fin: bool,
        opcode: Opcode,
        len: u64,
    ) -> (Option<Rule>, Option<(Opcode, u64, u64)>) {
        let header = header(fin, opcode, len);
        let rule = messages.begin_frame(&header, false);
        let message = messages.end_frame(&header, Direction::ClientToServer);
        (rule, message.map(|m| (m.opcode, m.len, m.frames)))
    }

    #[test]
    fn control_frames_come_in_between() {
        let mut m = Messages::new();
        assert_eq!(frame(&mut m, false, Opcode::Text, 3), (None, None));
        assert_eq!(frame(&mut m, true, Opcode::Ping, 9), (None, None));
        assert_eq!(frame(&mut m, false, Opcode::Continuation, 4), (None, None));
        assert_eq!(
            frame(&mut m, true, Opcode::Continuation, 5),
            (None, Some((Opcode::Text, 12, 3)))
        );
    }

    #[test]
    fn a_continuation_of_nothing() {
        let mut m = Messages::new();
        let rule = Some(Rule::UnexpectedContinuation);
        assert_eq!(frame(&mut m, true, Opcode::Continuation, 1), (rule, None));
        assert_eq!(
            frame(&mut m, true, Opcode::Binary, 1),
            (None, Some((Opcode::Binary, 1, 1)))
        );
    }

    #[test]
    fn a_message_within_a_message_replaces_it() {
        let mut m = Messages::new();
        assert_eq!(frame(&mut m, false, Opcode::Text, 3), (None, None));
        assert_eq!(
            frame(&mut m, true, Opcode::Binary, 7),
            (
                Some(Rule::ExpectedContinuation),
                Some((Opcode::Binary, 7, 1))
            )
        );
    }

    #[test]
    fn what_began_unseen_is_left_out() {
        let mut m = Messages::unknown();
        assert_eq!(frame(&mut m, false, Opcode::Continuation, 1), (None, None));
        assert_eq!(frame(&mut m, true, Opcode::Continuation, 1), (None, None));
        assert_eq!(
            frame(&mut m, true, Opcode::Continuation, 1).0,
            Some(Rule::UnexpectedContinuation)
        );
        let mut m = Messages::unknown();
        assert!(frame(&mut m, true, Opcode::Text, 1).1.is_some());
    }

    #[test]
    fn reserved_opcodes_make_no_message() {
        let mut m = Messages::new();
        assert_eq!(frame(&mut m, true, Opcode::Reserved(3), 1), (None, None));
        assert_eq!(frame(&mut m, true, Opcode::Reserved(11), 1), (None, None));
    }
}
