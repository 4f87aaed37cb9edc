//! Sizes and lengths of time for eyes.

use std::{fmt, time::Duration};

/// Bytes: `125 B`, `1.5 KiB`, `16 MiB`. At most 8 characters wide.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        // Tenths, rounded half up, in integers: no size is shown as 1024.0 of a lower unit.
        let mut unit = 0;
        let mut tenths = tenths(self.0, 10);
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            unit += 1;
            tenths = self::tenths(self.0, 10 * (unit as u32 + 1));
        }
        let (whole, tenth) = (tenths / 10, tenths % 10);
        let name = UNITS[unit];
        if whole >= 100 || tenth == 0 {
            f.pad(&format!("{whole} {name}"))
        } else {
            f.pad(&format!("{whole}.{tenth} {name}"))
        }
    }
}

fn tenths(bytes: u64, shift: u32) -> u64 {
    let rounded = (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift;
    u64::try_from(rounded).unwrap_or(u64::MAX)
}

/// A length of time: `850 us`, `1.2 ms`, `3.4 s`, `2m 05s`, `3h 07m`, `4d 02h`.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.as_nanos());
        let text = if nanos < 1_000_000 {
            format!("{} us", nanos / 1000)
        } else if seconds < 1 {
            format!("{:.1} ms", self.0.as_secs_f64() * 1e3)
        } else if seconds < 60 {
            format!("{:.1} s", self.0.as_secs_f64())
        } else if seconds < 3600 {
            format!("{}m {:02}s", seconds / 60, seconds % 60)
        } else if seconds < 86_400 {
            format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60)
        } else {
            format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24)
        };
        f.pad(&text)
    }
}

/// `1 frame`, `2 frames`.
#[derive(Clone, Copy, Debug)]
pub struct Counted(pub u64, pub &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (102_400, "100 KiB"),
            (1_048_575, "1 MiB"),
            (1 << 40, "1 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), expected, "{bytes}");
        }
        assert_eq!(format!("{:>8}|", Bytes(5)), "     5 B|");
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        for (nanos, expected) in [
            (0, "0 us"),
            (850_999, "850 us"),
            (1_240_000, "1.2 ms"),
            (3_400_000_000, "3.4 s"),
            (125_000_000_000, "2m 05s"),
            (11_220_000_000_000, "3h 07m"),
            (352_800_000_000_000, "4d 02h"),
        ] {
            assert_eq!(Time(Duration::from_nanos(nanos)).to_string(), expected);
        }
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(Counted(1, "frame").to_string(), "1 frame");
        assert_eq!(Counted(0, "frame").to_string(), "0 frames");
    }
}
