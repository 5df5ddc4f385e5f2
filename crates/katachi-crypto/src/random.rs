//! Randomness from the operating system, and from nowhere else.
//!
//! There is no pool in the process, so a forked or restored copy of it never
//! repeats what the original drew.

use crate::Error;

/// Fills `bytes` with randomness.
///
/// # Errors
///
/// Returns [`Error::Randomness`] if the operating system gives none.
pub fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|_| Error::Randomness)
}

/// Draws `N` bytes, for salts and identifiers.
///
/// Secrets are drawn with [`Secret::random`](crate::Secret::random), which wipes them.
///
/// # Errors
///
/// Returns [`Error::Randomness`] if the operating system gives none.
pub fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}
