//! Wiping memory that held secrets, and pages that keep it from disks: the only
//! `unsafe` in this crate.
//!
//! `zeroize` wipes what it knows. Key objects of other libraries, which do not
//! wipe themselves, are held in [`Wiped`]; what their set-up left on the stack
//! is covered by [`scrub_stack`], and what their use left in vector registers by
//! [`clear_registers`].

#![allow(
    unsafe_code,
    reason = "a dropped value's memory is out of reach otherwise"
)]

#[cfg(target_os = "linux")]
pub(crate) mod pages;

#[cfg(target_os = "linux")]
use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use zeroize::Zeroize;

/// How much of the stack below the caller is overwritten, in bytes: more than
/// the deepest key set-up of either backend uses. Without optimisation that is
/// a good deal more, since every move of a value is a copy.
const SCRUB: usize = if cfg!(debug_assertions) { 64 } else { 8 } * 1024;

/// A value whose memory is overwritten after it was dropped: on the heap, or in
/// the pages for keys once [`harden`](crate::harden) has made them.
pub(crate) struct Wiped<T> {
    /// Owned, initialised until it is dropped, and never handed out as it is.
    value: NonNull<T>,
    in_pages: bool,
    owned: PhantomData<T>,
}

// SAFETY: it owns its value as a box does, and gives out no more than a box.
unsafe impl<T: Send> Send for Wiped<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Wiped<T> {}

impl<T> Wiped<T> {
    /// Moves `value` to memory that is wiped.
    pub(crate) fn new(value: T) -> Self {
        #[cfg(target_os = "linux")]
        let page = pages::take(Layout::new::<T>());
        #[cfg(not(target_os = "linux"))]
        let page: Option<NonNull<u8>> = None;
        let in_pages = page.is_some();
        let memory = match page {
            Some(memory) => memory.cast(),
            None => NonNull::from(Box::leak(Box::new(MaybeUninit::<T>::uninit()))).cast::<T>(),
        };
        // SAFETY: the memory is of the size and the alignment of `T`, and nobody
        // else's: a leaked box, or taken from the pages for that layout.
        unsafe { memory.write(value) };
        Self {
            value: memory,
            in_pages,
            owned: PhantomData,
        }
    }

    pub(crate) fn get(&self) -> &T {
        // SAFETY: `new` initialised it, and it stays so until `drop`.
        unsafe { self.value.as_ref() }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        // SAFETY: as for `get`, and nobody else has a reference.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: the value is initialised (see `get`) and not used again.
        unsafe { self.value.drop_in_place() };
        let memory = self.value.cast::<MaybeUninit<T>>();
        // SAFETY: its `size_of::<T>()` bytes are ours alone, and every byte
        // pattern is a valid `MaybeUninit<T>`.
        unsafe { zeroize::zeroize_flat_type(memory.as_ptr()) };
        if !self.in_pages {
            // SAFETY: then `new` leaked it from a box of this type.
            drop(unsafe { Box::from_raw(memory.as_ptr()) });
            return;
        }
        #[cfg(target_os = "linux")]
        pages::give_back(memory.cast(), Layout::new::<T>());
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

    #[cfg(target_os = "linux")]
    #[test]
    fn pieces_of_the_pages_are_apart_and_used_again() {
        #[repr(align(256))]
        struct Aligned([u8; 300]);
        super::pages::reserve();
        // More than there is room for: the rest lies on the heap, and works.
        for _ in 0..2 {
            let mut small: Vec<_> = (0..20_000u32).map(|n| Wiped::new([n; 8])).collect();
            let large: Vec<_> = (0..300)
                .map(|n| Wiped::new(Aligned([n as u8; 300])))
                .collect();
            small.iter_mut().for_each(|held| held.get_mut()[7] += 1);
            for (held, n) in small.iter().zip(0..) {
                assert_eq!(held.get(), &[n, n, n, n, n, n, n, n + 1]);
            }
            for (held, n) in large.iter().zip(0..300) {
                assert_eq!(held.get().0, [n as u8; 300]);
                assert!(std::ptr::from_ref(held.get()).is_aligned());
            }
        }
        let usage = super::pages::usage();
        assert!(usage.elsewhere > 0 && usage.total > 0);
    }
}
