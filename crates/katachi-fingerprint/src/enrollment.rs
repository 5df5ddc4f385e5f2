//! Binds a random secret to the parts of a machine.
//!
//! ```text
//!   device secret = HKDF(A, B)
//!   A  shared over all parts by weight        more than half of the weight
//!   B  shared over the board parts alone      so that neither a copied image
//!                                             nor a moved drive suffices
//!
//!   part key   = HKDF(value of the part, salt of the part)
//!   share of B = stored bytes xor HKDF(part key, fresh salt)
//!   share of A = stored bytes xor HKDF(part key, B if a board part, fresh salt)
//! ```
//!
//! No stored share has a check value. Which reading was right can only be told
//! by the caller's `verify`, once enough of them are put together, so guesses
//! multiply instead of adding up. That is also why the share of A that belongs
//! to a board part is hidden by B as well: an attacker who already knows A,
//! say from the drive, would otherwise find each board part on its own.
//!
//! # What is kept for parts that are absent for the moment
//!
//! A new enrolment needs a new share for every part, but a network card whose
//! driver did not load today cannot be read. Beside its shares, an enrolment
//! therefore keeps each part key, hidden by `xor HKDF(device secret, salt)`.
//! After a recovery the device secret is known and with it the part keys, so
//! the absent part gets its new share and loses nothing. This tells nobody
//! anything new: it is a key derived from the value and never the value, it
//! opens only to the device secret, and whoever has that has already won. It
//! has no check value either. An enrolment is stored sealed under its slot's
//! source secret besides.

use std::fmt;

use katachi_crypto::kdf::{self, Label};
use katachi_crypto::{Secret, random};
use zeroize::Zeroizing;

use crate::component::{Class, Component};
use crate::observation::{Observation, Value};
use crate::recovery::Recovery;
use crate::shamir;
use crate::strength::{self, Hurdle, Strength};
use crate::threshold;

/// A secret bound to a machine, without the secret.
///
/// Store it sealed: on its own it resists only as far as
/// [`strength`](Self::strength) says. `Debug` prints parts and thresholds.
///
/// ```
/// use katachi_fingerprint::{Component, Enrollment, Observation};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let today = Observation::from_pairs([
///     (Component::MachineId, "0f5bd4d0ee514ba3a5b8b5d4ff1c2c1e"),
///     (Component::Nic, "00:1b:21:0a:0b:0c"),
///     (Component::Board, "X570 AORUS PRO"),
///     (Component::Cpu, "AMD Ryzen 9 3900X"),
/// ]);
/// let (secret, enrollment) = Enrollment::enroll(&today)?;
///
/// // Later, with another network card.
/// let later = Observation::from_pairs([
///     (Component::MachineId, "0f5bd4d0ee514ba3a5b8b5d4ff1c2c1e"),
///     (Component::Nic, "3c:ec:ef:11:22:33"),
///     (Component::Board, "X570 AORUS PRO"),
///     (Component::Cpu, "AMD Ryzen 9 3900X"),
/// ]);
/// let recovery = enrollment.recover(&later, |guess| *guess == secret)?;
/// assert_eq!(recovery.drift[0].to_string(), "network interface changed");
/// assert!(recovery.reenroll);
/// let (fresh_secret, fresh) = enrollment.renew(&later, &recovery)?;
/// # let _ = (fresh_secret, fresh);
/// # Ok(())
/// # }
/// ```
pub struct Enrollment {
    pub(crate) salt: [u8; 32],
    pub(crate) all_threshold: u8,
    /// Zero if there is no board part and so no secret B.
    pub(crate) board_threshold: u8,
    /// In ascending order of their tags, each once, never empty.
    pub(crate) parts: Vec<Part>,
}

/// The shares of one part.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Part {
    pub(crate) component: Component,
    pub(crate) weight: u8,
    pub(crate) bits: u8,
    /// The same shares, hidden once by each value of the part.
    pub(crate) wraps: Vec<Wrap>,
}

