//! What a hostile command tries, one attempt for each process.
//!
//! An attempt succeeds with exit code 0 when it had its effect, and ends with
//! 1 when it was refused. The same code runs confined and unconfined.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{burden, interfaces, raw};

/// Runs the named attempt and ends the process.
pub(crate) fn run(name: &str, arguments: &[String]) -> ! {
    let result = attempt(name, arguments);
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{name}: {error}");
            1
        }
    };
    std::process::exit(code)
}

/// Tries again and again, says how often and for how long it worked, and
/// succeeds if it goes on. Once the file `acted` is there, it ends when nothing
/// worked for a while.
fn keep_trying(how: &str, path: &Path, time: Duration, acted: &Path) -> io::Result<()> {
    const QUIET: Duration = Duration::from_millis(300);
    println!("trying");
    let started = Instant::now();
    let (mut worked, mut first, mut last, mut since) = (0, None, None, None);
    while started.elapsed() < time {
        let tried = match how {
            "read" => fs::read(path).map(drop),
            _ => fs::File::options().append(true).open(path).map(drop),
        };
        let now = started.elapsed();
        if tried.is_ok() {
            worked += 1;
            first = first.or(Some(now));
            last = Some(now);
        }
        if since.is_none() && acted.exists() {
            since = Some(now);
        }
        if since.is_some_and(|since| last.unwrap_or_default().max(since) + QUIET < now) {
            break;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    let (first, end) = (first.unwrap_or(time), last.unwrap_or_default());
    println!("{worked} {}", end.saturating_sub(first).as_micros());
    found(end + Duration::from_millis(50) > started.elapsed())
}

pub(crate) fn attempt(name: &str, arguments: &[String]) -> io::Result<()> {
    let text = |index: usize| arguments.get(index).map_or("", String::as_str);
    let number = |index: usize| text(index).parse::<u64>().unwrap_or(0);
    let path = |index: usize| Path::new(arguments.get(index).map_or("", String::as_str));
    match name {
        "read" => fs::read(path(0)).map(drop),
        "keep-trying" => {
            let time = Duration::from_millis(number(2));
            keep_trying(text(0), path(1), time, path(3))
        }
        "terminal-size" => {
            let mut size = [0_u16; 4];
            let arguments = [0, libc::TIOCGWINSZ, raw::address_mut(&mut size)];
            raw::call(libc::SYS_ioctl, &arguments).map(drop)
        }
        "type-into-terminal" => {
            let letter = b"x";
            // The kernel compares the lower half alone.
            let requests = [libc::TIOCSTI, libc::TIOCSTI | 1 << 32];
            let typed = requests.into_iter().any(|request| {
                raw::call(libc::SYS_ioctl, &[0, request, raw::address(letter)]).is_ok()
            });
            let refused = io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
            found(typed || !refused)
        }
        "directory" => {
            println!("{}", std::env::current_dir()?.display());
            Ok(())
        }
        "list" => fs::read_dir(path(0))?.next().ok_or_else(nothing)?.map(drop),
        "append" => fs::File::options()
            .append(true)
            .open(path(0))?
            .write_all(b"+"),
        "write-text" => fs::write(path(0), text(1)),
        "create" => fs::File::create_new(path(0)).map(drop),
        "open-write" => fs::File::options().write(true).open(path(0)).map(drop),
        "open-read" => fs::File::open(path(0)).map(drop),
        "read-start" => fs::File::open(path(0))?.read(&mut [0; 16]).map(drop),
        // Somebody reads from it, or opening fails.
        "write-pipe" => fs::File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path(0))?
            .write_all(b"x"),
        "make-pipe" => {
            let file = c_string(path(0));
            let kind = u64::from(libc::S_IFIFO | 0o666);
            let arguments = [libc::AT_FDCWD as u64, raw::address(file.as_bytes()), kind];
            raw::call(libc::SYS_mknodat, &arguments).map(drop)
        }
        "make-directory" => fs::create_dir(path(0)),
        "make-directories-and-file" => {
            fs::create_dir_all(path(0).parent().ok_or_else(nothing)?)?;
            fs::write(path(0), "x")
        }
        "make-each" => arguments.iter().try_for_each(|file| {
            let file = Path::new(file);
            fs::create_dir_all(file.parent().ok_or_else(nothing)?)?;
            fs::write(file, "x")
        }),
        // Says for each file whether it can be read and written.
        "verdicts" => {
            for file in arguments {
                let read = fs::read(file).is_ok();
                let write = fs::File::options().append(true).open(file).is_ok();
                println!("{read} {write}");
            }
            Ok(())
        }
        // As many of them as can be made.
        "creations" => {
            for file in arguments {
                let made = fs::File::create_new(file).is_ok();
                println!("{made}");
            }
            Ok(())
        }
        // Says for each program whether it starts.
        "executions" => {
            for program in arguments {
                println!("{}", execute(Path::new(program), &[]).is_ok());
            }
            Ok(())
        }
        "truncate" => fs::File::options()
            .write(true)
            .truncate(true)
            .open(path(0))
            .map(drop),
        "truncate-by-name" => {
            let file = c_string(path(0));
            raw::call(libc::SYS_truncate, &[raw::address(file.as_bytes()), 0]).map(drop)
        }
        "mode" => fs::set_permissions(path(0), fs::Permissions::from_mode(0o777)),
        // To the one it has, which everybody may.
        "owner" => {
            let found = fs::metadata(path(0))?;
            std::os::unix::fs::chown(path(0), Some(found.uid()), Some(found.gid()))
        }
        "set-mode" => {
            let mode = u32::from_str_radix(text(1), 8).map_err(io::Error::other)?;
            fs::set_permissions(path(0), fs::Permissions::from_mode(mode))
        }
        "set-mode-and-read" => {
            let _ = fs::set_permissions(path(0), fs::Permissions::from_mode(0o700));
            fs::read(path(1)).map(drop)
        }
        "set-user-id" => fs::set_permissions(path(0), fs::Permissions::from_mode(0o4755)),
        "create-set-user-id" => {
            let file = fs::File::options()
                .create_new(true)
                .write(true)
                .mode(0o4755)
                .open(path(0))?;
            let mode = file.metadata()?.permissions().mode();
            if mode & 0o4000 == 0 {
                Err(nothing())
            } else {
                Ok(())
            }
        }
        "times" => fs::File::open(path(0))?.set_modified(std::time::UNIX_EPOCH),
        "attribute" => {
            let (file, key) = (c_string(path(0)), c"user.katachi");
            let value = raw::address(b"1");
            raw::call(
                libc::SYS_setxattr,
                &[
                    raw::address(file.as_bytes()),
                    raw::address(key.to_bytes()),
                    value,
                    1,
                    0,
                ],
            )
            .map(drop)
        }
        "hard-link" => fs::hard_link(path(0), path(1)),
        "rename" => fs::rename(path(0), path(1)),
        "write-through-link" => {
            std::os::unix::fs::symlink(path(0), path(1))?;
            fs::write(path(1).join("new"), "x")
        }
        "write-while-flipping" => write_while_flipping(path(0), path(1), number(2)),
        "device" => {
            // A harmless one where it is to be opened.
            let (kind, number) = match text(1) {
                "null" => (libc::S_IFCHR | 0o666, 0x0103),
                _ => (libc::S_IFBLK | 0o600, 0xfd00),
            };
            let file = c_string(path(0));
            raw::call(
                libc::SYS_mknodat,
                &[
                    libc::AT_FDCWD as u64,
                    raw::address(file.as_bytes()),
                    u64::from(kind),
                    number,
                ],
            )
            .map(drop)
        }
        "execute" => execute(path(0), &arguments[1..]),
        "execute-cloned" => {
            let (program, word) = (c_string(path(1)), c_string(path(2)));
            let name = c"touch".to_bytes();
            let argv = [raw::address(name), raw::address(word.as_bytes()), 0];
            let nothing = [0_u64];
            raw::execute_cloned(
                number(0),
                path(2),
                raw::address(program.as_bytes()),
                raw::address(&argv),
                raw::address(&nothing),
            )
        }
        // As many as there are, of which none may start.
        "execute-each" => {
            let started = (0..number(1))
                .any(|index| execute(Path::new(&format!("{}{index}", text(0))), &[]).is_ok());
            found(started)
        }
        "start-flipping" => start_flipping(text(0), text(1), path(2), number(3)),
        "execute-flipping" => execute_flipping(path(0), text(1), text(2), number(3)),
        "execute-copy" => {
            let place = at_home(path(1));
            fs::copy(path(0), &place)?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
            execute(&place, &arguments[2..])
        }
        "execute-script" => {
            fs::write(path(0), format!("#!{}\n", text(1)))?;
            fs::set_permissions(path(0), fs::Permissions::from_mode(0o755))?;
            execute(path(0), &[])
        }
        "execute-memory" => {
            interfaces::execute_memory(path(0), number(1), text(2) == "by-descriptor")
        }
        "execute-nameless" => interfaces::execute_nameless(path(0), path(1)),
        "reach-call" => {
            let words: Vec<u64> = (1..arguments.len()).map(number).collect();
            interfaces::reach(number(0), &words)
        }
        "read-memory-of" => interfaces::read_memory_of(number(0)),
        "take-descriptor-of" => interfaces::take_descriptor_of(number(0)),
        "is-open" => interfaces::is_open(number(0)),
        "open-many" => interfaces::open_many(number(0)),
        "leads-session" => interfaces::leads_session(),
        "tcp-fast-open-connect" => interfaces::fast_open_connect(text(0)),
        "tcp" => {
            let address = text(0).parse().map_err(io::Error::other)?;
            TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(drop)
        }
        "udp" => UdpSocket::bind("0.0.0.0:0")?
            .send_to(b"x", text(0))
            .map(drop),
        "tcp-fast-open" => fast_open(text(0), libc::IPPROTO_TCP),
        "mptcp" => raw::call(
            libc::SYS_socket,
            &[
                libc::AF_INET as u64,
                libc::SOCK_STREAM as u64,
                libc::IPPROTO_MPTCP as u64,
            ],
        )
        .map(drop),
        "resolve" => {
            use std::net::ToSocketAddrs as _;
            (text(0), 443)
                .to_socket_addrs()?
                .next()
                .ok_or_else(nothing)
                .map(drop)
        }
        "ask-name" => ask_name(text(0), text(1)),
        "spin" => burden::spin(number(0)),
        "spin-children" => burden::spin_children(number(0), number(1), text(2) == "wait"),
        "small-files" => burden::small_files(path(0), number(1), number(2)),
        "nameless-files" => burden::nameless_files(path(0), number(1), number(2)),
        "deep-files" => burden::deep_files(path(0), number(1)),
        "passing-files" => burden::passing_files(path(0), number(1)),
        "reach" => crate::reach::reach(text(0)),
        // Says for each host whether it is reached.
        "reach-each" => {
            for target in arguments {
                println!("{}", crate::reach::reach(target).is_ok());
            }
            Ok(())
        }
        "reach-direct" => crate::reach::direct(text(0)),
        "say" => crate::reach::say(text(0), text(1), text(2)),
        "many" => crate::reach::many(text(0), number(1)),
        "serve" => crate::reach::serve(number(0) as u16, path(1))
            .inspect_err(|_| drop(fs::write(path(2), ""))),
        "ask" => crate::reach::ask(text(0)),
        "unix-connect" => UnixStream::connect(path(0)).map(drop),
        "unix-listen" => UnixListener::bind(path(0)).map(drop),
        "pair" => UnixStream::pair().map(drop),
        "pair-send" => {
            let (one, _other) = UnixDatagram::pair()?;
            one.send_to(b"x", path(0)).map(drop)
        }
        "pair-bind" => pair_bind(path(0)),
        "abstract-connect" => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(text(0))?;
            UnixStream::connect_addr(&address).map(drop)
        }
        "start-sandbox" => start_sandbox(),
        "look-for" => {
            // Long ones, none of which is there.
            let long = "p/".repeat(number(1) as usize / 2);
            for index in 0..number(0) {
                let _ = fs::symlink_metadata(format!("/nowhere/{long}{index}"));
            }
            Ok(())
        }
        "be-caller" => crate::cases::caller(arguments),
        "faults" => crate::cases::attack(arguments),
        "start-with-proxy" => crate::cases::start_with_proxy(arguments),
        "start-sandbox-without-namespaces" => {
            raw::forbid_namespaces(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
            start_sandbox()
        }
        "loopback" => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            TcpStream::connect(listener.local_addr()?).map(drop)
        }
        "socket" => raw::call(libc::SYS_socket, &[number(0), number(1), number(2)]).map(drop),
        "call" => raw::call(
            number(0) as libc::c_long,
            &[number(1), number(2), number(3), number(4), number(5)],
        )
        .map(drop),
        "io-uring" => {
            let parameters = [0_u8; 120];
            raw::call(libc::SYS_io_uring_setup, &[1, raw::address(&parameters)]).map(drop)
        }
        "new-namespace" => raw::call(libc::SYS_unshare, &[number(0)]).map(drop),
        "clone-namespace" => {
            let flags = libc::CLONE_NEWUSER as u64 | libc::SIGCHLD as u64;
            if raw::call(libc::SYS_clone, &[flags])? == 0 {
                std::process::exit(0);
            }
            Ok(())
        }
        #[cfg(target_arch = "x86_64")]
        "call-32-bit" => {
            // 38 says that there is no such call.
            match raw::call_32bit(number(0) as u32) {
                -38 => Err(nothing()),
                _ => Ok(()),
            }
        }
        "call-x32" => raw::call(libc::SYS_getpid | 0x4000_0000, &[]).map(drop),
        "may-gain-privileges" => {
            // Zero only while no_new_privs is off.
            match raw::call(
                libc::SYS_prctl,
                &[libc::PR_GET_NO_NEW_PRIVS as u64, 0, 0, 0, 0],
            )? {
                0 => Ok(()),
                _ => Err(nothing()),
            }
        }
        "signal" => raw::call(libc::SYS_kill, &[number(0), 0]).map(drop),
        "trace" => {
            const SEIZE: u64 = 0x4206;
            raw::call(libc::SYS_ptrace, &[SEIZE, number(0), 0, 0]).map(drop)
        }
        "environment-of" => {
            let mut content = Vec::new();
            fs::File::open(format!("/proc/{}/environ", text(0)))?.read_to_end(&mut content)?;
            found(
                content
                    .windows(text(1).len())
                    .any(|window| window == text(1).as_bytes()),
            )
        }
        "variable" => found(std::env::var_os(text(0)).is_some()),
        "descriptor" => {
            let mut byte = [0];
            raw::call(libc::SYS_read, &[number(0), raw::address_mut(&mut byte), 1])
                .and_then(|read| found(read == 1))
        }
        "capability" => {
            let status = fs::read_to_string("/proc/self/status")?;
            let any = status.lines().any(|line| {
                ["CapPrm:", "CapEff:", "CapBnd:"].iter().any(|name| {
                    line.strip_prefix(name)
                        .is_some_and(|set| set.trim().bytes().any(|digit| digit != b'0'))
                })
            });
            found(any)
        }
        "gained" => interfaces::gained(),
        "outside-root" => {
            let user = raw::call(libc::SYS_geteuid, &[])?.unsigned_abs();
            found(outside_user(user) == 0)
        }
        "unfiltered" => {
            let mode = raw::call(libc::SYS_prctl, &[libc::PR_GET_SECCOMP as u64])?;
            // The trial itself may be under one that refuses namespaces alone.
            let refused = raw::call(libc::SYS_unshare, &[0]);
            found(mode == 0 || refused.is_ok())
        }
        "bounded-capabilities" => found(bounding_set() > 0),
        "is-user-alone" => is_user_alone(number(0)),
        "survive" => survive(path(0)),
        "crowd" => {
            raw::ignore_signals();
            for _ in 0..number(0) {
                if raw::fork() {
                    let _ = raw::call(libc::SYS_setsid, &[]);
                    std::thread::sleep(Duration::from_secs(60));
                    std::process::exit(0);
                }
            }
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        // As many as there may be, each of which is said; or so many as a control,
        // which ends them.
        "fork-bomb" => {
            let mut made = Vec::new();
            while number(0) == 0 || (made.len() as u64) < number(0) {
                let child = raw::call(libc::SYS_clone, &[libc::SIGCHLD as u64])?;
                if child == 0 {
                    std::thread::sleep(Duration::from_secs(20));
                    std::process::exit(0);
                }
                made.push(child as u64);
                println!("made");
            }
            made.into_iter().try_for_each(|child| {
                raw::call(libc::SYS_kill, &[child, libc::SIGKILL as u64]).map(drop)
            })
        }
        "eat-memory" => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            for _ in 0..number(0) {
                let mut block = Vec::new();
                block.try_reserve_exact(1 << 20).map_err(io::Error::other)?;
                block.resize(1 << 20, 1);
                held.push(block);
            }
            std::thread::sleep(Duration::from_millis(number(1)));
            found(held.len() as u64 == number(0))
        }
        "fill" => {
            let mut file = fs::File::create(path(0))?;
            for _ in 0..number(1) {
                file.write_all(&[1; 1 << 16])?;
            }
            Ok(())
        }
        "eat-shared-memory" => {
            let _held = raw::shared_memory(number(0) as usize * (1 << 20))?;
            std::thread::sleep(Duration::from_millis(number(1)));
            Ok(())
        }
        // The thread that stands for the process ends before it starts.
        "eat-memory-without-leader" => {
            let block = number(0) as usize * (1 << 20) / 4;
            for _ in 0..5 {
                if raw::fork() {
                    std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(50));
                        let held = vec![1_u8; block];
                        std::thread::sleep(Duration::from_secs(30));
                        std::hint::black_box(held);
                        std::process::exit(0);
                    });
                    raw::end_thread();
                }
            }
            std::thread::sleep(Duration::from_millis(number(1)));
            Ok(())
        }
        "eat-segments" => {
            for _ in 0..number(0) / 20 {
                raw::segment(20 << 20)?;
            }
            std::thread::sleep(Duration::from_millis(number(1)));
            Ok(())
        }
        "limit-of" => {
            const NOFILE: u64 = 7;
            let mut limit = [0_u64; 2];
            raw::call(
                libc::SYS_prlimit64,
                &[number(0), NOFILE, 0, raw::address_mut(&mut limit)],
            )?;
            limit[0] = 64;
            raw::call(
                libc::SYS_prlimit64,
                &[number(0), NOFILE, raw::address(&limit), 0],
            )
            .map(drop)
        }
        "core" => {
            // With one byte as its limit the kernel starts no handler.
            let limits = fs::read_to_string("/proc/self/limits")?;
            let line = limits
                .lines()
                .find_map(|line| line.strip_prefix("Max core file size"))
                .ok_or_else(nothing)?;
            let mut values = line.split_whitespace();
            found(values.next() != Some("1") || values.next() != Some("1"))
        }
        "sleep" => {
            std::thread::sleep(Duration::from_secs(number(0)));
            Ok(())
        }
        other => panic!("no attempt is called {other}"),
    }
}

