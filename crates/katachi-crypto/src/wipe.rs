//! Wiping memory that held secrets: the only `unsafe` in this crate.
//!
//! `zeroize` wipes what it knows. Key objects of other libraries, which do not
//! wipe themselves, are held in [`Wiped`]; what their set-up left on the stack
//! is covered by [`scrub_stack`].

#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// How much of the stack below the caller is overwritten, in bytes: more than
/// the deepest key set-up of either backend uses.
const SCRUB: usize = 8 * 1024;

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
        let start = self.0.as_mut_ptr().cast::<MaybeUninit<u8>>();
        for offset in 0..size_of::<T>() {
            // SAFETY: `offset` lies within the allocation that the box owns,
            // and every byte pattern is a valid `MaybeUninit<u8>`. Volatile, so
            // that the write is not dropped as dead.
            unsafe { start.add(offset).write_volatile(MaybeUninit::new(0)) };
        }
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    }
}

/// Overwrites the stack below the caller, where a call that has just returned
/// may have left copies of a key.
#[inline(never)]
pub(crate) fn scrub_stack() {
    let mut room = [MaybeUninit::<u64>::uninit(); SCRUB / 8];
    for word in &mut room {
        // SAFETY: `word` is a valid exclusive reference into the array. Volatile,
        // so that the writes to memory nobody reads are kept.
        unsafe { std::ptr::write_volatile(word, MaybeUninit::new(0)) };
    }
    std::hint::black_box(&room);
}
