//! Keys that come from a vault.

use katachi_store::Vault;
use katachi_store::database::{Database, DatabaseError, DatabaseKey, Options};
use katachi_store::testing::FakeMachine;

fn vault(
    home: &std::path::Path,
    machine: FakeMachine,
) -> Result<Vault, katachi_store::vault::VaultError> {
    Vault::builder(home.join("vault"))
        .binding(machine)
        .file_slot(home.join("secret"))
        .open_or_create()
}

#[test]
fn a_vault_opens_its_databases_again_and_no_other_vault_does() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("notes.db");
    let key = |vault: &Vault, name| DatabaseKey::from_vault(vault, name).unwrap();
    let opens = |key: &DatabaseKey| Database::open(&path, key, Options::new()).map(drop);

    let first = vault(home.path(), FakeMachine::laptop()).unwrap();
    opens(&key(&first, "notes")).unwrap();
    drop(first);
    let again = vault(home.path(), FakeMachine::laptop()).unwrap();
    opens(&key(&again, "notes")).unwrap();
    // Two databases of one vault share no key either.
    assert!(matches!(
        opens(&key(&again, "other")),
        Err(DatabaseError::WrongKey { .. })
    ));

    let other = tempfile::tempdir().unwrap();
    let stranger = vault(other.path(), FakeMachine::laptop()).unwrap();
    assert!(matches!(
        opens(&key(&stranger, "notes")),
        Err(DatabaseError::WrongKey { .. })
    ));
}

#[test]
fn everything_copied_to_another_machine_stays_closed() {
    let home = tempfile::tempdir().unwrap();
    let here = vault(home.path(), FakeMachine::laptop()).unwrap();
    let key = DatabaseKey::from_vault(&here, "notes").unwrap();
    drop(Database::open(home.path().join("notes.db"), &key, Options::new()).unwrap());
    drop(here);
    // The same files, vault and its secret included, seen by another machine.
    assert!(vault(home.path(), FakeMachine::desktop()).is_err());
    assert!(vault(home.path(), FakeMachine::laptop()).is_ok());
}
