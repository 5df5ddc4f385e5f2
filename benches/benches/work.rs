//! Ordinary work inside the sandbox and outside of it, by the clock: a small
//! crate is compiled, and `git status` walks a large tree. Starting the
//! sandbox counts, planning does not: a caller plans once. Both also under a
//! policy with a rule about arguments.
//!
//! Prints one line of JSON for each figure, in nanoseconds.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use katachi_sandbox::policy::GitAccess;
use katachi_sandbox::{Plan, PlanOptions, Policy};

/// Pairs of one run inside and one outside.
const PAIRS: usize = 11;
/// Folders in the large tree and files in each: about as many as the kernel has.
const TREE: (usize, usize) = (800, 100);
const COMPILE: &[&str] = &["cargo", "build", "--quiet", "--offline"];
const STATUS: &[&str] = &["git", "status", "--short"];

fn main() {
    katachi_sandbox::helper::run_if_requested();

    let compile = small_crate();
    let policy = Policy::default()
        .read("@system")
        .write(".")
        .exec_from("target")
        .allow("@rust")
        .allow("@cc");
    // The plan holds the directory itself, so that it is emptied and stays.
    let clean = || {
        let status = Command::new("find")
            .arg(compile.path().join("target"))
            .args(["-mindepth", "1", "-delete"])
            .status()
            .expect("find starts");
        assert!(status.success(), "the target directory is not emptied");
    };
    measure("compile", &policy, compile.path(), COMPILE, clean);
    // A rule about arguments: every start below is stopped and looked at.
    let policy = policy.ask(["cargo", "publish"]);
    let name = "compile-arguments";
    measure(name, &policy, compile.path(), COMPILE, clean);

    let tree = large_tree();
    let policy = Policy::default()
        .read("@system")
        .write(".")
        .allow("@git")
        .git(GitAccess::Commit);
    measure("git-status", &policy, tree.path(), STATUS, || {});
    let policy = policy.ask(["git", "push"]);
    let name = "git-status-arguments";
    measure(name, &policy, tree.path(), STATUS, || {});
}

/// Prints the medians of the command's time inside and outside, in turn.
fn measure(name: &str, policy: &Policy, workspace: &Path, argv: &[&str], before: impl Fn()) {
    let plan = policy
        .plan(&PlanOptions::new(workspace))
        .expect("the programs are installed");
    // Once for the caches, of either.
    let mut times: Vec<(Duration, Duration)> = (0..=PAIRS)
        .map(|_| {
            before();
            let inside = clock(|| inside(&plan, argv));
            before();
            (inside, clock(|| outside(workspace, argv)))
        })
        .collect();
    times.remove(0);
    let (mut inside, mut outside): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    for (side, times) in [("inside", &mut inside), ("outside", &mut outside)] {
        times.sort();
        println!(
            "{{\"figure\":\"{name}-{side}\",\"ns\":{}}}",
            times[PAIRS / 2].as_nanos()
        );
    }
}

fn clock(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn inside(plan: &Plan, argv: &[&str]) {
    let output = plan
        .command(argv.iter().copied())
        .output()
        .expect("this machine can confine");
    assert!(
        output.outcome.success(),
        "{argv:?} failed inside: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn outside(workspace: &Path, argv: &[&str]) {
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .current_dir(workspace)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{argv:?} failed outside");
}

/// A crate with a build script and a few modules that serialise by hand.
fn small_crate() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a temporary directory");
    let put = |path: &str, text: &str| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().expect("it has a parent"))
            .and_then(|()| std::fs::write(path, text))
            .expect("the file is written");
    };
    put(
        "Cargo.toml",
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
    );
    put(
        "build.rs",
        "fn main() { println!(\"cargo:rerun-if-changed=build.rs\"); }\n",
    );
    let mut main = String::new();
    for module in 0..20 {
        main.push_str(&format!("mod m{module};\n"));
        put(
            &format!("src/m{module}.rs"),
            &(0..20)
                .map(|n| {
                    format!(
                        "#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]\n\
                         pub struct S{n} {{ pub a: Vec<String>, pub b: Option<u64> }}\n"
                    )
                })
                .collect::<String>(),
        );
    }
    main.push_str("fn main() { println!(\"{:?}\", m0::S0::default()); }\n");
    put("src/main.rs", &main);
    std::fs::create_dir(home.path().join("target")).expect("the target directory is made");
    home
}

/// A repository with everything committed.
fn large_tree() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a temporary directory");
    for folder in 0..TREE.0 {
        let folder = home.path().join(format!("folder-{folder}"));
        std::fs::create_dir(&folder).expect("the folder is made");
        for file in 0..TREE.1 {
            std::fs::write(folder.join(format!("file-{file}")), format!("{file}\n"))
                .expect("the file is written");
        }
    }
    for arguments in [
        &["init", "--quiet"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.com",
            "commit",
            "--quiet",
            "-m",
            "all",
        ],
    ] {
        let status = Command::new("git")
            .args(arguments)
            .current_dir(home.path())
            .status()
            .expect("git starts");
        assert!(status.success(), "git {arguments:?} failed");
    }
    home
}
