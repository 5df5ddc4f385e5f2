//! Power cuts, full disks' bigger brother: the process is ended at every named
//! step of every kind of save, and at every system call of it (`syscalls`), and
//! another process has to find the old vault or the new one. The same on a disk
//! that is full (`full_disk`), and when several processes save at once.
//!
//! A process that is killed runs no destructor and flushes nothing. What the
//! disk itself does with unflushed pages is not tested.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

#[cfg(target_os = "linux")]
mod full_disk;
#[cfg(unix)]
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod syscalls;

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;
    use std::process::{Command, ExitCode};

    use katachi_store::credentials::{Credentials, Name};
    use katachi_store::file::SealedFile;
    use katachi_store::testing::{FakeMachine, fault};
    use katachi_store::vault::{Builder, RecoveryCode, SlotKind, VaultError};
    use katachi_store::{KeyId, SecretString, Vault};
    use libtest_mimic::{Arguments, Failed, Trial};

    use super::support::copy;

    pub(crate) const JOB: &str = "KATACHI_CRASH_JOB";
    pub(crate) const HOME: &str = "KATACHI_CRASH_HOME";
    /// More steps than any job has.
    const TOO_MANY: u64 = 100;

    /// What a process does before, or instead of, dying.
    type Job = (&'static str, fn(&Path));

    pub(crate) const JOBS: [Job; 11] = [
        ("create", |home| drop(builder(home).create().unwrap())),
        ("add a recovery code", |home| {
            drop(open(home).add_recovery_code().unwrap())
        }),
        ("add a file slot", |home| {
            let _ = open(home).add_file_slot().unwrap();
        }),
        ("renew the file slot", |home| {
            let vault = open(home);
            vault.rewrap(vault.report().slot.id).unwrap();
        }),
        ("remove the recovery slot", |home| {
            let vault = open(home);
            let slots = vault.slots();
            let slot = slots
                .iter()
                .find(|slot| slot.kind == SlotKind::RecoveryCode)
                .unwrap();
            vault.remove_slot(slot.id).unwrap();
        }),
        ("rotate a data key", |home| {
            drop(open(home).rotate("notes").unwrap())
        }),
        ("lock the vault anew", |home| {
            drop(open(home).rekey(None, None).unwrap())
        }),
        ("heal after a changed part", |home| {
            let machine = FakeMachine::laptop();
            machine.change("nic", "another");
            drop(with_machine(home, machine).open().unwrap());
        }),
        ("set a credential", |home| {
            set_credential(&open(home), "new")
        }),
        ("rotate the credentials", |home| {
            Credentials::open(&open(home)).unwrap().rotate().unwrap()
        }),
        ("write a sealed file", |home| {
            sealed_file(home).write(&open(home), b"new").unwrap()
        }),
    ];

    pub(super) fn main() -> ExitCode {
        if let (Ok(job), Ok(home)) = (std::env::var(JOB), std::env::var(HOME)) {
            do_job(&job, Path::new(&home));
            return ExitCode::SUCCESS;
        }
        let mut trials: Vec<Trial> = JOBS
            .iter()
            .map(|&(job, _)| {
                Trial::test(format!("killed at every step: {job}"), move || {
                    killed_at_every_step(job)
                })
            })
            .collect();
        trials.push(Trial::test(
            "killed at every step: destroy",
            killed_while_destroying,
        ));
        trials.push(Trial::test(
            "no change is lost when four processes save at once",
            four_writers,
        ));
        trials.push(Trial::test(
            "everything is the owner's alone whatever the umask",
            any_umask,
        ));
        trials.push(Trial::test(
            "no credential is lost when four processes set them at once",
            four_writers_of_credentials,
        ));
        #[cfg(target_os = "linux")]
        trials.extend(
            crate::syscalls::trials()
                .into_iter()
                .chain(crate::full_disk::trials()),
        );
        libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
    }

    fn do_job(job: &str, home: &Path) {
        match JOBS.iter().find(|(name, _)| *name == job) {
            Some((_, act)) => act(home),
            None if job == "destroy" => open(home).destroy().unwrap(),
            #[cfg(target_os = "linux")]
            None if job == crate::full_disk::JOB => crate::full_disk::run(home),
            None if job.starts_with("credentials") => {
                let vault = open(home);
                let credentials = Credentials::open(&vault).unwrap();
                for number in 0..10 {
                    let name = Name::parse(&format!("{job}/{number}")).unwrap();
                    let value = SecretString::new(format!("value {number}"));
                    credentials.set(&name, &value).unwrap();
                }
            }
            None => {
                let vault = open(home);
                for number in 0..10 {
                    vault.rotate(&format!("{job} {number}")).unwrap();
                }
            }
        }
    }

    fn with_machine(home: &Path, machine: FakeMachine) -> Builder {
        Vault::builder(home.join("vault"))
            .binding(machine)
            .file_slot(home.join("secrets"))
    }

    pub(crate) fn builder(home: &Path) -> Builder {
        with_machine(home, FakeMachine::laptop())
    }

    pub(crate) fn open(home: &Path) -> Vault {
        builder(home).open().unwrap()
    }

    pub(crate) fn set_credential(vault: &Vault, value: &str) {
        let name = Name::parse("key").unwrap();
        Credentials::open(vault)
            .unwrap()
            .set(&name, &SecretString::new(value.to_owned()))
            .unwrap();
    }

    pub(crate) fn sealed_file(home: &Path) -> SealedFile {
        SealedFile::at(home.join("files/tunnel")).unwrap()
    }

    fn start(job: &str, home: &Path, abort_at: u64) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env(JOB, job)
            .env(HOME, home)
            .env(fault::ABORT_AT, abort_at.to_string());
        command
    }

    /// Runs the job in a process that dies at a step; says whether it got there.
    fn dies(job: &str, home: &Path, abort_at: u64) -> bool {
        let output = start(job, home, abort_at).output().unwrap();
        let was_killed = output.status.signal() == Some(rustix::process::Signal::ABORT.as_raw());
        assert!(was_killed || output.status.success(), "{job}: {output:?}");
        was_killed
    }

    /// A home with something of everything, and a code to it.
    pub(crate) fn prepare(home: &Path) -> RecoveryCode {
        let vault = builder(home).create().unwrap();
        vault.data_key("notes").unwrap();
        set_credential(&vault, "old");
        sealed_file(home).write(&vault, b"old").unwrap();
        vault.add_recovery_code().unwrap()
    }

    pub(crate) fn duplicate(from: &Path, to: &Path) {
        for directory in ["vault", "secrets", "files"] {
            copy(&from.join(directory), &to.join(directory));
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "the shape of a trial")]
    fn killed_at_every_step(job: &'static str) -> Result<(), Failed> {
        let template = tempfile::tempdir().unwrap();
        let code = prepare(template.path()).to_text();
        let notes = open(template.path()).data_key("notes").unwrap().id();
        let is_create = job == "create";
        for step in 1..TOO_MANY {
            let home = tempfile::tempdir().unwrap();
            let home = home.path();
            if !is_create {
                duplicate(template.path(), home);
            }
            let died = dies(job, home, step);

            let trace = Trace {
                job,
                died,
                what: format!("step {step}"),
            };
            trace.check(home, code.expose_secret(), notes);
            if !died {
                assert!(
                    step > 6,
                    "{job} has only {step} steps, so nothing was saved"
                );
                return Ok(());
            }
        }
        panic!("{job} never came to its end");
    }

    /// What was done to a home, and how it ended.
    pub(crate) struct Trace<'a> {
        pub(crate) job: &'a str,
        pub(crate) died: bool,
        pub(crate) what: String,
    }

    impl Trace<'_> {
        /// The old vault or the new one opens, with everything in it, and the
        /// same job goes through afterwards.
        pub(crate) fn check(&self, home: &Path, code: &str, notes: KeyId) {
            let (job, what) = (self.job, &self.what);
            let is_create = job == "create";
            match builder(home).open() {
                Ok(vault) if !is_create => {
                    vault.data_key_by_id("notes", notes).unwrap();
                    let value = Credentials::open(&vault)
                        .unwrap()
                        .get(&Name::parse("key").unwrap())
                        .unwrap();
                    assert!(
                        ["old", "new"].contains(&value.expose_secret()),
                        "{job}, {what}"
                    );
                    let content = sealed_file(home).read(&vault).unwrap();
                    assert!(
                        [&b"old"[..], b"new"].contains(&content.expose_secret()),
                        "{job}, {what}"
                    );
                }
                Ok(_) => {}
                Err(VaultError::NoVault { .. }) if is_create && self.died => {}
                Err(error) => panic!("{job}, {what}: {error}"),
            }
            let closes_code = matches!(
                job,
                "create" | "remove the recovery slot" | "lock the vault anew"
            );
            if !closes_code {
                let code = RecoveryCode::parse(code).unwrap();
                Vault::builder(home.join("vault"))
                    .recovery_code(code)
                    .open()
                    .unwrap();
            }

            // The same again succeeds, and leaves no trace of the first time.
            let repeats = match job {
                "create" => builder(home).open().is_err(),
                "remove the recovery slot" => open(home).slots().len() > 1,
                _ => true,
            };
            if repeats {
                do_job(job, home);
            }
            open(home).set_mark("tidy", 1).unwrap();
            self.check_tidy(home);
        }

        /// No temporary file, and one secret file for each slot.
        fn check_tidy(&self, home: &Path) {
            let names = |directory: &str| -> Vec<String> {
                let entries = std::fs::read_dir(home.join(directory))
                    .into_iter()
                    .flatten();
                entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect()
            };
            let is_temporary = |name: &String| name.ends_with(".tmp");
            for directory in ["vault", "files"] {
                let left: Vec<_> = names(directory).into_iter().filter(is_temporary).collect();
                assert!(left.is_empty(), "{}, {}: {left:?}", self.job, self.what);
            }
            // A vault that was never written leaves a secret that opens nothing,
            // and nobody can tell whose it was.
            if self.job != "create" {
                let slots = open(home).slots();
                let slots = slots
                    .iter()
                    .filter(|slot| slot.kind == SlotKind::File)
                    .count();
                assert_eq!(names("secrets").len(), slots, "{}, {}", self.job, self.what);
            }
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "the shape of a trial")]
    fn killed_while_destroying() -> Result<(), Failed> {
        for step in 1..TOO_MANY {
            let home = tempfile::tempdir().unwrap();
            prepare(home.path());
            let died = dies("destroy", home.path(), step);
            match builder(home.path()).open() {
                Ok(_) => assert!(died),
                Err(error) => assert!(matches!(error, VaultError::NoVault { .. }), "{error}"),
            }
            if !died {
                return Ok(());
            }
        }
        panic!("destroying never came to its end");
    }

    #[allow(clippy::unnecessary_wraps, reason = "the shape of a trial")]
    fn four_writers() -> Result<(), Failed> {
        let home = tempfile::tempdir().unwrap();
        let before = builder(home.path()).create().unwrap().generation();
        let writers = ["one", "two", "three", "four"];
        let running: Vec<_> = writers
            .iter()
            .map(|name| start(name, home.path(), 1_000_000).spawn().unwrap())
            .collect();
        for mut writer in running {
            assert!(writer.wait().unwrap().success());
        }
        let vault = open(home.path());
        for writer in writers {
            for number in 0..10 {
                assert_eq!(vault.data_keys(&format!("{writer} {number}")).len(), 1);
            }
        }
        assert_eq!(vault.generation(), before + 40);
        Ok(())
    }

    #[allow(clippy::unnecessary_wraps, reason = "the shape of a trial")]
    fn four_writers_of_credentials() -> Result<(), Failed> {
        let home = tempfile::tempdir().unwrap();
        drop(builder(home.path()).create().unwrap());
        let writers = [
            "credentials-1",
            "credentials-2",
            "credentials-3",
            "credentials-4",
        ];
        let running: Vec<_> = writers
            .iter()
            .map(|name| start(name, home.path(), 1_000_000).spawn().unwrap())
            .collect();
        for mut writer in running {
            assert!(writer.wait().unwrap().success());
        }
        let vault = open(home.path());
        let kept = Credentials::open(&vault).unwrap().list().unwrap();
        assert_eq!(kept.len(), 40);
        Ok(())
    }

    #[allow(clippy::unnecessary_wraps, reason = "the shape of a trial")]
    fn any_umask() -> Result<(), Failed> {
        for umask in ["000", "027", "077"] {
            let home = tempfile::tempdir().unwrap();
            for job in [
                "create",
                "set a credential",
                "write a sealed file",
                "rotate a data key",
            ] {
                let status = Command::new("sh")
                    .arg("-c")
                    .arg(format!("umask {umask}; exec \"$0\""))
                    .arg(std::env::current_exe().unwrap())
                    .env(JOB, job)
                    .env(HOME, home.path())
                    .status()
                    .unwrap();
                assert!(status.success(), "{job}");
            }
            let mut seen = 0;
            for directory in ["vault", "secrets", "files"] {
                let directory = home.path().join(directory);
                assert_eq!(
                    mode(&directory),
                    0o700,
                    "umask {umask}: {}",
                    directory.display()
                );
                for entry in std::fs::read_dir(&directory).unwrap() {
                    let path = entry.unwrap().path();
                    assert_eq!(mode(&path), 0o600, "umask {umask}: {}", path.display());
                    seen += 1;
                }
            }
            assert!(
                seen >= 7,
                "vault, credentials, tunnel, their locks and a secret, not {seen}"
            );
        }
        Ok(())
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }
}

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    unix::main()
}

#[cfg(not(unix))]
fn main() {}
