//! Attempts on the kernel's own interfaces: calls, other processes,
//! descriptors, and programs without a name.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::raw;

/// What a call answers that is closed.
const CLOSED: [i32; 4] = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EOPNOTSUPP];

/// Makes a call with arguments that mean nothing. It was reached if the kernel
/// complains about them, or does what little they say.
pub(crate) fn reach(number: u64, arguments: &[u64]) -> io::Result<()> {
    match raw::call(number as libc::c_long, arguments) {
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|code| CLOSED.contains(&code)) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Reads a byte of another process. That there is none at this address says
/// only somebody who may look.
pub(crate) fn read_memory_of(process: u64) -> io::Result<()> {
    let mut byte = [0_u8];
    let here = [raw::address_mut(&mut byte), 1];
    let there = [1_u64, 1];
    let arguments = [process, raw::address(&here), 1, raw::address(&there), 1, 0];
    match raw::call(libc::SYS_process_vm_readv, &arguments) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        other => other.map(drop),
    }
}

/// Takes another process's standard input.
pub(crate) fn take_descriptor_of(process: u64) -> io::Result<()> {
    let pidfd = raw::call(libc::SYS_pidfd_open, &[process, 0])?;
    raw::call(libc::SYS_pidfd_getfd, &[pidfd.unsigned_abs(), 0, 0]).map(drop)
}

/// Whether this process has more by the file that it runs than by who started
/// it: another user, or capabilities.
pub(crate) fn gained() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let (mut header, mut sets) = ([VERSION_3, 0], [0_u32; 6]);
    let arguments = [raw::address_mut(&mut header), raw::address_mut(&mut sets)];
    raw::call(libc::SYS_capget, &arguments)?;
    let [effective, permitted, _, more_effective, more_permitted, _] = sets;
    let capabilities = effective | permitted | more_effective | more_permitted;
    let user = raw::call(libc::SYS_getuid, &[])?;
    let effective_user = raw::call(libc::SYS_geteuid, &[])?;
    match capabilities == 0 && user == effective_user {
        true => Err(io::Error::other("no more than its caller")),
        false => Ok(()),
    }
}

/// Gives a program a capability (CAP_NET_RAW), effective from its start.
pub(crate) fn give_capability(program: &Path) -> io::Result<()> {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;
    const CAP_NET_RAW: u32 = 1 << 13;
    let file = std::ffi::CString::new(program.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let name = c"security.capability";
    let value = [REVISION_2_EFFECTIVE, CAP_NET_RAW, 0, 0, 0].map(u32::to_le_bytes);
    let arguments = [
        raw::address(file.to_bytes_with_nul()),
        raw::address(name.to_bytes_with_nul()),
        raw::address(&value),
        20,
        0,
    ];
    raw::call(libc::SYS_setxattr, &arguments).map(drop)
}

/// Whether this number is a descriptor of any kind.
pub(crate) fn is_open(number: u64) -> io::Result<()> {
    raw::call(libc::SYS_fcntl, &[number, libc::F_GETFD as u64]).map(drop)
}

/// Opens as many at one time, after raising the limit as far as it goes.
pub(crate) fn open_many(count: u64) -> io::Result<()> {
    let mut limit = [0_u64; 2];
    let number = libc::RLIMIT_NOFILE as u64;
    raw::call(
        libc::SYS_prlimit64,
        &[0, number, 0, raw::address_mut(&mut limit)],
    )?;
    limit[0] = limit[1];
    raw::call(libc::SYS_prlimit64, &[0, number, raw::address(&limit), 0])?;
    let held: io::Result<Vec<_>> = (0..count).map(|_| fs::File::open("/dev/null")).collect();
    held.map(drop)
}

/// Executes a file in memory that is made with these flags, by its place in
/// `/proc` or by its descriptor alone.
pub(crate) fn execute_memory(program: &Path, flags: u64, by_descriptor: bool) -> io::Result<()> {
    let name = c"program";
    let name = raw::address(name.to_bytes_with_nul());
    let fd = raw::call(libc::SYS_memfd_create, &[name, flags])? as RawFd;
    let place = format!("/proc/self/fd/{fd}");
    fs::write(&place, fs::read(program)?)?;
    match by_descriptor {
        true => execute_descriptor(fd),
        false => crate::attempts::execute(Path::new(&place), &[]),
    }
}

/// Executes a file that never had a name.
pub(crate) fn execute_nameless(program: &Path, directory: &Path) -> io::Result<()> {
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .mode(0o700)
        .custom_flags(libc::O_TMPFILE)
        .open(directory)?;
    file.write_all(&fs::read(program)?)?;
    file.set_permissions(fs::Permissions::from_mode(0o700))?;
    // Nothing is executed while somebody can write it.
    let again = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    drop(file);
    execute_descriptor(again.as_raw_fd())
}

/// In this process's place.
fn execute_descriptor(fd: RawFd) -> io::Result<()> {
    let empty = c"";
    let empty = raw::address(empty.to_bytes_with_nul());
    let name = c"program";
    let argv = [raw::address(name.to_bytes_with_nul()), 0];
    let environment = [0_u64];
    let arguments = [
        fd as u64,
        empty,
        raw::address(&argv),
        raw::address(&environment),
        libc::AT_EMPTY_PATH as u64,
    ];
    raw::call(libc::SYS_execveat, &arguments).map(drop)
}

/// Whether this process leads a session, and no terminal is the caller's.
pub(crate) fn leads_session() -> io::Result<()> {
    let session = raw::call(libc::SYS_getsid, &[0])?;
    match session == i64::from(std::process::id()) {
        true => Ok(()),
        false => Err(io::Error::other(format!("the session is {session}"))),
    }
}

/// Connects with data in the first packet, by an option instead of a flag.
pub(crate) fn fast_open_connect(target: &str) -> io::Result<()> {
    const TCP_FASTOPEN_CONNECT: u64 = 30;
    let address: std::net::SocketAddrV4 = target.parse().map_err(io::Error::other)?;
    let fd = raw::call(
        libc::SYS_socket,
        &[libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0],
    )? as u64;
    let on = 1_i32;
    let option = [
        fd,
        libc::IPPROTO_TCP as u64,
        TCP_FASTOPEN_CONNECT,
        raw::address(&on),
        4,
    ];
    raw::call(libc::SYS_setsockopt, &option)?;
    let name = raw::socket_name(address);
    raw::call(libc::SYS_connect, &[fd, raw::address(&name), 16])?;
    raw::call(libc::SYS_write, &[fd, raw::address(b"x"), 1]).map(drop)
}
