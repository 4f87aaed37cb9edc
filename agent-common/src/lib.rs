//! What crosses the kernel boundary of wstap: the record of a sampled segment, the values of the
//! maps, the numbers of the counters. One file each, with its decoder.
//!
//! Everything here is integers and byte arrays with explicit padding, the size asserted at compile
//! time. User space decodes records from bytes and never casts; the kernel program writes them in
//! place.
#![no_std]

pub mod counter;
pub mod flow;
pub mod globals;
pub mod oddity;
pub mod record;
pub mod tally;

#[cfg(feature = "user")]
extern crate std;

#[cfg(feature = "user")]
pub mod mapping;
#[cfg(feature = "user")]
mod pod;
