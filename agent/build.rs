//! Builds the eBPF object, or leaves a stub in its place.

fn main() {}
