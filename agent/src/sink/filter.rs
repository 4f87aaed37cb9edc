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
            EventKind::Progress(_) | EventKind::Counted(_) => return None,
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

    /// Whether events of this kind are shown at all: those that were asked for, or all but messages.
    #[must_use]
    pub fn names(&self, name: EventName) -> bool {
        if self.events.is_empty() {
            name != EventName::Message
        } else {
            self.events.contains(&name)
        }
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
        self.names(subject.name)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        config::TraceConfig,
        proto::{
            event::{Outcome, Rule},
            flow::Direction::{ClientToServer, ServerToClient},
        },
        sink::sample,
    };

    fn selection(flags: &[&str]) -> Selection {
        let args = ["wstap", "trace"].iter().chain(flags).map(Into::into);
        match Cli::from_args(args).unwrap().command {
            Command::Trace(args) => TraceConfig::try_from(*args).unwrap().selection,
            other => panic!("{other:?}"),
        }
    }

    /// Which of a fixed list of events are shown, by number.
    fn shown(flags: &str) -> Vec<usize> {
        let frame = |direction, opcode, len| {
            EventKind::Frame(Box::new(sample::frame(direction, opcode, len)))
        };
        let events = [
            sample::handshake(),
            frame(ClientToServer, Opcode::Text, 10),
            frame(ServerToClient, Opcode::Binary, 2048),
            frame(ServerToClient, Opcode::Reserved(11), 0),
            sample::close_frame(1001, ""),
            sample::message(Opcode::Text, 4096),
            sample::violation(Rule::ReservedBits, 1),
            sample::violation(Rule::ReservedBits, 2),
            sample::gap(true),
            sample::close(1001, ""),
        ];
        let flags: Vec<_> = flags.split_whitespace().collect();
        let selection = selection(&flags);
        let events = events.map(sample::event);
        (0..)
            .zip(&events)
            .filter(|(_, e)| selection.shows(e))
            .map(|(n, _)| n)
            .collect()
    }

    #[test]
    fn all_but_messages_and_what_is_never_told() {
        assert_eq!(shown(""), [0, 1, 2, 3, 4, 6, 8, 9]);
        assert_eq!(shown("--event message"), [5]);
        assert_eq!(shown("--event close,violation"), [6, 9]);
    }

    #[test]
    fn a_flag_hides_the_kinds_that_it_says_nothing_of() {
        assert_eq!(shown("--direction c2s"), [1, 6]);
        assert_eq!(shown("--direction server_to_client"), [2, 3, 4, 8]);
        assert_eq!(shown("--opcode text"), [1]);
        assert_eq!(shown("--opcode reserved --opcode binary"), [2, 3]);
        assert_eq!(shown("--opcode reserved_b"), [3]);
        assert_eq!(shown("--close-code 1001"), [4, 9]);
        assert_eq!(shown("--close-code 1000"), [0; 0]);
        assert_eq!(shown("--min-size 2K"), [2]);
        assert_eq!(shown("--min-size 1 --direction c2s"), [1]);
    }

    #[test]
    fn unless_it_is_named() {
        assert_eq!(shown("--event handshake,frame --opcode close"), [0, 4]);
        assert_eq!(
            shown("--event message,close --opcode text --min-size 3K"),
            [5, 9]
        );
        assert_eq!(shown("--event handshake --direction c2s"), [0]);
    }

    #[test]
    fn the_connection_counts_for_all() {
        const ALL: [usize; 8] = [0, 1, 2, 3, 4, 6, 8, 9];
        for (flags, matches) in [
            ("--client 192.0.2.1", true),
            ("--client 192.0.2.1:40312", true),
            ("--client :40312", true),
            ("--client 192.0.2.1:1", false),
            ("--client 192.0.2.2,192.0.2.1", true),
            ("--server 2001:db8::1", true),
            ("--server [2001:db8::1]", true),
            ("--server [2001:db8::1]:8080", true),
            ("--server [2001:db8::1]:80", false),
            ("--client 192.0.2.1 --server 192.0.2.1", false),
            ("--host chat.example", true),
            ("--host *.EXAMPLE:8080", true),
            ("--host example", false),
            ("--path /rooms/*", true),
            ("--path /rooms/1", true),
            ("--path *token*", true),
            ("--path /rooms", false),
            ("--path /nowhere --path /rooms/?", true),
        ] {
            let expected = if matches { &ALL[..] } else { &[] };
            assert_eq!(shown(flags), expected, "{flags}");
        }
    }

    #[test]
    fn what_is_not_known_does_not_match() {
        let connection = Connection {
            outcome: Outcome::Midstream,
            host: None,
            path: None,
            ..sample::connection()
        };
        let event = sample::on(connection, sample::gap(true));
        assert!(selection(&[]).shows(&event));
        assert!(!selection(&["--host", "*"]).shows(&event));
        assert!(!selection(&["--path", "*"]).shows(&event));
    }

    #[test]
    fn a_port_is_told_from_an_ipv6_address() {
        for (host, expected) in [
            ("a.example:80", "a.example"),
            ("a.example", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
        ] {
            assert_eq!(without_port(host), expected);
        }
    }

    #[test]
    fn limits_are_passed_on() {
        let selection = selection(&["-n", "3", "--duration", "1m30s"]);
        assert_eq!(selection.count, Some(3));
        assert_eq!(selection.duration, Some(Duration::from_secs(90)));
    }
}
