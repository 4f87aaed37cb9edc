//! Puts the bytes of one direction in order.
