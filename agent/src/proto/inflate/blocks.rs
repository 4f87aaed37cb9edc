//! The blocks of a deflate stream (RFC 1951, section 3.2.3), whose bytes may be cut anywhere.

use super::{
    bits::Bits,
    codes::{Code, Codes, FIXED, Found, SYMBOLS},
    window::{Out, Window},
};

/// A stream of blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    bits: Bits,
    window: Window,
    place: Place,
    /// The block that is being read is the last one (BFINAL).
    last: bool,
    /// What the last block with codes of its own brought.
    dynamic: Option<Box<Dynamic>>,
}

/// Where in its blocks a stream is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Between two blocks.
    Header,
    /// Before the length of a stored block.
    StoredLength,
    /// In a stored block of which so many bytes are missing.
    Stored(u16),
    /// Before the numbers of code lengths.
    Numbers,
    /// In the lengths of the code for code lengths.
    Order,
    /// In the code lengths.
    Lengths,
    /// In the symbols of a block with fixed or dynamic codes.
    Symbols { fixed: bool },
    /// Behind the last block.
    End,
}

/// What is known of the codes that a block brings (RFC 1951, section 3.2.7).
#[derive(Debug)]
struct Dynamic {
    literals: usize,
    distances: usize,
    /// Code lengths of the code for code lengths that are sent.
    order: usize,
    /// Lengths read so far, in either alphabet.
    read: usize,
    /// Code lengths: first those of the code for code lengths, then of both alphabets in a row.
    lengths: [u8; SYMBOLS + 32],
    code: Code,
    codes: Codes,
}

/// Why no more was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pause {
    /// The input is used up.
    Hungry,
    /// The last block is over.
    End,
    /// No more is wanted.
    Stopped,
    /// This is no deflate.
    Invalid,
}

