//! Set-up, build, test and demonstration of wstap: `cargo xtask --help`.

fn main() {}
