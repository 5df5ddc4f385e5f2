//! The start without what confines: these run on Linux, on macOS, and on Windows
//! or what stands in for it.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::spec::Spec;
use super::supervise;
use crate::message::{End, Message};

/// A command that runs, and the ends of its pipes.
struct Running {
    control: Option<PipeWriter>,
    status: PipeReader,
    stdin: Option<PipeWriter>,
    stdout: PipeReader,
    helper: JoinHandle<io::Result<()>>,
}

/// This program's own test of that name plays the command.
fn plays(part: &str) -> Spec {
    let program = std::env::current_exe().unwrap();
    let words = [
        program.as_os_str().to_owned(),
        "supervise::tests::plays_a_part".into(),
        "--exact".into(),
        "--nocapture".into(),
    ];
    let mut environment: Vec<OsString> = vec![format!("KATACHI_PART={part}").into()];
    if let Some(root) = std::env::var_os("SystemRoot") {
        let mut variable = OsString::from("SystemRoot=");
        variable.push(root);
        environment.push(variable);
    }
    Spec {
        program,
        argv: words.into(),
        environment,
        directory: std::env::temp_dir(),
        ..Spec::default()
    }
}

fn start(spec: Spec) -> Running {
    let (control_end, control) = io::pipe().unwrap();
    let (status, mut status_end) = io::pipe().unwrap();
    let (stdin_end, stdin) = io::pipe().unwrap();
    let (stdout, stdout_end) = io::pipe().unwrap();
    let stderr = stdout_end.try_clone().unwrap();
    let helper = std::thread::spawn(move || {
        let streams = [stdin_end.into(), stdout_end.into(), stderr.into()];
        supervise(&spec, streams, control_end, &mut status_end)
    });
    Running {
        control: Some(control),
        status,
        stdin: Some(stdin),
        stdout,
        helper,
    }
}

impl Running {
    fn begun(&mut self) -> &mut Self {
        let message = Message::receive(&mut self.status).unwrap();
        assert_eq!(message, Some(Message::Started(Vec::new())));
        self
    }

    /// Reads until the command said this.
    fn hears(&mut self, text: &str) {
        let mut said = Vec::new();
        let mut part = [0; 256];
        while !String::from_utf8_lossy(&said).contains(text) {
            let count = self.stdout.read(&mut part).unwrap();
            assert!(
                count > 0,
                "{text:?} not in {:?}",
                String::from_utf8_lossy(&said)
            );
            said.extend(&part[..count]);
        }
    }

    fn ends(mut self) -> (Option<Message>, String) {
        let mut said = String::new();
        self.stdin = None;
        self.stdout.read_to_string(&mut said).unwrap();
        let end = Message::receive(&mut self.status).unwrap();
        self.control = None;
        self.helper.join().unwrap().unwrap();
        (end, said)
    }
}

/// What is started in the other tests.
#[test]
fn plays_a_part() {
    let Ok(part) = std::env::var("KATACHI_PART") else {
        return;
    };
    let say = |text: &str| {
        let mut out = io::stdout();
        out.write_all(text.as_bytes()).unwrap();
        out.flush().unwrap();
    };
    match part.as_str() {
        "code" => std::process::exit(7),
        "echo" => {
            let mut heard = String::new();
            io::stdin().read_to_string(&mut heard).unwrap();
            say(&format!("heard <{heard}>"));
            let variables: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
            say(&format!("variables {variables:?}"));
            eprintln!("to the error output");
        }
        "forever" => {
            say("ready");
            std::thread::sleep(Duration::from_secs(60));
        }
        "burn" => {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(60) {
                std::hint::black_box(began);
            }
        }
        "family" => {
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["supervise::tests::plays_a_part", "--exact", "--nocapture"])
                .env("KATACHI_PART", "forever")
                .spawn()
                .unwrap();
            std::mem::forget(child);
            std::thread::sleep(Duration::from_secs(60));
        }
        other => panic!("no such part: {other}"),
    }
    std::process::exit(0);
}

#[test]
fn a_command_ends_with_its_own_code() {
    let mut running = start(plays("code"));
    running.begun();
    let (end, _) = running.ends();
    assert_eq!(end, Some(Message::Ended(End::Code(7))));
}

#[test]
fn pipes_lead_through_and_variables_come_from_nothing() {
    let mut running = start(plays("echo"));
    running.begun();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all("a \u{e9}\n".as_bytes()).unwrap();
    drop(stdin);
    let (end, said) = running.ends();
    assert_eq!(end, Some(Message::Ended(End::Code(0))), "{said}");
    assert!(said.contains("heard <a \u{e9}\n>"), "{said}");
    assert!(said.contains("to the error output"), "{said}");
    let variables = said.split("variables ").nth(1).unwrap();
    assert!(variables.contains("KATACHI_PART"), "{said}");
    assert!(
        !variables.contains("PATH") && !variables.contains("CARGO"),
        "{said}"
    );
}

#[test]
fn wall_time_ends_a_command() {
    let began = Instant::now();
    let mut running = start(Spec {
        wall_time_ms: Some(500),
        ..plays("forever")
    });
    running.begun();
    let (end, _) = running.ends();
    assert_eq!(end, Some(Message::Ended(End::TimedOut)));
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn processor_time_ends_a_command() {
    let mut running = start(Spec {
        cpu_time_ms: Some(1000),
        ..plays("burn")
    });
    running.begun();
    let (end, _) = running.ends();
    let by_limit = match &end {
        Some(Message::Ended(End::Limit(name))) => name == "cpu_time",
        // The limit of the process itself.
        #[cfg(unix)]
        Some(Message::Ended(End::Signal(signal))) => {
            [libc::SIGXCPU, libc::SIGKILL].contains(signal)
        }
        _ => false,
    };
    assert!(by_limit, "{end:?}");
}

#[test]
fn letting_go_ends_the_command_and_what_it_started() {
    let began = Instant::now();
    let mut running = start(plays("family"));
    running.begun().hears("ready");
    running.control = None;
    // Both hold the pipe, so its end means that neither runs.
    let (end, _) = running.ends();
    assert_eq!(
        end, None,
        "nobody is told how a command ended that was let go"
    );
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "it ended by itself"
    );
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let mut running = start(Spec {
        program: std::env::temp_dir().join("katachi-no-such-program"),
        ..plays("code")
    });
    let message = Message::receive(&mut running.status).unwrap();
    assert!(
        matches!(message, Some(Message::NotExecuted { code }) if code != 0),
        "{message:?}"
    );
}

/// Windows has no processes to count without a job's own limit.
#[cfg(unix)]
#[test]
fn more_processes_than_allowed_end_the_command() {
    let mut running = start(Spec {
        processes: Some(1),
        ..plays("family")
    });
    running.begun();
    let (end, _) = running.ends();
    assert_eq!(end, Some(Message::Ended(End::Limit("processes".into()))));
}

#[cfg(unix)]
#[test]
fn a_profile_that_cannot_be_applied_starts_nothing() {
    let mut running = start(Spec {
        confinement: super::Confinement::Profile("(not a profile".into()),
        ..plays("code")
    });
    let message = Message::receive(&mut running.status).unwrap();
    assert!(
        matches!(message, Some(Message::Failed { .. })),
        "{message:?}"
    );
}
