//! The relay's vault: bound to the machine it runs on, as far as there is
//! something to recognise it by.

use std::path::Path;

use katachi_crypto::Secret;
use katachi_store::Vault;
use katachi_store::binding::{
    BindingError, Enrolled, FingerprintBinding, MachineBinding, Recovered, Unbound,
};
use katachi_store::keychain::SystemKeychain;
use katachi_store::vault::{Builder, RecoveryCode, VaultError};
use tracing::warn;

use crate::config::KeychainUse;

/// Opens or creates the vault under `state_dir`, and says in the log how well
/// it is bound.
pub(crate) fn open_vault(state_dir: &Path, keychain: KeychainUse) -> Result<Vault, VaultError> {
    let vault = builder(state_dir, keychain).open_or_create()?;
    let report = vault.report();
    for degraded in &report.degraded {
        warn!(%degraded, "a slot of the vault did not open");
    }
    if report.is_copy_deterrent() {
        warn!(
            "the vault's secret lies on the same disk: it deters copying and no more; a keychain makes it stronger"
        );
    }
    Ok(vault)
}

/// Opens a vault that was brought here by its recovery code, and makes it at home.
pub(crate) fn move_vault(
    state_dir: &Path,
    keychain: KeychainUse,
    code: RecoveryCode,
) -> Result<Vault, VaultError> {
    let vault = builder(state_dir, keychain).recovery_code(code).open()?;
    if vault.move_here()?.is_empty() {
        match keychain {
            KeychainUse::Allowed => vault.add_keychain_slot()?,
            KeychainUse::Never => vault.add_file_slot()?,
        };
    }
    Ok(vault)
}

fn builder(state_dir: &Path, keychain: KeychainUse) -> Builder {
    let binding = AsFarAsPossible(FingerprintBinding::system_with_volume_of(state_dir));
    let builder = Vault::builder(state_dir.join("vault")).binding(binding);
    let secrets = state_dir.join("secrets");
    match keychain {
        KeychainUse::Allowed => builder
            .keychain(SystemKeychain::new())
            .file_slot_if_no_keychain(&secrets),
        KeychainUse::Never => builder.file_slot(&secrets),
    }
}

/// The machine's fingerprint; nothing where it has none, as in a container.
/// A service has to start there too, and the log says what it is worth.
struct AsFarAsPossible<B>(B);

impl<B: MachineBinding> MachineBinding for AsFarAsPossible<B> {
    fn enroll(&self) -> Result<Enrolled, BindingError> {
        match self.0.enroll() {
            Err(BindingError::TooWeak { why }) => {
                warn!(%why, "this machine cannot be recognised; the vault is bound to its secret alone");
                Unbound.enroll()
            }
            enrolled => enrolled,
        }
    }

    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError> {
        match Unbound.recover(state, verify) {
            Ok(recovered) => Ok(recovered),
            Err(_) => self.0.recover(state, verify),
        }
    }
}
