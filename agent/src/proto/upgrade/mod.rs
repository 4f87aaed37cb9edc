//! The opening handshake (RFC 6455, section 4): what the heads on both sides say, and whether they
//! may. Owns heads and the lengths of bodies; whose turn it is belongs to [`super::session`].

mod body;
mod head;
mod proxy;

use std::borrow::Cow;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha1::{Digest, Sha1};

use super::{
    deflate::{self, Extension, Extensions},
    event::Rule,
};

pub use body::{Body, Chunked, Lost};
pub use head::{HeadBuffer, Kind, Pushed};

/// Headers of a head; more make it no handshake.
const MAX_HEADERS: usize = 128;

/// Bytes that are kept of a header's value, and of a request's target.
const MAX_VALUE: usize = 4096;

/// Subprotocols that are kept of an offer.
const MAX_OFFERED: usize = 32;

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Base64 as peers write it: what the bits behind the last byte are is nobody's concern.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Why a head is not understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeadError {
    /// More headers than are looked at.
    TooManyHeaders,
    /// It is no HTTP.
    Malformed,
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyHeaders,
            _ => Self::Malformed,
        }
    }
}

/// A rule that a head breaks, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The rule.
    pub rule: Rule,
    /// The offending value.
    pub detail: String,
}

/// A longer value is no `Sec-WebSocket-Key`, which has 24 characters, and is not kept as one.
pub const MAX_KEY: usize = 64;

/// What is known of a request that asks for a WebSocket.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The method, always `GET`.
    pub method: String,
    /// The target, as sent.
    pub path: String,
    /// `Host`.
    pub host: Option<String>,
    /// `Origin`.
    pub origin: Option<String>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// `Sec-WebSocket-Key`.
    pub key: Option<String>,
    /// Subprotocols offered.
    pub subprotocols: Vec<String>,
    /// Extensions offered.
    pub extensions: Vec<Extension>,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// What it asks for.
    pub asks: Asks,
    /// What follows it.
    pub body: Body,
}

/// What a request asks for, as far as it matters for its response.
#[derive(Debug)]
pub enum Asks {
    /// A WebSocket.
    Upgrade(Box<Request>),
    /// The head of a resource: the response has no body.
    Head,
    /// A tunnel.
    Connect,
    /// Anything else.
    Other,
}

/// A response's head.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// Whether `Upgrade` names WebSocket.
    pub upgrades: bool,
    /// `Sec-WebSocket-Accept`.
    pub accept: Option<String>,
    /// `Sec-WebSocket-Protocol`.
    pub subprotocol: Option<String>,
    /// `Sec-WebSocket-Extensions`, as sent; several are joined.
    pub extensions: Option<String>,
    length: Length,
}

/// What the headers say about the body's length.
#[derive(Clone, Copy, Debug, Default)]
struct Length {
    content: Option<u64>,
    /// `Transfer-Encoding` is there, and `chunked` is the last.
    coding: Option<bool>,
}

impl Length {
    fn take(&mut self, name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("content-length") {
            self.content = std::str::from_utf8(value)
                .ok()
                .and_then(|value| value.split(',').next())
                .and_then(|value| value.trim().parse().ok());
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            let last = value.rsplit(|byte| *byte == b',').next();
            let last = last.unwrap_or_default().trim_ascii();
            self.coding = Some(last.eq_ignore_ascii_case(b"chunked"));
        }
    }

    fn body(self) -> Option<Body> {
        match (self.coding, self.content) {
            (Some(true), _) => Some(Body::Chunked(Chunked::default())),
            (Some(false), _) => Some(Body::UntilClose),
            (None, Some(length)) => Some(Body::Length(length)),
            (None, None) => None,
        }
    }
}

/// What users see of a value: bounded, and text.
fn text(value: &[u8]) -> String {
    let value = value.trim_ascii();
    let kept = value.get(..MAX_VALUE).unwrap_or(value);
    String::from_utf8_lossy(kept).into_owned()
}

/// Keeps the first of a header that may come once.
fn keep_first(slot: &mut Option<String>, value: &[u8]) {
    if slot.is_none() {
        *slot = Some(text(value));
    }
}

/// Keeps all of a header that may come once, as the list that it then is (RFC 9110, section 5.3).
fn join(slot: &mut Option<String>, value: &[u8]) {
    match slot {
        None => *slot = Some(text(value)),
        Some(list) if list.len() < MAX_VALUE => {
            list.push_str(", ");
            list.push_str(&text(value));
        }
        Some(_) => {}
    }
}

/// The non-empty elements of a comma-separated header.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

fn names_websocket(value: &[u8]) -> bool {
    elements(value).any(|element| element.eq_ignore_ascii_case(b"websocket"))
}

/// The head with a first line that is UTF-8, which the parser insists on and servers do not.
fn with_text_target(head: &[u8]) -> Cow<'_, [u8]> {
    let end = head.iter().position(|byte| *byte == b'\n');
    let (line, rest) = head.split_at(end.unwrap_or(head.len()));
    match String::from_utf8_lossy(line) {
        Cow::Borrowed(_) => Cow::Borrowed(head),
        Cow::Owned(line) => Cow::Owned([line.as_bytes(), rest].concat()),
    }
}

