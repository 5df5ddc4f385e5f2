//! A keychain's answers in the kernel's real key retention service.
//!
//! Where the kernel has none, or a container may not use it, the tests are
//! reported as ignored, and fail if `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

#[cfg(target_os = "linux")]
mod linux {
    use std::process::{Command, ExitCode};
    use std::time::Duration;

    use katachi_store::keychain::{Deadline, ItemId, Keychain as _, KeychainError, SessionCache};
    use katachi_store::testing::{FakeMachine, MemoryKeychain, Mood, conformance};
    use katachi_store::vault::{SlotFailure, SlotKind, VaultError};
    use katachi_store::{Secret, Vault};
    use libtest_mimic::{Arguments, Failed, Trial};
    use linux_keyutils::{KeyRing, KeyRingIdentifier};

    /// Names the item that another process is to look for.
    const LOOK_FOR: &str = "KATACHI_SESSION_LOOK_FOR";
    const CASES: [(&str, fn()); 7] = [
        (
            "does_what_every_keychain_does",
            does_what_every_keychain_does,
        ),
        (
            "a_locked_keychain_is_asked_once",
            a_locked_keychain_is_asked_once,
        ),
        (
            "what_the_keychain_did_not_take_is_not_remembered",
            what_the_keychain_did_not_take_is_not_remembered,
        ),
        ("what_is_deleted_is_forgotten", what_is_deleted_is_forgotten),
        (
            "an_answer_is_forgotten_in_time",
            an_answer_is_forgotten_in_time,
        ),
        (
            "the_session_shares_it_and_nobody_else",
            the_session_shares_it_and_nobody_else,
        ),
        (
            "a_vault_is_never_held_by_the_cache_alone",
            a_vault_is_never_held_by_the_cache_alone,
        ),
    ];

    pub(super) fn main() -> ExitCode {
        if let Ok(account) = std::env::var(LOOK_FOR) {
            let empty = cache(&MemoryKeychain::new());
            let found = empty.get(&item(&account), &Deadline::quiet()).is_ok();
            return ExitCode::from(u8::from(!found));
        }
        let usable = is_usable();
        let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
        let trial = |(name, case): (&str, fn())| {
            if usable || required {
                return Trial::test(name, move || {
                    if !usable {
                        return Err(Failed::from("the kernel's keyrings cannot be used here"));
                    }
                    case();
                    Ok(())
                });
            }
            Trial::test(
                format!("{name} (ignored: the kernel's keyrings cannot be used here)"),
                || Ok(()),
            )
            .with_ignored_flag(true)
        };
        let trials = CASES.into_iter().map(trial).collect();
        libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
    }

    fn is_usable() -> bool {
        let Ok(session) = KeyRing::from_special_id(KeyRingIdentifier::Session, false) else {
            return false;
        };
        let made = session.add_key("katachi:test:usable", b"usable");
        made.is_ok_and(|key| key.read(&mut [0; 8]).is_ok() && key.invalidate().is_ok())
    }

    fn item(account: &str) -> ItemId {
        ItemId::new("katachi-test", account).unwrap()
    }

    /// A name that no other run of the tests has.
    fn own_item(name: &str) -> ItemId {
        item(&format!("{name}-{}", std::process::id()))
    }

    fn secret() -> Secret<32> {
        Secret::new([7; 32])
    }

    fn cache(keychain: &MemoryKeychain) -> SessionCache<MemoryKeychain> {
        SessionCache::new(keychain.clone(), Duration::from_secs(60))
    }

    fn quiet() -> Deadline {
        Deadline::quiet()
    }

    fn does_what_every_keychain_does() {
        let service = format!("katachi-test-{}", std::process::id());
        conformance::keychain(&cache(&MemoryKeychain::new()), &service);
    }

    fn a_locked_keychain_is_asked_once() {
        let (keychain, item) = (MemoryKeychain::new(), own_item("once"));
        keychain.put(&item, &secret(), &quiet()).unwrap();
        let calls = keychain.calls();
        assert_eq!(cache(&keychain).get(&item, &quiet()).unwrap(), secret());
        keychain.set_mood(Mood::Locked);
        for _ in 0..3 {
            assert_eq!(cache(&keychain).get(&item, &quiet()).unwrap(), secret());
        }
        assert_eq!(keychain.calls(), calls + 1);
        let _ = cache(&keychain).delete(&item, &quiet());
    }

