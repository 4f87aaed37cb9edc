//! Numbers in as few bytes as they need, for what is kept of connections that are silent.
//!
//! A type says once which numbers it consists of, and that is how it is written and how it is read:
//! the two cannot differ. What is read was written by this process.

/// Bytes that need no memory of their own: what most connections come to.
const SHORT: usize = 182;

/// Numbers that were written.
#[derive(Debug)]
pub enum Packed {
    /// Few, in place: one piece of memory less, and one of the same size for all that have it, so that
    /// what comes and goes leaves no holes.
    Short {
        /// How many of the bytes are in use.
        len: u8,
        /// The bytes.
        bytes: [u8; SHORT],
    },
    /// Any number.
    Long(Box<[u8]>),
}

/// Writes numbers, or reads them in the same order.
#[derive(Debug)]
pub struct Packer {
    bytes: Vec<u8>,
    /// Where the next one is read; `None` while they are written.
    at: Option<usize>,
}

impl Packer {
    /// One that writes.
    #[must_use]
    pub fn writer() -> Self {
        Self {
            bytes: Vec::with_capacity(256),
            at: None,
        }
    }

    /// One that reads what another has written.
    #[must_use]
    pub fn reader(packed: Packed) -> Self {
        let bytes = match packed {
            Packed::Short { len, bytes } => bytes.get(..len.into()).unwrap_or_default().to_vec(),
            Packed::Long(bytes) => bytes.into_vec(),
        };
        Self { bytes, at: Some(0) }
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Packed {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..self.bytes.len()) {
            Some(short) => {
                short.copy_from_slice(&self.bytes);
                let len = self.bytes.len() as u8;
                Packed::Short { len, bytes }
            }
            None => Packed::Long(self.bytes.into_boxed_slice()),
        }
    }

    /// A number: seven bits a byte, low ones first (LEB128).
    pub fn number(&mut self, number: &mut u64) {
        match &mut self.at {
            None => {
                let mut rest = *number;
                while rest > 0x7f {
                    self.bytes.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                self.bytes.push(rest as u8);
            }
            Some(at) => {
                let mut read = 0;
                for shift in (0..u64::BITS).step_by(7) {
                    let byte = self.bytes.get(*at).copied().unwrap_or_default();
                    *at += 1;
                    read |= u64::from(byte & 0x7f) << shift;
                    if byte & 0x80 == 0 {
                        break;
                    }
                }
                *number = read;
            }
        }
    }

    /// A number that is likely to be near one that is known: what lies between them (zigzag).
    pub fn near(&mut self, number: &mut u64, known: u64) {
        let between = number.wrapping_sub(known).cast_signed();
        let mut folded = (between << 1 ^ between >> 63).cast_unsigned();
        self.number(&mut folded);
        let between = (folded >> 1) ^ (folded & 1).wrapping_neg();
        *number = known.wrapping_add(between);
    }

    /// As [`Self::near`], modulo 2^32.
    pub fn near_short(&mut self, number: &mut u32, known: u32) {
        let between = i64::from(number.wrapping_sub(known).cast_signed());
        let mut long = between.cast_unsigned();
        self.near(&mut long, 0);
        *number = known.wrapping_add(long as u32);
    }

    /// A number of 32 bits.
    pub fn short(&mut self, number: &mut u32) {
        let mut long = u64::from(*number);
        self.number(&mut long);
        *number = long as u32;
    }

    /// A number of eight bits.
    pub fn byte(&mut self, number: &mut u8) {
        let mut long = u64::from(*number);
        self.number(&mut long);
        *number = long as u8;
    }

    /// Yes or no.
    pub fn flag(&mut self, flag: &mut bool) {
        let mut number = u8::from(*flag);
        self.byte(&mut number);
        *flag = number != 0;
    }

    /// Something that may not be there.
    pub fn option<T: Default>(
        &mut self,
        option: &mut Option<T>,
        pack: impl FnOnce(&mut Self, &mut T),
    ) {
        let mut is_there = option.is_some();
        self.flag(&mut is_there);
        if is_there {
            pack(self, option.get_or_insert_default());
        } else {
            *option = None;
        }
    }

    /// Numbers of which most are 0, at most 64.
    pub fn sparse<'a>(&mut self, numbers: impl IntoIterator<Item = &'a mut u64>) {
        let numbers: Vec<_> = numbers.into_iter().collect();
        debug_assert!(numbers.len() <= 64);
        let mut present = (0..).zip(&numbers).fold(0, |bits, (at, number)| {
            bits | u64::from(**number != 0) << at
        });
        self.number(&mut present);
        for (at, number) in (0..).zip(numbers) {
            if present >> at & 1 != 0 {
                self.number(number);
            } else {
                *number = 0;
            }
        }
    }

    /// As [`Self::sparse`], of 32 bits.
    pub fn sparse_short<'a>(&mut self, numbers: impl IntoIterator<Item = &'a mut u32>) {
        let shorts: Vec<_> = numbers.into_iter().collect();
        let mut longs: Vec<_> = shorts.iter().map(|short| u64::from(**short)).collect();
        self.sparse(&mut longs);
        for (short, long) in shorts.into_iter().zip(longs) {
            *short = long as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        type All = (
            u64,
            u32,
            u8,
            bool,
            Option<u32>,
            Option<u32>,
            [u64; 20],
            [u32; 3],
            [u64; 4],
            [u32; 4],
        );
        let pack = |p: &mut Packer, all: &mut All| {
            p.number(&mut all.0);
            p.short(&mut all.1);
            p.byte(&mut all.2);
            p.flag(&mut all.3);
            p.option(&mut all.4, Packer::short);
            p.option(&mut all.5, Packer::short);
            p.sparse(&mut all.6);
            p.sparse_short(&mut all.7);
            for number in &mut all.8 {
                p.near(number, 1 << 63);
            }
            for number in &mut all.9 {
                p.near_short(number, 7);
            }
        };
        let mut many = [0; 20];
        (many[0], many[13], many[19]) = (1, u64::MAX, 1 << 40);
        let mut all = (
            u64::MAX,
            u32::MAX,
            0xff,
            true,
            Some(0),
            None,
            many,
            [0, 5, 0],
            [0, u64::MAX, 1 << 63, (1 << 63) - 1],
            [0, u32::MAX, 8, 1 << 31],
        );
        let mut writer = Packer::writer();
        pack(&mut writer, &mut all);
        let packed = writer.finish();
        assert!(matches!(packed, Packed::Short { len: ..110, .. }));
        let mut read = All::default();
        read.5 = Some(7);
        pack(&mut Packer::reader(packed), &mut read);
        assert_eq!(read, all);
    }

    #[test]
    fn any_length_is_read() {
        for len in [0, 1, SHORT - 1, SHORT, SHORT + 1, 1000] {
            let mut writer = Packer::writer();
            for n in 0..len {
                writer.byte(&mut (n as u8 & 0x7f));
            }
            let packed = writer.finish();
            assert_eq!(matches!(packed, Packed::Short { .. }), len <= SHORT);
            let mut reader = Packer::reader(packed);
            for n in 0..len {
                let mut read = 0;
                reader.byte(&mut read);
                assert_eq!(read, n as u8 & 0x7f);
            }
        }
    }

    #[test]
    fn what_is_near_takes_a_byte() {
        let mut writer = Packer::writer();
        writer.near(&mut 63, 0);
        writer.near(&mut (u64::MAX - 9), 50);
        writer.near_short(&mut 3, u32::MAX);
        writer.near_short(&mut { u32::MAX }, 3);
        assert!(matches!(writer.finish(), Packed::Short { len: 4, .. }));
    }
}
