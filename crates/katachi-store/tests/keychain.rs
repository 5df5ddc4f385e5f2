//! The system's keychain: a real gnome-keyring on a bus of its own, working,
//! locked, silent, killed and absent.
//!
//! Each test runs in a process of its own, since a bus address belongs to a
//! process. Without gnome-keyring the tests are reported as ignored, and fail
//! if `KATACHI_REQUIRE_ALL=1`.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot set up fails loudly"
)]

#[cfg(target_os = "linux")]
mod linux {
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::process::{Child, Command, ExitCode, Stdio};
    use std::time::{Duration, Instant};

    use katachi_store::keychain::{
        Deadline, ItemId, Keychain as _, KeychainError, KeychainStatus, SystemKeychain,
    };
    use katachi_store::testing::{FakeMachine, MemoryKeychain, conformance};
    use katachi_store::vault::{Builder, Freshness, KeychainWitness, SlotFailure, SlotKind};
    use katachi_store::{Secret, Vault};
    use libtest_mimic::{Arguments, Failed, Trial};
    use rustix::process::{Pid, Signal, kill_process};

    /// Says to the process which test it is to run.
    const CASE: &str = "KATACHI_KEYCHAIN_CASE";
    const COMPONENTS: [&str; 3] = ["dbus-run-session", "dbus-send", "gnome-keyring-daemon"];