/// Asks a server for the address of a name, as RFC 1035, section 4, has it.
fn ask_name(server: &str, name: &str) -> io::Result<()> {
    // An identifier, recursion desired, and one question.
    let mut question = vec![0x4b, 0x41, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    // The root, and an address of the Internet.
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.send(&question).map(drop)
}

fn nothing() -> io::Error {
    io::Error::other("nothing was seen")
}

/// A name that may begin with `~`.
fn at_home(path: &Path) -> std::path::PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_owned(),
    }
}

fn found(seen: bool) -> io::Result<()> {
    if seen { Ok(()) } else { Err(nothing()) }
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Executes in a child, so that a program that starts counts whatever it says.
pub(crate) fn execute(program: &Path, arguments: &[String]) -> io::Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .env("KATACHI_ATTEMPT_RAN", "1")
        .stdout(std::process::Stdio::null())
        .status()?;
    found(status.code().is_some_and(|code| code == 0))
}

/// Starts a program again and again while another thread changes which one it
/// is, between two paths of one length. It succeeds if it made the marker.
fn start_flipping(one: &str, other: &str, marker: &Path, times: u64) -> io::Result<()> {
    let word = raw::shared_memory(4096)?;
    word.fill(0);
    word[..one.len()].copy_from_slice(one.as_bytes());
    let address = word.as_ptr() as u64;
    let (one, other) = (one.as_bytes().to_vec(), other.as_bytes().to_vec());
    std::thread::spawn(move || {
        for wanted in [&one, &other].into_iter().cycle() {
            word[..wanted.len()].copy_from_slice(wanted);
            std::hint::spin_loop();
        }
    });
    let (name, made) = (c"touch", c_string(marker));
    let argv = [
        raw::address(name.to_bytes()),
        raw::address(made.as_bytes()),
        0,
    ];
    let environment = [0_u64];
    for _ in 0..times {
        raw::execute_in_child(address, raw::address(&argv), raw::address(&environment));
    }
    found(marker.exists())
}

