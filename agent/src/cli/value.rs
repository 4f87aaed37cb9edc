//! The values of flags: sizes, durations, ports, addresses, patterns.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{
    ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use globset::{Glob, GlobBuilder};
use log::LevelFilter;

use crate::{
    proto::{flow::Direction, frame::Opcode},
    sink::metrics::PathLabel,
};

/// Why a value is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ValueError {
    /// No size.
    #[error("not a size: give bytes, or a number with K, M or G, as in 64K")]
    Size,
    /// A size out of bounds.
    #[error("{0} bytes: must be from {min} to {max} bytes", min = .1.start(), max = .1.end())]
    SizeRange(u64, RangeInclusive<u64>),
    /// A number out of bounds.
    #[error("must be a number from {min} to {max}", min = .0.start(), max = .0.end())]
    Count(RangeInclusive<u32>),
    /// No duration.
    #[error("not a duration: give a number with ms, s, m or h, as in 500ms or 1m30s")]
    Duration,
    /// A duration of nothing.
    #[error("must be longer than 0")]
    ZeroDuration,
    /// No port.
    #[error("not a port: give one from 1 to 65535, or two as FROM-TO")]
    Port,
    /// Ports in the wrong order.
    #[error("not a range of ports: {0} is greater than {1}")]
    PortOrder(u16, u16),
    /// No address.
    #[error("not an address: give ADDR, ADDR:PORT, [IPV6]:PORT or :PORT, without names")]
    Endpoint,
    /// No address and port.
    #[error("not an address and port: give e.g. 127.0.0.1:9466, 0.0.0.0:9466 or [::1]:9466")]
    SocketAddr,
    /// No opcode.
    #[error(
        "not an opcode: there are continuation, text, binary, close, ping, pong, reserved_3 to \
         reserved_7, reserved_b to reserved_f, and reserved for all of these"
    )]
    Opcode,
    /// No network namespace.
    #[error(
        "not a network namespace: give a name under /run/netns, a path with a slash in it, a process \
         id, or pods"
    )]
    Netns,
    /// No command.
    #[error("no such command")]
    Command,
    /// No name of a node.
    #[error("not the name of a node: give lower-case letters, digits, - and .")]
    NodeName,
}

/// A number of bytes: `1500`, `64K`, `4M`, `1G`, powers of 1024, with or without a `B` behind.
///
/// # Errors
///
/// It is none, or more than 64 bits hold.
pub fn any_size(text: &str) -> Result<u64, ValueError> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "k" | "KB" | "KiB" => 10,
        "M" | "m" | "MB" | "MiB" => 20,
        "G" | "g" | "GB" | "GiB" => 30,
        _ => return Err(ValueError::Size),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ValueError::Size);
    }
    let number: u64 = digits.parse().map_err(|_| ValueError::Size)?;
    number.checked_mul(1 << shift).ok_or(ValueError::Size)
}

/// A parser of sizes from `min` to `max`.
pub fn size(
    min: u64,
    max: u64,
) -> impl Fn(&str) -> Result<u64, ValueError> + Clone + Send + Sync + 'static {
    move |text| match any_size(text)? {
        bytes if (min..=max).contains(&bytes) => Ok(bytes),
        bytes => Err(ValueError::SizeRange(bytes, min..=max)),
    }
}

/// A parser of numbers from `min` to `max`.
pub fn count(
    min: u32,
    max: u32,
) -> impl Fn(&str) -> Result<u32, ValueError> + Clone + Send + Sync + 'static {
    move |text| match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(ValueError::Count(min..=max)),
    }
}

/// A length of time: `500ms`, `30s`, `1m30s`, `2h`; `0` needs no unit.
///
/// # Errors
///
/// It is none: no unit, another unit, or too long.
pub fn duration(text: &str) -> Result<Duration, ValueError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    loop {
        let number = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let (digits, tail) = rest.split_at(rest.len() - number.len());
        let unit = tail.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let (unit, tail) = tail.split_at(tail.len() - unit.len());
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(ValueError::Duration),
        };
        total = digits
            .parse()
            .ok()
            .and_then(|number: u64| number.checked_mul(millis))
            .and_then(|millis| total.checked_add(Duration::from_millis(millis)))
            .ok_or(ValueError::Duration)?;
        if tail.is_empty() {
            return Ok(total);
        }
        rest = tail;
    }
}

/// A length of time that is not 0.
///
/// # Errors
///
/// As [`duration`], and for 0.
pub fn positive_duration(text: &str) -> Result<Duration, ValueError> {
    match duration(text)? {
        Duration::ZERO => Err(ValueError::ZeroDuration),
        duration => Ok(duration),
    }
}

/// A port, or a range of them: `80`, `8000-8999`.
///
/// # Errors
///
/// It is none.
pub fn ports(text: &str) -> Result<RangeInclusive<u16>, ValueError> {
    let port = |text: &str| match text.trim().parse() {
        Ok(port @ 1u16..) => Ok(port),
        _ => Err(ValueError::Port),
    };
    let Some((from, to)) = text.split_once('-') else {
        return port(text).map(|port| port..=port);
    };
    let (from, to) = (port(from)?, port(to)?);
    if from > to {
        return Err(ValueError::PortOrder(from, to));
    }
    Ok(from..=to)
}

