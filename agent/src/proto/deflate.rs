//! Extensions of a WebSocket (RFC 6455, section 9) and those that are in use: permessage-deflate
//! (RFC 7692) and what came before it. Owns what was offered, what was agreed, and whether the one
//! allows the other.

use super::flow::Direction;

/// An element of `Sec-WebSocket-Extensions`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extension {
    /// The extension's name, as sent.
    pub name: String,
    /// Its parameters, in order.
    pub parameters: Vec<Parameter>,
}

/// A parameter of an [`Extension`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parameter {
    /// Its name, as sent.
    pub name: String,
    /// Its value, without quotes.
    pub value: Option<String>,
}

/// Elements of one header, and parameters of one element, that are looked at. Nobody sends as many;
/// the bound keeps a hostile head cheap.
const MAX_ELEMENTS: usize = 32;

const DEFLATE: &str = "permessage-deflate";
/// The draft that browsers spoke before RFC 7692 (draft-tyoshino-hybi-websocket-perframe-deflate),
/// by its own name and by WebKit's.
const DEFLATE_FRAME: [&str; 2] = ["deflate-frame", "x-webkit-deflate-frame"];
const NO_CONTEXT_TAKEOVER: &str = "no_context_takeover";
const MAX_WINDOW_BITS: &str = "max_window_bits";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// What is compressed by itself, and RSV1 of which frames says so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// permessage-deflate: a message. RSV1 is set on its first frame.
    Message,
    /// deflate-frame and x-webkit-deflate-frame: a data frame. RSV1 is set on each.
    Frame,
}

/// Parameters of a compression that both ends agreed on (RFC 7692, section 7.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeflateParameters {
    /// What is compressed by itself.
    pub unit: Unit,
    /// The server resets its compression for each message.
    pub server_no_context_takeover: bool,
    /// The client resets its compression for each message.
    pub client_no_context_takeover: bool,
    /// Base-2 logarithm of the server's window, 8 to 15.
    pub server_max_window_bits: u8,
    /// Base-2 logarithm of the client's window, 8 to 15.
    pub client_max_window_bits: u8,
}

/// The extensions that the frames of a connection are subject to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Extensions {
    /// The handshake was not seen, or not enough of it.
    #[default]
    Unknown,
    /// The handshake was seen.
    Agreed {
        /// The compression, where there is one among them.
        deflate: Option<DeflateParameters>,
        /// Whether there are others, whose use of the reserved bits and opcodes is not known here.
        others: bool,
    },
}

impl Extensions {
    /// The unit of compression for which RSV1 stands, if for any. Of unknown extensions it is the one
    /// that is in use today.
    #[must_use]
    pub fn unit(self) -> Option<Unit> {
        match self {
            Self::Unknown => Some(Unit::Message),
            Self::Agreed { deflate, .. } => deflate.map(|deflate| deflate.unit),
        }
    }

    /// The compression that was agreed on.
    #[must_use]
    pub fn deflate(self) -> Option<DeflateParameters> {
        match self {
            Self::Unknown => None,
            Self::Agreed { deflate, .. } => deflate,
        }
    }

    /// Whether reserved bits may have a meaning that is not known here.
    #[must_use]
    pub fn have_others(self) -> bool {
        matches!(self, Self::Agreed { others: true, .. })
    }

    /// What an agreed list amounts to, `offered` being the request's.
    #[must_use]
    pub fn agreed(list: &[Extension], offered: &[Extension]) -> Self {
        let mut deflate = None;
        let mut others = false;
        for extension in list {
            match DeflateParameters::of(extension, offered) {
                Some(parameters) if deflate.is_none() => deflate = Some(parameters),
                // Repeated, it changes nothing.
                Some(_) if extension.is(DEFLATE) => {}
                _ => others = true,
            }
        }
        Self::Agreed { deflate, others }
    }
}

