//! Looks at a hardened process from outside: what the kernel says about it and
//! its pages for keys, where in its memory a key lies, and what it leaves when
//! it dies.

#[cfg(all(target_os = "linux", any(feature = "ring", feature = "rustcrypto")))]
mod outside {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};
    use std::ops::Range;
    use std::os::unix::fs::FileExt;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};

    use katachi_crypto::envelope::{Context, DataKey, Kind};
    use katachi_crypto::kdf::{self, Label};
    use katachi_crypto::mac::HmacKey;
    use katachi_crypto::{KeyId, Secret, harden, key_memory};
    use libtest_mimic::{Failed, Trial};

    /// Starts the argument that makes this program the one looked at.
    const ARGUMENT: &str = "--look-at=";

    pub(super) fn child() -> Option<String> {
        std::env::args().find_map(|argument| argument.strip_prefix(ARGUMENT).map(ToOwned::to_owned))
    }

    fn key() -> Secret<32> {
        kdf::derive(&[b"seed of the test"], b"", &Label::new("hardening/key"))
    }

    /// What the child does: `hardened` or `plain`, says what it got, waits.
    pub(super) fn run(work: &str) {
        let got = match work {
            "plain" => katachi_crypto::Hardening::default(),
            _ => harden(),
        };
        let context = Context::new("hardening");
        let data_key = DataKey::from_parts(KeyId::from_bytes([1; 8]), key());
        let mac = HmacKey::new(&key());
        let sealed = data_key
            .seal(Kind::Record, &context, b"text")
            .expect("it is short");
        let opened = data_key.open(&context, &sealed);
        assert_eq!(opened.expect("it was sealed so").expose_secret(), b"text");
        println!(
            "{} {} {} {} {}",
            got.undumpable,
            got.no_core,
            got.locked_pages,
            got.excluded_pages,
            key_memory().total
        );
        std::io::stdin()
            .lock()
            .read_line(&mut String::new())
            .expect("the parent answers");
        drop((data_key, mac));
        if work == "crash" {
            std::process::abort();
        }
    }

    type Mapping = (Range<u64>, Vec<String>);

    struct Looked {
        child: Child,
        got: Vec<String>,
    }

    impl Looked {
        fn start(work: &str, by: impl FnOnce(&mut Command)) -> Result<Self, Failed> {
            let mut command = Command::new("sh");
            command
                .args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$0\" \"$@\""])
                .arg(std::env::current_exe()?)
                .arg(format!("{ARGUMENT}{work}"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            by(&mut command);
            let mut child = command.spawn()?;
            let mut line = String::new();
            let output = child.stdout.take().ok_or("it has no output")?;
            BufReader::new(output).read_line(&mut line)?;
            let got: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            if got.len() != 5 {
                let _ = child.kill();
                return Err(format!("the child said {line:?}: {}", child.wait()?).into());
            }
            Ok(Self { child, got })
        }

        fn read(&self, name: &str) -> std::io::Result<String> {
            std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id()))
        }

        /// The writable mappings with their flags, as the kernel has them.
        fn mappings(&self) -> Result<Vec<Mapping>, Failed> {
            let mut all = Vec::new();
            let mut range = None;
            for line in self.read("smaps")?.lines() {
                if let Some(flags) = line.strip_prefix("VmFlags:") {
                    let flags = flags.split_whitespace().map(str::to_owned).collect();
                    all.extend(range.take().map(|range| (range, flags)));
                } else if let Some((from, rest)) = line.split_once('-')
                    && let Some((to, rest)) = rest.split_once(' ')
                    && let (Ok(from), Ok(to)) =
                        (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16))
                {
                    range = rest.starts_with("rw").then_some(from..to);
                }
            }
            Ok(all)
        }

        /// Where the halves of `needle` lie in writable memory.
        fn find(&self, needle: &[u8]) -> Result<Vec<u64>, Failed> {
            let memory = File::open(format!("/proc/{}/mem", self.child.id()))?;
            let mut places = Vec::new();
            for (range, _) in self.mappings()? {
                let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
                if memory.read_exact_at(&mut bytes, range.start).is_err() {
                    continue;
                }
                for half in needle.chunks_exact(16) {
                    let found = bytes.windows(16).enumerate().filter(|(_, at)| *at == half);
                    places.extend(found.map(|(at, _)| range.start + at as u64));
                }
            }
            Ok(places)
        }

        /// Lets it end, and waits for that.
        fn end(&mut self) -> Result<std::process::ExitStatus, Failed> {
            if let Some(mut input) = self.child.stdin.take() {
                input.write_all(b"\n")?;
            }
            Ok(self.child.wait()?)
        }
    }

    impl Drop for Looked {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn expect(what: &str, holds: bool) -> Result<(), Failed> {
        match holds {
            true => Ok(()),
            false => Err(what.into()),
        }
    }

    /// Keys that lie in plain memory are found outside such pages, which shows
    /// that the search sees them.
    fn keys_lie_in_locked_and_excluded_pages() -> Result<(), Failed> {
        let plain = Looked::start("plain", |_| {})?;
        let outside = |looked: &Looked| -> Result<(usize, usize), Failed> {
            let pages: Vec<_> = looked
                .mappings()?
                .into_iter()
                .filter(|(_, flags)| {
                    ["lo", "dd", "dc"]
                        .iter()
                        .all(|f| flags.iter().any(|g| g == f))
                })
                .map(|(range, _)| range)
                .collect();
            let places = looked.find(key().expose_secret())?;
            let outside = places
                .iter()
                .filter(|place| !pages.iter().any(|range| range.contains(place)));
            Ok((places.len(), outside.count()))
        };
        let (found, in_plain_memory) = outside(&plain)?;
        expect("the search does not see a key in use", found > 0)?;
        expect(
            "an unhardened process has such pages",
            in_plain_memory == found,
        )?;

        let hardened = Looked::start("hardened", |_| {})?;
        expect(
            &format!("not everything was granted: {:?}", hardened.got),
            hardened.got[..4].iter().all(|granted| granted == "true"),
        )?;
        let (found, in_plain_memory) = outside(&hardened)?;
        expect("the search does not see a key in use", found > 0)?;
        expect(
            "a key lies outside the pages for keys",
            in_plain_memory == 0,
        )
    }

    fn a_crash_leaves_no_core() -> Result<(), Failed> {
        let mut crashed = Looked::start("crash", |_| {})?;
        let limits = crashed.read("limits")?;
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .ok_or("the kernel tells no limit")?;
        let values: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
        expect(&format!("{core:?}"), values == ["0", "0"])?;
        let status = crashed.end()?;
        expect("it did not crash", status.signal().is_some())?;
        expect("it left a core file", !status.core_dumped())
    }

    /// As a user without privileges, who may look at their own processes.
    fn the_same_user_cannot_look_into_it() -> Result<(), Failed> {
        let as_somebody = |command: &mut Command| {
            if rustix::process::geteuid().is_root() {
                command.uid(65_534).gid(65_534);
            }
        };
        for (work, wanted) in [("plain", true), ("hardened", false)] {
            let looked = Looked::start(work, as_somebody)?;
            let mut peek = Command::new("head");
            peek.args(["-c", "1"])
                .arg(format!("/proc/{}/environ", looked.child.id()))
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            as_somebody(&mut peek);
            let seen = peek.status()?.success();
            expect(&format!("{work}: looked into is {seen}"), seen == wanted)?;
        }
        Ok(())
    }

    /// Whatever the limit of locked memory is, keys work and the report is true.
    fn reports_what_it_did_not_get() -> Result<(), Failed> {
        for (kib, locked, total) in [(0, false, 512), (100, true, 64), (2_000, true, 512)] {
            let looked = Looked::start("hardened", |command| {
                let shell = format!("ulimit -l {kib}; exec \"$0\" \"$@\"");
                let mut limited = Command::new("sh");
                limited
                    .args(["-c", &shell])
                    .args(command.get_args().skip(2));
                limited.stdin(Stdio::piped()).stdout(Stdio::piped());
                if rustix::process::geteuid().is_root() {
                    limited.uid(65_534).gid(65_534);
                }
                *command = limited;
            })?;
            let wanted = [
                "true",
                "true",
                &locked.to_string(),
                "true",
                &(total * 1024).to_string(),
            ]
            .map(str::to_owned);
            expect(
                &format!("{kib} KiB: {:?}", looked.got),
                looked.got == wanted,
            )?;
        }
        Ok(())
    }

    /// Why the memory of a hardened child cannot be looked at, if it cannot.
    fn barred() -> Option<&'static str> {
        let looked = Looked::start("hardened", |_| {}).ok()?;
        looked
            .mappings()
            .is_err()
            .then_some(" (needs to be root, who alone may look into a hardened process)")
    }

    pub(super) fn tests() -> Vec<Trial> {
        let why = barred();
        let ignored = why.is_some() && std::env::var_os("KATACHI_REQUIRE_ALL").is_none();
        let name = |name: &str| format!("{name}{}", why.unwrap_or_default());
        vec![
            Trial::test(
                name("keys_lie_in_locked_and_excluded_pages"),
                keys_lie_in_locked_and_excluded_pages,
            )
            .with_ignored_flag(ignored),
            Trial::test("a_crash_leaves_no_core", a_crash_leaves_no_core),
            Trial::test(
                "the_same_user_cannot_look_into_it",
                the_same_user_cannot_look_into_it,
            ),
            Trial::test("reports_what_it_did_not_get", reports_what_it_did_not_get),
        ]
    }
}

#[cfg(all(target_os = "linux", any(feature = "ring", feature = "rustcrypto")))]
fn main() -> std::process::ExitCode {
    if let Some(work) = outside::child() {
        outside::run(&work);
        return std::process::ExitCode::SUCCESS;
    }
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, outside::tests()).exit_code()
}

#[cfg(not(all(target_os = "linux", any(feature = "ring", feature = "rustcrypto"))))]
fn main() {}
