//! wstap: frame-level WebSocket metrics and traces, taken from the kernel.
//!
//! Data flows one way: a [`source`] (kernel ring buffer, capture file) yields
//! [`proto::segment::Segment`]s, the [`proto::observer::Observer`] turns them into
//! [`proto::event::Event`]s, and [`sink`]s make metrics, text, JSON or a summary of these.
//! [`commands`] wire the three together. [`kubernetes`] has names for addresses, which sinks ask for. `proto` does no I/O, reads no clock and knows nothing of
//! the others.

pub mod cli;
pub mod commands;
pub mod config;
pub mod kubernetes;
pub mod packet;
pub mod proto;
pub mod server;
pub mod sink;
pub mod source;
