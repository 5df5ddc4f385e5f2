//! Argon2id (RFC 9106) for what a person can remember.
//!
//! The parameters are stored beside what they protect, so they are bounded when
//! they are read: below the floor a stretched password is too cheap to guess,
//! above the ceiling a forged header could exhaust the machine's memory.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Version};
use zeroize::Zeroize;

use crate::wipe::scrub_stack;
use crate::{Error, Secret};

/// Cost of one stretching.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Params {
    memory_kib: u32,
    iterations: u32,
    parallelism: u32,
}

impl Params {
    /// The least that is accepted: 19 MiB, twice, one lane (OWASP's minimum).
    pub const FLOOR: Self = Self {
        memory_kib: 19 * 1024,
        iterations: 2,
        parallelism: 1,
    };
    /// For a passphrase that protects a whole vault: 64 MiB, three times.
    pub const VAULT: Self = Self {
        memory_kib: 64 * 1024,
        iterations: 3,
        parallelism: 1,
    };
    /// The most that is accepted: 1 GiB, 16 times, 16 lanes.
    pub const CEILING: Self = Self {
        memory_kib: 1024 * 1024,
        iterations: 16,
        parallelism: 16,
    };
    /// Length of the encoded parameters, in bytes.
    pub const LEN: usize = 12;

    /// Checks a cost: memory in KiB, passes over it, lanes.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Limit`] if a value lies below [`Params::FLOOR`] or above
    /// [`Params::CEILING`].
    pub fn new(memory_kib: u32, iterations: u32, parallelism: u32) -> Result<Self, Error> {
        within(
            "the memory of Argon2id in KiB",
            memory_kib,
            Self::FLOOR.memory_kib,
            Self::CEILING.memory_kib,
        )?;
        within(
            "the passes of Argon2id",
            iterations,
            Self::FLOOR.iterations,
            Self::CEILING.iterations,
        )?;
        within(
            "the lanes of Argon2id",
            parallelism,
            Self::FLOOR.parallelism,
            Self::CEILING.parallelism,
        )?;
        Ok(Self {
            memory_kib,
            iterations,
            parallelism,
        })
    }

    /// Memory in KiB.
    #[must_use]
    pub fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Lanes.
    #[must_use]
    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    /// Memory, passes and lanes, each 32-bit big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (place, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip([
            self.memory_kib,
            self.iterations,
            self.parallelism,
        ]) {
            *place = value.to_be_bytes();
        }
        bytes
    }

    /// Reads what [`Params::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Limit`] for parameters outside the accepted range.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, Error> {
        let [memory, iterations, parallelism] = [0, 4, 8]
            .map(|at| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        Self::new(memory, iterations, parallelism)
    }
}

impl Default for Params {
    /// [`Params::VAULT`].
    fn default() -> Self {
        Self::VAULT
    }
}

fn within(what: &'static str, value: u32, floor: u32, ceiling: u32) -> Result<(), Error> {
    if value < floor {
        return Err(Error::Limit {
            what,
            limit: floor.into(),
        });
    }
    if value > ceiling {
        return Err(Error::Limit {
            what,
            limit: ceiling.into(),
        });
    }
    Ok(())
}

/// Stretches a password into 32 bytes.
///
/// `salt` is random, unique for each password, and stored beside the parameters.
///
/// ```
/// use katachi_crypto::{password::{self, Params}, random};
///
/// let salt = random::bytes()?;
/// let key = password::stretch(b"correct horse battery staple", &salt, &Params::FLOOR)?;
/// assert_eq!(key, password::stretch(b"correct horse battery staple", &salt, &Params::FLOOR)?);
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
///
/// # Errors
///
/// Returns [`Error::Limit`] if the password is longer than Argon2 takes, or the
/// machine does not have the memory.
///
/// # Panics
///
/// Never: a [`Params`] is valid by construction.
pub fn stretch(password: &[u8], salt: &[u8; 16], params: &Params) -> Result<Secret<32>, Error> {
    Scratch::new().stretch(password, salt, params)
}

/// Memory that one stretching after another works in.
///
/// A program that stretches often keeps a few of these instead of asking the allocator
/// each time: tens of MiB that are taken and given back by many threads stay with the
/// allocator, several times over.
///
/// ```
/// use katachi_crypto::password::{self, Params, Scratch};
///
/// let mut scratch = Scratch::new();
/// let key = scratch.stretch(b"correct horse", &[1; 16], &Params::FLOOR)?;
/// assert_eq!(key, password::stretch(b"correct horse", &[1; 16], &Params::FLOOR)?);
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
#[derive(Default)]
pub struct Scratch(Vec<Block>);

impl Scratch {
    /// Takes no memory before it is used.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Stretches as [`stretch`] does, and keeps the memory, wiped, for the next time.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Limit`] if the password is longer than Argon2 takes, or the
    /// machine does not have the memory.
    ///
    /// # Panics
    ///
    /// Never: a [`Params`] is valid by construction.
    pub fn stretch(
        &mut self,
        password: &[u8],
        salt: &[u8; 16],
        params: &Params,
    ) -> Result<Secret<32>, Error> {
        let costs = argon2::Params::new(
            params.memory_kib,
            params.iterations,
            params.parallelism,
            Some(32),
        )
        .expect("parameters between floor and ceiling are valid");
        let count = costs.block_count();
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, costs);
        if self.0.len() < count {
            // First the old goes: nothing in it is worth a copy.
            self.0 = Vec::new();
            self.0.try_reserve_exact(count).map_err(|_| Error::Limit {
                what: "the memory that this machine has to give, in bytes,",
                limit: u64::from(params.memory_kib) * 1024,
            })?;
            self.0.resize(count, Block::default());
        }
        let memory = &mut self.0[..count];
        let mut outcome = Ok(());
        let secret = Secret::fill_with(|out| {
            outcome = argon.hash_password_into_with_memory(password, salt, out, &mut *memory);
        });
        // Its last blocks give the result away.
        memory.iter_mut().for_each(Zeroize::zeroize);
        scrub_stack();
        outcome.map_err(|_| Error::Limit {
            what: "the length of a password",
            limit: argon2::MAX_PWD_LEN as u64,
        })?;
        Ok(secret)
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scratch { .. }")
    }
}

#[cfg(test)]
mod tests {
    use super::{Params, Scratch, stretch};

    #[test]
    fn refuses_parameters_outside_the_accepted_range() {
        assert!(Params::new(8, 2, 1).is_err());
        assert!(Params::new(19 * 1024, 1, 1).is_err());
        assert!(Params::new(u32::MAX, 2, 1).is_err());
        assert!(Params::new(19 * 1024, 2, 0).is_err());
        assert!(Params::from_bytes(&[0xff; 12]).is_err());
    }

    #[test]
    fn parameters_survive_their_encoding() {
        assert_eq!(
            Params::from_bytes(&Params::VAULT.to_bytes()),
            Ok(Params::VAULT)
        );
    }

    #[test]
    fn what_was_worked_on_before_changes_nothing() {
        let larger = Params::new(20 * 1024, 2, 1).unwrap();
        let mut scratch = Scratch::new();
        for (password, params) in [
            (&b"one"[..], &Params::FLOOR),
            (b"two", &larger),
            (b"one", &Params::FLOOR),
        ] {
            let expected = stretch(password, &[1; 16], params).unwrap();
            let found = scratch.stretch(password, &[1; 16], params).unwrap();
            assert_eq!(found, expected);
            assert!(scratch.0.iter().all(|block| block.as_ref() == [0; 128]));
        }
    }
}
