//! Starting one command and ending it.

use std::io::{self, IsTerminal as _};
use std::os::windows::io::OwnedHandle;

use super::job::Limits;
use super::journal::Granted;
use super::line::{command_line, environment_block};
use super::sys::job::Job;
use super::sys::process::{self, Start};
use crate::message::{End, Failure, Message, Step as _};
use crate::supervise::spec::{Confinement, Spec};

pub(in crate::supervise) type Standard = OwnedHandle;

/// A command that runs in a job.
#[derive(Debug)]
pub(in crate::supervise) struct Running {
    job: Job,
    process: OwnedHandle,
    /// Threads that carry what the command writes to a console of the caller.
    carriers: Vec<std::thread::JoinHandle<()>>,
    ended: Option<End>,
    // Taken back last, when nothing runs any more.
    _granted: Option<Granted>,
}

/// Waits for the command itself.
#[derive(Debug)]
pub(in crate::supervise) struct Waiter(Option<OwnedHandle>);

impl Waiter {
    pub(in crate::supervise) fn wait(self) {
        if let Some(process) = self.0 {
            process::wait(&process);
        }
    }
}

impl Running {
    pub(in crate::supervise) fn start(
        spec: &Spec,
        streams: [Standard; 3],
    ) -> Result<Self, Failure> {
        let (granted, children) = match &spec.confinement {
            Confinement::Nothing => (None, true),
            Confinement::Container {
                name,
                edits,
                children,
            } => {
                let granted = Granted::make(name, edits).step("make an AppContainer")?;
                (Some(granted), *children)
            }
            Confinement::Profile(_) => {
                return Err(io::Error::other("it has no Seatbelt")).step("confine the command");
            }
        };
        let unwritable = || io::Error::other("it cannot be written as Windows takes it");
        let text = |word: &std::ffi::OsStr| word.to_str().map(str::to_owned);
        let words = |list: &[std::ffi::OsString]| -> Option<Vec<String>> {
            list.iter().map(|word| text(word)).collect()
        };
        let argv = words(&spec.argv);
        let line = argv
            .as_deref()
            .and_then(|argv| command_line(&argv.iter().map(String::as_str).collect::<Vec<_>>()))
            .ok_or_else(unwritable)
            .step("write the command line")?;
        let environment = words(&spec.environment);
        let environment = environment
            .as_deref()
            .and_then(|list| {
                environment_block(&list.iter().map(String::as_str).collect::<Vec<_>>())
            })
            .ok_or_else(unwritable)
            .step("write the environment")?;
        let job = Job::make(Limits::of(spec)).step("make a job object")?;
        let (streams, carriers) =
            without_consoles(streams).step("take over the standard handles")?;
        let process = Start {
            program: &spec.program,
            line: &line,
            environment: &environment,
            directory: &spec.directory,
            streams: &streams,
            container: granted.as_ref().map(Granted::sid),
            children,
            job: &job,
        }
        .run();
        match process {
            Ok(process) => Ok(Self {
                job,
                process,
                carriers,
                ended: None,
                _granted: granted,
            }),
            Err(error) => Err(Failure(Message::NotExecuted {
                code: error.raw_os_error().unwrap_or(0),
            })),
        }
    }

    pub(in crate::supervise) fn waiter(&self) -> Waiter {
        Waiter(self.process.try_clone().ok())
    }

    /// Windows has no signals for a program without a console.
    pub(in crate::supervise) fn signal(&self, _: i32) {}

    /// Ends the job, waits until nothing of it runs, and says how the command
    /// ended.
    pub(in crate::supervise) fn end(&mut self) -> io::Result<End> {
        if let Some(end) = &self.ended {
            return Ok(end.clone());
        }
        self.job.end();
        process::wait(&self.process);
        self.job.wait_until_empty();
        for carrier in self.carriers.drain(..) {
            // It only panics if we have a bug.
            let _ = carrier.join();
        }
        let end = End::Code(process::exit_code(&self.process)?.cast_signed());
        self.ended = Some(end.clone());
        Ok(end)
    }

    pub(in crate::supervise) fn passed_limit(&mut self, spec: &Spec) -> Option<&'static str> {
        let limit = spec.cpu_time_ms?;
        let used = self.job.processor_time().ok()?;
        (used.as_millis() > u128::from(limit)).then_some("cpu_time")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Closing the job ends what is left in any case.
        let _ = self.end();
    }
}

type Carriers = Vec<std::thread::JoinHandle<()>>;

/// A console that the command could write into it could also type into, so it
/// gets pipes in place of one, and nothing to read.
fn without_consoles(streams: [OwnedHandle; 3]) -> io::Result<([OwnedHandle; 3], Carriers)> {
    let mut carriers = Vec::new();
    let [stdin, stdout, stderr] = streams;
    let stdin = match stdin.is_terminal() {
        true => std::fs::File::open("NUL")?.into(),
        false => stdin,
    };
    let mut carry = |stream: OwnedHandle| -> io::Result<OwnedHandle> {
        if !stream.is_terminal() {
            return Ok(stream);
        }
        let (mut from, to) = io::pipe()?;
        let mut console = std::fs::File::from(stream);
        carriers.push(std::thread::spawn(move || {
            // Whoever closed the console reads nothing more.
            let _ = io::copy(&mut from, &mut console);
        }));
        Ok(to.into())
    };
    let (stdout, stderr) = (carry(stdout)?, carry(stderr)?);
    Ok(([stdin, stdout, stderr], carriers))
}
