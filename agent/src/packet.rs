//! From the bytes of a captured packet to a segment.
