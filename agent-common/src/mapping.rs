//! The memory-mapped array of [`Tally`] elements, as the agent sees it.

use core::ptr::NonNull;
use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use crate::tally::{TALLY_LEN, Tally};

/// Words of an element.
const WORDS: usize = TALLY_LEN / 8;
const _: () = assert!(WORDS * 8 == TALLY_LEN);

/// Looks at an element until two in a row agree; after so many the last one holds.
const LOOKS: u32 = 8;

/// The array, mapped for reading.
#[derive(Debug)]
pub struct MappedTallies {
    base: NonNull<u64>,
    elements: u32,
}

// SAFETY: the memory is only read, word by word, and stays mapped as long as this lives.
unsafe impl Send for MappedTallies {}
// SAFETY: as above.
unsafe impl Sync for MappedTallies {}

impl MappedTallies {
    /// Maps the array behind `map`, which has so many elements.
    ///
    /// # Errors
    ///
    /// What mmap(2) says.
    pub fn new(map: BorrowedFd<'_>, elements: u32) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                Self::len(elements),
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(base.cast()) {
            Some(base) => Ok(Self { base, elements }),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    fn len(elements: u32) -> usize {
        (elements as usize).saturating_mul(TALLY_LEN)
    }

    /// How many elements there are.
    #[must_use]
    pub fn elements(&self) -> u32 {
        self.elements
    }

    /// [`Tally::epoch`] of an element; 0 where there is no such element.
    #[must_use]
    pub fn epoch(&self, element: u32) -> u32 {
        self.word(element, Tally::EPOCH_AT / 8)
            .map_or(0, Tally::epoch_in)
    }

    /// [`Tally::last_seen`] of an element; 0 where there is no such element.
    #[must_use]
    pub fn last_seen(&self, element: u32) -> u64 {
        self.word(element, core::mem::offset_of!(Tally, last_seen) / 8)
            .unwrap_or(0)
    }

    /// An element, as it was at one moment as far as that can be had: what writes it may be in the
    /// midst of it.
    #[must_use]
    pub fn read(&self, element: u32) -> Option<Tally> {
        let mut last = self.words(element)?;
        for _ in 0..LOOKS {
            let next = self.words(element)?;
            if next == last {
                break;
            }
            last = next;
        }
        Some(Tally::from_words(&last))
    }

    fn words(&self, element: u32) -> Option<[u64; WORDS]> {
        let mut words = [0; WORDS];
        for (at, word) in words.iter_mut().enumerate() {
            *word = self.word(element, at)?;
        }
        Some(words)
    }

    fn word(&self, element: u32, at: usize) -> Option<u64> {
        if element >= self.elements || at >= WORDS {
            return None;
        }
        let at = element as usize * WORDS + at;
        // SAFETY: within the mapping, as was checked. Volatile, since the kernel program writes it.
        Some(unsafe { self.base.as_ptr().add(at).read_volatile() })
    }
}

impl Drop for MappedTallies {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), Self::len(self.elements)) };
    }
}
