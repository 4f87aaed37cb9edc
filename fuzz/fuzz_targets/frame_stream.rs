//! Frames of an open WebSocket.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wstap_fuzz::frame_stream::run(data));
