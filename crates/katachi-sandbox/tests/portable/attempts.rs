//! What a command tries, in a process of its own. It ends with 0 if the attempt
//! had its effect, and with 1 if it was refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

pub(crate) fn run(name: &str, arguments: &[String]) -> ExitCode {
    let first = arguments.first().map_or("", String::as_str);
    let outcome = match name {
        "read" => std::fs::read(first).map(drop),
        "append" => append(first),
        "create" => File::create_new(first).map(drop),
        "remove" => std::fs::remove_file(first),
        "connect" => first
            .parse()
            .map_err(io::Error::other)
            .and_then(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
            .map(drop),
        #[cfg(unix)]
        "socket" => std::os::unix::net::UnixStream::connect(first).map(drop),
        "start" => start(first, &arguments[1..]),
        "variable" => match std::env::var_os(first) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        },
        "handle" => handle(first),
        "code" => return ExitCode::from(first.parse::<u8>().unwrap()),
        "echo" => echo(),
        "sleep" => {
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        "beat" => beat(Path::new(first)),
        "family" => {
            let program = std::env::current_exe().unwrap();
            let child = Command::new(program)
                .args(["--attempt", "beat", first])
                .spawn();
            child.map(|_| std::thread::sleep(Duration::from_secs(60)))
        }
        "allocate" => {
            allocate(first.parse().unwrap());
            Ok(())
        }
        other => panic!("no such attempt: {other}"),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(1)
        }
    }
}

fn append(path: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(b"appended")
}

fn start(program: &str, arguments: &[String]) -> io::Result<()> {
    let status = Command::new(program).args(arguments).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(status.to_string())),
    }
}

fn echo() -> io::Result<()> {
    let mut heard = String::new();
    io::stdin().read_to_string(&mut heard)?;
    print!("heard <{heard}>");
    eprint!("to the error output");
    Ok(())
}

/// Reads from what the caller holds open under this number.
#[cfg(unix)]
fn handle(number: &str) -> io::Result<()> {
    let mut byte = [0_u8; 1];
    // SAFETY: the buffer is one byte long, as the call is told.
    let count = unsafe { libc::read(number.parse().unwrap(), byte.as_mut_ptr().cast(), 1) };
    match count {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(windows)]
fn handle(number: &str) -> io::Result<()> {
    use std::os::windows::io::FromRawHandle as _;
    let number: usize = number.parse().unwrap();
    // SAFETY: either nobody else in this process has it, or it is no handle,
    // which reading tells.
    let file = unsafe { File::from_raw_handle(std::ptr::without_provenance_mut(number)) };
    let mut file = std::mem::ManuallyDrop::new(file);
    file.read_exact(&mut [0])
}

/// Makes a file longer until one named `stop` lies beside it.
fn beat(path: &Path) -> io::Result<()> {
    let stop = path.with_file_name("stop");
    for _ in 0..1200 {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(b".")?;
        if stop.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Uses that many mebibytes for a moment longer than anybody looks away.
fn allocate(mebibytes: usize) {
    let mut held = vec![0_u8; mebibytes << 20];
    for page in held.chunks_mut(4096) {
        page[0] = 1;
    }
    std::thread::sleep(Duration::from_secs(2));
    std::hint::black_box(&held);
}