impl DeflateParameters {
    /// The parameters of a response, if it is a compression. A value out of its range is as good as
    /// none.
    fn of(extension: &Extension, offered: &[Extension]) -> Option<Self> {
        let bits = |extension: &Extension, name| {
            let parameter = extension.parameter(name);
            parameter.and_then(window_bits).unwrap_or(15)
        };
        if extension.is(DEFLATE) {
            return Some(Self {
                unit: Unit::Message,
                server_no_context_takeover: extension
                    .parameter(SERVER_NO_CONTEXT_TAKEOVER)
                    .is_some(),
                client_no_context_takeover: extension
                    .parameter(CLIENT_NO_CONTEXT_TAKEOVER)
                    .is_some(),
                server_max_window_bits: bits(extension, SERVER_MAX_WINDOW_BITS),
                client_max_window_bits: bits(extension, CLIENT_MAX_WINDOW_BITS),
            });
        }
        if !DEFLATE_FRAME.iter().any(|name| extension.is(name)) {
            return None;
        }
        // What either end asks for binds the other.
        let offer = offered.iter().find(|offer| offer.is(&extension.name));
        Some(Self {
            unit: Unit::Frame,
            server_no_context_takeover: offer
                .is_some_and(|offer| offer.parameter(NO_CONTEXT_TAKEOVER).is_some()),
            client_no_context_takeover: extension.parameter(NO_CONTEXT_TAKEOVER).is_some(),
            server_max_window_bits: offer.map_or(15, |offer| bits(offer, MAX_WINDOW_BITS)),
            client_max_window_bits: bits(extension, MAX_WINDOW_BITS),
        })
    }

    /// Whether what is sent in `direction` refers to what was sent there before.
    #[must_use]
    pub fn context_takeover(&self, direction: Direction) -> bool {
        match direction {
            Direction::ClientToServer => !self.client_no_context_takeover,
            Direction::ServerToClient => !self.server_no_context_takeover,
        }
    }

    /// Base-2 logarithm of the window of who sends in `direction`.
    #[must_use]
    pub fn max_window_bits(&self, direction: Direction) -> u8 {
        match direction {
            Direction::ClientToServer => self.client_max_window_bits,
            Direction::ServerToClient => self.server_max_window_bits,
        }
    }
}

impl Extension {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters
            .iter()
            .find(|parameter| parameter.name.eq_ignore_ascii_case(name))
    }
}

