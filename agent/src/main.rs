//! The command line of wstap: parse, run, exit status.

fn main() {}