    fn what_the_keychain_did_not_take_is_not_remembered() {
        let (keychain, item) = (MemoryKeychain::new(), own_item("refused"));
        keychain.set_mood(Mood::Locked);
        assert_eq!(
            cache(&keychain)
                .put(&item, &secret(), &quiet())
                .unwrap_err(),
            KeychainError::Locked
        );
        keychain.set_mood(Mood::Working);
        assert_eq!(
            cache(&keychain).get(&item, &quiet()).unwrap_err(),
            KeychainError::NotFound
        );
    }

    fn what_is_deleted_is_forgotten() {
        let (keychain, item) = (MemoryKeychain::new(), own_item("deleted"));
        cache(&keychain).put(&item, &secret(), &quiet()).unwrap();
        assert_eq!(keychain.len(), 1);
        cache(&keychain).delete(&item, &quiet()).unwrap();
        assert_eq!(
            cache(&keychain).get(&item, &quiet()).unwrap_err(),
            KeychainError::NotFound
        );
        // And what is replaced is not given out in its old form.
        cache(&keychain).put(&item, &secret(), &quiet()).unwrap();
        let newer = Secret::new([8; 32]);
        cache(&keychain).put(&item, &newer, &quiet()).unwrap();
        assert_eq!(cache(&keychain).get(&item, &quiet()).unwrap(), newer);
        cache(&keychain).delete(&item, &quiet()).unwrap();
    }

    fn an_answer_is_forgotten_in_time() {
        let (keychain, item) = (MemoryKeychain::new(), own_item("expires"));
        let cache = SessionCache::new(keychain.clone(), Duration::from_secs(1));
        cache.put(&item, &secret(), &quiet()).unwrap();
        keychain.clear();
        assert_eq!(cache.get(&item, &quiet()).unwrap(), secret());
        std::thread::sleep(Duration::from_millis(2200));
        assert_eq!(
            cache.get(&item, &quiet()).unwrap_err(),
            KeychainError::NotFound
        );
    }

    fn the_session_shares_it_and_nobody_else() {
        let (keychain, item) = (MemoryKeychain::new(), own_item("shared"));
        cache(&keychain).put(&item, &secret(), &quiet()).unwrap();
        let this = std::env::current_exe().unwrap();
        let found = Command::new(&this)
            .env(LOOK_FOR, item.account())
            .status()
            .unwrap();
        assert!(found.success());
        // A session of its own, if the program that makes one is installed.
        let elsewhere = Command::new("keyctl")
            .args(["session", "-"])
            .arg(&this)
            .env(LOOK_FOR, item.account())
            .output();
        match elsewhere {
            Ok(elsewhere) => assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}"),
            Err(error) => assert!(
                std::env::var_os("KATACHI_REQUIRE_ALL").is_none_or(|value| value != "1"),
                "keyctl: {error}"
            ),
        }
        let _ = cache(&keychain).delete(&item, &quiet());
    }

    fn a_vault_is_never_held_by_the_cache_alone() {
        let home = tempfile::tempdir().unwrap();
        let keychain = MemoryKeychain::new();
        let builder = || {
            Vault::builder(home.path().join("vault"))
                .binding(FakeMachine::laptop())
                .keychain(cache(&keychain))
        };
        drop(builder().create().unwrap());
        assert_eq!(keychain.len(), 1, "the keychain itself holds the secret");
        keychain.set_mood(Mood::Locked);
        let vault = builder().open().unwrap();
        assert_eq!(vault.report().slot.kind, SlotKind::Keychain);
        // After the session there is the keychain, and it opens.
        keychain.set_mood(Mood::Working);
        let session = KeyRing::from_special_id(KeyRingIdentifier::Session, false).unwrap();
        let slot = vault.slots()[0].id;
        let account = format!("katachi:katachi:vault-{}-{slot}", vault.id());
        session.search(&account).unwrap().invalidate().unwrap();
        drop(vault);
        builder().open().unwrap();
        // A key of another length, from whomever, is not taken for an answer.
        session.add_key(&account, b"short").unwrap();
        builder().open().unwrap();
        // One of the right length that is wrong costs that slot, and says so.
        session.add_key(&account, &[0; 32]).unwrap();
        let VaultError::NoUsableSlot { tried } = builder().open().unwrap_err() else {
            panic!("refused for another reason");
        };
        assert_eq!(tried[0].why, SlotFailure::WrongSecret);
        session.search(&account).unwrap().invalidate().unwrap();
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
