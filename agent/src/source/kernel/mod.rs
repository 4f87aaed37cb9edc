//! The kernel: program, attachment, ring buffer.
