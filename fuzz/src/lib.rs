//! Fuzz targets of wstap, one for each boundary at which bytes come from outside.
//!
//! Each module is a target: `run` takes any bytes and panics where wstap does something that it
//! must not. [`input`] says how the bytes are read, [`judge`] what must hold of any events.

pub mod capture_file;
pub mod conversation;
pub mod deflate;
pub mod frame_stream;
pub mod http_head;
pub mod input;
pub mod judge;
pub mod kernel_record;
pub mod observer;
pub mod packet;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("capture_file", capture_file::run),
    ("deflate", deflate::run),
    ("frame_stream", frame_stream::run),
    ("http_head", http_head::run),
    ("kernel_record", kernel_record::run),
    ("observer", observer::run),
    ("packet", packet::run),
];