/// Value of a window size: 8 to 15, without leading zeros (RFC 7692, section 7.1.2).
fn window_bits(parameter: &Parameter) -> Option<u8> {
    match parameter.value.as_deref()?.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// What of the `agreed` extensions was not `offered`: nothing where the response keeps to RFC 6455,
/// section 4.1 and RFC 7692, section 7.1.
#[must_use]
pub fn unoffered(offered: &[Extension], agreed: &[Extension]) -> Vec<String> {
    let mut faults = Vec::new();
    for extension in agreed {
        let mut offers = offered
            .iter()
            .filter(|offer| offer.is(&extension.name))
            .peekable();
        if offers.peek().is_none() {
            faults.push(extension.name.clone());
        } else if extension.is(DEFLATE) {
            // Each offer is an alternative: one that allows the response is enough.
            let mut first_fault = None;
            let mut allowed = false;
            for offer in offers {
                match deflate_fault(offer, extension) {
                    None => allowed = true,
                    Some(fault) => {
                        first_fault.get_or_insert(fault);
                    }
                }
            }
            if let (false, Some(fault)) = (allowed, first_fault) {
                faults.push(format!("{DEFLATE}; {fault}"));
            }
        }
    }
    faults
}

/// The first parameter of `response` that `offer` does not allow (RFC 7692, section 7.1).
fn deflate_fault(offer: &Extension, response: &Extension) -> Option<String> {
    for (i, parameter) in response.parameters.iter().enumerate() {
        let name = parameter.name.as_str();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let repeated = response.parameters[..i]
            .iter()
            .any(|earlier| earlier.name.eq_ignore_ascii_case(name));
        let allowed = if is(SERVER_NO_CONTEXT_TAKEOVER) || is(CLIENT_NO_CONTEXT_TAKEOVER) {
            // A server may ask for either unasked.
            parameter.value.is_none()
        } else if is(SERVER_MAX_WINDOW_BITS) {
            let limit = offer.parameter(SERVER_MAX_WINDOW_BITS);
            let limit = limit.and_then(window_bits).unwrap_or(15);
            window_bits(parameter).is_some_and(|bits| bits <= limit)
        } else if is(CLIENT_MAX_WINDOW_BITS) {
            // Only for a client that said that it understands it, with or without a value.
            let limit = offer.parameter(CLIENT_MAX_WINDOW_BITS);
            let limit = limit.map(|limit| window_bits(limit).unwrap_or(15));
            window_bits(parameter).is_some_and(|bits| limit.is_some_and(|limit| bits <= limit))
        } else {
            false
        };
        if repeated || !allowed {
            return Some(match &parameter.value {
                Some(value) => format!("{name}={value}"),
                None => name.to_owned(),
            });
        }
    }
    // What the client asked of the server has to be confirmed.
    [SERVER_NO_CONTEXT_TAKEOVER, SERVER_MAX_WINDOW_BITS]
        .into_iter()
        .find(|name| offer.parameter(name).is_some() && response.parameter(name).is_none())
        .map(|name| format!("without {name}"))
}

/// Adds the elements of a `Sec-WebSocket-Extensions` header to `list` (RFC 6455, section 9.1). Takes
/// what it understands of a malformed one.
pub fn parse_extensions(header: &str, list: &mut Vec<Extension>) {
    for element in split_unquoted(header, ',') {
        let mut parts = split_unquoted(element, ';');
        let name = parts.next().map_or("", str::trim);
        if name.is_empty() {
            continue;
        }
        if list.len() >= MAX_ELEMENTS {
            return;
        }
        let parameters = parts
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .take(MAX_ELEMENTS)
            .map(|part| match part.split_once('=') {
                None => Parameter {
                    name: part.to_owned(),
                    value: None,
                },
                Some((name, value)) => Parameter {
                    name: name.trim().to_owned(),
                    value: Some(unquoted(value.trim())),
                },
            })
            .collect();
        list.push(Extension {
            name: name.to_owned(),
            parameters,
        });
    }
}

/// The parts of `text` between separators that are not within a quoted string.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        if escaped {
            escaped = false;
            return false;
        }
        match c {
            '"' => quoted = !quoted,
            '\\' if quoted => escaped = true,
            _ => {}
        }
        c == separator && !quoted
    })
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
    else {
        return value.to_owned();
    };
    let mut escaped = false;
    inner
        .chars()
        .filter(|&c| {
            escaped = c == '\\' && !escaped;
            !escaped
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(header: &str) -> Vec<Extension> {
        let mut list = Vec::new();
        parse_extensions(header, &mut list);
        list
    }

    fn faults(offer: &str, response: &str) -> Vec<String> {
        unoffered(&list(offer), &list(response))
    }

    #[test]
    fn lists_are_split_outside_of_quotes() {
        let parsed = list("foo; a=\"x,\\\"y;\"; b ,, permessage-deflate;client_max_window_bits=10");
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0].name, "foo");
        assert_eq!(parsed[0].parameters[0].value.as_deref(), Some("x,\"y;"));
        assert_eq!(parsed[0].parameters[1].value, None);
        assert_eq!(parsed[1].parameters[0].value.as_deref(), Some("10"));
    }

    #[test]
    fn parameters_of_an_agreement() {
        let agreed = |response| Extensions::agreed(&list(response), &[]);
        let some =
            agreed("permessage-deflate; server_no_context_takeover; client_max_window_bits=9");
        assert_eq!(
            some,
            Extensions::Agreed {
                deflate: Some(DeflateParameters {
                    unit: Unit::Message,
                    server_no_context_takeover: true,
                    client_no_context_takeover: false,
                    server_max_window_bits: 15,
                    client_max_window_bits: 9,
                }),
                others: false,
            }
        );
        assert_eq!(
            (some.unit(), some.have_others()),
            (Some(Unit::Message), false)
        );
        assert_eq!(agreed("").unit(), None);
        assert_eq!(
            agreed("mux, permessage-deflate").deflate().map(|d| d.unit),
            Some(Unit::Message)
        );
        assert!(agreed("mux, permessage-deflate").have_others());
        assert_eq!(Extensions::Unknown.unit(), Some(Unit::Message));
        assert_eq!(Extensions::Unknown.deflate(), None);
    }

    #[test]
    fn window_sizes_are_8_to_15() {
        for (value, bits) in [
            ("8", 8),
            ("9", 9),
            ("10", 10),
            ("15", 15),
            ("\"12\"", 12),
            ("7", 15),
            ("16", 15),
            ("08", 15),
            ("x", 15),
        ] {
            let response = format!("permessage-deflate; server_max_window_bits={value}");
            let deflate = Extensions::agreed(&list(&response), &[]).deflate().unwrap();
            assert_eq!(deflate.server_max_window_bits, bits, "{value}");
        }
    }

    #[test]
    fn the_older_compression_is_told_apart() {
        for name in DEFLATE_FRAME {
            let offer = list(&format!("{name}; no_context_takeover"));
            let response = list(&format!("{name}; max_window_bits=9"));
            let agreed = Extensions::agreed(&response, &offer);
            assert!(!agreed.have_others());
            let deflate = agreed.deflate().unwrap();
            assert_eq!(
                deflate,
                DeflateParameters {
                    unit: Unit::Frame,
                    server_no_context_takeover: true,
                    client_no_context_takeover: false,
                    server_max_window_bits: 15,
                    client_max_window_bits: 9,
                }
            );
            assert!(deflate.context_takeover(Direction::ClientToServer));
            assert!(!deflate.context_takeover(Direction::ServerToClient));
        }
        let both = Extensions::agreed(&list("permessage-deflate, deflate-frame"), &[]);
        assert_eq!(
            (both.unit(), both.have_others()),
            (Some(Unit::Message), true)
        );
    }

    #[test]
    fn what_may_be_answered_unasked() {
        let none: [&str; 0] = [];
        for (offer, response) in [
            ("permessage-deflate", "permessage-deflate"),
            (
                "permessage-deflate",
                "permessage-deflate; client_no_context_takeover",
            ),
            (
                "permessage-deflate",
                "permessage-deflate; server_no_context_takeover",
            ),
            (
                "permessage-deflate",
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate; client_max_window_bits=\"12\"",
            ),
            (
                "permessage-deflate; server_max_window_bits=8, permessage-deflate",
                "permessage-deflate",
            ),
        ] {
            assert_eq!(faults(offer, response), none, "{offer} / {response}");
        }
    }

    #[test]
    fn what_needs_an_offer() {
        for (offer, response, fault) in [
            ("", "permessage-deflate", "permessage-deflate"),
            ("permessage-deflate", "mux", "mux"),
            (
                "permessage-deflate",
                "permessage-deflate; client_max_window_bits=12",
                "permessage-deflate; client_max_window_bits=12",
            ),
            (
                "permessage-deflate; server_max_window_bits=9",
                "permessage-deflate; server_max_window_bits=10",
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                "permessage-deflate; server_no_context_takeover",
                "permessage-deflate",
                "permessage-deflate; without server_no_context_takeover",
            ),
            (
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate; client_max_window_bits=16",
                "permessage-deflate; client_max_window_bits=16",
            ),
            (
                "permessage-deflate",
                "permessage-deflate; turbo",
                "permessage-deflate; turbo",
            ),
        ] {
            assert_eq!(faults(offer, response), [fault], "{offer} / {response}");
        }
    }
}