/// The shares of a part, hidden by one of its values.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Wrap {
    /// Salt of the part key; stays while the value is absent.
    pub(crate) key_salt: [u8; 16],
    /// Salt of the masks; fresh with every enrolment.
    pub(crate) mask_salt: [u8; 16],
    /// The part key, hidden by the device secret.
    pub(crate) kept_key: [u8; 32],
    /// `weight` shares of A.
    pub(crate) all: Vec<[u8; 32]>,
    /// `weight` shares of B for a board part, else none.
    pub(crate) board: Vec<[u8; 32]>,
}

/// A part about to be enrolled: one key for each of its values.
pub(crate) struct NewPart {
    pub(crate) component: Component,
    pub(crate) bits: u8,
    pub(crate) keys: Vec<([u8; 16], Secret<32>)>,
}

/// Why an enrolment could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollError {
    /// The machine showed no part to bind to.
    #[error(
        "this machine shows no part to bind to; protect the data with a passphrase or a recovery \
         code instead"
    )]
    NothingFound,
    /// The operating system gave no random bytes.
    #[error("no randomness: {0}")]
    Randomness(#[from] katachi_crypto::Error),
}

impl Enrollment {
    /// Draws a new device secret and binds it to everything `seen`.
    ///
    /// # Errors
    ///
    /// Returns [`EnrollError::NothingFound`] if the observation is empty and
    /// [`EnrollError::Randomness`] if the system has no random bytes.
    pub fn enroll(seen: &Observation) -> Result<(Secret<32>, Self), EnrollError> {
        let parts = seen
            .readings()
            .map(|(component, reading)| NewPart::read(component, reading.values()))
            .collect::<Result<Vec<_>, _>>()?;
        Self::build(&parts)
    }

    /// Draws a new device secret and binds it to what is `seen` now, after a
    /// recovery.
    ///
    /// Changed parts are replaced and new ones added. A part that was enrolled
    /// and is merely absent stays enrolled, so doing this on a day when a card
    /// is out costs nothing. Thresholds, polynomials and salts are new: many
    /// enrolments together tell no more than one.
    ///
    /// # Errors
    ///
    /// Returns [`EnrollError::Randomness`] if the system has no random bytes.
    pub fn renew(
        &self,
        seen: &Observation,
        recovery: &Recovery,
    ) -> Result<(Secret<32>, Self), EnrollError> {
        let mut parts = Vec::new();
        for component in Component::ALL {
            let values = seen.reading(component).map_or(&[][..], |r| r.values());
            let mut part = NewPart::read(component, values)?;
            if let Some(enrolled) = self.parts.iter().find(|p| p.component == component) {
                enrolled.keep_absent(values, recovery, &mut part);
            }
            if !part.keys.is_empty() {
                parts.push(part);
            }
        }
        Self::build(&parts)
    }

    /// Estimates what the fingerprint alone is worth against each attacker.
    #[must_use]
    pub fn strength(&self) -> Strength {
        let hurdles: Vec<Hurdle> = self
            .parts
            .iter()
            .map(|part| Hurdle {
                component: part.component,
                weight: u32::from(part.weight),
                // Any of several values will do.
                bits: u32::from(part.bits).saturating_sub(part.wraps.len().max(1).ilog2()),
                several_values: part.wraps.len() > 1,
            })
            .collect();
        strength::estimate(
            &hurdles,
            u32::from(self.all_threshold),
            u32::from(self.board_threshold),
        )
    }

