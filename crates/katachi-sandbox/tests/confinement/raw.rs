//! System calls that no safe interface offers, for attempts alone.
#![allow(unsafe_code)]

use std::io;

/// Makes a system call with up to six integers.
pub(crate) fn call(number: libc::c_long, arguments: &[u64]) -> io::Result<i64> {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = six;
    // SAFETY: attempts pass integers, or addresses of buffers that outlive
    // the call; a wrong one harms this throw-away process alone.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Makes a call through the interface for 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub(crate) fn call_32bit(number: u32) -> i32 {
    let result: i32;
    // SAFETY: `int 0x80` reads registers and, for the calls used here, no
    // memory; the clobbered registers are named.
    unsafe {
        core::arch::asm!(
            "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
            inlateout("eax") number as i32 => result,
            inout("ecx") 0 => _, inout("edx") 0 => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// Sets a variable of this process.
pub(crate) fn set_variable(name: &str, value: &str) {
    // SAFETY: cases have one thread until they start their own.
    unsafe { std::env::set_var(name, value) };
}

/// An address as the kernel reads it.
pub(crate) fn socket_name(address: std::net::SocketAddrV4) -> [u8; 16] {
    let mut name = [0_u8; 16];
    name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    name[4..8].copy_from_slice(&address.ip().octets());
    name
}

/// Ends this process after so many seconds. Its children are none of it.
pub(crate) fn alarm(seconds: i64) -> io::Result<()> {
    const ITIMER_REAL: u64 = 0;
    // Once.
    let timer = [0, 0, seconds, 0];
    call(libc::SYS_setitimer, &[ITIMER_REAL, address(&timer), 0]).map(drop)
}

/// Ignores every signal that can be ignored.
pub(crate) fn ignore_signals() {
    for signal in 1..=64 {
        // SAFETY: two integers.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Splits the process; `true` in the child.
pub(crate) fn fork() -> bool {
    // SAFETY: attempts have one thread.
    unsafe { libc::fork() == 0 }
}

/// Executes in a child and waits for its end. Makes nothing but system calls
/// in the child, since other threads may hold locks.
pub(crate) fn execute_in_child(program: u64, argv: u64, environment: u64) {
    // SAFETY: the child calls execve and _exit alone; the addresses are those
    // of buffers in this process, which the child has as well.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::syscall(libc::SYS_execve, program, argv, environment);
            libc::_exit(1);
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

/// The same in a child that is made with these flags. Where it is another's, it
/// is waited for by what it makes, or by time alone.
pub(crate) fn execute_cloned(
    flags: u64,
    makes: &std::path::Path,
    program: u64,
    argv: u64,
    environment: u64,
) -> io::Result<()> {
    let flags = flags | libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and a stack this is a fork; the child calls
    // execve and _exit alone.
    unsafe {
        match libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                libc::syscall(libc::SYS_execve, program, argv, environment);
                libc::_exit(1);
            }
            child => {
                let waited =
                    libc::waitpid(child as libc::pid_t, std::ptr::null_mut(), libc::__WALL);
                if i64::from(waited) == child {
                    return Ok(());
                }
            }
        }
    }
    for _ in 0..60 {
        if makes.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

/// Refuses new namespaces of these kinds (`CLONE_NEW...`) from now on, as
/// containers do.
pub(crate) fn forbid_namespaces(kinds: libc::c_int) -> io::Result<()> {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let any = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    install(&mut [
        instruction(load, 0, 0, 0),
        instruction(equal, 1, 0, libc::SYS_unshare as u32),
        instruction(equal, 0, 2, libc::SYS_clone as u32),
        // The first argument of both.
        instruction(load, 0, 0, 16),
        instruction(any, 1, 0, kinds as u32),
        instruction(give, 0, 0, libc::SECCOMP_RET_ALLOW),
        instruction(give, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ])
}

/// A system call that fails, or one kind of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    call: libc::c_long,
    kind: Option<Kind>,
}

/// A kind of a call, by the lower half of an argument.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Is(u32, u32),
    Has(u32, u32),
}

impl Fault {
    /// Every such call.
    pub(crate) fn of(call: libc::c_long) -> Self {
        Self { call, kind: None }
    }

    /// With this value for the argument of this number, from zero.
    pub(crate) fn where_argument_is(self, argument: u32, value: u32) -> Self {
        Self {
            kind: Some(Kind::Is(argument, value)),
            ..self
        }
    }

    /// With one of these bits in that argument.
    pub(crate) fn where_argument_has(self, argument: u32, bits: u32) -> Self {
        Self {
            kind: Some(Kind::Has(argument, bits)),
            ..self
        }
    }

    /// Has the kernel answer so from now on, in this process and those that it
    /// starts.
    pub(crate) fn lay(self, error: i32) -> io::Result<()> {
        let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        let any = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
        // Sixteen bytes come before the first argument, and each has eight.
        let (place, test, value) = match self.kind {
            None => (0, equal, self.call as u32),
            Some(Kind::Is(argument, value)) => (16 + 8 * argument, equal, value),
            Some(Kind::Has(argument, bits)) => (16 + 8 * argument, any, bits),
        };
        let give = libc::BPF_RET | libc::BPF_K;
        install(&mut [
            instruction(load, 0, 0, 0),
            instruction(equal, 0, 2, self.call as u32),
            instruction(load, 0, 0, place),
            instruction(test, 1, 0, value),
            instruction(give, 0, 0, libc::SECCOMP_RET_ALLOW),
            instruction(give, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
        ])
    }
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Lays a filter on this process and those that it starts.
fn install(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let filter_mode = u64::from(libc::SECCOMP_MODE_FILTER);
    let install = || {
        let arguments = [libc::PR_SET_SECCOMP as u64, filter_mode, address(&filter)];
        call(libc::SYS_prctl, &arguments).map(drop)
    };
    // Root needs to give nothing up for it.
    install().or_else(|_| {
        let no_new_privileges = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0];
        call(libc::SYS_prctl, &no_new_privileges)?;
        install()
    })
}

/// Does something in a child of its own, which ends if that takes a minute.
/// Fails if it is not done.
pub(crate) fn in_child(work: impl FnOnce() -> bool) -> io::Result<()> {
    // SAFETY: cases that call this have one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // A panic goes no further: what the case made is not this process's to
        // remove.
        let work = std::panic::AssertUnwindSafe(work);
        let done = alarm(60).is_ok() && std::panic::catch_unwind(work).unwrap_or(false);
        std::process::exit(if done { 0 } else { 1 });
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    if child < 0 || unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        return Err(io::Error::last_os_error());
    }
    match status {
        0 => Ok(()),
        status if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGALRM => {
            Err(io::Error::other("it does not end"))
        }
        status => Err(io::Error::other(format!("it ended with {status:#x}"))),
    }
}

/// Takes the one place from which calls of this process and its children can
/// be heard of, and hears of none.
pub(crate) fn hear_of_nothing() -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    }];
    let filter = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    let no_new_privileges = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0];
    call(libc::SYS_prctl, &no_new_privileges)?;
    let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let listener = call(libc::SYS_seccomp, &[mode, flags, address(&filter)])?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(listener as i32) })
}

/// Memory that other processes could share, touched.
pub(crate) fn shared_memory(length: usize) -> io::Result<&'static mut [u8]> {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping at a place of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has this length, is never unmapped, and nobody else
    // in this process knows it.
    let memory = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), length) };
    memory.fill(1);
    Ok(memory)
}

/// A segment of shared memory, filled, that no process keeps mapped.
pub(crate) fn segment(length: usize) -> io::Result<()> {
    let mode = libc::IPC_CREAT as u64 | 0o600;
    let segment = call(libc::SYS_shmget, &[0, length as u64, mode])?;
    let start = call(libc::SYS_shmat, &[segment as u64, 0, 0])?;
    // SAFETY: the segment was just attached there with this length.
    unsafe { std::ptr::write_bytes(start as *mut u8, 1, length) };
    call(libc::SYS_shmdt, &[start as u64]).map(drop)
}

/// Ends the calling thread and nothing else.
pub(crate) fn end_thread() -> ! {
    let _ = call(libc::SYS_exit, &[0]);
    unreachable!("the kernel ended this thread")
}

/// Address of a value that a system call fills in.
pub(crate) fn address_mut<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value) as u64
}

/// Address of a value, as a system call takes it.
pub(crate) fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>() as u64
}
