//! The harness: which cases run, as whom, and each in a process of its own.

use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::bed::{self, Ground};
use crate::groups::{Delegated, NEED, offered};
use crate::verdicts::{self, Seen};
use crate::{attempts, cases, raw, tiers};
use katachi_sandbox::report::Tier;
use libtest_mimic::{Arguments, Failed, Trial};

/// What the cases are held against.
pub(crate) const PAGE: &str = include_str!("../../CONFINEMENT.md");

/// Where both users find programs.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Whether root, and what the kernel grants. What needs root comes first.
const CALLERS: [(bool, Ground); 5] = [
    (true, Ground::All),
    (true, Ground::NoUsers),
    (true, Ground::Nothing),
    (false, Ground::All),
    (false, Ground::Nothing),
];

/// How many seconds a case may take. None takes a tenth of it where others do not
/// take the processors.
const LONGEST: i64 = 300;

/// An ordinary user without a home.
const NOBODY: u32 = 65534;

pub(crate) fn main() -> ExitCode {
    let bare: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if bare.first().is_some_and(|word| word == "--without-helper") {
        return crate::cases::without_helper(&bare[1..]);
    }
    katachi_sandbox::helper::run_if_requested();

    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((word, rest)) if word == "--attempt" => {
            let (name, arguments) = rest.split_first().expect("an attempt has a name");
            attempts::run(name, arguments);
        }
        Some((word, rest)) if word == "--case" => {
            return run_case(&rest[0], Ground::from_word(&rest[1]));
        }
        _ => {}
    }

    let able = katachi_sandbox::doctor::probe().is_ok_and(|found| found.tier != Tier::None);
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let as_root = raw::call(libc::SYS_geteuid, &[]).is_ok_and(|user| user == 0);
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1");
    let callers: &[(bool, Ground)] = if as_root { &CALLERS } else { &CALLERS[3..] };
    let mut trials = Vec::new();
    for case in cases::all() {
        for (root, ground) in callers.iter().copied() {
            let elsewhere = ground != Ground::All && case.needs.contains(&cases::OWN_PLACE);
            if elsewhere || (!root && case.needs.contains(&cases::ROOT)) {
                continue;
            }
            if ground == Ground::NoUsers && !long && !cases::is_of_privileges(case.name) {
                continue;
            }
            let user = if root { "root" } else { "user" };
            let who = match ground {
                Ground::All => user.to_owned(),
                Ground::NoUsers => format!("{user} without user namespaces"),
                Ground::Nothing => format!("{user} without namespaces"),
            };
            let missing = case.needs.iter().find(|need| !met(need, as_root));
            let group = case.needs.iter().any(|need| need.starts_with(NEED));
            let lacking = match missing {
                _ if !able => " (ignored: this machine cannot confine)".to_owned(),
                Some(need) if need.starts_with(NEED) => {
                    format!(
                        " (ignored: no {need} is handed over here; `cargo xtask test` has a machine with all)"
                    )
                }
                Some(program) => format!(" (ignored: {program} is not installed)"),
                None => String::new(),
            };
            let elsewhere = missing.is_some_and(|need| need.starts_with(NEED));
            let ignored = !lacking.is_empty() && (!required || elsewhere);
            let name = case.name;
            let trial = Trial::test(format!("{who}: {name}{lacking}"), move || {
                tiers::judge(ground, name, start(name, root, as_root, group, ground))
            });
            trials.push(trial.with_ignored_flag(ignored));
        }
    }
    trials.push(Trial::test(
        "CONFINEMENT.md lists every case",
        documentation_is_complete,
    ));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Whether a program is installed, or control groups are handed over here.
fn met(need: &str, as_root: bool) -> bool {
    match need.strip_prefix(NEED) {
        Some(controller) => as_root && offered(controller),
        None => [cases::ROOT, cases::OWN_PLACE].contains(&need) || installed(need),
    }
}

fn installed(program: &str) -> bool {
    SYSTEM_PATH
        .split(':')
        .any(|directory| Path::new(directory).join(program).exists())
}

/// Runs one case in a process of its own, as the wanted user.
fn start(
    name: &str,
    root: bool,
    as_root: bool,
    group: bool,
    ground: Ground,
) -> Result<Seen, Failed> {
    let mut case = Command::new(std::env::current_exe()?);
    case.args(["--case", name, ground.word()]);
    let user = if root { 0 } else { NOBODY };
    let group = match group {
        true => Some(Delegated::to(user)?),
        false => None,
    };
    if group.is_some() {
        case = Delegated::waiting(&case);
    }
    case.current_dir("/");
    if as_root && !root {
        // Changing the user from root drops the other groups as well.
        case.uid(NOBODY).gid(NOBODY);
        case.env("HOME", "/nonexistent").env("PATH", SYSTEM_PATH);
    }
    let mut case = case
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut go = case.stdin.take();
    if let (Some(group), Some(go)) = (&group, &mut go) {
        group.take_in(case.id())?;
        go.write_all(b"go\n")?;
    }
    drop(go);
    let output = case.wait_with_output()?;
    if output.status.success() {
        return verdicts::told(&output.stdout).ok_or_else(|| "it shows nothing".into());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ended = match output.status.signal() {
        Some(libc::SIGALRM) => "it does not end".to_owned(),
        _ => output.status.to_string(),
    };
    Err(format!("{ended}\n{said}").into())
}

fn run_case(name: &str, ground: Ground) -> ExitCode {
    ground.lay();
    let case = cases::all()
        .into_iter()
        .find(|case| case.name == name)
        .expect("a known case");
    // A case that hangs is ended, instead of all that comes after it.
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1");
    raw::alarm(LONGEST * if long { 10 } else { 1 }).expect("a timer");
    let bed = bed::Bed::new();
    match (case.run)(&bed).and_then(|()| bed.verdict()) {
        Ok(seen) => {
            verdicts::tell(seen);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn documentation_is_complete() -> Result<(), Failed> {
    let names: Vec<&str> = cases::all().into_iter().map(|case| case.name).collect();
    verdicts::are_compared(PAGE, &names)?;
    let rows: Vec<String> = tiers::rows().filter(|row| !PAGE.contains(row)).collect();
    if !rows.is_empty() {
        return Err(format!("not in the tables of other tiers: {rows:#?}").into());
    }
    Ok(())
}
