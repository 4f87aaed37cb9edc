//! Packets of a capture.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wstap_fuzz::packet::run(data));
