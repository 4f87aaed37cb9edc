//! Flags as validated.
