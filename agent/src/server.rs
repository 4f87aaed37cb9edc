//! The HTTP server of `wstap run`.
