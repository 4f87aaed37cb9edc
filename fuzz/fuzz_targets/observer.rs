//! Segments in any order.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wstap_fuzz::observer::run(data));
