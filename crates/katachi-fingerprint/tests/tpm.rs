//! The endorsement key of a real software TPM.
//!
//! Needs `swtpm`, and `tpm2_createek` of tpm2-tools as an independent second
//! opinion. Without them the tests are listed as ignored, and fail under
//! `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    swtpm::main()
}

#[cfg(not(unix))]
fn main() {}

#[cfg(unix)]
mod swtpm {
    use std::os::unix::net::UnixStream;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, ExitCode, Stdio};
    use std::time::{Duration, Instant};

    use katachi_fingerprint::testing::Machine;
    use katachi_fingerprint::{
        Component, Enrollment, FLOOR_BITS, Observation, Probe, SystemProbe, endorsement_key,
        publish, publish_with_tpm,
    };
    use libtest_mimic::{Arguments, Failed, Trial};

    type Test = fn() -> Result<(), Failed>;

    pub(super) fn main() -> ExitCode {
        let arguments = Arguments::from_args();
        let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
        let tests: [(&str, &[&'static str], Test); 5] = [
            (
                "the_key_is_the_same_after_every_start_and_another_on_another_tpm",
                &["swtpm"],
                the_same_after_every_start,
            ),
            (
                "the_key_is_the_one_that_tpm2_tools_makes",
                &["swtpm", "tpm2_createek"],
                the_one_that_tpm2_tools_makes,
            ),
            (
                "asking_a_hundred_times_leaves_nothing_behind",
                &["swtpm"],
                a_hundred_times,
            ),
            (
                "a_hierarchy_with_a_password_is_a_refusal_and_the_rest_is_published",
                &["swtpm", "tpm2_changeauth"],
                a_password,
            ),
            (
                "a_published_key_lifts_a_laptop_above_a_deterrent",
                &["swtpm"],
                published,
            ),
        ];
        let trials = tests
            .into_iter()
            .map(|(name, programs, test)| {
                let absent = programs.iter().find(|program| !on_path(program));
                match (absent, required) {
                    (None, _) => Trial::test(name, test),
                    (Some(absent), true) => {
                        let why = format!("needs {absent}");
                        Trial::test(name, || Err(why.into()))
                    }
                    (Some(absent), false) => Trial::test(format!("{name} (needs {absent})"), test)
                        .with_ignored_flag(true),
                }
            })
            .collect();
        libtest_mimic::run(&arguments, trials).exit_code()
    }

    fn on_path(program: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    }

    /// A software TPM, stopped when dropped. Its state stays in the directory.
    struct Tpm {
        process: Child,
        socket: PathBuf,
    }

    impl Tpm {
        fn start(directory: &Path) -> Self {
            let socket = directory.join("tpm");
            let _ = std::fs::remove_file(&socket);
            let process = Command::new("swtpm")
                .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
                .arg("--tpmstate")
                .arg(format!("dir={}", directory.display()))
                .arg("--server")
                .arg(format!("type=unixio,path={}", socket.display()))
                .arg("--ctrl")
                .arg(format!("type=unixio,path={}.ctrl", socket.display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let tpm = Self { process, socket };
            let patience = Instant::now() + Duration::from_secs(20);
            while !tpm.socket.exists() {
                assert!(Instant::now() < patience, "swtpm does not start");
                std::thread::sleep(Duration::from_millis(10));
            }
            tpm
        }

        fn connect(&self) -> UnixStream {
            let stream = UnixStream::connect(&self.socket).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            stream
        }

        fn key(&self) -> [u8; 64] {
            endorsement_key(&mut self.connect()).unwrap()
        }

        /// Runs a program of tpm2-tools against this TPM.
        fn tool<const N: usize>(&self, program: &str, arguments: [&str; N]) {
            let output = Command::new(program)
                .args(arguments)
                .env(
                    "TPM2TOOLS_TCTI",
                    format!("swtpm:path={}", self.socket.display()),
                )
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{program}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }

    impl Drop for Tpm {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn the_same_after_every_start() -> Result<(), Failed> {
        let directory = tempfile::tempdir()?;
        let first = Tpm::start(directory.path()).key();
        assert_eq!(first, Tpm::start(directory.path()).key());
        let other = tempfile::tempdir()?;
        assert_ne!(first, Tpm::start(other.path()).key());
        Ok(())
    }

    fn the_one_that_tpm2_tools_makes() -> Result<(), Failed> {
        let directory = tempfile::tempdir()?;
        let tpm = Tpm::start(directory.path());
        let file = directory.path().join("ek.pem");
        let context = directory.path().join("ek.ctx");
        let (file, context) = (file.to_str().unwrap(), context.to_str().unwrap());
        tpm.tool(
            "tpm2_createek",
            ["-G", "ecc", "-f", "der", "-u", file, "-c", context],
        );
        // SubjectPublicKeyInfo ends with the uncompressed point: 4, x, y.
        let theirs = std::fs::read(file)?;
        let point = theirs.len() - 65;
        assert_eq!(theirs[point], 4);
        tpm.tool("tpm2_flushcontext", ["-t"]);
        assert_eq!(theirs[point + 1..], tpm.key());
        Ok(())
    }

    fn a_hundred_times() -> Result<(), Failed> {
        // A TPM without a resource manager has room for three objects.
        let directory = tempfile::tempdir()?;
        let tpm = Tpm::start(directory.path());
        let mut stream = tpm.connect();
        let first = endorsement_key(&mut stream)?;
        for _ in 0..100 {
            assert_eq!(endorsement_key(&mut stream)?, first);
        }
        Ok(())
    }

    fn a_password() -> Result<(), Failed> {
        let directory = tempfile::tempdir()?;
        let tpm = Tpm::start(directory.path());
        tpm.tool("tpm2_changeauth", ["-c", "endorsement", "secret"]);
        let machine = tempfile::tempdir()?;
        Machine::laptop().write_to(machine.path())?;
        let published = publish_with_tpm(machine.path(), "editor", &mut tpm.connect())?;
        assert!(!published.parts.contains(&Component::TpmEndorsementKey));
        assert_eq!(published.parts.len(), 2);
        let why = published.tpm.unwrap().to_string();
        assert!(why.contains("password"), "{why}");
        Ok(())
    }

    fn published() -> Result<(), Failed> {
        let state = tempfile::tempdir()?;
        let tpm = Tpm::start(state.path());
        let machine = tempfile::tempdir()?;
        Machine::laptop().write_to(machine.path())?;
        let look = |application: &str| -> Observation {
            SystemProbe::with_root(machine.path())
                .published_for(application)
                .observe()
        };
        let published = publish_with_tpm(machine.path(), "editor", &mut tpm.connect())?;
        assert!(published.tpm.is_none());
        let seen = look("editor");
        assert!(published.parts.contains(&Component::TpmEndorsementKey));
        let reading = seen.reading(Component::TpmEndorsementKey).unwrap();
        assert_eq!((reading.count(), reading.bits()), (1, 255));

        // The file is readable by all, so it must not name the key.
        let text = std::fs::read_to_string(&published.path)?;
        let key: String = tpm.key()[..8].iter().map(|b| format!("{b:02x}")).collect();
        assert!(!text.contains(&key));

        // The next boot publishes the same; another application has its own.
        publish_with_tpm(machine.path(), "editor", &mut tpm.connect())?;
        assert_eq!(look("editor"), seen);
        publish_with_tpm(machine.path(), "mail", &mut tpm.connect())?;
        assert_ne!(
            look("mail").reading(Component::TpmEndorsementKey),
            seen.reading(Component::TpmEndorsementKey)
        );

        let (secret, enrollment) = Enrollment::enroll(&seen)?;
        let strength = enrollment.strength();
        assert!(strength.off_machine() >= FLOOR_BITS, "{strength}");
        assert!(!strength.is_copy_deterrent());
        // A boot at which the TPM was not there costs nothing.
        publish(machine.path(), "editor")?;
        let recovery = enrollment.recover(&look("editor"), |guess| *guess == secret)?;
        assert!(!recovery.reenroll);
        // Another TPM is another board: named, and one part of many.
        let other = tempfile::tempdir()?;
        publish_with_tpm(
            machine.path(),
            "editor",
            &mut Tpm::start(other.path()).connect(),
        )?;
        let recovery = enrollment.recover(&look("editor"), |guess| *guess == secret)?;
        assert_eq!(recovery.drift[0].to_string(), "TPM endorsement key changed");
        Ok(())
    }
}
