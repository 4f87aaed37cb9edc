//! Bounds that the compiler and the verifier both see.

/// The same number, of which the compiler no longer knows what it has proved. It then has to test
/// what it would have left out, and the verifier, which has proved less, sees the test. Of 64 bits,
/// since the verifier forgets where a number comes from that is cut to 32.
#[inline(always)]
pub fn opaque(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = number;
        // An empty block would give two lines of source one instruction, which the kernel refuses.
        // SAFETY: moves a register onto itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(nomem, nostack)) };
        number
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}

/// Whether `number` is at least 1, told to every verifier: before Linux 6.8 it learns nothing of a
/// range from a test for 0, which the compiler makes of any comparison with a constant 0 or 1.
#[inline(always)]
pub fn at_least_one(number: u64) -> bool {
    number >= opaque(1)
}

/// `number`, if it is at least 1 and at most `most`, so that every verifier knows it.
#[inline(always)]
#[must_use]
pub fn bounded(number: u64, most: u64) -> Option<u64> {
    let number = opaque(number);
    if !at_least_one(number) {
        return None;
    }
    let number = opaque(number);
    (number <= most).then_some(number)
}

/// Reads two bytes wherever they are. The compiler would take them one by one: it does not know that
/// a kernel which lends packet access to programs handles unaligned reads.
///
/// # Safety
///
/// They must be there.
#[inline(always)]
#[must_use]
pub unsafe fn load_u16(from: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: a read of memory that the caller says is there.
        unsafe {
            core::arch::asm!("{0} = *(u16 *)({1} + 0)", out(reg) word, in(reg) from, options(nostack, readonly));
        }
        word
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        u64::from(from.cast::<u16>().read_unaligned())
    }
}

/// Reads eight bytes wherever they are, as [`load_u16`].
///
/// # Safety
///
/// They must be there.
#[inline(always)]
#[must_use]
pub unsafe fn load_u64(from: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: a read of memory that the caller says is there.
        unsafe {
            core::arch::asm!("{0} = *(u64 *)({1} + 0)", out(reg) word, in(reg) from, options(nostack, readonly));
        }
        word
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        from.cast::<u64>().read_unaligned()
    }
}

/// As [`load_u64`], `AT` bytes behind `from`. The compiler would make a pointer of the sum, and in a loop keep it on the
/// stack, where an instruction has room for `AT`.
///
/// # Safety
///
/// They must be there.
#[inline(always)]
#[must_use]
pub unsafe fn load_u64_at<const AT: usize>(from: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: a read of memory that the caller says is there.
        unsafe {
            core::arch::asm!("{0} = *(u64 *)({1} + {2})", out(reg) word, in(reg) from, const AT, options(nostack, readonly));
        }
        word
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        from.add(AT).cast::<u64>().read_unaligned()
    }
}

/// Adds to the number of eight bytes `AT` bytes behind `to`; see [`load_u64_at`].
///
/// # Safety
///
/// It must be there.
#[inline(always)]
pub unsafe fn add_u64_at<const AT: usize>(to: *mut u8, number: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a write to memory that the caller says is there.
    unsafe {
        core::arch::asm!(
            "{0} = *(u64 *)({1} + {3})", "{0} += {2}", "*(u64 *)({1} + {3}) = {0}",
            out(reg) _, in(reg) to, in(reg) number, const AT, options(nostack)
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        let to = to.add(AT).cast::<u64>();
        to.write_unaligned(to.read_unaligned().wrapping_add(number));
    }
}

/// Adds 1 to the number of four bytes `AT` bytes behind `to`; see [`load_u64_at`].
///
/// # Safety
///
/// It must be there.
#[inline(always)]
pub unsafe fn increment_u32_at<const AT: usize>(to: *mut u8) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a write to memory that the caller says is there.
    unsafe {
        core::arch::asm!(
            "{0} = *(u32 *)({1} + {2})", "{0} += 1", "*(u32 *)({1} + {2}) = {0}",
            out(reg) _, in(reg) to, const AT, options(nostack)
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        let to = to.add(AT).cast::<u32>();
        to.write_unaligned(to.read_unaligned().wrapping_add(1));
    }
}

/// Writes eight bytes wherever it may be, as [`load_u16`] reads two.
///
/// # Safety
///
/// There must be room for them.
#[inline(always)]
pub unsafe fn store_u64(to: *mut u8, word: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a write to memory that the caller says is there.
    unsafe {
        core::arch::asm!("*(u64 *)({0} + 0) = {1}", in(reg) to, in(reg) word, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        to.cast::<u64>().write_unaligned(word);
    }
}

/// Adds 1 to a number to which other CPUs may do so at the same time.
///
/// # Safety
///
/// It must be there, and aligned.
#[inline(always)]
pub unsafe fn increment(number: *mut u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a write to memory that the caller says is there.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) number, in(reg) 1_u64, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        core::sync::atomic::AtomicU64::from_ptr(number)
            .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }
}
