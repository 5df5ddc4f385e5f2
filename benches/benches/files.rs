//! A file sealed and opened again by whole processes, from start to end: ours,
//! `age` for a recipient's key, and `openssl enc` with AES-256-CTR, which it
//! has for files and which authenticates nothing.
//!
//! Files lie in memory where the system has such a folder. A peer that is not
//! installed is not measured, and the rows name it as missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const LENGTH: usize = 64 * 1024 * 1024;

fn seal_file(criterion: &mut Criterion) {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("there is a place for files");
    let path = |name: &str| folder.path().join(name);
    let plain: Vec<u8> = (0..LENGTH as u32 / 4)
        .flat_map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    std::fs::write(path("plain"), &plain).expect("there is room");
    std::fs::write(path("key"), [7; 32]).expect("there is room");

    let mut group = criterion.benchmark_group("seal-file");
    group.throughput(Throughput::Bytes(2 * LENGTH as u64));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    let mut measure = |name: &str, seal: Command, open: Command| {
        let (mut seal, mut open) = (seal, open);
        let mut both = || run(&mut seal) && run(&mut open);
        let _ = std::fs::remove_file(path("opened"));
        if !both() || std::fs::read(path("opened")).ok().as_ref() != Some(&plain) {
            eprintln!("{name} is not installed here, or failed: not measured");
            return;
        }
        group.bench_function(name, |bencher| bencher.iter(|| assert!(both())));
    };

    let ours = |work: &str, from: &str, to: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seal-file"));
        command.arg(work).args([path("key"), path(from), path(to)]);
        command
    };
    measure(
        "ours",
        ours("seal", "plain", "sealed"),
        ours("open", "sealed", "opened"),
    );

    if let Some(recipient) = age_key(&path("age-key")) {
        let age = |arguments: &[&str], from: &str, to: &str| {
            let mut command = Command::new("age");
            command
                .args(arguments)
                .arg("-o")
                .args([path(to), path(from)]);
            command
        };
        let identity = path("age-key");
        let identity = identity.to_string_lossy();
        measure(
            "age",
            age(&["-r", &recipient], "plain", "sealed.age"),
            age(&["-d", "-i", &identity], "sealed.age", "opened"),
        );
    } else {
        eprintln!("age is not installed here: not measured");
    }

    let openssl = |way: &str, from: &str, to: &str| {
        let mut command = Command::new("openssl");
        command
            .args(["enc", "-aes-256-ctr", way, "-K", &"07".repeat(32)])
            .args(["-iv", &"01".repeat(16), "-in"])
            .arg(path(from))
            .arg("-out")
            .arg(path(to));
        command
    };
    measure(
        "openssl",
        openssl("-e", "plain", "sealed.ctr"),
        openssl("-d", "sealed.ctr", "opened"),
    );
    group.finish();
}

/// Makes a key for age and gives its recipient, if age is there.
fn age_key(file: &PathBuf) -> Option<String> {
    let made = Command::new("age-keygen")
        .arg("-o")
        .arg(file)
        .output()
        .ok()?;
    let text = made
        .status
        .success()
        .then(|| std::fs::read_to_string(file))?
        .ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("# public key: "))
        .map(str::to_owned)
}

fn run(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

criterion_group!(benches, seal_file);
criterion_main!(benches);