/// Starts a program again and again while another thread changes its argument
/// between two words of one length.
fn execute_flipping(program: &Path, one: &str, other: &str, times: u64) -> io::Result<()> {
    let word = raw::shared_memory(4096)?;
    word.fill(0);
    word[..one.len()].copy_from_slice(one.as_bytes());
    let address = word.as_ptr() as u64;
    let (one, other) = (one.as_bytes().to_vec(), other.as_bytes().to_vec());
    std::thread::spawn(move || {
        loop {
            for wanted in [&one, &other] {
                // The last part of the path is all that differs.
                word[..wanted.len()].copy_from_slice(wanted);
                std::hint::spin_loop();
            }
        }
    });
    let program = c_string(program);
    let name = c"touch";
    let argv = [raw::address(name.to_bytes()), address, 0];
    let argv: Vec<u8> = argv.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let environment = [0_u8; 8];
    for _ in 0..times {
        raw::execute_in_child(
            raw::address(program.as_bytes()),
            raw::address(argv.as_slice()),
            raw::address(&environment),
        );
    }
    Ok(())
}

/// Writes below a name again and again while another thread changes what the
/// name is: a directory, or a link to somewhere else.
fn write_while_flipping(name: &Path, elsewhere: &Path, times: u64) -> io::Result<()> {
    const RENAME_EXCHANGE: u64 = 2;
    let other = name.with_extension("other");
    fs::create_dir(name)?;
    std::os::unix::fs::symlink(elsewhere, &other)?;
    let (one, two) = (c_string(name), c_string(&other));
    let here = libc::AT_FDCWD as u64;
    let exchange = move || {
        let (one, two) = (one.as_bytes_with_nul(), two.as_bytes_with_nul());
        let (one, two) = (raw::address(one), raw::address(two));
        raw::call(
            libc::SYS_renameat2,
            &[here, one, here, two, RENAME_EXCHANGE],
        )
    };
    exchange()?;
    std::thread::spawn(move || while exchange().is_ok() {});
    let mut worked = 0;
    for _ in 0..times {
        worked += u64::from(fs::write(name.join("new"), "x").is_ok());
    }
    found(worked > 0)
}

