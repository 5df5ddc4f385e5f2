//! What every implementation of this crate's traits has to do: one suite, run
//! against each of ours and open to yours.
//!
//! Each function panics with a sentence that says what was broken.

use katachi_crypto::Secret;

use crate::keychain::{Deadline, ItemId, Keychain, KeychainError, KeychainStatus};
use crate::vault::{VaultId, Witness};

/// Checks a [`Keychain`] that works and is unlocked, with items of `service`
/// that nobody else uses. It is left without them.
///
/// ```
/// use katachi_store::testing::{MemoryKeychain, conformance};
///
/// conformance::keychain(&MemoryKeychain::new(), "example");
/// ```
///
/// # Panics
///
/// Panics if the keychain does not keep the trait's promises.
pub fn keychain(keychain: &dyn Keychain, service: &str) {
    let deadline = Deadline::quiet();
    let item = |account: &str| ItemId::new(service, account).expect("a service of a few letters");
    let get = |item: &ItemId| match keychain.get(item, &deadline) {
        Ok(secret) => Some(*secret.expose_secret()),
        Err(KeychainError::NotFound) => None,
        Err(other) => panic!("a working keychain says `{other}` of a read"),
    };
    let put = |item: &ItemId, bytes: [u8; 32]| {
        let stored = keychain.put(item, &Secret::new(bytes), &deadline);
        stored.expect("a working keychain takes a secret");
    };
    assert!(!keychain.name().is_empty(), "it has no name for reports");
    assert_eq!(
        keychain.status(&deadline),
        KeychainStatus::Ready,
        "a working keychain is ready"
    );
    let longest = "x".repeat(ItemId::MAX_LEN);
    // Names that another encoding than ours could mix up.
    let items = [
        item("a"),
        item("a.b"),
        item("a-b"),
        item("a_b"),
        item("A"),
        item(&longest),
    ];
    for item in &items {
        assert_eq!(get(item), None, "an item is there before it was stored");
        assert_eq!(
            keychain.delete(item, &deadline),
            Err(KeychainError::NotFound),
            "an item that is not there is deleted"
        );
    }
    // Bytes that are no text, and that end or begin with zeros.
    let secrets = [
        [0; 32],
        [0xff; 32],
        std::array::from_fn(|at| at as u8),
        std::array::from_fn(|at| 0x80 | at as u8),
        *b"0123456789 = \n\r\t\"'\\ 0123456789 -",
        std::array::from_fn(|at| 31 - at as u8),
    ];
    for (item, secret) in items.iter().zip(secrets) {
        put(item, secret);
    }
    for (item, secret) in items.iter().zip(secrets) {
        assert_eq!(get(item), Some(secret), "an item is not as it was stored");
    }
    put(&items[0], [7; 32]);
    put(&items[0], [8; 32]);
    assert_eq!(get(&items[0]), Some([8; 32]), "the last one stored counts");
    assert_eq!(get(&items[1]), Some(secrets[1]), "another item changed too");
    for item in &items {
        keychain
            .delete(item, &deadline)
            .expect("an item that is there is deleted");
        assert_eq!(get(item), None, "an item is there after it was deleted");
    }
}

/// Checks a [`Witness`] that can be asked and knows neither vault.
///
/// `again` makes a second one of the same memory, as the next start of the
/// program does.
///
/// # Panics
///
/// Panics if the witness does not keep the trait's promises.
pub fn witness<W: Witness>(again: impl Fn() -> W, one: VaultId, other: VaultId) {
    let witness = again();
    let recall = |witness: &W, vault| {
        let recalled = witness.recall(vault);
        recalled.expect("a working witness answers")
    };
    let remember = |vault, generation| {
        let remembered = witness.remember(vault, generation);
        remembered.expect("a working witness remembers");
    };
    assert_eq!(recall(&witness, one), None, "it knows what it was not told");
    for generation in [1, 2, 255, 256, u64::from(u32::MAX) + 1, u64::MAX] {
        remember(one, generation);
        assert_eq!(recall(&witness, one), Some(generation), "it forgot");
        assert_eq!(
            recall(&again(), one),
            Some(generation),
            "it forgets when the program ends"
        );
        let of_other = recall(&witness, other);
        assert_eq!(of_other, None, "it mixes up two vaults");
    }
    remember(other, 3);
    assert_eq!(recall(&witness, other), Some(3), "it forgot");
    assert_eq!(
        recall(&witness, one),
        Some(u64::MAX),
        "it mixes up two vaults"
    );
}
