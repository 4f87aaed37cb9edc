//! What of TCP is counted segment by segment: whether one left bytes missing before it, or repeats
//! some.
//!
//! Kernel program and agent count alike, whichever of them sees the segments. What is remembered for
//! it is bounded: how far the direction has come, and one *hole*, from the first byte that may be
//! missing to the last. Of what lies within it is not known what was seen, so nothing in it is taken
//! for a repetition: with several stretches missing at once, repetitions are counted short.

/// Sequence numbers further apart are none of one connection: no window is larger than 1 GiB
/// (RFC 7323, section 2.3).
const REACH: i32 = 1 << 30;
/// A hole that begins further back is not made longer: its end was not seen, and nobody will send what
/// is missing.
const MEMORY: u32 = 64 << 20;

/// Nothing out of the ordinary.
pub const NONE: u32 = 0;
/// Bytes before the segment had not been seen.
pub const OUT_OF_ORDER: u32 = 1;
/// Some of its bytes had been seen before.
pub const RETRANSMITTED: u32 = 2;

/// Takes in a segment that has payload or a FIN and is no keep-alive probe: `seq` is the number of its
/// first payload byte, of which it has `len`; `high` is the number behind the newest byte before it.
/// What is out of the ordinary about it.
#[inline(always)]
#[must_use]
pub fn note(high: u32, hole: &mut [u32; 2], seq: u32, len: u32) -> u32 {
    let ahead = seq.wrapping_sub(high) as i32;
    if ahead == 0 || ahead >= REACH || ahead <= -REACH {
        return NONE;
    }
    let [from, to] = *hole;
    let open = from != to;
    if ahead > 0 {
        let from = if open && high.wrapping_sub(from) <= MEMORY {
            from
        } else {
            high
        };
        *hole = [from, seq];
        return OUT_OF_ORDER;
    }
    let before = high.wrapping_sub(seq);
    // What is not beyond all that was seen.
    let known = if len < before { len } else { before };
    let mut seen = known;
    let from = from.wrapping_sub(seq) as i32;
    let to = to.wrapping_sub(seq) as i32;
    if open && to > 0 && from < known as i32 {
        let end = if to < known as i32 { to } else { known as i32 };
        let begin = if from > 0 { from } else { 0 };
        seen = known.wrapping_sub((end - begin) as u32);
        if from >= 0 {
            hole[0] = seq.wrapping_add(end as u32);
        } else if end == to {
            hole[1] = seq;
        }
    }
    if seen > 0 { RETRANSMITTED } else { NONE }
}

/// The receiver has everything before `ack`.
#[inline(always)]
pub fn acknowledge(hole: &mut [u32; 2], ack: u32) {
    let [from, to] = *hole;
    if ack.wrapping_sub(to) as i32 >= 0 {
        *hole = [0; 2];
    } else if ack.wrapping_sub(from) as i32 > 0 {
        hole[0] = ack;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted of segments, given as first byte and length, behind the number `start`.
    fn counted(start: u32, segments: &[(u32, u32)]) -> ([u32; 2], [u32; 2]) {
        let (mut high, mut hole, mut counts) = (start, [0; 2], [0; 2]);
        for &(at, len) in segments {
            let seq = start.wrapping_add(at);
            match note(high, &mut hole, seq, len) {
                OUT_OF_ORDER => counts[0] += 1,
                RETRANSMITTED => counts[1] += 1,
                _ => {}
            }
            let end = seq.wrapping_add(len);
            if end.wrapping_sub(high) as i32 > 0 {
                high = end;
            }
        }
        let hole = if hole[0] == hole[1] {
            [0; 2]
        } else {
            hole.map(|at| at.wrapping_sub(start))
        };
        (counts, hole)
    }

    #[test]
    fn is_counted_across_the_wrap() {
        for start in [0, 7, u32::MAX - 30, u32::MAX] {
            for (segments, expected) in [
                (&[(0, 10), (10, 10)][..], ([0, 0], [0, 0])),
                // Lost and sent again; then once more.
                (&[(0, 10), (20, 10), (30, 10)], ([1, 0], [10, 20])),
                (&[(0, 10), (20, 10), (30, 10), (10, 10)], ([1, 0], [0, 0])),
                (&[(0, 10), (20, 10), (10, 10), (10, 10)], ([1, 1], [0, 0])),
                (&[(0, 10), (0, 10)], ([0, 1], [0, 0])),
                // What repeats some and brings some.
                (&[(0, 10), (5, 10)], ([0, 1], [0, 0])),
                (&[(0, 10), (20, 10), (5, 10)], ([1, 1], [15, 20])),
                (&[(0, 10), (20, 10), (15, 20)], ([1, 1], [10, 15])),
                (&[(0, 10), (20, 10), (12, 3)], ([1, 0], [10, 20])),
                (&[(0, 10), (20, 10), (5, 30)], ([1, 1], [0, 0])),
                // Two holes are one from the first to the last.
                (&[(10, 10), (30, 10)], ([2, 0], [0, 30])),
                (&[(10, 10), (30, 10), (10, 10)], ([2, 0], [0, 30])),
                (&[(10, 10), (30, 10), (20, 10)], ([2, 0], [0, 20])),
                (&[(10, 10), (30, 10), (20, 10), (0, 10)], ([2, 0], [10, 20])),
                (&[(10, 10), (30, 10), (35, 5)], ([2, 1], [0, 30])),
                // A FIN has no bytes that could be repeated.
                (&[(0, 10), (10, 0), (5, 0)], ([0, 0], [0, 0])),
            ] {
                assert_eq!(counted(start, segments), expected, "{segments:?}");
            }
        }
    }

    #[test]
    fn far_away_is_elsewhere() {
        let mut hole = [0; 2];
        for seq in [1 << 30, 1 << 31, 3 << 30] {
            assert_eq!(note(0, &mut hole, seq, 9), NONE);
        }
        assert_eq!(hole, [0; 2]);
    }

    #[test]
    fn a_hole_that_nobody_fills_is_forgotten() {
        let mut hole = [0; 2];
        assert_eq!(note(100, &mut hole, 200, 100), OUT_OF_ORDER);
        let high = 300 + MEMORY;
        assert_eq!(note(high, &mut hole, high + 50, 1), OUT_OF_ORDER);
        assert_eq!(hole, [high, high + 50]);
        acknowledge(&mut hole, high + 20);
        assert_eq!(hole, [high + 20, high + 50]);
        acknowledge(&mut hole, high);
        assert_eq!(hole, [high + 20, high + 50]);
        acknowledge(&mut hole, high + 50);
        assert_eq!(hole, [0; 2]);
    }
}
