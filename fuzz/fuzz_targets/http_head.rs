//! HTTP, and what follows it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wstap_fuzz::http_head::run(data));
