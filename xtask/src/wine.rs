//! The sandbox's launcher for Windows, run by Wine.
//!
//! Wine enforces none of Windows's boundaries and has no AppContainers. So this
//! shows that the launcher's code runs: it starts a command in a job, hands it
//! pipes and variables, tells its exit code, ends it at its time and with all it
//! started, writes access lists, and refuses where there is no AppContainer. It
//! never shows that anything is confined.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::foreign::{FOLDER, WINDOWS, cargo_for};
use crate::install::on_path;
use crate::run::{self, Count, Finished};

/// What Wine lacks, by the names of the tests that need it.
const BEYOND_WINE: &[(&str, &str)] = &[
    (
        "processor_time_ends_a_command",
        "it counts no processor time of a job",
    ),
    (
        "a_directory_remembers_and_forgets",
        "its files forget the entries of their access lists",
    ),
];

/// Rust's standard library asks a DLL for random bytes that Wine 8 does not
/// have. This one asks another, which it has.
const RANDOM: &str = "
#include <stddef.h>
__declspec(dllimport) unsigned char __stdcall SystemFunction036(void *, unsigned long);
__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *data, size_t length) {
    while (length > 0) {
        unsigned long part = length > 65536 ? 65536 : (unsigned long)length;
        if (!SystemFunction036(data, part)) return 0;
        data += part;
        length -= part;
    }
    return 1;
}
";
const LIBRARY: &str = "bcryptprimitives.dll";
const COMPILER: &str = "x86_64-w64-mingw32-gcc";

fn wine() -> Option<PathBuf> {
    // Where Debian's package `wine64` has it.
    let debian = PathBuf::from("/usr/lib/wine/wine64");
    on_path("wine64")
        .or_else(|| on_path("wine"))
        .or_else(|| debian.is_file().then_some(debian))
}

/// What stands in the way.
pub(crate) fn missing() -> Option<&'static str> {
    match (wine(), on_path(COMPILER), cargo_for(WINDOWS, "test")) {
        (None, ..) => Some("no Wine"),
        (_, None, _) => Some("no compiler of MinGW"),
        (.., None) => Some("no toolchain for Windows"),
        _ => None,
    }
}

/// Runs the tests and the example.
pub(crate) fn run() -> Result<Finished> {
    let wine = wine().context("no Wine")?;
    let folder = run::root().join("target/wine");
    std::fs::create_dir_all(&folder)?;
    make_random(&folder)?;
    // Commands have an environment from nothing, so theirs lies beside the tests.
    let tests = run::root().join(FOLDER).join(WINDOWS).join("debug/deps");
    std::fs::create_dir_all(&tests)?;
    std::fs::copy(folder.join(LIBRARY), tests.join(LIBRARY))?;
    let within = |work: &str| -> Result<Command> {
        let mut command = cargo_for(WINDOWS, work).context("no toolchain for Windows")?;
        command
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", &wine)
            .env("WINEPREFIX", folder.join("prefix"))
            .env("WINEPATH", &folder)
            .env("WINEDEBUG", "-all")
            .args(["-p", "katachi-sandbox"]);
        Ok(command)
    };
    let mut tests = within("test")?;
    tests.args(["--lib", "--", "supervise"]);
    for (name, lacking) in BEYOND_WINE {
        println!("not under Wine: {name} ({lacking})");
        tests.args(["--skip", name]);
    }
    let mut finished = run::observe(tests)?;
    let policy = folder.join("policy.toml");
    std::fs::write(&policy, "[commands]\nallow = [\"cmd\"]\n")?;
    let refusals = [
        ("", "nobody has seen commands confined on Windows"),
        ("unwitnessed", "CreateAppContainerProfile"),
    ];
    for (accepted, wanted) in refusals {
        let mut example = within("run")?;
        example
            .args(["--quiet", "--example", "confine", "--"])
            .arg(&policy)
            .arg(&folder)
            .args(["cmd", "/c", "echo started"])
            .env("KATACHI_ACCEPT_TIER", accepted);
        let output = example.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let started = String::from_utf8_lossy(&output.stdout).contains("started");
        let refused = output.status.code() == Some(125) && said.contains(wanted) && !started;
        println!(
            "confine, accepting {accepted:?}: {}",
            match refused {
                true => format!("refused, as it must ({wanted})"),
                false => format!("{}, {said}", output.status),
            }
        );
        finished.success &= refused;
        finished.tally.count.add(Count {
            passed: u64::from(refused),
            failed: u64::from(!refused),
            skipped: 0,
        });
    }
    println!("this shows that the launcher runs; Wine confines nothing");
    Ok(finished)
}

fn make_random(folder: &Path) -> Result<()> {
    let source = folder.join("random.c");
    std::fs::write(&source, RANDOM)?;
    let mut compiler = Command::new(COMPILER);
    compiler
        .args(["-O1", "-shared", "-nostartfiles", "-Wl,-e,0", "-o"])
        .arg(folder.join(LIBRARY))
        .arg(&source)
        .arg("-ladvapi32");
    ensure!(compiler.status()?.success(), "cannot compile {RANDOM}");
    Ok(())
}
