//! What ties a vault to one machine.
//!
//! A vault asks its [`MachineBinding`] twice: once to enrol this machine,
//! which yields a secret and a state to keep, and at every opening to recover
//! the same secret from the state and from what the machine looks like then.
//! The state is only ever stored sealed under the secret of its slot, so a
//! thief of the vault file alone cannot use it to test guesses.
//!
//! With the feature `fingerprint`, `FingerprintBinding` does this with the
//! parts of the machine: a few may change, and the binding then says which and
//! hands over a fresh enrolment. [`Unbound`] is for machines that have nothing
//! to recognise them by.

use std::fmt;

use katachi_crypto::{Secret, SecretBytes};

#[cfg(feature = "fingerprint")]
mod fingerprint;
#[cfg(feature = "fingerprint")]
pub use fingerprint::FingerprintBinding;

/// Recognises the machine that an enrolment was made on.
///
/// # Security
///
/// [`recover`](Self::recover) may only return a secret that `verify` accepted:
/// the vault has nothing else to tell a right answer from a wrong one.
/// Returning [`BindingError::WrongMachine`] for the right machine merely costs
/// the owner a recovery code; a state from which the secret can be computed
/// without the machine costs the binding itself.
pub trait MachineBinding: Send + Sync {
    /// Draws a new secret and ties it to this machine.
    ///
    /// # Errors
    ///
    /// Returns [`BindingError`] if the machine cannot be observed or has too
    /// little to be recognised by.
    fn enroll(&self) -> Result<Enrolled, BindingError>;

    /// Finds the secret again that was tied to this machine by [`enroll`](Self::enroll).
    ///
    /// `verify` says whether a candidate is the one. It may be called many times.
    ///
    /// # Errors
    ///
    /// Returns [`BindingError::WrongMachine`] if too much differs.
    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError>;
}

impl<B: MachineBinding + ?Sized> MachineBinding for std::sync::Arc<B> {
    fn enroll(&self) -> Result<Enrolled, BindingError> {
        (**self).enroll()
    }

    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError> {
        (**self).recover(state, verify)
    }
}

/// A new enrolment.
#[derive(Debug)]
#[non_exhaustive]
pub struct Enrolled {
    /// The secret that only this machine can find again.
    pub secret: Secret<32>,
    /// What [`MachineBinding::recover`] needs for it. Kept sealed.
    pub state: SecretBytes,
    /// How hard it is to recover elsewhere.
    pub strength: Strength,
}

impl Enrolled {
    /// Puts an enrolment together.
    #[must_use]
    pub fn new(secret: Secret<32>, state: SecretBytes, strength: Strength) -> Self {
        Self {
            secret,
            state,
            strength,
        }
    }
}

/// What a successful recovery found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// The secret that `verify` accepted.
    pub secret: Secret<32>,
    /// Names of the parts that are as they were.
    pub matched: Vec<String>,
    /// What is not as it was, in words, without the values.
    pub drift: Vec<String>,
    /// A new enrolment to put in place of the old one, where the machine changed.
    pub renewed: Option<Enrolled>,
    /// How hard the enrolment is to recover elsewhere.
    pub strength: Strength,
}

impl Recovered {
    /// A recovery without anything to report besides the secret.
    #[must_use]
    pub fn new(secret: Secret<32>, strength: Strength) -> Self {
        Self {
            secret,
            matched: Vec::new(),
            drift: Vec::new(),
            renewed: None,
            strength,
        }
    }
}

/// Estimated work, in bits, to recover the machine's secret elsewhere *once the
/// slot's other secret is known*. See `katachi-fingerprint` for the estimate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Strength {
    /// For someone with a copy of the home directory: a backup, a synchronised folder.
    pub home_copy: u32,
    /// For someone with a copy of the disk.
    pub image_copy: u32,
    /// For someone with the disk itself, in another computer.
    pub moved_drive: u32,
    /// For another program of the same user on this machine.
    pub same_user: u32,
}

impl Strength {
    /// Below this many bits a binding only deters copying.
    pub const FLOOR_BITS: u32 = 80;

    /// Puts an estimate together, in bits.
    #[must_use]
    pub const fn new(home_copy: u32, image_copy: u32, moved_drive: u32, same_user: u32) -> Self {
        Self {
            home_copy,
            image_copy,
            moved_drive,
            same_user,
        }
    }

    /// Whether the binding alone would not stop someone with a copy of the disk.
    #[must_use]
    pub const fn is_copy_deterrent(&self) -> bool {
        self.image_copy < Self::FLOOR_BITS || self.moved_drive < Self::FLOOR_BITS
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} bits against a copied home, {} against a copied disk, {} against the moved disk, {} against the same user",
            self.home_copy, self.image_copy, self.moved_drive, self.same_user
        )
    }
}

/// Why a machine could not be enrolled or recognised.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    /// This is not the machine of the enrolment, or too much of it has changed.
    #[error(
        "this is not the machine it was made on (same: {}; different: {})",
        list(matched),
        list(changed)
    )]
    WrongMachine {
        /// Names of the parts that are as they were.
        matched: Vec<String>,
        /// Names of the parts that are not.
        changed: Vec<String>,
    },
    /// There is too little to recognise this machine by.
    #[error(
        "this machine has too little to be recognised by: {why}; use a passphrase slot, or `binding::Unbound` if the keychain alone is enough"
    )]
    TooWeak {
        /// What is missing, in words.
        why: String,
    },
    /// The stored state is not one that this binding wrote.
    #[error("the enrolment was written by another kind of binding or a newer version")]
    UnknownState,
    /// The system gave no randomness or refused a reading.
    #[error("the machine could not be observed: {why}")]
    Unreadable {
        /// What happened, in words.
        why: String,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

/// Binds to nothing: the keychain item or secret file alone opens the slot.
///
/// For containers and virtual machines that have nothing to be recognised by.
/// Its strength is zero bits, and reports say so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unbound;

impl MachineBinding for Unbound {
    fn enroll(&self) -> Result<Enrolled, BindingError> {
        Ok(Enrolled::new(
            Secret::new([0; 32]),
            SecretBytes::new(UNBOUND_STATE.to_vec()),
            Strength::default(),
        ))
    }

    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError> {
        let secret = Secret::new([0; 32]);
        if state != UNBOUND_STATE || !verify(&secret) {
            return Err(BindingError::UnknownState);
        }
        Ok(Recovered::new(secret, Strength::default()))
    }
}

const UNBOUND_STATE: &[u8] = b"unbound";