/// The order in which lengths of the code for code lengths are sent.
const ORDER: [u8; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
const END_OF_BLOCK: u16 = 256;

/// Length or distance that a symbol stands for, and how many more bits add to it (RFC 1951, section
/// 3.2.5).
type Range = (u16, u8);

#[rustfmt::skip]
const LENGTHS: [Range; 29] = [
    (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1),
    (15, 1), (17, 1), (19, 2), (23, 2), (27, 2), (31, 2), (35, 3), (43, 3), (51, 3), (59, 3),
    (67, 4), (83, 4), (99, 4), (115, 4), (131, 5), (163, 5), (195, 5), (227, 5), (258, 0),
];
#[rustfmt::skip]
const DISTANCES: [Range; 30] = [
    (1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (7, 1), (9, 2), (13, 2), (17, 3), (25, 3),
    (33, 4), (49, 4), (65, 5), (97, 5), (129, 6), (193, 6), (257, 7), (385, 7), (513, 8), (769, 8),
    (1025, 9), (1537, 9), (2049, 10), (3073, 10), (4097, 11), (6145, 11), (8193, 12),
    (12289, 12), (16385, 13), (24577, 13),
];

impl Blocks {
    /// A stream at its beginning, with a window of 2^`window_bits` bytes.
    pub fn new(window_bits: u8) -> Self {
        Self {
            bits: Bits::default(),
            window: Window::new(window_bits),
            place: Place::Header,
            last: false,
            dynamic: None,
        }
    }

    /// Begins another stream, behind the last block of this one, if anything is there.
    pub fn begin_next(&mut self, input: &[u8]) -> bool {
        if self.bits.len() == 0 && input.is_empty() {
            return false;
        }
        self.window.clear();
        self.place = Place::Header;
        true
    }

    /// Whether it is between two blocks or behind the last, with nothing left over.
    pub fn is_between(&self) -> bool {
        matches!(self.place, Place::Header | Place::End) && self.bits.len() == 0
    }

    /// Reads on, and hands out all that comes of it.
    pub fn read(&mut self, input: &mut &[u8], out: &mut Out<'_>) -> Pause {
        let pause = loop {
            self.bits.refill(input);
            match self.step(input, out) {
                Ok(place) => self.place = place,
                Err(pause) => break pause,
            }
        };
        if pause == Pause::Stopped || !self.window.show(out) {
            return Pause::Stopped;
        }
        pause
    }

    /// Reads one thing, whole. Yields the place behind it.
    fn step(&mut self, input: &mut &[u8], out: &mut Out<'_>) -> Result<Place, Pause> {
        match self.place {
            Place::Header => {
                let header = self.bits.take(3).ok_or(Pause::Hungry)?;
                self.last = header & 1 != 0;
                match header >> 1 {
                    0 => {
                        self.bits.align();
                        Ok(Place::StoredLength)
                    }
                    1 => Ok(Place::Symbols { fixed: true }),
                    2 => Ok(Place::Numbers),
                    _ => Err(Pause::Invalid),
                }
            }
            Place::StoredLength => {
                let both = self.bits.take(32).ok_or(Pause::Hungry)?;
                let (len, complement) = (both as u16, (both >> 16) as u16);
                if len != !complement {
                    return Err(Pause::Invalid);
                }
                Ok(Place::Stored(len))
            }
            Place::Stored(0) => Ok(self.end_block()),
            Place::Stored(left) => self.stored(left, input, out),
            Place::Numbers => {
                let numbers = self.bits.take(14).ok_or(Pause::Hungry)?;
                let dynamic = self.dynamic.get_or_insert_default();
                dynamic.begin(numbers)?;
                Ok(Place::Order)
            }
            Place::Order => {
                let dynamic = self.dynamic.get_or_insert_default();
                dynamic.read_order(&mut self.bits)
            }
            Place::Lengths => {
                let dynamic = self.dynamic.get_or_insert_default();
                dynamic.read_lengths(&mut self.bits)
            }
            Place::Symbols { fixed } => self.symbols(fixed, input, out),
            Place::End => Err(Pause::End),
        }
    }

    fn end_block(&mut self) -> Place {
        if !self.last {
            return Place::Header;
        }
        self.bits.align();
        Place::End
    }

    fn stored(&mut self, left: u16, input: &mut &[u8], out: &mut Out<'_>) -> Result<Place, Pause> {
        let wanted;
        let taken;
        if let Some(byte) = self.bits.take(8) {
            taken = 1;
            wanted = self.window.put(byte as u8, out);
        } else {
            taken = input.len().min(left.into()) as u16;
            if taken == 0 {
                return Err(Pause::Hungry);
            }
            let (bytes, rest) = input.split_at(taken.into());
            *input = rest;
            wanted = self.window.extend(bytes, out);
        }
        self.place = Place::Stored(left - taken);
        if wanted {
            Ok(self.place)
        } else {
            Err(Pause::Stopped)
        }
    }

    /// Reads symbols to the end of the block or of the input.
    fn symbols(
        &mut self,
        fixed: bool,
        input: &mut &[u8],
        out: &mut Out<'_>,
    ) -> Result<Place, Pause> {
        let codes = match &self.dynamic {
            Some(dynamic) if !fixed => &dynamic.codes,
            _ => &*FIXED,
        };
        loop {
            self.bits.refill(input);
            // A symbol and what belongs to it is taken as a whole, which is 48 bits at the most.
            let mut bits = self.bits;
            let symbol = take_symbol(&codes.literals, &mut bits)?;
            let wanted = if let Ok(literal) = u8::try_from(symbol) {
                self.window.put(literal, out)
            } else if symbol == END_OF_BLOCK {
                self.bits = bits;
                return Ok(self.end_block());
            } else {
                let length = take_value(&LENGTHS, symbol - END_OF_BLOCK - 1, &mut bits)?;
                let distance = take_symbol(&codes.distances, &mut bits)?;
                let distance = take_value(&DISTANCES, distance, &mut bits)?;
                if !self.window.reaches(distance) {
                    return Err(Pause::Invalid);
                }
                self.window.copy(distance, length, out)
            };
            self.bits = bits;
            if !wanted {
                return Err(Pause::Stopped);
            }
        }
    }
}

/// Takes a symbol.
#[inline]
fn take_symbol(code: &Code, bits: &mut Bits) -> Result<u16, Pause> {
    match code.find(*bits) {
        Found::Symbol(symbol, len) => {
            bits.skip(len);
            Ok(symbol)
        }
        Found::Part => Err(Pause::Hungry),
        Found::Nothing => Err(Pause::Invalid),
    }
}

/// Takes the bits that belong to a symbol of `ranges`: what it stands for.
#[inline]
fn take_value(ranges: &[Range], symbol: u16, bits: &mut Bits) -> Result<usize, Pause> {
    let (from, more) = *ranges.get(usize::from(symbol)).ok_or(Pause::Invalid)?;
    let more = bits.take(more.into()).ok_or(Pause::Hungry)?;
    Ok(usize::from(from) + more as usize)
}

impl Default for Dynamic {
    fn default() -> Self {
        Self {
            literals: 0,
            distances: 0,
            order: 0,
            read: 0,
            lengths: [0; SYMBOLS + 32],
            code: Code::default(),
            codes: Codes::default(),
        }
    }
}

impl Dynamic {
    /// `numbers` say how many code lengths there are.
    fn begin(&mut self, numbers: u32) -> Result<(), Pause> {
        self.literals = 257 + (numbers & 0x1f) as usize;
        self.distances = 1 + (numbers >> 5 & 0x1f) as usize;
        self.order = 4 + (numbers >> 10 & 0xf) as usize;
        self.read = 0;
        self.lengths = [0; SYMBOLS + 32];
        // The symbols beyond have no meaning.
        if self.literals > END_OF_BLOCK as usize + 1 + LENGTHS.len()
            || self.distances > DISTANCES.len()
        {
            return Err(Pause::Invalid);
        }
        Ok(())
    }

    /// Reads the lengths of the code for code lengths.
    fn read_order(&mut self, bits: &mut Bits) -> Result<Place, Pause> {
        if let Some(symbol) = ORDER.get(self.read).filter(|_| self.read < self.order) {
            let length = bits.take(3).ok_or(Pause::Hungry)?;
            self.lengths[usize::from(*symbol)] = length as u8;
            self.read += 1;
            return Ok(Place::Order);
        }
        if !self.code.assign(&self.lengths[..ORDER.len()], true) {
            return Err(Pause::Invalid);
        }
        self.lengths = [0; SYMBOLS + 32];
        self.read = 0;
        Ok(Place::Lengths)
    }

    /// Reads one code length, or several that are the same.
    fn read_lengths(&mut self, bits: &mut Bits) -> Result<Place, Pause> {
        let all = self.literals + self.distances;
        if self.read >= all {
            return self.assign();
        }
        let mut ahead = *bits;
        let symbol = take_symbol(&self.code, &mut ahead)?;
        let (length, from, more) = match symbol {
            0..=15 => (symbol as u8, 1, 0),
            16 => {
                let previous = self.read.checked_sub(1);
                let previous = previous.and_then(|at| self.lengths.get(at));
                (*previous.ok_or(Pause::Invalid)?, 3, 2)
            }
            17 => (0, 3, 3),
            _ => (0, 11, 7),
        };
        let times = from + ahead.take(more).ok_or(Pause::Hungry)? as usize;
        if self.read + times > all {
            return Err(Pause::Invalid);
        }
        if let Some(lengths) = self.lengths.get_mut(self.read..self.read + times) {
            lengths.fill(length);
        }
        self.read += times;
        *bits = ahead;
        Ok(Place::Lengths)
    }

    fn assign(&mut self) -> Result<Place, Pause> {
        let (literals, distances) = self.lengths.split_at(self.literals);
        let distances = distances.get(..self.distances).unwrap_or_default();
        // A block without an end is none.
        let ends = literals[usize::from(END_OF_BLOCK)] > 0;
        if ends
            && self.codes.literals.assign(literals, false)
            && self.codes.distances.assign(distances, false)
        {
            Ok(Place::Symbols { fixed: false })
        } else {
            Err(Pause::Invalid)
        }
    }
}
