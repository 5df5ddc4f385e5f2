//! Many logins at once, and logins of people who do not exist: what they cost, counted.
//!
//! Memory is the peak that the kernel saw of a child, which is this very program; work is
//! counted by valgrind's callgrind on it, so that it repeats exactly. Each is shown beside
//! a control that does it wrong and is found out.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use katachi_auth::password::{PasswordError, Passwords, Record, Verdict};
use katachi_crypto::SecretString;
use katachi_crypto::password::Params;
use libtest_mimic::{Arguments, Failed, Trial};

/// Tells a child what to do.
const TASK: &str = "KATACHI_TEST_LOGINS";

fn main() -> ExitCode {
    if let Ok(task) = std::env::var(TASK) {
        child(&task);
        return ExitCode::SUCCESS;
    }
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let valgrind = required || can_run(Command::new("valgrind").arg("--version"));
    let ignored = |name: &str, why: &str, test: fn() -> Result<(), Failed>, runs: bool| match runs {
        true => Trial::test(name, test),
        false => Trial::test(format!("{name} ({why})"), test).with_ignored_flag(true),
    };
    let trials = vec![
        ignored(
            "l12_a_flood_of_logins_takes_no_more_memory_than_was_allowed",
            "needs Linux",
            flood,
            cfg!(target_os = "linux"),
        ),
        ignored(
            "l13_an_unknown_account_costs_the_same_work",
            "needs valgrind",
            work,
            valgrind,
        ),
        ignored(
            "l13_an_unknown_account_takes_as_long",
            "needs KATACHI_LONG=1",
            time,
            long,
        ),
    ];
    let mut arguments = Arguments::from_args();
    // One after the other: they measure.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn can_run(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn again(task: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(TASK, task);
    command
}

fn password(text: &str) -> SecretString {
    SecretString::new(text.to_owned())
}

fn child(task: &str) {
    match task {
        "bounded" => login_at_once(64, PLACES),
        // Fewer, for the sake of the machine: they are more than enough.
        "unbounded" => login_at_once(24, 24),
        "count" => count(),
        other => panic!("no task is called {other}"),
    }
}

const PLACES: usize = 4;
/// What the program takes besides, in KiB: stacks, code, a margin for the allocator.
const SLACK: usize = 24 * 1024;

/// Everybody comes at the same moment. Prints how many were let in, refused as busy, and
/// the peak of memory in KiB.
fn login_at_once(people: usize, places: usize) {
    let passwords = Passwords::new(Params::FLOOR, places);
    let record = passwords.hash(&password("correct horse")).unwrap();
    let (right, busy) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let gate = Barrier::new(people);
    std::thread::scope(|scope| {
        for number in 0..people {
            let (passwords, record, gate) = (&passwords, &record, &gate);
            let (right, busy) = (&right, &busy);
            scope.spawn(move || {
                gate.wait();
                // Half of them have no account.
                let known = (number % 2 == 0).then_some(record);
                let counted = match passwords.verify(known, &password("correct horse")) {
                    Ok(Verdict::Right { .. } | Verdict::Wrong) => right,
                    Err(PasswordError::Busy) => busy,
                    Err(error) => panic!("{error}"),
                };
                counted.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak = peak.trim().trim_end_matches(" kB");
    println!("{} {} {peak}", right.into_inner(), busy.into_inner());
}

fn flood() -> Result<(), Failed> {
    let peak_of = |task: &str| -> Result<Vec<usize>, Failed> {
        let output = again(task).output()?;
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout)?;
        Ok(text
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect())
    };
    let bound = PLACES * Params::FLOOR.memory_kib() as usize + SLACK;
    let [hashed, busy, peak] = peak_of("bounded")?[..] else {
        return Err("the child says something else".into());
    };
    assert_eq!(hashed + busy, 64, "everybody is answered");
    assert!(hashed >= PLACES, "only {hashed} were let in");
    assert!(peak <= bound, "{peak} KiB of {bound} for {hashed} logins");
    // Without the bound it is exceeded, so the measure can see.
    let [hashed, _, peak] = peak_of("unbounded")?[..] else {
        return Err("the child says something else".into());
    };
    assert_eq!(hashed, 24);
    assert!(peak > bound, "{peak} KiB, which proves nothing");
    Ok(())
}

/// The name under which valgrind knows the function below.
const COUNTED: &str = "logins::counted_here";

/// What is counted, and nothing else.
#[inline(never)]
fn counted_here(login: &dyn Fn() -> bool) -> bool {
    black_box(login())
}

fn naive(passwords: &Passwords, record: Option<&Record>) -> bool {
    // What people write: nobody there, nothing to do.
    record.is_some_and(|record| is_right(passwords, Some(record)))
}

fn is_right(passwords: &Passwords, record: Option<&Record>) -> bool {
    let verdict = passwords
        .verify(record, &password("battery staple"))
        .unwrap();
    matches!(verdict, Verdict::Right { .. })
}

fn count() {
    let passwords = Passwords::new(Params::FLOOR, 1);
    let record = passwords.hash(&password("correct horse")).unwrap();
    let logins: [&dyn Fn() -> bool; 3] = [
        &|| is_right(&passwords, Some(&record)),
        &|| is_right(&passwords, None),
        &|| naive(&passwords, None),
    ];
    for login in logins {
        assert!(!counted_here(login));
    }
}

fn work() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        // Both by the whole name: with a pattern it dumps nothing.
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .env(TASK, "count");
    let output = command.output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let count = |number: u32| -> Result<u64, Failed> {
        let dump = std::fs::read_to_string(folder.path().join(format!("out.{number}")))?;
        let count = dump.lines().find_map(|line| line.strip_prefix("summary: "));
        Ok(count.ok_or("a dump without a summary")?.trim().parse()?)
    };
    let (known, unknown, naive) = (count(1)?, count(2)?, count(3)?);
    // Argon2id's second half visits memory as the password says, which is a few
    // instructions more or less among hundreds of millions.
    let apart = known.abs_diff(unknown);
    assert!(apart * 1000 <= known, "{known} and {unknown} instructions");
    assert!(naive * 1000 < known, "{naive}: the counter does not see");
    Ok(())
}

fn time() -> Result<(), Failed> {
    const ROUNDS: usize = 40;
    let passwords = Passwords::new(Params::FLOOR, 1);
    let record = passwords.hash(&password("correct horse")).unwrap();
    let time = |record: Option<&Record>| {
        let start = Instant::now();
        assert!(!is_right(&passwords, record));
        start.elapsed()
    };
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Neither always goes first.
        if round % 2 == 0 {
            known.push(time(Some(&record)));
            unknown.push(time(None));
        } else {
            unknown.push(time(None));
            known.push(time(Some(&record)));
        }
    }
    known.sort();
    unknown.sort();
    // Medians, against the spread of one of them: the middle half of its own rounds.
    let (one, other) = (known[ROUNDS / 2], unknown[ROUNDS / 2]);
    let spread = known[ROUNDS * 3 / 4] - known[ROUNDS / 4];
    let apart = one.max(other) - one.min(other);
    if apart <= spread + Duration::from_micros(500) {
        Ok(())
    } else {
        Err(format!("{one:?} and {other:?}, with a spread of {spread:?}").into())
    }
}