/// A program that uses this crate, where the machine may not let it.
/// Who a user of this process's namespace is outside. Without `/proc` there is
/// no namespace of its own.
fn outside_user(user: u64) -> u64 {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let lines = map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u64>());
        Some((
            fields.next()?.ok()?,
            fields.next()?.ok()?,
            fields.next()?.ok()?,
        ))
    });
    let mut found = lines.filter(|(first, _, count)| (*first..first + count).contains(&user));
    found
        .next()
        .map_or(user, |(first, outside, _)| outside + user - first)
}

/// Capabilities that a program executed by this process could get.
fn bounding_set() -> i64 {
    let read = libc::PR_CAPBSET_READ as u64;
    (0..=40)
        .map(|capability| raw::call(libc::SYS_prctl, &[read, capability]).unwrap_or(0))
        .sum()
}

/// Whether the process is this user by all its names, in no other group, and
/// nobody can make it more.
fn is_user_alone(user: u64) -> io::Result<()> {
    let mut ids = [0_u32; 3];
    let [real, effective, saved] = &mut ids;
    let places = [real, effective, saved].map(raw::address_mut);
    raw::call(libc::SYS_getresuid, &places)?;
    let groups = raw::call(libc::SYS_getgroups, &[0, 0])?;
    let left = bounding_set();
    println!("{ids:?}, {groups} groups, {left} capabilities in the bounding set");
    found(ids.iter().all(|id| u64::from(*id) == user) && groups == 0 && left == 0)
}

