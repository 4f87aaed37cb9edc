//! Numbers in as few bytes as they need, for what is kept of connections that are silent.
//!
//! A type says once which numbers it consists of, and that is how it is written and how it is read:
//! the two cannot differ. What is read was written by this process.

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
    pub fn reader(bytes: Box<[u8]>) -> Self {
        Self {
            bytes: bytes.into_vec(),
            at: Some(0),
        }
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Box<[u8]> {
        self.bytes.into_boxed_slice()
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
        );
        let mut writer = Packer::writer();
        pack(&mut writer, &mut all);
        let bytes = writer.finish();
        assert!(bytes.len() < 60);
        let mut read = All::default();
        read.5 = Some(7);
        pack(&mut Packer::reader(bytes), &mut read);
        assert_eq!(read, all);
    }
}
