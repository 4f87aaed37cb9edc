//! Which events a selection shows.
//!
//! Flags on the connection (client, server, host, path) hold for all of its events; what is not
//! known (the host of a connection without a handshake) does not match. The others each speak of
//! some kinds of events only:
//!
//! | flag | speaks of |
//! |---|---|
//! | `--direction` | frame, message, violation, gap |
//! | `--opcode`, `--min-size` | frame, message |
//! | `--close-code` | frame (close frames), close |
//!
//! An event must pass every flag that speaks of its kind. Where a flag does not, the event is
//! hidden, unless `--event` names its kind: who asks for pings wants to see no handshakes, who asks
//! for handshakes and pings wants to see both.

use globset::GlobSet;

use crate::{
    config::{Endpoint, EventName, Selection},
    proto::{
        event::{Connection, Event, EventKind},
        flow::Direction,
        frame::{CloseCode, Opcode},
    },
};

/// What the flags look at; `None` where the kind of event has no such thing.
struct Subject {
    name: EventName,
    direction: Option<Direction>,
    opcode: Option<Opcode>,
    size: Option<u64>,
    /// `Some(None)` where there could be a code and is none.
    code: Option<Option<CloseCode>>,
}

impl Subject {
    fn of(kind: &EventKind) -> Option<Self> {
        let nothing = |name| Self {
            name,
            direction: None,
            opcode: None,
            size: None,
            code: None,
        };
        Some(match kind {
            EventKind::Handshake(_) => nothing(EventName::Handshake),
            EventKind::Frame(frame) => Self {
                name: EventName::Frame,
                direction: Some(frame.direction),
                opcode: Some(frame.opcode),
                size: Some(frame.len),
                code: Some(frame.close.as_ref().and_then(|close| close.code)),
            },
            EventKind::Message(message) => Self {
                direction: Some(message.direction),
                opcode: Some(message.opcode),
                size: Some(message.len),
                ..nothing(EventName::Message)
            },
            EventKind::Close(close) => Self {
                code: Some(close.code),
                ..nothing(EventName::Close)
            },
            EventKind::Violation(violation) => Self {
                direction: Some(violation.direction),
                ..nothing(EventName::Violation)
            },
            EventKind::Gap(gap) => Self {
                direction: Some(gap.direction),
                ..nothing(EventName::Gap)
            },
            EventKind::Progress(_) => return None,
        })
    }
}

impl Selection {
    /// Whether events of `connection` are wanted at all.
    #[must_use]
    pub fn wants(&self, connection: &Connection) -> bool {
        let end = |ends: &[Endpoint], addr| ends.is_empty() || ends.iter().any(|e| e.matches(addr));
        end(&self.clients, connection.client)
            && end(&self.servers, connection.server)
            && matches(
                self.hosts.as_ref(),
                connection.host.as_deref(),
                without_port,
            )
            && matches(
                self.paths.as_ref(),
                connection.path.as_deref(),
                without_query,
            )
    }

    /// Whether `event` is to be shown. What users are never told (progress, violations between the
    /// milestones) is not.
    #[must_use]
    pub fn shows(&self, event: &Event) -> bool {
        let Some(subject) = Subject::of(&event.kind) else {
            return false;
        };
        if let EventKind::Violation(violation) = &event.kind
            && !violation.is_milestone()
        {
            return false;
        }
        let named = self.events.contains(&subject.name);
        let wanted = named || (self.events.is_empty() && subject.name != EventName::Message);
        wanted
            && passes(
                self.direction.as_ref(),
                subject.direction,
                named,
                |wanted, direction| *wanted == direction,
            )
            && passes(
                some(&self.opcodes),
                subject.opcode,
                named,
                |names, opcode| names.iter().any(|name| name.matches(opcode)),
            )
            && passes(self.min_size.as_ref(), subject.size, named, |min, size| {
                size >= *min
            })
            && passes(
                some(&self.close_codes),
                subject.code,
                named,
                |codes, code| code.is_some_and(|code| codes.contains(&code.0)),
            )
            && self.wants(&event.connection)
    }
}

fn some<T>(list: &[T]) -> Option<&[T]> {
    (!list.is_empty()).then_some(list)
}

fn passes<F: ?Sized, V>(
    flag: Option<&F>,
    value: Option<V>,
    named: bool,
    test: impl FnOnce(&F, V) -> bool,
) -> bool {
    match (flag, value) {
        (None, _) => true,
        (Some(flag), Some(value)) => test(flag, value),
        (Some(_), None) => named,
    }
}

fn matches(globs: Option<&GlobSet>, value: Option<&str>, short: fn(&str) -> &str) -> bool {
    let Some(globs) = globs else {
        return true;
    };
    value.is_some_and(|value| globs.is_match(value) || globs.is_match(short(value)))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // What is left of a bare IPv6 address would be another address.
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

fn without_query(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or(target)
}
