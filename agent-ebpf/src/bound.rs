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
