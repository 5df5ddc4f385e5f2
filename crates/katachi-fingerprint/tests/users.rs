//! Root and a user without any rights see the same machine.
//!
//! The test runs itself again as user 65534, hands enrolments across and looks
//! at the same machine from both sides. It needs root to become somebody else;
//! without it the tests are listed as ignored, and fail under
//! `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    as_user::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod as_user {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, ExitCode, Output};
    use std::sync::OnceLock;

    use katachi_fingerprint::testing::Machine;
    use katachi_fingerprint::{Enrollment, Probe, SystemProbe, device_id};
    use libtest_mimic::{Arguments, Failed, Trial};

    const NOBODY: u32 = 65534;
    /// Tells this program that it is the child.
    const CHILD: &str = "KATACHI_FINGERPRINT_CHILD";

    type Test = fn() -> Result<(), Failed>;

    pub(super) fn main() -> ExitCode {
        if let Ok(task) = std::env::var(CHILD) {
            child(&task);
            return ExitCode::SUCCESS;
        }
        let arguments = Arguments::from_args();
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
        let tests: [(&str, Test); 3] = [
            ("this_machine_is_the_same_for_root_and_a_user", this_machine),
            ("a_laptop_is_the_same_for_root_and_a_user", laptop),
            (
                "what_root_published_is_the_same_for_root_and_a_user",
                published,
            ),
        ];
        let trials = tests
            .into_iter()
            .map(|(name, test)| match (root, required) {
                (true, _) => Trial::test(name, test),
                (false, true) => Trial::test(name, || Err("needs root".into())),
                (false, false) => {
                    Trial::test(format!("{name} (needs root)"), test).with_ignored_flag(true)
                }
            })
            .collect();
        // Before any thread: a copy still open for writing cannot be run.
        program();
        let conclusion = libtest_mimic::run(&arguments, trials);
        // A static is never dropped; leave no copy behind.
        let _ = program().parent().map(fs::remove_dir_all);
        conclusion.exit_code()
    }

    fn this_machine() -> Result<(), Failed> {
        same_for_both(Path::new("/"))
    }

    fn laptop() -> Result<(), Failed> {
        let directory = laptop_tree();
        // The control: what is hidden from the user is legible to root.
        let hidden = directory
            .path()
            .join("sys/devices/virtual/dmi/id/board_serial");
        assert!(fs::read(&hidden).is_ok());
        assert!(!run_as_nobody("read", &[&hidden]).status.success());
        same_for_both(directory.path())
    }

    fn published() -> Result<(), Failed> {
        let directory = laptop_tree();
        katachi_fingerprint::publish(directory.path(), "test")?;
        let seen = probe(directory.path()).observe();
        assert_eq!(
            seen.components().count(),
            8,
            "with board serial and product UUID"
        );
        same_for_both(directory.path())
    }

    /// A fake laptop in which root alone can read what root alone can read.
    fn laptop_tree() -> tempfile::TempDir {
        let directory = open_directory();
        Machine::laptop().write_to(directory.path()).unwrap();
        for name in ["board_serial", "product_uuid"] {
            let path = directory
                .path()
                .join("sys/devices/virtual/dmi/id")
                .join(name);
            fs::set_permissions(path, Permissions::from_mode(0o400)).unwrap();
        }
        directory
    }

    /// A temporary directory that everybody may use.
    fn open_directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        directory
    }

    fn probe(root: &Path) -> SystemProbe {
        match root == Path::new("/") {
            true => SystemProbe::new().volume_of("/tmp"),
            false => SystemProbe::with_root(root).published_for("test"),
        }
    }

    /// Each side enrols, the other side opens and sees no drift.
    fn same_for_both(root: &Path) -> Result<(), Failed> {
        let exchange = open_directory();
        enroll(root, &exchange.path().join("root"));
        let opened = run_as_nobody("open", &[root, &exchange.path().join("root")]);
        succeed(&opened)?;
        succeed(&run_as_nobody(
            "enroll",
            &[root, &exchange.path().join("user")],
        ))?;
        let ours = open(root, &exchange.path().join("user"));
        assert_eq!(ours, String::from_utf8(opened.stdout)?.trim());
        Ok(())
    }

    fn enroll(root: &Path, to: &Path) {
        let (secret, enrollment) = Enrollment::enroll(&probe(root).observe()).unwrap();
        let mut bytes = secret.expose_secret().to_vec();
        bytes.extend_from_slice(enrollment.to_bytes().expose_secret());
        fs::write(to, bytes).unwrap();
    }

    /// Opens without drift, and names the machine.
    fn open(root: &Path, from: &Path) -> String {
        let bytes = fs::read(from).unwrap();
        let (secret, bytes) = bytes.split_at(32);
        let seen = probe(root).observe();
        let recovery = Enrollment::from_bytes(bytes)
            .unwrap()
            .recover(&seen, |guess| guess.expose_secret()[..] == *secret)
            .unwrap();
        assert!(recovery.drift.is_empty(), "{:?}", recovery.drift);
        let id = device_id(&seen, "test").map(|id| id.to_string());
        format!("{:?} {id:?}", recovery.matched)
    }

    /// What this program does when it is the child.
    fn child(task: &str) {
        assert_eq!(fs::metadata("/proc/self").unwrap().uid(), NOBODY);
        let mut paths = std::env::args_os().skip(1);
        let first = paths.next().unwrap();
        let first = Path::new(&first);
        let second = paths.next().unwrap_or_default();
        let second = Path::new(&second);
        match task {
            "read" => drop(fs::read(first).unwrap()),
            "enroll" => enroll(first, second),
            "open" => println!("{}", open(first, second)),
            other => panic!("{other}"),
        }
    }

    fn run_as_nobody(task: &str, paths: &[&Path]) -> Output {
        Command::new(program())
            .args(paths)
            .env(CHILD, task)
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap()
    }

    /// A copy of this program, since the build directory may be closed to
    /// others.
    fn program() -> PathBuf {
        static COPY: OnceLock<tempfile::TempDir> = OnceLock::new();
        let directory = COPY.get_or_init(|| {
            let directory = open_directory();
            let program = directory.path().join("child");
            fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
            fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            directory
        });
        directory.path().join("child")
    }

    fn succeed(output: &Output) -> Result<(), Failed> {
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    }
}
