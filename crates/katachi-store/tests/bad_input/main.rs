//! What a person runs into, and what they are told: for each misfortune its
//! own typed error, with the next step in its words, and the data as it was.
//!
//! Each case has a vault, a sealed file and a database with something precious
//! in them, meets one misfortune, ends it, and finds everything as before.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

#[cfg(target_os = "linux")]
mod ground;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    cases::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod cases {
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, ExitCode, Stdio};
    use std::time::Duration;

    use katachi_store::Vault;
    use katachi_store::binding::BindingError;
    use katachi_store::database::{Database, DatabaseError, DatabaseKey, Migration, Options};
    use katachi_store::file::{FileError, SealedFileError};
    use katachi_store::testing::FakeMachine;
    use katachi_store::vault::{FormatError, SlotFailure, VaultError};
    use libtest_mimic::{Arguments, Failed, Trial};

    use super::ground::{Ground, PRECIOUS, SCHEMA};

    const PART: &str = "KATACHI_BAD_INPUT_PART";
    const PLACE: &str = "KATACHI_BAD_INPUT_PLACE";

    type Case = (&'static str, fn(&Path));

    const CASES: [Case; 6] = [
        ("corrupt_page", corrupt_page),
        ("wrong_key", wrong_key),
        ("wrong_machine", wrong_machine),
        ("newer_schema", newer_schema),
        ("not_encrypted", not_encrypted),
        ("locked_by_another_process", locked),
    ];

    /// Those that need a small file system of their own.
    const ON_A_DISK: [Case; 2] = [("full_disk", full_disk), ("read_only_disk", read_only_disk)];

    pub(super) fn main() -> ExitCode {
        if let Ok(part) = std::env::var(PART) {
            let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
            match part.as_str() {
                "nothing" => {}
                "hold" => hold(&place),
                part => ON_A_DISK.iter().find(|case| case.0 == part).unwrap().1(&place),
            }
            return ExitCode::SUCCESS;
        }
        let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
        let probe = tempfile::tempdir().unwrap();
        let can_mount = on_small_disk("nothing", probe.path()).is_ok();
        let mut trials: Vec<Trial> = CASES
            .into_iter()
            .map(|(name, case)| {
                Trial::test(name, move || {
                    case(tempfile::tempdir()?.path());
                    Ok(())
                })
            })
            .collect();
        trials.extend(ON_A_DISK.map(|(name, _)| {
            if can_mount || required {
                return Trial::test(name, move || {
                    on_small_disk(name, tempfile::tempdir()?.path()).map_err(Failed::from)
                });
            }
            let title = format!("{name} (ignored: this user may not mount)");
            Trial::test(title, || Ok(())).with_ignored_flag(true)
        }));
        libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
    }

    fn part(part: &str, place: &Path, mut command: Command) -> Command {
        command.env(PART, part).env(PLACE, place);
        command
    }

    /// Runs a case in a process with a file system of its own at `place`.
    fn on_small_disk(case: &str, place: &Path) -> Result<(), String> {
        let mut command = Command::new("unshare");
        let root = rustix::process::geteuid().is_root();
        command
            .args(if root { "-m" } else { "-Urm" }.split(' '))
            .args(["sh", "-c"])
            .arg(format!(
                "mount -t tmpfs -o size=2m,mode=0700 none \"${PLACE}\" && exec \"$0\""
            ))
            .arg(std::env::current_exe().unwrap());
        let output = part(case, place, command)
            .output()
            .map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Checks what a person reads: the next step, and nothing secret.
    fn says(error: &dyn std::error::Error, next_step: &str) {
        let text = error.to_string();
        assert!(text.contains(next_step), "no next step in: {text}");
        assert!(!text.contains(PRECIOUS), "{text}");
    }

    fn corrupt_page(place: &Path) {
        let ground = Ground::new(place);
        ground.survives(|| {
            let mut bytes = std::fs::read(ground.database()).unwrap();
            bytes[2 * 4096 + 99] ^= 4;
            std::fs::write(ground.database(), bytes).unwrap();
            let db = ground.open_database().unwrap();
            let error = ground.notes(&db).unwrap_err();
            assert!(matches!(error, DatabaseError::Corrupt { .. }), "{error:?}");
            says(&error, "`verify` names the pages; restore a backup");
            let report = db.verify().unwrap();
            assert!(report.problems.iter().any(|found| found.page == Some(3)));
        });
        ground.survives(|| {
            let mut bytes = std::fs::read(ground.vault_file()).unwrap();
            *bytes.last_mut().unwrap() ^= 4;
            std::fs::write(ground.vault_file(), bytes).unwrap();
            let error = ground.builder().open().unwrap_err();
            assert!(matches!(error, VaultError::Tampered), "{error:?}");
            says(&error, "restore it from a backup");
        });
        ground.survives(|| {
            std::fs::write(ground.sealed_path(), b"KTC1 and no more").unwrap();
            let error = ground.sealed().read(&ground.vault).unwrap_err();
            assert!(matches!(error, SealedFileError::Damaged), "{error:?}");
            says(&error, "restore it from a backup");
        });
    }

    fn wrong_key(place: &Path) {
        let ground = Ground::new(place);
        let others = tempfile::tempdir().unwrap();
        let other = Ground::new(others.path());
        ground.survives(|| {
            let key = DatabaseKey::from_vault(&other.vault, "test").unwrap();
            let error = Database::open(ground.database(), &key, Options::new()).unwrap_err();
            assert!(matches!(error, DatabaseError::WrongKey { .. }), "{error:?}");
            says(&error, "open it with the vault it was made with");
            let error = ground.sealed().read(&other.vault).unwrap_err();
            assert!(matches!(error, SealedFileError::Key(_)), "{error:?}");
            says(&error, "open it with the one that sealed it");
        });
    }

    fn wrong_machine(place: &Path) {
        let ground = Ground::new(place);
        ground.survives(|| {
            let desktop = FakeMachine::desktop();
            let error = ground.builder_on(desktop).open().unwrap_err();
            let VaultError::NoUsableSlot { tried } = &error else {
                panic!("{error:?}");
            };
            let wrong = |failure: &SlotFailure| {
                matches!(
                    failure,
                    SlotFailure::Binding(BindingError::WrongMachine { .. })
                )
            };
            assert!(tried.iter().all(|slot| wrong(&slot.why)), "{tried:?}");
            says(&error, "use the recovery code or the passphrase");
        });
    }

    fn newer_schema(place: &Path) {
        const NEWER: &[Migration] = &[
            SCHEMA[0],
            Migration::sql("CREATE TABLE later (a INTEGER) STRICT"),
        ];
        let ground = Ground::new(place);
        let options = Options::new().migrations(NEWER);
        drop(Database::open(ground.database(), &ground.key(), options).unwrap());
        ground.survives_with(NEWER, || {
            let error = ground.open_database().unwrap_err();
            let newer = matches!(error, DatabaseError::SchemaNewer { found: 2, known: 1 });
            assert!(newer, "{error:?}");
            says(&error, "use a newer program");
        });
        ground.survives_with(NEWER, || {
            let mut bytes = std::fs::read(ground.vault_file()).unwrap();
            bytes[3] += 1;
            std::fs::write(ground.vault_file(), bytes).unwrap();
            let error = ground.builder().open().unwrap_err();
            let newer = matches!(error, VaultError::Format(FormatError::Newer));
            assert!(newer, "{error:?}");
            says(&error, "update it");
        });
    }

    fn not_encrypted(place: &Path) {
        let ground = Ground::new(place);
        ground.survives(|| {
            std::fs::remove_file(ground.database()).unwrap();
            let plain = rusqlite::Connection::open(ground.database()).unwrap();
            plain.execute_batch("CREATE TABLE note (text)").unwrap();
            drop(plain);
            let error = ground.open_database().unwrap_err();
            let plain = matches!(error, DatabaseError::NotEncrypted { .. });
            assert!(plain, "{error:?}");
            says(&error, "import it into a new database");
        });
    }

    /// Locks the vault and the database until it is killed.
    fn hold(place: &Path) {
        let ground = Ground::at(place);
        let lock = std::fs::File::open(place.join("vault/.vault.lock")).unwrap();
        lock.lock().unwrap();
        let db = ground.open_database().unwrap();
        let _ = db.write(|tx| {
            tx.execute("DELETE FROM note", [])?;
            std::fs::write(place.join("held"), []).unwrap();
            std::thread::sleep(Duration::from_secs(300));
            Ok::<(), DatabaseError>(())
        });
    }

    struct Holder(Child);

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn locked(place: &Path) {
        let ground = Ground::new(place);
        let this = Command::new(std::env::current_exe().unwrap());
        let holder = Holder(
            part("hold", place, this)
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
        );
        while !place.join("held").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let patient = Options::new().busy_timeout(Duration::from_millis(50));
        let db = Database::open(ground.database(), &ground.key(), patient).unwrap();
        let write = || db.write(|tx| tx.execute("DELETE FROM note", []));
        let error = write().unwrap_err();
        assert!(matches!(error, DatabaseError::Busy), "{error:?}");
        assert!(error.is_transient());
        says(&error, "try again");
        // Reading goes on, and sees what was committed.
        assert_eq!(ground.notes(&db).unwrap(), Ground::all_notes());
        let error = ground.vault.data_key("another").unwrap_err();
        let busy = matches!(error, VaultError::File(FileError::Busy { .. }));
        assert!(busy, "{error:?}");
        says(&error, "try again");
        drop(holder);
        ground.check(SCHEMA);
        write().unwrap();
        ground.vault.data_key("another").unwrap();
    }

    fn full_disk(place: &Path) {
        let ground = Ground::new(place);
        ground.survives(|| {
            fill(&place.join("filler"));
            let db = ground.open_database();
            let error = db
                .and_then(|db| db.write(|tx| tx.execute_batch(&ground.many_rows())))
                .unwrap_err();
            assert!(matches!(error, DatabaseError::DiskFull), "{error:?}");
            says(&error, "free some space and try again");

            let error = ground.vault.set_mark("mark", 9).unwrap_err();
            let full = matches!(error, VaultError::File(FileError::DiskFull { .. }));
            assert!(full, "{error:?}");
            says(&error, "free some space and try again");

            let error = ground.sealed().write(&ground.vault, b"new").unwrap_err();
            let full = matches!(error, SealedFileError::File(FileError::DiskFull { .. }));
            assert!(full, "{error:?}");
            says(&error, "free some space and try again");
            std::fs::remove_file(place.join("filler")).unwrap();
        });
    }

    /// Takes all space that is left.
    fn fill(path: &Path) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(path).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
    }

    fn read_only_disk(place: &Path) {
        let ground = Ground::new(place);
        let remount = |how: &str| {
            let done = Command::new("mount").args(["-o", how]).arg(place).status();
            assert!(done.unwrap().success());
        };
        remount("remount,ro");
        let error = ground.open_database().unwrap_err();
        assert!(matches!(error, DatabaseError::ReadOnly), "{error:?}");
        says(
            &error,
            "check the permissions and that the disk is not read-only",
        );

        // Secrets can still be read; nothing can be saved.
        let vault: Vault = ground.builder().open().unwrap();
        let opened = ground.sealed().read(&vault).unwrap();
        assert_eq!(opened.expose_secret(), PRECIOUS.as_bytes());
        let error = vault.data_key("another").unwrap_err();
        let read_only = matches!(error, VaultError::File(FileError::ReadOnly { .. }));
        assert!(read_only, "{error:?}");
        says(&error, "make that writable, or name another place");
        let error = ground.sealed().write(&vault, b"new").unwrap_err();
        let read_only = matches!(error, SealedFileError::File(FileError::ReadOnly { .. }));
        assert!(read_only, "{error:?}");
        remount("remount,rw");
        ground.check(SCHEMA);
    }
}
