//! Records from the kernel.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wstap_fuzz::kernel_record::run(data));