/// A network namespace, or many.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Netns {
    /// Those of all processes of the machine.
    Pods,
    /// The one that is mounted under this name in `/run/netns`.
    Name(String),
    /// The one that is mounted, or linked to, at this path.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
}

/// A network namespace, by name, path or process.
///
/// # Errors
///
/// It is none of these.
pub fn netns(text: &str) -> Result<Netns, ValueError> {
    match text {
        "pods" => Ok(Netns::Pods),
        "" | "." | ".." => Err(ValueError::Netns),
        _ if text.contains('/') => Ok(Netns::Path(text.into())),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => match text.parse() {
            Ok(pid @ 1..) => Ok(Netns::Pid(pid)),
            _ => Err(ValueError::Netns),
        },
        _ => Ok(Netns::Name(text.to_owned())),
    }
}

/// An address and a port to listen at.
///
/// # Errors
///
/// It is none.
pub fn socket_addr(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| ValueError::SocketAddr)
}

/// Patterns for names of interfaces, separated by commas.
#[derive(Clone, Debug)]
pub struct Globs(pub Vec<Glob>);

/// Patterns separated by commas; a comma within braces belongs to its pattern.
///
/// # Errors
///
/// One of them is none.
pub fn globs(text: &str) -> Result<Globs, globset::Error> {
    let mut depth = 0_usize;
    text.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|pattern| !pattern.is_empty())
    .map(Glob::new)
    .collect::<Result<_, _>>()
    .map(Globs)
}

/// A pattern.
///
/// # Errors
///
/// It is none.
pub fn glob(text: &str) -> Result<Glob, globset::Error> {
    Glob::new(text)
}

/// A pattern that matches in any case.
///
/// # Errors
///
/// It is none.
pub fn glob_any_case(text: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(text).case_insensitive(true).build()
}

/// An end of connections: an address, a port, or both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The address; `None` for any.
    pub addr: Option<IpAddr>,
    /// The port; `None` for any.
    pub port: Option<u16>,
}

impl Endpoint {
    /// Whether it is `addr`.
    #[must_use]
    pub fn matches(&self, addr: SocketAddr) -> bool {
        self.addr.is_none_or(|wanted| wanted == addr.ip())
            && self.port.is_none_or(|wanted| wanted == addr.port())
    }
}

impl FromStr for Endpoint {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Self {
                addr: Some(addr.ip().to_canonical()),
                port: Some(addr.port()),
            });
        }
        if let Some(port) = text.strip_prefix(':')
            && let Ok(port) = port.parse()
        {
            let (addr, port) = (None, Some(port));
            return Ok(Self { addr, port });
        }
        let bracketed = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .and_then(|text| text.parse::<Ipv6Addr>().ok())
            .map(IpAddr::V6);
        let addr = bracketed
            .or_else(|| text.parse().ok())
            .ok_or(ValueError::Endpoint)?
            .to_canonical();
        let (addr, port) = (Some(addr), None);
        Ok(Self { addr, port })
    }
}

/// An opcode by its name, or all reserved ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpcodeName {
    /// This one.
    One(Opcode),
    /// 3 to 7 and 11 to 15.
    AllReserved,
}

impl OpcodeName {
    /// Whether it stands for `opcode`.
    #[must_use]
    pub fn matches(self, opcode: Opcode) -> bool {
        match self {
            Self::One(wanted) => wanted == opcode,
            Self::AllReserved => matches!(opcode, Opcode::Reserved(_)),
        }
    }
}

impl FromStr for OpcodeName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.eq_ignore_ascii_case("reserved") {
            return Ok(Self::AllReserved);
        }
        (0..16)
            .map(Opcode::from_bits)
            .find(|opcode| text.eq_ignore_ascii_case(opcode.as_str()))
            .map(Self::One)
            .ok_or(ValueError::Opcode)
    }
}

/// A parser of directions: the contract's words and their short forms.
#[must_use]
pub fn direction() -> impl TypedValueParser<Value = Direction> {
    const C2S: &str = "client_to_server";
    PossibleValuesParser::new([
        PossibleValue::new(C2S).alias("c2s"),
        PossibleValue::new("server_to_client").alias("s2c"),
    ])
    .map(|name| match name.as_str() {
        C2S | "c2s" => Direction::ClientToServer,
        _ => Direction::ServerToClient,
    })
}

/// A parser of log levels.
#[must_use]
pub fn log_level() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .try_map(|name| name.parse::<LevelFilter>())
}

/// The name of a command.
///
/// # Errors
///
/// There is none of that name.
pub fn command_name(text: &str) -> Result<String, ValueError> {
    super::command()
        .find_subcommand(text)
        .map(|command| command.get_name().to_owned())
        .ok_or(ValueError::Command)
}

/// The name of a node, as the cluster has it: a DNS subdomain (RFC 1123).
///
/// # Errors
///
/// It is none.
pub fn node_name(text: &str) -> Result<String, ValueError> {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(plain) {
        return Err(ValueError::NodeName);
    }
    Ok(text.to_owned())
}