/// Reads a request's head, blank line included.
///
/// # Errors
///
/// [`HeadError`] where it is no HTTP/1 request, or has too many headers.
pub fn parse_request(head: &[u8]) -> Result<RequestHead, HeadError> {
    let head = &*with_text_target(head);
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = httparse::ParserConfig::default()
        .ignore_invalid_headers_in_requests(true)
        .allow_multiple_spaces_in_request_line_delimiters(true)
        .parse_request(&mut parsed, head)?;
    let (httparse::Status::Complete(_), Some(method), Some(path)) =
        (status, parsed.method, parsed.path)
    else {
        return Err(HeadError::Malformed);
    };
    let mut request = Request::default();
    let mut length = Length::default();
    let mut upgrades = false;
    let mut version: Option<String> = None;
    for httparse::Header { name, value } in parsed.headers.iter() {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("host") {
            keep_first(&mut request.host, value);
        } else if is("origin") {
            keep_first(&mut request.origin, value);
        } else if is("user-agent") {
            keep_first(&mut request.user_agent, value);
        } else if is("upgrade") {
            upgrades |= names_websocket(value);
        } else if is("sec-websocket-key") {
            // Twice, it is no key (RFC 6455, section 11.3.1); the version is none then, either
            // (section 11.3.5).
            join(&mut request.key, value);
        } else if is("sec-websocket-version") {
            join(&mut version, value);
        } else if is("sec-websocket-protocol") {
            let room = MAX_OFFERED.saturating_sub(request.subprotocols.len());
            request
                .subprotocols
                .extend(elements(value).take(room).map(text));
        } else if is("sec-websocket-extensions") {
            deflate::parse_extensions(&text(value), &mut request.extensions);
        } else {
            length.take(name, value);
        }
    }
    let asks = match method {
        "GET" if upgrades => {
            method.clone_into(&mut request.method);
            request.path = text(path.as_bytes());
            request.faults = request_faults(request.key.as_deref(), version);
            Asks::Upgrade(Box::new(request))
        }
        "HEAD" => Asks::Head,
        "CONNECT" => Asks::Connect,
        _ => Asks::Other,
    };
    Ok(RequestHead {
        asks,
        body: length.body().unwrap_or(Body::Length(0)),
    })
}

fn request_faults(key: Option<&str>, version: Option<String>) -> Vec<Fault> {
    let mut faults = Vec::new();
    match key {
        None => faults.push(Fault {
            rule: Rule::MissingKey,
            detail: String::new(),
        }),
        Some(key) if BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16) => {}
        Some(key) => faults.push(Fault {
            rule: Rule::InvalidKey,
            detail: key.to_owned(),
        }),
    }
    if version.as_deref() != Some("13") {
        faults.push(Fault {
            rule: Rule::InvalidVersion,
            detail: version.unwrap_or_default(),
        });
    }
    faults
}

/// Reads a response's head, blank line included.
///
/// # Errors
///
/// [`HeadError`] where it is no HTTP/1 response, or has too many headers.
pub fn parse_response(head: &[u8]) -> Result<ResponseHead, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = httparse::ParserConfig::default()
        .ignore_invalid_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .parse_response(&mut parsed, head)?;
    let (httparse::Status::Complete(_), Some(code)) = (status, parsed.code) else {
        return Err(HeadError::Malformed);
    };
    let mut response = ResponseHead {
        status: code,
        ..ResponseHead::default()
    };
    for httparse::Header { name, value } in parsed.headers.iter() {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("upgrade") {
            response.upgrades |= names_websocket(value);
        } else if is("sec-websocket-accept") {
            // Twice, it follows from no key (RFC 6455, section 11.3.3), nor was it offered so
            // (section 11.3.4).
            join(&mut response.accept, value);
        } else if is("sec-websocket-protocol") {
            join(&mut response.subprotocol, value);
        } else if is("sec-websocket-extensions") {
            join(&mut response.extensions, value);
        } else {
            response.length.take(name, value);
        }
    }
    Ok(response)
}

impl ResponseHead {
    /// What follows the head, given what was asked for.
    #[must_use]
    pub fn body(&self, asked: Option<&Asks>) -> Body {
        let none = match (asked, self.status) {
            (_, 100..=199 | 204 | 304) | (Some(Asks::Head), _) => true,
            (Some(Asks::Connect), status) => status / 100 == 2,
            _ => false,
        };
        if none {
            Body::Length(0)
        } else {
            self.length.body().unwrap_or(Body::UntilClose)
        }
    }

    /// What is wrong with a 101 that answers `request`, as far as that is known.
    #[must_use]
    pub fn faults(&self, request: Option<&Request>) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |rule, detail| faults.push(Fault { rule, detail });
        match &self.accept {
            None => fault(Rule::MissingAccept, String::new()),
            Some(accept) => {
                let key = request.and_then(|request| request.key.as_deref());
                if key.is_some_and(|key| *accept != accept_for(key)) {
                    fault(Rule::WrongAccept, accept.clone());
                }
            }
        }
        if let Some(request) = request {
            if let Some(subprotocol) = &self.subprotocol
                && !request.subprotocols.contains(subprotocol)
            {
                fault(Rule::UnofferedSubprotocol, subprotocol.clone());
            }
            for extension in deflate::unoffered(&request.extensions, &self.agreed()) {
                fault(Rule::UnofferedExtension, extension);
            }
        }
        faults
    }

    /// The extensions that frames are subject to after this response.
    #[must_use]
    pub fn extensions(&self, request: Option<&Request>) -> Extensions {
        let agreed = self.agreed();
        if request.is_none() && agreed.is_empty() {
            Extensions::Unknown
        } else {
            let offered = request.map_or(&[][..], |request| &request.extensions);
            Extensions::agreed(&agreed, offered)
        }
    }

    fn agreed(&self) -> Vec<Extension> {
        let mut agreed = Vec::new();
        if let Some(list) = &self.extensions {
            deflate::parse_extensions(list, &mut agreed);
        }
        agreed
    }
}

/// The `Sec-WebSocket-Accept` that answers `key` (RFC 6455, section 4.2.2).
#[must_use]
pub fn accept_for(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    BASE64.encode(hash.finalize())
}

#[cfg(test)]
mod tests;
