//! Capture files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wstap_fuzz::capture_file::run(data));
