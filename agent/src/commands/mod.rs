//! The commands: each wires a source, the observer and a sink.
