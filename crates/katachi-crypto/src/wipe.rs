//! Wiping memory that held secrets: the only `unsafe` in this crate.
//!
//! `zeroize` wipes what it knows. Key objects of other libraries, which do not
//! wipe themselves, are held in [`Wiped`]; what their set-up left on the stack
//! is covered by [`scrub_stack`], and what their use left in vector registers by
//! [`clear_registers`].

#![allow(
    unsafe_code,
    reason = "a dropped value's memory is out of reach otherwise"
)]

use std::mem::MaybeUninit;

use zeroize::Zeroize;

/// How much of the stack below the caller is overwritten, in bytes: more than
/// the deepest key set-up of either backend uses. Without optimisation that is
/// a good deal more, since every move of a value is a copy.
const SCRUB: usize = if cfg!(debug_assertions) { 64 } else { 8 } * 1024;

/// A value on the heap whose memory is overwritten after it was dropped.
pub(crate) struct Wiped<T>(Box<MaybeUninit<T>>);

impl<T> Wiped<T> {
    /// Moves `value` to the heap.
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(MaybeUninit::new(value)))
    }

    pub(crate) fn get(&self) -> &T {
        // SAFETY: `new` is the only way to make one and initialises the value;
        // it stays initialised until `drop`.
        unsafe { self.0.assume_init_ref() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: the value is initialised (see `get`) and not used again.
        unsafe { self.0.assume_init_drop() };
        // SAFETY: the box owns `size_of::<T>()` bytes there exclusively, and
        // every byte pattern is a valid `MaybeUninit<T>`.
        unsafe { zeroize::zeroize_flat_type(self.0.as_mut_ptr().cast::<MaybeUninit<T>>()) };
    }
}

/// Overwrites the stack below the caller, where a call that has just returned
/// may have left copies of a key.
#[inline(never)]
pub(crate) fn scrub_stack() {
    let mut room = [0u64; SCRUB / 8];
    // Not dropped as dead: `zeroize` puts a barrier behind its writes.
    room.zeroize();
    clear_registers();
}

/// Zeroes the vector registers, in which AES keeps its round keys and copying
/// leaves what it copied.
///
/// They are out of reach there, but the dynamic linker and signal handlers store
/// all of them in memory. Does nothing on processors other than x86-64.
#[inline]
pub(crate) fn clear_registers() {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx") {
            // SAFETY: the instruction exists where AVX does; it touches the
            // sixteen vector registers named as clobbered, and neither memory
            // nor flags.
            unsafe {
                std::arch::asm!(
                    "vzeroall",
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack, preserves_flags),
                );
            }
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512, as the function asks.
            unsafe { clear_upper_registers() };
        }
    }
}

/// Zeroes the sixteen registers that AVX-512 adds.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn clear_upper_registers() {
    // SAFETY: the instructions exist where AVX-512 does; they touch the registers
    // named as clobbered, and neither memory nor flags.
    unsafe {
        std::arch::asm!(
            "vpxorq zmm16, zmm16, zmm16",
            "vpxorq zmm17, zmm17, zmm17",
            "vpxorq zmm18, zmm18, zmm18",
            "vpxorq zmm19, zmm19, zmm19",
            "vpxorq zmm20, zmm20, zmm20",
            "vpxorq zmm21, zmm21, zmm21",
            "vpxorq zmm22, zmm22, zmm22",
            "vpxorq zmm23, zmm23, zmm23",
            "vpxorq zmm24, zmm24, zmm24",
            "vpxorq zmm25, zmm25, zmm25",
            "vpxorq zmm26, zmm26, zmm26",
            "vpxorq zmm27, zmm27, zmm27",
            "vpxorq zmm28, zmm28, zmm28",
            "vpxorq zmm29, zmm29, zmm29",
            "vpxorq zmm30, zmm30, zmm30",
            "vpxorq zmm31, zmm31, zmm31",
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::Wiped;

    #[test]
    fn drops_what_it_holds_once() {
        struct Counted<'a>(&'a Cell<u32>);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let drops = Cell::new(0);
        let held = Wiped::new(Counted(&drops));
        assert_eq!(held.get().0.get(), 0);
        drop(held);
        assert_eq!(drops.get(), 1);
    }
}
