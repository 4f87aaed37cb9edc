//! UTF-8 that comes in pieces (RFC 3629): is it valid, and if not, where does that show?

/// Checks text as its bytes come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validator {
    /// The beginning of a character that the last piece ended in.
    carry: [u8; 4],
    carried: usize,
    /// Bytes that are valid for certain.
    valid: u64,
}

/// Where text ceases to be UTF-8: the position of the character that is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Invalid(pub u64);

impl Validator {
    /// A validator that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    ///
    /// [`Invalid`] as soon as no continuation could make it valid. It is of no use after that.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Invalid> {
        let mut rest = bytes;
        while self.carried > 0 {
            let Some((&byte, behind)) = rest.split_first() else {
                return Ok(());
            };
            // Four bytes are a character or none, so there is room for another.
            let Some(slot) = self.carry.get_mut(self.carried) else {
                return Err(Invalid(self.valid));
            };
            *slot = byte;
            self.carried += 1;
            rest = behind;
            let carry = self.carry.get(..self.carried).unwrap_or_default();
            match std::str::from_utf8(carry) {
                Ok(_) => {
                    self.valid += self.carried as u64;
                    self.carried = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Invalid(self.valid)),
            }
        }
        let Err(error) = std::str::from_utf8(rest) else {
            self.valid += rest.len() as u64;
            return Ok(());
        };
        let (valid, begun) = rest.split_at(error.valid_up_to());
        self.valid += valid.len() as u64;
        if error.error_len().is_some() {
            return Err(Invalid(self.valid));
        }
        if let Some(slot) = self.carry.get_mut(..begun.len()) {
            slot.copy_from_slice(begun);
            self.carried = begun.len();
        }
        Ok(())
    }

    /// The text is over.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where it ends within a character.
    pub fn finish(self) -> Result<(), Invalid> {
        if self.carried == 0 {
            Ok(())
        } else {
            Err(Invalid(self.valid))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &[u8]) -> Result<(), Invalid> {
        std::str::from_utf8(text)
            .map(|_| ())
            .map_err(|error| Invalid(error.valid_up_to() as u64))
    }

    fn in_pieces(text: &[u8], size: usize) -> Result<(), Invalid> {
        let mut validator = Validator::new();
        for piece in text.chunks(size) {
            validator.feed(piece)?;
        }
        validator.finish()
    }

    #[test]
    fn characters_are_cut_anywhere() {
        for text in [
            "κόσμε \u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}".as_bytes(),
            b"",
            b"ab\xc3",
            b"ab\xf0\x90\x80",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xc0\xaf",
            b"a\xff",
            b"\xe2\x82a",
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(in_pieces(text, size), whole(text), "{text:02x?} by {size}");
            }
        }
    }

    #[test]
    fn a_bad_byte_is_found_when_it_comes() {
        // Autobahn|Testsuite 6.4: no byte that follows could mend it.
        let mut validator = Validator::new();
        assert_eq!(validator.feed("κόσμε".as_bytes()), Ok(()));
        assert_eq!(validator.feed(b"\xf4"), Ok(()));
        assert_eq!(validator.feed(b"\x90"), Err(Invalid(10)));
    }

    proptest! {
        #[test]
        fn any_pieces(
            text in prop::collection::vec(
                prop_oneof![
                    any::<char>().prop_map(|c| c.to_string().into_bytes()),
                    any::<u8>().prop_map(|b| vec![b]),
                ],
                0..20,
            ),
            size in 1usize..9,
        ) {
            let text = text.concat();
            prop_assert_eq!(in_pieces(&text, size), whole(&text));
        }
    }
}
