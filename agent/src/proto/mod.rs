//! The protocol core: from TCP segments to WebSocket events. Sans I/O: segments and times go in
//! through `handle_*`, events and verdicts come out through `poll_*`.

pub mod deflate;
pub mod event;
pub mod flow;
pub mod frame;
pub mod inflate;
pub mod message;
pub mod observer;
mod packed;
pub mod segment;
pub mod seq;
pub mod session;
pub mod tcp;
pub mod time;
pub mod upgrade;
pub mod utf8;
pub mod walk;
