//! Where chains meet: what bounds the work of a search.

/// How many chains have a header at each place of a piece.
///
/// Chains that meet go on as one: each further one costs the same again and finds nothing new. With
/// [`Paths::MOST`] through a place a byte is never read as part of more headers than that, whatever
/// the bytes are.
#[derive(Debug, Default)]
pub(super) struct Paths(Vec<u8>);

impl Paths {
    /// A true chain, and those that had led to it by chance before it began.
    const MOST: u8 = 3;

    /// No chain through any place of a piece of `len` bytes.
    pub fn clear(&mut self, len: usize) {
        self.0.clear();
        self.0.resize(len, 0);
    }

    /// Whether some chain has a header that begins at `at`.
    pub fn is_taken(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(|n| *n > 0)
    }

    /// None is to begin there.
    pub fn close(&mut self, at: usize) {
        if let Some(n) = self.0.get_mut(at) {
            *n = Self::MOST;
        }
    }

    /// One more has a header there. Whether it may.
    pub fn take(&mut self, at: usize) -> bool {
        let Some(n) = self.0.get_mut(at) else {
            return true;
        };
        *n = n.saturating_add(1);
        *n <= Self::MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_go_through_a_place_and_no_more() {
        let mut paths = Paths::default();
        paths.clear(4);
        assert!(!paths.is_taken(1));
        for _ in 0..Paths::MOST {
            assert!(paths.take(1));
        }
        assert!(!paths.take(1));
        paths.close(2);
        assert!(paths.is_taken(2) && !paths.take(2));
        // Behind the piece nothing is known.
        assert!(paths.take(4) && !paths.is_taken(4));
        paths.close(4);
        paths.clear(4);
        assert!(!paths.is_taken(1) && !paths.is_taken(2));
    }
}
