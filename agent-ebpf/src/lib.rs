//! The parts of the classifier that are pure functions of bytes: they run on the host as well, and
//! are tested there.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod bound;
pub mod recognise;
