//! The parts of the classifier that are pure functions of bytes: they run on the host as well, and
//! are tested there.
#![no_std]

pub mod recognise;
