//! What is left of secrets: in the files of a vault, and in the memory of a
//! process that had it open, looked at from outside.
//!
//! One process opens the vault, uses everything once, drops it all and waits.
//! Another opens the same vault, and so knows what to look for in the memory
//! of the first. First it looks while the secrets are still held, to show that
//! it would find them.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

    use katachi_store::column::{Cell, TenantKeys};
    use katachi_store::credentials::{Credentials, Name};
    use katachi_store::file::SealedFile;
    use katachi_store::testing::FakeMachine;
    use katachi_store::{SecretString, Vault};
    use libtest_mimic::{Arguments, Failed, Trial};

    const HOME: &str = "KATACHI_RESIDUE_HOME";
    const WINDOW: usize = 16;

    pub(super) fn main() -> ExitCode {
        if let Some(home) = std::env::var_os(HOME) {
            use_and_drop(Path::new(&home));
            return ExitCode::SUCCESS;
        }
        let trials = vec![
            Trial::test(
                "no file shows a key or a content",
                no_file_shows_a_key_or_a_content,
            ),
            Trial::test("no secret is left in memory", no_secret_is_left_in_memory),
        ];
        libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
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

    fn tunnel(home: &Path) -> SealedFile {
        SealedFile::at(home.join("files/tunnel")).unwrap()
    }

    const CELL: Cell<'static> = Cell {
        table: "t",
        column: "c",
        row: b"1",
        version: 1,
    };

    /// Fills a vault with secrets that nobody else has.
    fn prepare(home: &Path) {
        let vault = open(home);
        let random = |label: &str| -> String {
            let secret = katachi_store::Secret::<24>::random().unwrap();
            format!("{label}-{}", hex(secret.expose_secret()))
        };
        Credentials::open(&vault)
            .unwrap()
            .set(&name(), &SecretString::new(random("sk")))
            .unwrap();
        tunnel(home)
            .write(&vault, random("tunnel").as_bytes())
            .unwrap();
        let tenants = TenantKeys::from_vault(&vault, "accounts").unwrap();
        let wrapped = tenants.generate("acme").unwrap();
        let cipher = tenants.open("acme", &wrapped).unwrap();
        std::fs::write(home.join("wrapped"), &wrapped).unwrap();
        std::fs::write(
            home.join("cell"),
            cipher.seal(&CELL, random("cell").as_bytes()).unwrap(),
        )
        .unwrap();
    }

    /// Every secret that an open vault gives, by what it is.
    fn secrets(home: &Path) -> Vec<(&'static str, Vec<u8>)> {
        let vault = open(home);
        let source = std::fs::read_dir(home.join("secrets"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let tenants = TenantKeys::from_vault(&vault, "accounts").unwrap();
        let cipher = tenants
            .open("acme", &std::fs::read(home.join("wrapped")).unwrap())
            .unwrap();
        let cell = cipher
            .open(&CELL, &std::fs::read(home.join("cell")).unwrap())
            .unwrap();
        let key = |purpose: &str| vault.data_key(purpose).unwrap().expose_secret().to_vec();
        vec![
            ("secret file", std::fs::read(source).unwrap()[4..].to_vec()),
            ("data key of notes", key("notes")),
            ("data key of credentials", key("katachi.credentials")),
            ("data key of files", key("katachi.files")),
            ("data key of tenants", key("katachi.tenants.accounts")),
            (
                "derived secret",
                vault.derive::<32>("label").expose_secret().to_vec(),
            ),
            (
                "credential",
                Credentials::open(&vault)
                    .unwrap()
                    .get(&name())
                    .unwrap()
                    .expose_secret()
                    .into(),
            ),
            (
                "sealed file",
                tunnel(home).read(&vault).unwrap().expose_secret().to_vec(),
            ),
            ("cell", cell.expose_secret().to_vec()),
        ]
    }

    /// The process that is looked at.
    fn use_and_drop(home: &Path) {
        let vault = open(home);
        let key = vault.data_key("notes").unwrap();
        let derived = vault.derive::<32>("label");
        let credential = Credentials::open(&vault).unwrap().get(&name()).unwrap();
        let content = tunnel(home).read(&vault).unwrap();
        let tenants = TenantKeys::from_vault(&vault, "accounts").unwrap();
        let cipher = tenants
            .open("acme", &std::fs::read(home.join("wrapped")).unwrap())
            .unwrap();
        let cell = cipher
            .open(&CELL, &std::fs::read(home.join("cell")).unwrap())
            .unwrap();
        say_and_wait();
        drop((cell, cipher, content, credential, derived, key));
        drop(vault);
        say_and_wait();
    }

    fn say_and_wait() {
        println!("look");
        std::io::stdin().lines().next().unwrap().unwrap();
    }

    #[allow(clippy::unnecessary_wraps, reason = "the shape of a trial")]
    fn no_file_shows_a_key_or_a_content() -> Result<(), Failed> {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path());
        let secrets = secrets(home.path());
        let mut files = vec![home.path().join("wrapped"), home.path().join("cell")];
        for directory in ["vault", "files"] {
            files.extend(
                std::fs::read_dir(home.path().join(directory))
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            for (what, secret) in &secrets {
                let shown = [
                    secret.clone(),
                    hex(secret).into_bytes(),
                    hex(secret).to_uppercase().into_bytes(),
                ];
                assert!(
                    shown.iter().all(|shown| !contains(&bytes, shown)),
                    "{}: {what}",
                    file.display()
                );
            }
        }
        Ok(())
    }

    fn no_secret_is_left_in_memory() -> Result<(), Failed> {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path());
        drop(open(home.path()).data_key("notes").unwrap());
        let secrets = secrets(home.path());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(HOME, home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        wait(&mut lines);
        let held = found(&child, &secrets);
        for must in [
            "data key of notes",
            "derived secret",
            "credential",
            "sealed file",
            "cell",
        ] {
            assert!(
                held.iter().any(|(what, _)| *what == must),
                "{must} is not found while it is held"
            );
        }
        writeln!(child.stdin.as_ref().unwrap()).unwrap();
        wait(&mut lines);
        let left = found(&child, &secrets);
        writeln!(child.stdin.as_ref().unwrap()).unwrap();
        assert!(child.wait().unwrap().success());
        if left.is_empty() {
            Ok(())
        } else {
            Err(Failed::from(format!("left in memory: {left:?}")))
        }
    }

    fn wait(lines: &mut BufReader<ChildStdout>) {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "look\n");
    }

    /// How often a window of each secret is in the memory of the child.
    fn found(child: &Child, secrets: &[(&'static str, Vec<u8>)]) -> Vec<(&'static str, usize)> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
        let memory = File::open(format!("/proc/{}/mem", child.id())).unwrap();
        let mut counts = vec![0; secrets.len()];
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
            if !rights.starts_with("rw") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let (start, end) = (
                u64::from_str_radix(start, 16).unwrap(),
                u64::from_str_radix(end, 16).unwrap(),
            );
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            // Some special areas cannot be read.
            let Ok(read) = memory.read_at(&mut bytes, start) else {
                continue;
            };
            for (index, (_, secret)) in secrets.iter().enumerate() {
                // An allocator writes over the beginning of what is freed, so the end tells more.
                for window in [&secret[..WINDOW], &secret[secret.len() - WINDOW..]] {
                    counts[index] += memchr::memmem::find_iter(&bytes[..read], window).count();
                }
            }
        }
        secrets
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|((what, _), count)| (*what, count))
            .collect()
    }

    fn contains(bytes: &[u8], part: &[u8]) -> bool {
        memchr::memmem::find(bytes, part).is_some()
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
