//! Opens the vault in a directory, or creates it, and says how that went.
//!
//! ```text
//! cargo run -p katachi-store --example vault --features fingerprint,keychain -- /tmp/example
//! ```
//!
//! Run it twice. Then lock the keychain, or copy the directory to another
//! computer, and run it again.

use std::error::Error;
use std::path::PathBuf;

use katachi_store::Vault;
use katachi_store::binding::FingerprintBinding;
use katachi_store::keychain::SystemKeychain;
use katachi_store::vault::VaultError;

fn main() -> Result<(), Box<dyn Error>> {
    let home: PathBuf = std::env::args_os()
        .nth(1)
        .ok_or("usage: vault DIRECTORY")?
        .into();
    let vault_dir = home.join("vault");

    let is_new = match Vault::status(&vault_dir) {
        Ok(status) => {
            println!("vault {}, saved {} times", status.id, status.generation);
            false
        }
        Err(VaultError::NoVault { .. }) => true,
        Err(error) => return Err(error.into()),
    };

    let vault = Vault::builder(&vault_dir)
        .binding(FingerprintBinding::system_with_volume_of(&home))
        .keychain(SystemKeychain::new())
        .file_slot_if_no_keychain(home.join("secret"))
        .open_or_create()?;
    if is_new {
        let code = vault.add_recovery_code()?;
        println!(
            "created; write this down: {}",
            code.to_text().expose_secret()
        );
    }

    let report = vault.report();
    println!("opened by its {} slot", report.slot.kind);
    for slot in &report.degraded {
        println!("did not open: {slot}");
    }
    for change in &report.drift {
        println!("changed: {change}");
    }
    if let Some(strength) = report.strength {
        println!("the machine's parts are worth {strength}");
    }
    if report.is_copy_deterrent() {
        println!("this only deters copying; a passphrase slot would protect a stolen disk");
    }
    println!("key for notes: {}", vault.data_key("notes")?.id());
    Ok(())
}
