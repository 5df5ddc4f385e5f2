//! Starting `true`: in the full sandbox from a ready plan, in one that waits in
//! a pool, and in bubblewrap with the same namespaces. Firejail, srt and codex,
//! set to what they do of the same, are measured where they are installed.
//! Planning and a bare start stand beside them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::Criterion;
use katachi_sandbox::{Plan, PlanOptions, Policy, Pool};

fn main() {
    katachi_sandbox::helper::run_if_requested();

    let mut criterion = Criterion::default().configure_from_args();
    start(&mut criterion);
    criterion.final_summary();
}

fn policy() -> Policy {
    Policy::default().read("@system").write(".").allow("true")
}

fn plan(workspace: &Path) -> Plan {
    policy()
        .plan(&PlanOptions::new(workspace))
        .expect("`true` is installed")
}

fn start(criterion: &mut Criterion) {
    let workspace = tempfile::tempdir().expect("a temporary directory");
    let ready = plan(workspace.path());
    let mut group = criterion.benchmark_group("sandbox-start");
    group.sample_size(50);
    group.bench_function("ours", |bencher| {
        bencher.iter(|| {
            let mut child = ready
                .command(["true"])
                .spawn()
                .expect("this machine can confine");
            assert!(child.wait().expect("it ends").success());
        });
    });
    let pool = Pool::new(&ready, 2).expect("this machine can confine");
    group.bench_function("pool", |bencher| {
        // The time of a caller who finds one waiting: building the next is
        // left out, as it happens while the caller does something else.
        bencher.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                while pool.ready() < 2 {
                    std::thread::sleep(Duration::from_micros(200));
                }
                let started = Instant::now();
                let mut child = pool.command(["true"]).spawn().expect("one waits");
                assert!(child.wait().expect("it ends").success());
                time += started.elapsed();
            }
            time
        });
    });
    drop(pool);
    if Path::new("/usr/bin/bwrap").exists() {
        group.bench_function("bubblewrap", |bencher| {
            bencher.iter(|| {
                let status = Command::new("/usr/bin/bwrap")
                    .args(["--unshare-all", "--die-with-parent", "--new-session"])
                    .args(["--cap-drop", "ALL", "--clearenv"])
                    .args(["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"])
                    .args([
                        "--symlink",
                        "usr/lib",
                        "/lib",
                        "--symlink",
                        "usr/lib64",
                        "/lib64",
                    ])
                    .args([
                        "--symlink",
                        "usr/bin",
                        "/bin",
                        "--proc",
                        "/proc",
                        "--dev",
                        "/dev",
                    ])
                    .args(["--tmpfs", "/tmp", "--bind"])
                    .args([workspace.path(), workspace.path()])
                    .args(["--", "/usr/bin/true"])
                    .stdin(Stdio::null())
                    .status()
                    .expect("bubblewrap starts");
                assert!(status.success());
            });
        });
    }
    for (name, mut peer) in peers(workspace.path()) {
        if !Path::new(peer.get_program()).exists() {
            continue;
        }
        peer.current_dir(workspace.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert!(peer.status().expect("it starts").success(), "{name}"));
        });
    }
    group.bench_function("bare", |bencher| {
        bencher.iter(|| {
            let status = Command::new("/usr/bin/true")
                .status()
                .expect("`true` starts");
            assert!(status.success());
        });
    });
    group.bench_function("plan", |bencher| bencher.iter(|| plan(workspace.path())));
    group.finish();
}

/// Programs that `cargo xtask test --install --long` brings.
const HEAVY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/peers");

/// Other sandboxes: no network, everything readable, the workspace writable.
fn peers(workspace: &Path) -> [(&'static str, Command); 3] {
    let mut firejail = Command::new("/usr/bin/firejail");
    firejail
        .args(["--quiet", "--noprofile", "--net=none", "--caps.drop=all"])
        .args([
            "--nonewprivs",
            "--seccomp",
            "--private-dev",
            "--read-only=/",
        ])
        .arg(format!("--read-write={}", workspace.display()))
        .arg("/usr/bin/true");
    let mut srt = Command::new(format!("{HEAVY}/node_modules/.bin/srt"));
    srt.arg("true");
    let mut codex = Command::new(format!("{HEAVY}/node_modules/.bin/codex"));
    // It puts links to itself into its home, which must not lie in TMPDIR.
    codex
        .args(["sandbox", "--", "true"])
        .env("CODEX_HOME", HEAVY)
        .env("TMPDIR", workspace);
    [("firejail", firejail), ("srt", srt), ("codex", codex)]
}