fn start_sandbox() -> io::Result<()> {
    let able = katachi_sandbox::doctor::probe().map_err(io::Error::other)?;
    println!("tier {}", able.tier);
    for check in &able.checks {
        println!("{}: {}", check.name, check.detail);
    }
    let place = std::env::current_dir()?;
    let started = katachi_sandbox::Policy::default()
        .read("@system")
        .write(".")
        .allow("touch")
        .plan(&katachi_sandbox::PlanOptions::new(place))
        .map_err(io::Error::other)?
        .command(["touch", "started"])
        .output();
    match started {
        Ok(output) => self::found(output.outcome.success()),
        Err(error) => {
            println!("start refused: {error}");
            Err(nothing())
        }
    }
}

/// Binds one end of a connected pair to a path.
fn pair_bind(place: &Path) -> io::Result<()> {
    let (one, _other) = UnixDatagram::pair()?;
    let mut name = [0_u8; 110];
    name[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    let bytes = place.as_os_str().as_bytes();
    name[2..2 + bytes.len()].copy_from_slice(bytes);
    raw::call(
        libc::SYS_bind,
        &[one.as_raw_fd() as u64, raw::address(&name), 110],
    )
    .map(drop)
}

fn fast_open(target: &str, protocol: i32) -> io::Result<()> {
    let address: std::net::SocketAddrV4 = target.parse().map_err(io::Error::other)?;
    let fd = raw::call(
        libc::SYS_socket,
        &[
            libc::AF_INET as u64,
            libc::SOCK_STREAM as u64,
            protocol as u64,
        ],
    )?;
    let name = raw::socket_name(address);
    raw::call(
        libc::SYS_sendto,
        &[
            fd as u64,
            raw::address(b"x"),
            1,
            libc::MSG_FASTOPEN as u64,
            raw::address(&name),
            16,
        ],
    )
    .map(drop)
}

/// Leaves a process behind that wants to stay: its own session, all signals
/// ignored, no parent. It keeps a file growing for as long as it lives.
fn survive(heartbeat: &Path) -> io::Result<()> {
    if raw::fork() {
        let _ = raw::call(libc::SYS_setsid, &[]);
        if raw::fork() {
            raw::ignore_signals();
            let _ = raw::call(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as u64, 0]);
            for _ in 0..600 {
                let file = fs::File::options()
                    .append(true)
                    .create(true)
                    .open(heartbeat);
                if let Ok(mut file) = file {
                    let _ = file.write_all(b".");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        std::process::exit(0);
    }
    // Until it beats.
    for _ in 0..200 {
        if heartbeat.exists() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(nothing())
}

/// Only to be found in this file's name space: a descriptor that stays open.
pub(crate) fn keep_open(file: &impl std::os::fd::AsRawFd) -> i32 {
    let fd = file.as_raw_fd();
    // Cleared, so that every program started from now on inherits it.
    raw::call(libc::SYS_fcntl, &[fd as u64, libc::F_SETFD as u64, 0]).unwrap();
    fd
}
