//! Names for a connection and its two directions.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::SocketAddr,
    ops::{Index, IndexMut},
};

/// A TCP connection, the same value for both directions: the lower socket address comes first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    /// The two ends, lower first.
    pub ends: [SocketAddr; 2],
    /// Network namespace, as [`super::segment::Segment::scope`].
    pub scope: u32,
}

impl FlowKey {
    /// The key of a segment from `source` to `destination`, and the index (0 or 1) of `source`.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, scope: u32) -> (Self, usize) {
        if source <= destination {
            let ends = [source, destination];
            (Self { ends, scope }, 0)
        } else {
            let ends = [destination, source];
            (Self { ends, scope }, 1)
        }
    }
}

/// In few writes, as it is hashed for each segment.
impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for end in &self.ends {
            match end {
                SocketAddr::V4(end) => {
                    state.write_u64(u64::from(end.ip().to_bits()) << 16 | u64::from(end.port()));
                }
                SocketAddr::V6(end) => {
                    state.write_u128(end.ip().to_bits());
                    state.write_u64(u64::from(end.scope_id()) << 16 | u64::from(end.port()));
                }
            }
        }
        state.write_u32(self.scope);
    }
}

/// One TCP connection within a run; never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// An end of a WebSocket connection, by its part in the handshake.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Sent the request; masks its frames.
    Client,
    /// Answered it.
    Server,
}

impl Role {
    /// The contract's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A direction of a WebSocket connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// Sent by the client.
    ClientToServer,
    /// Sent by the server.
    ServerToClient,
}

impl Direction {
    /// Both, in the order in which they are printed.
    pub const BOTH: [Self; 2] = [Self::ClientToServer, Self::ServerToClient];

    /// The contract's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientToServer => "client_to_server",
            Self::ServerToClient => "server_to_client",
        }
    }

    /// Who sends in this direction.
    #[must_use]
    pub fn sender(self) -> Role {
        match self {
            Self::ClientToServer => Role::Client,
            Self::ServerToClient => Role::Server,
        }
    }

    /// The other one.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::ClientToServer => Self::ServerToClient,
            Self::ServerToClient => Self::ClientToServer,
        }
    }
}

/// A value for each direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PerDirection<T> {
    /// Of the direction from client to server.
    pub client_to_server: T,
    /// Of the direction from server to client.
    pub server_to_client: T,
}

impl<T> PerDirection<T> {
    /// That of `direction`, and that of the other one.
    pub fn pair_mut(&mut self, direction: Direction) -> (&mut T, &mut T) {
        let (c2s, s2c) = (&mut self.client_to_server, &mut self.server_to_client);
        match direction {
            Direction::ClientToServer => (c2s, s2c),
            Direction::ServerToClient => (s2c, c2s),
        }
    }
}

impl<T> Index<Direction> for PerDirection<T> {
    type Output = T;

    fn index(&self, direction: Direction) -> &T {
        match direction {
            Direction::ClientToServer => &self.client_to_server,
            Direction::ServerToClient => &self.server_to_client,
        }
    }
}

impl<T> IndexMut<Direction> for PerDirection<T> {
    fn index_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::ClientToServer => &mut self.client_to_server,
            Direction::ServerToClient => &mut self.server_to_client,
        }
    }
}