    /// The parts without which the machine is not recognised.
    ///
    /// Empty on an ordinary computer. On a container or microVM the processor
    /// may be all that tells it from a copy of its image, so moving it to
    /// another host closes the data: tell the owner before, and see that there
    /// is another way in.
    #[must_use]
    pub fn indispensable(&self) -> Vec<Component> {
        let weight = |counts: fn(&Part) -> bool| -> u32 {
            let counted = self.parts.iter().filter(|part| counts(part));
            counted.map(|part| u32::from(part.weight)).sum()
        };
        let all_spare = weight(|_| true).saturating_sub(self.all_threshold.into());
        let board_spare = weight(Part::on_board).saturating_sub(self.board_threshold.into());
        self.parts
            .iter()
            .filter(|part| {
                let lost = u32::from(part.weight);
                lost > all_spare || (part.on_board() && lost > board_spare)
            })
            .map(|part| part.component)
            .collect()
    }

    /// The enrolled parts, in the order of their tags.
    pub fn components(&self) -> impl Iterator<Item = Component> + '_ {
        self.parts.iter().map(|part| part.component)
    }

    fn build(parts: &[NewPart]) -> Result<(Secret<32>, Self), EnrollError> {
        if parts.is_empty() {
            return Err(EnrollError::NothingFound);
        }
        let components: Vec<Component> = parts.iter().map(|part| part.component).collect();
        let (all_threshold, board_threshold) = threshold::both(&components);
        let weight_of = |class: Option<Class>| -> u8 {
            let counted = components
                .iter()
                .filter(|part| class.is_none_or(|class| part.class() == class));
            counted.map(|part| part.weight()).sum()
        };

        let a = Secret::<32>::random()?;
        let b = Secret::<32>::random()?;
        let salt = random::bytes::<32>()?;
        let board_secret = (board_threshold > 0).then_some(&b);
        let secret = device_secret(&a, board_secret, &salt);

        let all_shares = shamir::split(a.expose_secret(), all_threshold, weight_of(None))?;
        let board_shares = match board_secret {
            Some(b) => shamir::split(
                b.expose_secret(),
                board_threshold,
                weight_of(Some(Class::Board)),
            )?,
            None => Vec::new(),
        };
        let mut all_shares = all_shares.iter().map(|(_, share)| share);
        let mut board_shares = board_shares.iter().map(|(_, share)| share);

        let mut stored = Vec::new();
        for part in parts {
            let weight = part.component.weight();
            let on_board = part.component.class() == Class::Board;
            let all: Vec<_> = all_shares.by_ref().take(weight.into()).collect();
            let board: Vec<_> = match on_board {
                true => board_shares.by_ref().take(weight.into()).collect(),
                false => Vec::new(),
            };
            let mut wraps = Vec::new();
            for (key_salt, key) in &part.keys {
                let mask_salt = random::bytes::<16>()?;
                let hide = |sharing: Sharing<'_>, shares: &[&Zeroizing<[u8; 32]>]| {
                    (0..weight)
                        .zip(shares)
                        .map(|(index, share)| {
                            xor(share, &sharing.mask(part.component, key, &mask_salt, index))
                        })
                        .collect()
                };
                wraps.push(Wrap {
                    key_salt: *key_salt,
                    mask_salt,
                    kept_key: xor(
                        key.expose_secret(),
                        &kept_mask(part.component, &secret, &mask_salt),
                    ),
                    all: hide(
                        Sharing::All {
                            board: board_secret.filter(|_| on_board),
                        },
                        &all,
                    ),
                    board: hide(Sharing::Board, &board),
                });
            }
            stored.push(Part {
                component: part.component,
                weight,
                bits: part.bits,
                wraps,
            });
        }
        let enrollment = Self {
            salt,
            all_threshold,
            board_threshold,
            parts: stored,
        };
        Ok((secret, enrollment))
    }
}

impl NewPart {
    /// Draws a salt for each value and derives its key.
    fn read(component: Component, values: &[Value]) -> Result<Self, EnrollError> {
        let mut keys = Vec::new();
        for value in values {
            let salt = random::bytes::<16>()?;
            keys.push((salt, part_key(component, value, &salt)));
        }
        Ok(Self {
            component,
            bits: values.iter().map(|v| v.bits).min().unwrap_or_default(),
            keys,
        })
    }
}