    type Case = (&'static str, Bus, fn());

    #[derive(Clone, Copy, PartialEq)]
    enum Bus {
        None,
        Own,
        /// Something listens where the bus should be, and never says a word.
        Silent,
    }

    const CASES: [Case; 11] = [
        (
            "does_what_every_keychain_does",
            Bus::Own,
            does_what_every_keychain_does,
        ),
        (
            "keeps_replaces_and_deletes_a_secret",
            Bus::Own,
            keeps_replaces_and_deletes_a_secret,
        ),
        (
            "stores_44_characters_of_base64",
            Bus::Own,
            stores_44_characters_of_base64,
        ),
        (
            "says_that_it_is_locked_and_does_not_prompt",
            Bus::Own,
            says_that_it_is_locked_and_does_not_prompt,
        ),
        (
            "gives_up_on_a_keychain_that_never_answers",
            Bus::Own,
            gives_up_on_a_keychain_that_never_answers,
        ),
        (
            "stops_waiting_when_cancelled",
            Bus::Own,
            stops_waiting_when_cancelled,
        ),
        (
            "connects_again_after_the_keychain_was_killed",
            Bus::Own,
            connects_again_after_the_keychain_was_killed,
        ),
        (
            "says_that_no_keychain_is_on_the_bus",
            Bus::Own,
            says_that_no_keychain_is_on_the_bus,
        ),
        (
            "a_vault_lives_in_a_real_keychain",
            Bus::Own,
            a_vault_lives_in_a_real_keychain,
        ),
        (
            "a_frozen_keychain_costs_all_who_ask_it_one_deadline_together",
            Bus::Own,
            a_frozen_keychain_costs_all_who_ask_it_one_deadline_together,
        ),
        (
            "a_service_that_never_answers_costs_one_deadline_too",
            Bus::Own,
            a_service_that_never_answers_costs_one_deadline_too,
        ),
    ];

    /// Needs nothing installed.
    const ALWAYS: [Case; 2] = [
        (
            "says_that_there_is_no_bus_at_all",
            Bus::None,
            says_that_there_is_no_bus_at_all,
        ),
        (
            "a_bus_that_never_answers_costs_one_deadline_too",
            Bus::Silent,
            a_bus_that_never_answers_costs_one_deadline_too,
        ),
    ];

    pub(super) fn main() -> ExitCode {
        if let Ok(wanted) = std::env::var(CASE) {
            let all = CASES.iter().chain(&ALWAYS);
            let (_, _, case) = all
                .into_iter()
                .find(|(name, ..)| *name == wanted)
                .expect("a known case");
            case();
            return ExitCode::SUCCESS;
        }
        let missing = COMPONENTS
            .into_iter()
            .find(|program| !is_installed(program));
        let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
        let mut trials: Vec<Trial> = ALWAYS
            .iter()
            .map(|case| trial(case, case.0.to_owned()))
            .collect();
        for case in &CASES {
            trials.push(match missing {
                None => trial(case, case.0.to_owned()),
                Some(program) if required => Trial::test(case.0, move || {
                    Err(Failed::from(format!("{program} is not installed")))
                }),
                Some(program) => trial(
                    case,
                    format!("{} (ignored: {program} is not installed)", case.0),
                )
                .with_ignored_flag(true),
            });
        }
        libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
    }

    fn is_installed(program: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    }

    fn trial(case: &Case, title: String) -> Trial {
        let (name, bus, _) = *case;
        Trial::test(title, move || run(name, bus).map_err(Failed::from))
    }

    /// Runs one test in a process, a home and a bus of its own.
    fn run(name: &str, bus: Bus) -> Result<(), String> {
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        let runtime = home.path().join("runtime");
        make_private(&runtime);
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let silent = runtime.join("silent");
        // The system accepts connections for a listener that never does.
        let _listener = UnixListener::bind(&silent).map_err(|error| error.to_string())?;
        let mut command = match bus {
            Bus::None | Bus::Silent => Command::new(this),
            Bus::Own => {
                // No service files: nothing is started that the test did not start.
                let configuration = home.path().join("bus.conf");
                let text = format!(
                    r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:dir={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"#,
                    runtime.display()
                );
                std::fs::write(&configuration, text).map_err(|error| error.to_string())?;
                let mut command = Command::new("dbus-run-session");
                command
                    .arg("--config-file")
                    .arg(configuration)
                    .arg("--")
                    .arg(this);
                command
            }
        };
        command.env_remove("DBUS_SESSION_BUS_ADDRESS");
        if bus == Bus::Silent {
            let address = format!("unix:path={}", silent.display());
            command.env("DBUS_SESSION_BUS_ADDRESS", address);
        }
        let output = command
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("XDG_DATA_HOME", home.path().join("data"))
            .env("XDG_CACHE_HOME", home.path().join("cache"))
            .env("XDG_CONFIG_HOME", home.path().join("config"))
            .env(CASE, name)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Err(format!(
            "{}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        ))
    }

    fn make_private(path: &Path) {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().mode(0o700).create(path).unwrap();
    }

    /// gnome-keyring with an unlocked collection; ends when dropped.
    struct Keyring(Child);

    impl Keyring {
        fn start() -> Self {
            let mut daemon = Command::new("gnome-keyring-daemon")
                .args(["--foreground", "--unlock", "--components=secrets"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            daemon.stdin.take().unwrap().write_all(b"password").unwrap();
            let keyring = Self(daemon);
            let started = Instant::now();
            loop {
                let status = SystemKeychain::new().status(&Deadline::quiet());
                if status == KeychainStatus::Ready {
                    return keyring;
                }
                assert!(
                    started.elapsed() < Duration::from_secs(20),
                    "gnome-keyring did not start: {status}"
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }

        fn signal(&self, signal: Signal) {
            kill_process(Pid::from_child(&self.0), signal).unwrap();
        }

        fn lock(&self) {
            let locked = Command::new("dbus-send")
                .args([
                    "--session",
                    "--print-reply",
                    "--dest=org.freedesktop.secrets",
                    "/org/freedesktop/secrets",
                ])
                .arg("org.freedesktop.Secret.Service.Lock")
                .arg("array:objpath:/org/freedesktop/secrets/aliases/default")
                .output()
                .unwrap();
            assert!(locked.status.success(), "{locked:?}");
        }
    }

    impl Drop for Keyring {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn item() -> ItemId {
        ItemId::new("katachi-test", "an-item").unwrap()
    }

    fn secret(byte: u8) -> Secret<32> {
        Secret::new([byte; 32])
    }

    fn quiet() -> Deadline {
        Deadline::quiet()
    }

    fn does_what_every_keychain_does() {
        let _keyring = Keyring::start();
        conformance::keychain(&SystemKeychain::new(), "katachi-test");
    }

    fn keeps_replaces_and_deletes_a_secret() {
        let _keyring = Keyring::start();
        let keychain = SystemKeychain::new();
        assert_eq!(
            keychain.get(&item(), &quiet()).unwrap_err(),
            KeychainError::NotFound
        );
        keychain.put(&item(), &secret(1), &quiet()).unwrap();
        assert_eq!(keychain.get(&item(), &quiet()).unwrap(), secret(1));
        keychain.put(&item(), &secret(2), &quiet()).unwrap();
        assert_eq!(
            SystemKeychain::new().get(&item(), &quiet()).unwrap(),
            secret(2)
        );
        let other = ItemId::new("katachi-test", "another-item").unwrap();
        assert_eq!(
            keychain.get(&other, &quiet()).unwrap_err(),
            KeychainError::NotFound
        );
        keychain.delete(&item(), &quiet()).unwrap();
        assert_eq!(
            keychain.get(&item(), &quiet()).unwrap_err(),
            KeychainError::NotFound
        );
        assert_eq!(
            keychain.delete(&item(), &quiet()).unwrap_err(),
            KeychainError::NotFound
        );
    }

    fn stores_44_characters_of_base64() {
        let _keyring = Keyring::start();
        let keychain = SystemKeychain::new();
        keychain.put(&item(), &secret(0xfb), &quiet()).unwrap();
        // Asked through another program's eyes, if there is one.
        if is_installed("secret-tool") {
            let found = Command::new("secret-tool")
                .args(["lookup", "service", "katachi-test", "username", "an-item"])
                .output()
                .unwrap();
            assert_eq!(
                found.stdout.trim_ascii_end(),
                b"+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s="
            );
            let mut store = Command::new("secret-tool")
                .args([
                    "store",
                    "--label=x",
                    "service",
                    "katachi-test",
                    "username",
                    "an-item",
                ])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            store
                .stdin
                .take()
                .unwrap()
                .write_all(b"somebody else's text")
                .unwrap();
            assert!(store.wait().unwrap().success());
            assert_eq!(
                keychain.get(&item(), &quiet()).unwrap_err(),
                KeychainError::Damaged
            );
        }
    }

    fn says_that_it_is_locked_and_does_not_prompt() {
        let keyring = Keyring::start();
        let keychain = SystemKeychain::new();
        keychain.put(&item(), &secret(1), &quiet()).unwrap();
        keyring.lock();
        let started = Instant::now();
        assert_eq!(keychain.status(&quiet()), KeychainStatus::Locked);
        assert_eq!(
            keychain.get(&item(), &quiet()).unwrap_err(),
            KeychainError::Locked
        );
        assert_eq!(
            keychain.put(&item(), &secret(2), &quiet()).unwrap_err(),
            KeychainError::Locked
        );
        assert_eq!(
            keychain.delete(&item(), &quiet()).unwrap_err(),
            KeychainError::Locked
        );
        let unknown = ItemId::new("katachi-test", "new-item").unwrap();
        assert_eq!(
            keychain.put(&unknown, &secret(2), &quiet()).unwrap_err(),
            KeychainError::Locked
        );
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "it waited for somebody"
        );
    }

    fn gives_up_on_a_keychain_that_never_answers() {
        let keyring = Keyring::start();
        let keychain = SystemKeychain::new();
        keychain.put(&item(), &secret(1), &quiet()).unwrap();
        keyring.signal(Signal::STOP);

        let started = Instant::now();
        assert_eq!(
            keychain.get(&item(), &quiet()).unwrap_err(),
            KeychainError::Timeout
        );
        let waited = started.elapsed();
        assert!(
            waited > Duration::from_millis(2900) && waited < Duration::from_millis(3600),
            "{waited:?}"
        );

        // It has cost its deadline, and costs it no second time.
        let again = Instant::now();
        assert_eq!(
            keychain.get(&item(), &quiet()).unwrap_err(),
            KeychainError::Timeout
        );
        assert_eq!(
            keychain.status(&quiet()),
            KeychainStatus::Unusable(KeychainError::Timeout)
        );
        assert!(
            again.elapsed() < Duration::from_millis(100),
            "{:?}",
            again.elapsed()
        );

        keyring.signal(Signal::CONT);
        let recovered = Instant::now();
        while keychain.get(&item(), &quiet()) != Ok(secret(1)) {
            assert!(
                recovered.elapsed() < Duration::from_secs(10),
                "it did not come back"
            );
            std::thread::sleep(Duration::from_millis(20));
        }

        // And a process can end while a call hangs.
        keyring.signal(Signal::STOP);
        let short = quiet().with_duration(Duration::from_millis(200));
        assert_eq!(
            keychain.get(&item(), &short).unwrap_err(),
            KeychainError::Timeout
        );
    }

    fn stops_waiting_when_cancelled() {
        let keyring = Keyring::start();
        keyring.signal(Signal::STOP);
        let cancel = katachi_store::keychain::Cancel::new();
        let deadline = Deadline::prompting(&cancel);
        let waiting = std::thread::spawn(move || SystemKeychain::new().get(&item(), &deadline));
        std::thread::sleep(Duration::from_millis(300));
        cancel.cancel();
        let cancelled = Instant::now();
        assert_eq!(
            waiting.join().unwrap().unwrap_err(),
            KeychainError::Cancelled
        );
        assert!(cancelled.elapsed() < Duration::from_secs(1));
    }

    fn connects_again_after_the_keychain_was_killed() {
        let keychain = SystemKeychain::new();
        let keyring = Keyring::start();
        keychain.put(&item(), &secret(1), &quiet()).unwrap();
        drop(keyring);
        let error = keychain.get(&item(), &quiet()).unwrap_err();
        assert!(
            matches!(error, KeychainError::Unavailable { .. }),
            "{error:?}"
        );
        let _keyring = Keyring::start();
        assert_eq!(keychain.get(&item(), &quiet()).unwrap(), secret(1));
    }

    fn says_that_no_keychain_is_on_the_bus() {
        let keychain = SystemKeychain::new();
        let started = Instant::now();
        let error = keychain.get(&item(), &quiet()).unwrap_err();
        assert!(
            matches!(error, KeychainError::Unavailable { .. }),
            "{error:?}"
        );
        let status = keychain.status(&quiet());
        assert!(
            matches!(
                status,
                KeychainStatus::Unusable(KeychainError::Unavailable { .. })
            ),
            "{status:?}"
        );
        assert!(started.elapsed() < Duration::from_secs(1));
    }

    fn says_that_there_is_no_bus_at_all() {
        says_that_no_keychain_is_on_the_bus();
    }

    fn a_vault_lives_in_a_real_keychain() {
        let keyring = Keyring::start();
        let home = tempfile::tempdir().unwrap();
        let machine = FakeMachine::laptop();
        let builder = || {
            Vault::builder(home.path().join("vault"))
                .binding(machine.clone())
                .keychain(SystemKeychain::new())
                .file_slot(home.path().join("secrets"))
        };
        let key = builder().create().unwrap().data_key("notes").unwrap();
        let vault = builder().open().unwrap();
        assert_eq!(vault.report().slot.kind, SlotKind::Keychain);
        assert_eq!(vault.data_key("notes").unwrap().id(), key.id());
        drop(vault);

        keyring.lock();
        let vault = builder().open().unwrap();
        assert_eq!(vault.report().slot.kind, SlotKind::File);
        assert_eq!(
            vault.report().degraded[0].why,
            SlotFailure::Keychain(KeychainError::Locked)
        );
        drop(vault);

        keyring.signal(Signal::STOP);
        let started = Instant::now();
        let vault = builder().open().unwrap();
        assert_eq!(
            vault.report().degraded[0].why,
            SlotFailure::Keychain(KeychainError::Timeout)
        );
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    /// A vault with two that ask the keychain, its slot and its witness, each
    /// by a connection of its own.
    fn with_two_that_ask(home: &Path) -> Builder {
        Vault::builder(home.join("vault"))
            .binding(FakeMachine::laptop())
            .keychain(SystemKeychain::new())
            .witness(KeychainWitness::new(SystemKeychain::new()))
            .file_slot(home.join("secrets"))
    }

    /// Opens the vault twice, and a status is asked between.
    fn costs_its_deadline_once(builder: impl Fn() -> Builder) {
        let started = Instant::now();
        for _ in 0..2 {
            let vault = builder().open().unwrap();
            assert_eq!(vault.report().slot.kind, SlotKind::File);
            let Freshness::Unavailable(why) = &vault.report().freshness else {
                panic!("{:?}", vault.report().freshness);
            };
            assert_eq!(why.why, KeychainError::Timeout.to_string());
            assert_eq!(
                SystemKeychain::new().status(&quiet()),
                KeychainStatus::Unusable(KeychainError::Timeout)
            );
        }
        let waited = started.elapsed();
        assert!(
            waited > Duration::from_millis(2900) && waited < Duration::from_millis(4500),
            "{waited:?}"
        );
    }

    fn a_frozen_keychain_costs_all_who_ask_it_one_deadline_together() {
        let keyring = Keyring::start();
        let home = tempfile::tempdir().unwrap();
        with_two_that_ask(home.path()).create().unwrap();
        let vault = with_two_that_ask(home.path()).open().unwrap();
        assert_eq!(vault.report().slot.kind, SlotKind::Keychain);
        assert_eq!(vault.report().freshness, Freshness::Confirmed);
        drop(vault);
        keyring.signal(Signal::STOP);
        costs_its_deadline_once(|| with_two_that_ask(home.path()));
    }

    /// Makes a vault whose keychain is then another one, which nobody reaches.
    fn vault_of_a_lost_keychain(home: &Path) -> impl Fn() -> Builder {
        let with = |keychain: MemoryKeychain| {
            Vault::builder(home.join("vault"))
                .binding(FakeMachine::laptop())
                .keychain(keychain)
                .file_slot(home.join("secrets"))
        };
        with(MemoryKeychain::new()).create().unwrap();
        move || with_two_that_ask(home)
    }

    fn a_service_that_never_answers_costs_one_deadline_too() {
        // It has the name on the bus, and nothing in it reads what arrives.
        let _fake = zbus::blocking::connection::Builder::session()
            .unwrap()
            .name("org.freedesktop.secrets")
            .unwrap()
            .build()
            .unwrap();
        let home = tempfile::tempdir().unwrap();
        costs_its_deadline_once(vault_of_a_lost_keychain(home.path()));
    }

    fn a_bus_that_never_answers_costs_one_deadline_too() {
        let home = tempfile::tempdir().unwrap();
        costs_its_deadline_once(vault_of_a_lost_keychain(home.path()));
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
