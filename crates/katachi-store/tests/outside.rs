//! Whether a key shows in any file, log, environment or argument, seen from
//! outside: `strace` sees every byte that the process hands to the system.
//!
//! A process gets an API key by its standard input, makes a vault, keeps the
//! key and a sealed file in it, prints whatever it can print, and opens it all
//! again. A second one does the same and is careless on purpose, which shows
//! that each place is really looked at.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::path::Path;
    use std::process::{Command, ExitCode, Stdio};

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use katachi_store::credentials::{Credentials, Name};
    use katachi_store::file::SealedFile;
    use katachi_store::testing::FakeMachine;
    use katachi_store::{Secret, SecretString, Vault};
    use libtest_mimic::{Arguments, Failed, Trial};

    const HOME: &str = "KATACHI_OUTSIDE_HOME";
    const CARELESS: &str = "KATACHI_OUTSIDE_CARELESS";

    /// Every way in which bytes leave a process.
    const CALLS: &str = "trace=write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,\
                         execve,sendfile,splice,vmsplice,copy_file_range";

    pub(super) fn main() -> ExitCode {
        if let Some(home) = std::env::var_os(HOME) {
            live(Path::new(&home));
            return ExitCode::SUCCESS;
        }
        let works = Command::new("strace")
            .args(["-o", "/dev/null", "true"])
            .output()
            .is_ok_and(|output| output.status.success());
        let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
        let trials = [
            ("no key is shown to the outside", shows_nothing as fn()),
            (
                "a key that is shown is found in each place",
                finds_everything,
            ),
        ]
        .map(|(name, test)| match works || required {
            true => Trial::test(name, move || match works {
                true => {
                    test();
                    Ok(())
                }
                false => Err(Failed::from("strace does not work here")),
            }),
            false => Trial::test(
                format!("{name} (ignored: strace does not work here)"),
                || Ok(()),
            )
            .with_ignored_flag(true),
        });
        libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
    }

    fn open(home: &Path) -> Vault {
        Vault::builder(home.join("vault"))
            .binding(FakeMachine::laptop())
            .file_slot(home.join("secrets"))
            .open_or_create()
            .unwrap()
    }

    fn name() -> Name {
        Name::parse("openai/api-key").unwrap()
    }

    /// The process that is looked at.
    fn live(home: &Path) {
        let mut lines = std::io::stdin().lines();
        let key = SecretString::new(lines.next().unwrap().unwrap());
        let vault = open(home);
        let code = vault.add_recovery_code().unwrap();
        let credentials = Credentials::open(&vault).unwrap();
        credentials.set(&name(), &key).unwrap();
        let tunnel = SealedFile::at(home.join("tunnel")).unwrap();
        let content = key.expose_secret().as_bytes();
        tunnel.write(&vault, content).unwrap();
        let data_key = vault.data_key("notes").unwrap();
        // A log of everything that can be printed, mistakes included.
        let missing = credentials.get(&Name::parse("none").unwrap()).unwrap_err();
        eprintln!("{vault:?} {:?} {:?}", vault.report(), vault.slots());
        eprintln!("{key:?} {data_key:?} {code:?} {missing} {missing:?}");
        eprintln!("{:?} {tunnel:?}", vault.derive::<32>("label"));
        if std::env::var_os(CARELESS).is_some() {
            std::fs::write(home.join("notes.txt"), key.expose_secret()).unwrap();
            eprintln!("the key is {}", STANDARD.encode(key.expose_secret()));
            Command::new("true")
                .arg(key.expose_secret())
                .status()
                .unwrap();
        }
        println!("{}", std::process::id());
        lines.next().unwrap().unwrap();
        drop((data_key, code, key));
        drop(vault);
        let vault = open(home);
        vault.rotate("notes").unwrap();
        let kept = Credentials::open(&vault).unwrap().get(&name()).unwrap();
        let read = tunnel.read(&vault).unwrap();
        assert_eq!(kept.expose_secret().as_bytes(), read.expose_secret());
    }

    /// What was seen, by where, and what must not be there.
    struct Seen {
        places: Vec<(&'static str, Vec<u8>)>,
        secrets: Vec<(&'static str, Vec<u8>)>,
    }

    impl Seen {
        fn watch(careless: bool) -> Self {
            let home = tempfile::tempdir().unwrap();
            let trace = tempfile::NamedTempFile::new().unwrap();
            let random = Secret::<24>::random().unwrap();
            let key = format!("sk-{}", hex(random.expose_secret()));
            let mut command = Command::new("strace");
            command
                .args(["-f", "-v", "-xx", "-s", "1048576", "-e", CALLS, "-o"])
                .arg(trace.path())
                .arg(std::env::current_exe().unwrap())
                .env(HOME, home.path())
                .env("TMPDIR", home.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            if careless {
                command.arg(&key).env(CARELESS, &key);
            }
            let mut child = command.spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            writeln!(input, "{key}").unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            let mut process = String::new();
            output.read_line(&mut process).unwrap();
            let proc = Path::new("/proc").join(process.trim());
            let environment = std::fs::read(proc.join("environ")).unwrap();
            let arguments = std::fs::read(proc.join("cmdline")).unwrap();
            assert!(!environment.is_empty() && !arguments.is_empty());
            writeln!(input).unwrap();
            let finished = child.wait_with_output().unwrap();
            assert!(finished.status.success(), "{finished:?}");
            assert!(finished.stderr.len() > 500, "everything was printed");

            let mut files = Vec::new();
            gather(home.path(), &mut files);
            let vault = open(home.path());
            let data_key = vault.data_key("notes").unwrap();
            let other = vault.data_key("katachi.credentials").unwrap();
            Self {
                places: vec![
                    ("the environment", environment),
                    ("the arguments", arguments),
                    ("the log", finished.stderr),
                    ("a file", files),
                    ("a system call", untangle(trace.path())),
                ],
                secrets: vec![
                    ("the API key", key.into_bytes()),
                    ("a data key", data_key.expose_secret().to_vec()),
                    ("the key of keys", other.expose_secret().to_vec()),
                    (
                        "a derived key",
                        vault.derive::<32>("label").expose_secret().to_vec(),
                    ),
                ],
            }
        }

        /// Each place that shows something, in any spelling.
        fn shown(&self) -> Vec<(&'static str, &'static str)> {
            let mut shown = Vec::new();
            for (place, bytes) in &self.places {
                for (what, secret) in &self.secrets {
                    let spellings = [
                        secret.clone(),
                        hex(secret).into_bytes(),
                        hex(secret).to_uppercase().into_bytes(),
                        // Without the end, which depends on what follows.
                        STANDARD.encode(secret)[..32].into(),
                    ];
                    if spellings
                        .iter()
                        .any(|spelling| memchr::memmem::find(bytes, spelling).is_some())
                    {
                        shown.push((*place, *what));
                    }
                }
            }
            shown
        }
    }

    fn shows_nothing() {
        assert_eq!(Seen::watch(false).shown(), []);
    }

    fn finds_everything() {
        let seen = Seen::watch(true);
        let shown = seen.shown();
        for (place, _) in &seen.places {
            assert!(
                shown.contains(&(place, "the API key")),
                "{place}: {shown:?}"
            );
        }
        // Of the keys that only the vault has, even a careless user shows none.
        assert!(shown.iter().all(|(_, what)| *what == "the API key"));
    }

    /// Every file below `directory`, one after the other.
    fn gather(directory: &Path, into: &mut Vec<u8>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => gather(&path, into),
                false => into.extend(std::fs::read(path).unwrap()),
            }
        }
    }

    /// The bytes of every string in a trace, which prints each as `\x` and two
    /// digits.
    fn untangle(trace: &Path) -> Vec<u8> {
        let text = std::fs::read_to_string(trace).unwrap();
        assert!(text.matches("write(").count() > 10, "something was traced");
        assert!(!text.contains("\"..."), "nothing was cut short");
        let mut bytes = Vec::new();
        for quoted in text.split('"') {
            let Some(digits) = quoted.strip_prefix("\\x") else {
                continue;
            };
            bytes.extend(
                digits
                    .split("\\x")
                    .map(|pair| u8::from_str_radix(pair, 16).unwrap()),
            );
            bytes.push(b'\n');
        }
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
