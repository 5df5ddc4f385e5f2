//! Wiping memory that held secrets: the only `unsafe` in this crate.
//!
//! `zeroize` wipes what it knows. Key objects of other libraries, which do not
//! wipe themselves, are held in [`Wiped`]; what their set-up left on the stack
//! is covered by [`scrub_stack`].

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
