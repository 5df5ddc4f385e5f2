//! Binds to the parts of the machine, by `katachi-fingerprint`.

use std::path::PathBuf;

use katachi_crypto::Secret;
use katachi_fingerprint::{EnrollError, Enrollment, Probe, SystemProbe};

use super::{BindingError, Enrolled, MachineBinding, Recovered, Strength};

/// Recognises the machine by its parts, of which a few may change.
#[derive(Debug)]
pub struct FingerprintBinding<P = SystemProbe> {
    probe: P,
}

impl FingerprintBinding {
    /// Observes this machine.
    #[must_use]
    pub fn system() -> Self {
        Self::with_probe(SystemProbe::new())
    }

    /// Observes this machine, with the volume that holds `path` (best the
    /// vault's directory) as one of its parts.
    #[must_use]
    pub fn system_with_volume_of(path: impl Into<PathBuf>) -> Self {
        Self::with_probe(SystemProbe::new().volume_of(path))
    }
}

impl<P: Probe> FingerprintBinding<P> {
    /// Observes through `probe`.
    #[must_use]
    pub fn with_probe(probe: P) -> Self {
        Self { probe }
    }
}

impl<P: Probe + Send + Sync> MachineBinding for FingerprintBinding<P> {
    fn enroll(&self) -> Result<Enrolled, BindingError> {
        Ok(enrolled(Enrollment::enroll(&self.probe.observe())?))
    }

    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError> {
        let enrollment = Enrollment::from_bytes(state).map_err(|_| BindingError::UnknownState)?;
        let seen = self.probe.observe();
        let recovery =
            enrollment
                .recover(&seen, verify)
                .map_err(|wrong| BindingError::WrongMachine {
                    matched: names(&wrong.matched),
                    changed: names(&wrong.unproven)
                        .into_iter()
                        .chain(missing(&wrong.missing))
                        .collect(),
                })?;
        let renewed = if recovery.reenroll {
            Some(enrolled(enrollment.renew(&seen, &recovery)?))
        } else {
            None
        };
        Ok(Recovered {
            matched: names(&recovery.matched),
            drift: names(&recovery.drift),
            renewed,
            strength: strength(recovery.strength),
            secret: recovery.secret,
        })
    }
}

impl From<EnrollError> for BindingError {
    fn from(error: EnrollError) -> Self {
        match error {
            EnrollError::NothingFound => Self::TooWeak {
                why: "it shows none of the parts that count".to_owned(),
            },
            other => Self::Unreadable {
                why: other.to_string(),
            },
        }
    }
}

fn enrolled((secret, enrollment): (Secret<32>, Enrollment)) -> Enrolled {
    Enrolled::new(
        secret,
        enrollment.to_bytes(),
        strength(enrollment.strength()),
    )
}

fn strength(bits: katachi_fingerprint::Strength) -> Strength {
    Strength::new(
        bits.home_copy,
        bits.image_copy,
        bits.moved_drive,
        bits.same_user,
    )
}

fn names<T: ToString>(parts: &[T]) -> Vec<String> {
    parts.iter().map(T::to_string).collect()
}

fn missing<T: ToString>(parts: &[T]) -> impl Iterator<Item = String> {
    parts
        .iter()
        .map(|part| format!("{} (missing)", part.to_string()))
}