impl Part {
    pub(crate) fn on_board(&self) -> bool {
        self.component.class() == Class::Board
    }

    /// Adds to `part` the keys of values that were enrolled, are not among
    /// `values` and were not replaced by one of them.
    fn keep_absent(&self, values: &[Value], recovery: &Recovery, part: &mut NewPart) {
        let room = self.wraps.len().saturating_sub(values.len());
        if room == 0 {
            return;
        }
        let absent = self.wraps.iter().filter_map(|wrap| {
            let key = wrap.open_key(self.component, &recovery.secret);
            let here = values
                .iter()
                .any(|value| part_key(self.component, value, &wrap.key_salt) == key);
            (!here).then_some((wrap.key_salt, key))
        });
        part.bits = match part.keys.is_empty() {
            true => self.bits,
            false => part.bits.min(self.bits),
        };
        part.keys.extend(absent.take(room));
    }
}

impl Wrap {
    /// The part key, for whoever knows the device secret.
    pub(crate) fn open_key(&self, component: Component, secret: &Secret<32>) -> Secret<32> {
        let mask = kept_mask(component, secret, &self.mask_salt);
        Secret::new(xor(&self.kept_key, &mask))
    }
}

/// Which of the two sharings a mask belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Sharing<'a> {
    /// A; for a board part the mask needs B as well.
    All { board: Option<&'a Secret<32>> },
    /// B.
    Board,
}

impl Sharing<'_> {
    /// What hides share `index` of a part.
    pub(crate) fn mask(
        self,
        component: Component,
        key: &Secret<32>,
        salt: &[u8; 16],
        index: u8,
    ) -> Secret<32> {
        let key: &[u8] = key.expose_secret();
        let place = [component.tag(), index];
        match self {
            Self::All { board: None } => kdf::derive(
                &[key],
                salt,
                &Label::new("katachi/v1/fingerprint/all").field(&place),
            ),
            Self::All { board: Some(b) } => kdf::derive(
                &[key, b.expose_secret()],
                salt,
                &Label::new("katachi/v1/fingerprint/all").field(&place),
            ),
            Self::Board => kdf::derive(
                &[key],
                salt,
                &Label::new("katachi/v1/fingerprint/board").field(&place),
            ),
        }
    }
}

/// The key that a value of a part stands for under this salt.
pub(crate) fn part_key(component: Component, value: &Value, salt: &[u8; 16]) -> Secret<32> {
    kdf::derive(
        &[&value.bytes],
        salt,
        &Label::new("katachi/v1/fingerprint/part").field(&[component.tag()]),
    )
}

/// The secret that `a` and, where there are board parts, `b` stand for.
pub(crate) fn device_secret(a: &Secret<32>, b: Option<&Secret<32>>, salt: &[u8; 32]) -> Secret<32> {
    let b: &[u8] = b.map_or(&[], |b| b.expose_secret());
    kdf::derive(
        &[a.expose_secret(), b],
        salt,
        &Label::new("katachi/v1/fingerprint/device"),
    )
}

fn kept_mask(component: Component, secret: &Secret<32>, salt: &[u8; 16]) -> Secret<32> {
    kdf::derive(
        &[secret.expose_secret()],
        salt,
        &Label::new("katachi/v1/fingerprint/kept").field(&[component.tag()]),
    )
}

pub(crate) fn xor(bytes: &[u8; 32], mask: &Secret<32>) -> [u8; 32] {
    let mask = mask.expose_secret();
    std::array::from_fn(|i| bytes[i] ^ mask[i])
}

impl fmt::Debug for Enrollment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrollment")
            .field("parts", &self.components().collect::<Vec<_>>())
            .field("all_threshold", &self.all_threshold)
            .field("board_threshold", &self.board_threshold)
            .finish_non_exhaustive()
    }
}