impl ValueEnum for PathLabel {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Template, Self::Raw, Self::None]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Template => ("template", "Without query, identifiers replaced"),
            Self::Raw => ("raw", "As sent"),
            Self::None => ("none", "Empty"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_by_name_path_or_process() {
        assert_eq!(netns("pods"), Ok(Netns::Pods));
        assert_eq!(netns("blue-1"), Ok(Netns::Name("blue-1".to_owned())));
        assert_eq!(netns("7b"), Ok(Netns::Name("7b".to_owned())));
        assert_eq!(netns("./7"), Ok(Netns::Path("./7".into())));
        let path = "/proc/1/ns/net";
        assert_eq!(netns(path), Ok(Netns::Path(path.into())));
        assert_eq!(netns("4026"), Ok(Netns::Pid(4026)));
        for none in ["", ".", "..", "0", "99999999999"] {
            assert_eq!(netns(none), Err(ValueError::Netns), "{none}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1500", Some(1500)),
            ("64K", Some(65_536)),
            ("4m", Some(4 << 20)),
            ("1GiB", Some(1 << 30)),
            ("12B", Some(12)),
            ("17179869183G", Some(18_446_744_072_635_809_792)),
            ("17179869184G", None),
            ("99999999999999999999", None),
            ("", None),
            ("K", None),
            ("1.5K", None),
            ("-1", None),
            ("+1", None),
            ("1T", None),
            ("1 K", None),
            ("1Kä", None),
        ] {
            assert_eq!(any_size(text).ok(), expected, "{text}");
        }
        assert_eq!(size(1, 10)("10"), Ok(10));
        assert_eq!(size(1, 10)("1K"), Err(ValueError::SizeRange(1024, 1..=10)));
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", Some(0)),
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("2h", Some(7_200_000)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("", None),
            ("10", None),
            ("s", None),
            ("1m30", None),
            ("1.5s", None),
            ("-1s", None),
            ("1 s", None),
            ("1d", None),
            ("5M", None),
            ("1sä", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ] {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
        assert_eq!(positive_duration("0s"), Err(ValueError::ZeroDuration));
    }

    #[test]
    fn port_ranges() {
        assert_eq!(ports("80"), Ok(80..=80));
        assert_eq!(ports("8000-8999"), Ok(8000..=8999));
        assert_eq!(ports("90-80"), Err(ValueError::PortOrder(90, 80)));
        for text in ["0", "65536", "", "-", "80-", "-80", "http"] {
            assert_eq!(ports(text), Err(ValueError::Port), "{text}");
        }
    }

    #[test]
    fn endpoints() {
        for (text, addr, port) in [
            ("10.0.0.1", Some("10.0.0.1"), None),
            ("10.0.0.1:80", Some("10.0.0.1"), Some(80)),
            ("::1", Some("::1"), None),
            ("[::1]", Some("::1"), None),
            ("[::1]:80", Some("::1"), Some(80)),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1"), Some(80)),
            (":80", None, Some(80)),
        ] {
            let addr = addr.map(|addr| addr.parse().unwrap());
            assert_eq!(text.parse(), Ok(Endpoint { addr, port }), "{text}");
        }
        for text in [
            "",
            ":",
            "localhost",
            "localhost:80",
            "10.0.0.1:",
            "[::1",
            "1.2.3",
        ] {
            assert_eq!(
                text.parse::<Endpoint>(),
                Err(ValueError::Endpoint),
                "{text}"
            );
        }
    }

    #[test]
    fn opcodes() {
        assert_eq!("text".parse(), Ok(OpcodeName::One(Opcode::Text)));
        assert_eq!("Ping".parse(), Ok(OpcodeName::One(Opcode::Ping)));
        assert_eq!(
            "reserved_f".parse(),
            Ok(OpcodeName::One(Opcode::Reserved(15)))
        );
        assert_eq!("reserved".parse(), Ok(OpcodeName::AllReserved));
        assert_eq!("reserved_8".parse::<OpcodeName>(), Err(ValueError::Opcode));
    }

    #[test]
    fn a_comma_in_braces_is_part_of_its_pattern() {
        let patterns = |text| -> Vec<String> {
            let globs = globs(text).unwrap().0;
            globs.iter().map(|glob| glob.glob().to_owned()).collect()
        };
        assert_eq!(patterns("eth0,veth*"), ["eth0", "veth*"]);
        assert_eq!(patterns("{eth,ens}*, lo,"), ["{eth,ens}*", "lo"]);
        assert!(globs("[a").is_err());
    }

    #[test]
    fn names_of_commands() {
        assert_eq!(command_name("trace"), Ok("trace".into()));
        assert_eq!(command_name("top"), Err(ValueError::Command));
    }

    #[test]
    fn names_of_nodes() {
        assert_eq!(
            node_name("ip-10-0-0-1.ec2.internal"),
            Ok("ip-10-0-0-1.ec2.internal".into())
        );
        for name in ["", "a,spec.x=y", "A", "a b"] {
            assert_eq!(node_name(name), Err(ValueError::NodeName), "{name}");
        }
    }
}
