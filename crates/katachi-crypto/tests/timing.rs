//! Comparing tags and commitments does not depend on their content: the
//! processor executes the same number of instructions wherever the first wrong
//! byte stands.
//!
//! Counted by valgrind's callgrind on this same program, so the counts are exact
//! and repeat. A comparison that stops at the first difference is counted, too,
//! and has to be found out.

#[cfg(all(unix, any(feature = "ring", feature = "rustcrypto")))]
mod counted {
    use std::collections::BTreeSet;
    use std::hint::black_box;
    use std::process::Command;

    use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
    use katachi_crypto::mac::HmacKey;
    use katachi_crypto::{KeyId, Secret, SecretBytes};
    use libtest_mimic::{Failed, Trial};

    const ARGUMENT: &str = "--count=";

    /// The wrong byte stands at each of these in turn, and at last everywhere.
    const PLACES: [usize; 8] = [0, 1, 2, 7, 8, 13, 14, 15];
    /// Rounds before those that count: caches of the allocator fill up.
    const WARM_UP: usize = 2;

    /// Ours, by name; each refuses in the same number of instructions.
    const OURS: [&str; 7] = [
        "tag",
        "streamed-tag",
        "commitment",
        "commitment-in-place",
        "chunk-tag",
        "secret",
        "secret-bytes",
    ];

    pub(super) fn child() -> Option<String> {
        std::env::args().find_map(|argument| argument.strip_prefix(ARGUMENT).map(ToOwned::to_owned))
    }

    /// The name under which valgrind knows the function below.
    const COUNTED: &str = "timing::counted::counted_here";

    /// What is counted, and nothing else.
    #[inline(never)]
    fn counted_here(compare: &dyn Fn(&[u8]) -> bool, candidate: &[u8]) -> bool {
        black_box(compare(black_box(candidate)))
    }

    /// Compares `right` with copies of it that are wrong in one place.
    fn with_each(right: &[u8], offset: usize, compare: &dyn Fn(&[u8]) -> bool) {
        let wrong = |places: &[usize]| {
            let mut wrong = right.to_vec();
            places
                .iter()
                .for_each(|place| wrong[offset + place] ^= 0x41);
            wrong
        };
        let mut candidates: Vec<_> = PLACES.iter().map(|place| wrong(&[*place])).collect();
        candidates.push(wrong(&PLACES));
        assert!(compare(right), "what is right compares as equal");
        for _ in 0..=WARM_UP {
            for candidate in &candidates {
                assert!(!counted_here(compare, candidate));
            }
        }
    }

    pub(super) fn run(what: &str) {
        let context = Context::new("timing");
        let key = DataKey::from_parts(KeyId::from_bytes([1; 8]), Secret::new([2; 32]));
        let sealed = key
            .seal(Kind::Record, &context, b"text")
            .expect("it is short")
            .into_bytes();
        let mac = HmacKey::new(&Secret::new([3; 32]));
        let tag = *mac.sign(b"message").as_bytes();
        let secret = Secret::new(tag);
        // What is handed over is parsed outside, and copied inside: each as long.
        let open = |bytes: &[u8]| {
            key.open_into(&context, bytes, &mut SecretBytes::default())
                .is_ok()
        };
        match what {
            "tag" => with_each(&tag, 0, &|tag| mac.verify(b"message", tag).is_ok()),
            "streamed-tag" => with_each(&tag, 16, &|tag| {
                let mut stream = mac.start();
                stream.update(b"mess").update(b"age");
                stream.verify(tag).is_ok()
            }),
            "commitment" => with_each(&sealed, 40, &open),
            "commitment-in-place" => with_each(&sealed, 56, &|bytes| {
                let sealed = Sealed::parse(bytes).expect("its header is right");
                key.open_in_place(&context, sealed).is_ok()
            }),
            "chunk-tag" => with_each(&sealed, sealed.len() - 16, &open),
            "secret" => with_each(&tag, 0, &|tag| {
                Secret::from_slice(tag).expect("it is as long") == secret
            }),
            "secret-bytes" => {
                let secret = SecretBytes::new(tag.to_vec());
                with_each(&tag, 0, &|tag| SecretBytes::new(tag.to_vec()) == secret);
            }
            "naive" => with_each(&tag, 0, &|other| {
                tag.len() == other.len() && tag.iter().zip(other).all(|(one, two)| one == two)
            }),
            other => panic!("nothing is called {other}"),
        }
    }

    /// The instructions of every counted call after the warm-up.
    fn counts(what: &str) -> Result<Vec<u64>, Failed> {
        let folder = tempfile::tempdir()?;
        let output = Command::new("valgrind")
            .arg("--tool=callgrind")
            // Both by the whole name: with a pattern it dumps nothing.
            .arg(format!("--toggle-collect={COUNTED}"))
            .arg(format!("--dump-after={COUNTED}"))
            .arg(format!(
                "--callgrind-out-file={}",
                folder.path().join("out").display()
            ))
            .arg(std::env::current_exe()?)
            .arg(format!("{ARGUMENT}{what}"))
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{}: {said}", output.status).into());
        }
        let calls = PLACES.len() + 1;
        ((calls * WARM_UP + 1)..=(calls * (WARM_UP + 1)))
            .map(|number| {
                let dump = std::fs::read_to_string(folder.path().join(format!("out.{number}")))?;
                let count = dump
                    .lines()
                    .find_map(|line| line.strip_prefix("summary: "))
                    .ok_or("a dump without a summary")?;
                Ok(count.trim().parse()?)
            })
            .collect()
    }

    fn does_not_depend_on_the_data(what: &str) -> Result<(), Failed> {
        let counts = counts(what)?;
        if counts.iter().any(|count| *count < 32) {
            return Err(format!("too few to compare anything: {counts:?}").into());
        }
        match counts.iter().collect::<BTreeSet<_>>().len() {
            1 => Ok(()),
            _ => Err(format!("wrong at {PLACES:?} and everywhere: {counts:?}").into()),
        }
    }

    fn finds_a_comparison_that_stops_early() -> Result<(), Failed> {
        let counts = counts("naive")?;
        let (single, _) = counts.split_at(PLACES.len());
        match single.is_sorted_by(|one, two| one < two) {
            true => Ok(()),
            false => Err(format!("{counts:?}: then the others show nothing either").into()),
        }
    }

    pub(super) fn tests() -> Vec<Trial> {
        let mut probe = Command::new("valgrind");
        probe.arg("--version");
        let absent = !probe.output().is_ok_and(|output| output.status.success());
        let why = if absent { " (needs valgrind)" } else { "" };
        let ignored = absent && std::env::var_os("KATACHI_REQUIRE_ALL").is_none();
        let found = Trial::test(
            format!("finds_a_comparison_that_stops_early{why}"),
            finds_a_comparison_that_stops_early,
        );
        OURS.into_iter()
            .map(|what| {
                Trial::test(
                    format!("comparing_a_{what}_does_not_depend_on_the_data{why}"),
                    move || does_not_depend_on_the_data(what),
                )
            })
            .chain([found])
            .map(|trial| trial.with_ignored_flag(ignored))
            .collect()
    }
}

#[cfg(all(unix, any(feature = "ring", feature = "rustcrypto")))]
fn main() -> std::process::ExitCode {
    if let Some(what) = counted::child() {
        counted::run(&what);
        return std::process::ExitCode::SUCCESS;
    }
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), counted::tests()).exit_code()
}

#[cfg(not(all(unix, any(feature = "ring", feature = "rustcrypto"))))]
fn main() {}
