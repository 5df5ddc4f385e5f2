//! The system call filter: built as plain data, then installed.
//!
//! It allows what it does not name, because programs for work use new calls
//! every year and everything that counts is closed by namespaces, mounts and
//! Landlock as well. What it names are the ways around those, and the parts
//! of the kernel nobody needs here.
//!
//! Arguments that the kernel reads as 32 bits are compared as 32 bits: their
//! upper halves are the caller's to fill and mean nothing.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use super::check;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7;
/// Calls of the x32 variant of x86-64 carry this bit.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

const fn refuse(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// The low half of an argument in `seccomp_data`, on little-endian machines.
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// What the filter depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::platform) struct Choices {
    /// Unix sockets may be made.
    pub(in crate::platform) unix_sockets: bool,
    /// Files in memory may not be made, not even such that are never executed.
    pub(in crate::platform) no_memory_files: bool,
    /// There are no namespaces, so what they would keep apart is refused.
    pub(in crate::platform) alone: bool,
    /// Processes outside can be sent signals.
    pub(in crate::platform) signals_leave: bool,
}

/// Calls that are refused whatever their arguments.
const REFUSED: &[(libc::c_long, i32)] = &[
    // New namespaces would give capabilities back.
    (libc::SYS_unshare, libc::EPERM),
    (libc::SYS_setns, libc::EPERM),
    // Its flags lie behind a pointer; programs fall back to clone.
    (libc::SYS_clone3, libc::ENOSYS),
    // The same for the mode of a new file.
    (libc::SYS_openat2, libc::ENOSYS),
    // Mounts.
    (libc::SYS_mount, libc::EPERM),
    (libc::SYS_umount2, libc::EPERM),
    (libc::SYS_pivot_root, libc::EPERM),
    (libc::SYS_chroot, libc::EPERM),
    (libc::SYS_open_tree, libc::EPERM),
    (libc::SYS_move_mount, libc::EPERM),
    (libc::SYS_fsopen, libc::EPERM),
    (libc::SYS_fsconfig, libc::EPERM),
    (libc::SYS_fsmount, libc::EPERM),
    (libc::SYS_fspick, libc::EPERM),
    (libc::SYS_mount_setattr, libc::EPERM),
    (467, libc::EPERM), // open_tree_attr
    // Files without a path.
    (libc::SYS_open_by_handle_at, libc::EPERM),
    (libc::SYS_name_to_handle_at, libc::EOPNOTSUPP),
    // Other processes.
    (libc::SYS_ptrace, libc::EPERM),
    (libc::SYS_process_vm_readv, libc::EPERM),
    (libc::SYS_process_vm_writev, libc::EPERM),
    (libc::SYS_process_madvise, libc::EPERM),
    (libc::SYS_pidfd_getfd, libc::EPERM),
    (libc::SYS_kcmp, libc::EPERM),
    // A second system call interface that no filter sees.
    (libc::SYS_io_uring_setup, libc::ENOSYS),
    (libc::SYS_io_uring_enter, libc::ENOSYS),
    (libc::SYS_io_uring_register, libc::ENOSYS),
    // Kernel features with a history and no use here.
    (libc::SYS_bpf, libc::EPERM),
    (libc::SYS_perf_event_open, libc::EPERM),
    (libc::SYS_userfaultfd, libc::EPERM),
    (libc::SYS_keyctl, libc::EPERM),
    (libc::SYS_add_key, libc::EPERM),
    (libc::SYS_request_key, libc::EPERM),
    (libc::SYS_kexec_load, libc::EPERM),
    (libc::SYS_init_module, libc::EPERM),
    (libc::SYS_finit_module, libc::EPERM),
    (libc::SYS_delete_module, libc::EPERM),
    (libc::SYS_swapon, libc::EPERM),
    (libc::SYS_swapoff, libc::EPERM),
    (libc::SYS_reboot, libc::EPERM),
    (libc::SYS_acct, libc::EPERM),
    (libc::SYS_quotactl, libc::EPERM),
    (libc::SYS_quotactl_fd, libc::EPERM),
    (libc::SYS_nfsservctl, libc::EPERM),
    (libc::SYS_vhangup, libc::EPERM),
    (libc::SYS_syslog, libc::EPERM),
    (libc::SYS_settimeofday, libc::EPERM),
    (libc::SYS_clock_settime, libc::EPERM),
    (libc::SYS_clock_adjtime, libc::EPERM),
    (libc::SYS_adjtimex, libc::EPERM),
    (libc::SYS_memfd_secret, libc::ENOSYS),
    (libc::SYS_fanotify_init, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_kexec_file_load, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_iopl, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ioperm, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_modify_ldt, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_uselib, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lookup_dcookie, libc::EPERM),
];

/// Where each call carries the permission bits of a file, and the flags that
/// say whether it carries any. A set-user-id file in the workspace would be
/// one outside too.
const MODES: &[(libc::c_long, u32, Option<u32>)] = &[
    (libc::SYS_fchmod, 1, None),
    (libc::SYS_fchmodat, 2, None),
    (452, 2, None), // fchmodat2
    (libc::SYS_openat, 3, Some(2)),
    (libc::SYS_mknodat, 2, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 2, Some(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1, None),
];

/// Flags with which opening makes a file.
const MAKES_FILE: u32 = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// Where each call carries its send flags.
const SENDS: &[(libc::c_long, u32)] = &[
    (libc::SYS_sendto, 3),
    (libc::SYS_sendmsg, 2),
    (libc::SYS_sendmmsg, 3),
];

/// A socket's kind; the upper bits are SOCK_CLOEXEC and SOCK_NONBLOCK.
const SOCKET_KIND: u32 = 0xf;

/// Builds the filter.
pub(in crate::platform) fn filter(choices: Choices) -> Vec<libc::sock_filter> {
    let mut program = Program::default();
    program.load(ARCHITECTURE);
    program.unless_equal(NATIVE, KILL);
    program.load(NUMBER);
    #[cfg(target_arch = "x86_64")]
    program.if_at_least(X32, refuse(libc::ENOSYS));
    let mut refused: Vec<(u32, u32)> = REFUSED
        .iter()
        .map(|(call, errno)| (*call as u32, refuse(*errno)))
        .collect();
    refused.sort_unstable();
    program.search(&refused);
    if choices.alone {
        keep_apart(&mut program);
    }
    if choices.signals_leave {
        for (call, index) in SIGNALS {
            program.call(*call, |block| {
                block.load(argument(*index));
                block.if_equal(libc::SIGSTOP as u32, refuse(libc::EPERM));
            });
        }
    }

    program.call(libc::SYS_clone, |block| {
        const NEW: i32 = libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | 0x80 // CLONE_NEWTIME
            // A child that nobody looks at.
            | libc::CLONE_UNTRACED;
        // The low byte is the exit signal here, which 0x80 cannot be part of.
        block.load(argument(0));
        block.if_any_bit(NEW as u32, refuse(libc::EPERM));
    });
    program.call(libc::SYS_ioctl, |block| {
        block.load(argument(1));
        block.if_equal(libc::TIOCSTI as u32, refuse(libc::EPERM));
        block.if_equal(libc::TIOCLINUX as u32, refuse(libc::EPERM));
    });
    program.call(libc::SYS_personality, |block| {
        block.load(argument(0));
        block.if_equal(0, ALLOW);
        block.if_equal(u32::MAX, ALLOW);
        block.give(refuse(libc::EPERM));
    });
    program.call(libc::SYS_memfd_create, |block| {
        const MFD_NOEXEC_SEAL: u32 = 8;
        block.load(argument(1));
        // No process has to map them, so their size is nobody's.
        if !choices.no_memory_files {
            block.if_any_bit(MFD_NOEXEC_SEAL, ALLOW);
        }
        block.give(refuse(libc::ENOSYS));
    });
    for (call, index, flags) in MODES {
        program.call(*call, |block| {
            if let Some(flags) = flags {
                block.load(argument(*flags));
                block.0.push(jump(libc::BPF_JSET, MAKES_FILE, 1, 0));
                block.give(ALLOW);
            }
            block.load(argument(*index));
            block.if_any_bit(libc::S_ISUID | libc::S_ISGID, refuse(libc::EPERM));
        });
    }
    for (call, index) in SENDS {
        program.call(*call, |block| {
            block.load(argument(*index));
            block.if_any_bit(libc::MSG_FASTOPEN as u32, refuse(libc::EPERM));
        });
    }
    program.call(libc::SYS_setsockopt, |block| {
        const TCP_FASTOPEN_CONNECT: u32 = 30;
        block.load(argument(1));
        block.unless_equal(libc::IPPROTO_TCP as u32, ALLOW);
        block.load(argument(2));
        block.if_equal(TCP_FASTOPEN_CONNECT, refuse(libc::EPERM));
    });
    program.call(libc::SYS_socketpair, |block| {
        block.load(argument(0));
        block.unless_equal(libc::AF_UNIX as u32, refuse(libc::EAFNOSUPPORT));
        // One end of a pair of datagram sockets can send to any other socket
        // and be bound to a path. SOCK_RAW means the same to unix sockets.
        if !choices.unix_sockets {
            block.load(argument(1));
            block.keep_bits(SOCKET_KIND);
            block.if_equal(libc::SOCK_STREAM as u32, ALLOW);
            block.if_equal(libc::SOCK_SEQPACKET as u32, ALLOW);
            block.give(refuse(libc::EPROTONOSUPPORT));
        }
    });
    program.call(libc::SYS_prlimit64, |block| {
        // The first process has the command's user: with its limits lowered
        // it could no longer watch those of the command.
        block.load(argument(0));
        block.unless_equal(0, refuse(libc::EPERM));
    });
    if choices.alone {
        program.if_equal(libc::SYS_socket as u32, refuse(libc::EACCES));
    }
    socket(&mut program, choices);
    program.give(ALLOW);
    program.0
}

/// What a command could do to the rest of the machine without namespaces and
/// read-only mounts, and Landlock does not know.
const APART: &[(libc::c_long, i32)] = &[
    // Owners and attributes of whatever can be named.
    (libc::SYS_fchown, libc::EPERM),
    (libc::SYS_fchownat, libc::EPERM),
    (libc::SYS_setxattr, libc::EOPNOTSUPP),
    (libc::SYS_lsetxattr, libc::EOPNOTSUPP),
    (libc::SYS_fsetxattr, libc::EOPNOTSUPP),
    (463, libc::EOPNOTSUPP), // setxattrat
    (libc::SYS_removexattr, libc::EOPNOTSUPP),
    (libc::SYS_lremovexattr, libc::EOPNOTSUPP),
    (libc::SYS_fremovexattr, libc::EOPNOTSUPP),
    (466, libc::EOPNOTSUPP), // removexattrat
    (469, libc::EOPNOTSUPP), // file_setattr
    // Memory, semaphores and queues that others find by name.
    (libc::SYS_shmget, libc::ENOSYS),
    (libc::SYS_shmat, libc::ENOSYS),
    (libc::SYS_shmctl, libc::ENOSYS),
    (libc::SYS_semget, libc::ENOSYS),
    (libc::SYS_semop, libc::ENOSYS),
    (libc::SYS_semctl, libc::ENOSYS),
    (libc::SYS_semtimedop, libc::ENOSYS),
    (libc::SYS_msgget, libc::ENOSYS),
    (libc::SYS_msgsnd, libc::ENOSYS),
    (libc::SYS_msgrcv, libc::ENOSYS),
    (libc::SYS_msgctl, libc::ENOSYS),
    (libc::SYS_mq_open, libc::ENOSYS),
    (libc::SYS_mq_unlink, libc::ENOSYS),
    // What happens to files that may not even be read.
    (libc::SYS_inotify_add_watch, libc::EACCES),
    // Pages of other processes of the same user.
    (libc::SYS_migrate_pages, libc::EPERM),
    (libc::SYS_move_pages, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lchown, libc::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_utime, libc::EPERM),
];

/// Modes and times of whatever can be named: the first process decides.
pub(in crate::platform) const DECIDED: &[libc::c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    452, // fchmodat2
    libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

/// Where each call carries the signal it sends. One that stops the processes
/// around the command would keep them from ever ending it; others end it.
const SIGNALS: &[(libc::c_long, u32)] = &[
    (libc::SYS_kill, 1),
    (libc::SYS_tkill, 1),
    (libc::SYS_tgkill, 2),
    (libc::SYS_rt_sigqueueinfo, 1),
    (libc::SYS_rt_tgsigqueueinfo, 2),
    (libc::SYS_pidfd_send_signal, 1),
];

/// Calls that change how another process runs, and which argument names it;
/// zero is oneself.
const OTHERS: &[(libc::c_long, u32)] = &[
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setattr, 0),
    (libc::SYS_sched_setaffinity, 0),
    (libc::SYS_setpriority, 1),
    (libc::SYS_ioprio_set, 1),
];

fn keep_apart(program: &mut Program) {
    for (call, errno) in APART {
        program.if_equal(*call as u32, refuse(*errno));
    }
    for (call, index) in OTHERS {
        program.call(*call, |block| {
            block.load(argument(*index));
            block.unless_equal(0, refuse(libc::EPERM));
        });
    }
    program.call(libc::SYS_setpriority, |block| {
        // Process zero is oneself; user zero would be every process of root.
        block.load(argument(0));
        block.unless_equal(0, refuse(libc::EPERM));
    });
    program.call(libc::SYS_ioctl, |block| {
        const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
        const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
        block.load(argument(1));
        block.if_equal(FS_IOC_SETFLAGS, refuse(libc::EPERM));
        block.if_equal(FS_IOC_FSSETXATTR, refuse(libc::EPERM));
    });
}

/// A call that the first process hears of, before the kernel goes on with it.
#[derive(Clone, Copy, Debug)]
pub(in crate::platform) struct Heard {
    pub(in crate::platform) call: libc::c_long,
    /// Only with these values of these arguments, as 32 bits.
    pub(in crate::platform) only: &'static [(u32, u32)],
}

/// Builds a second filter that hands calls to the first process: those that it
/// decides, if `alone`, and those that it merely hears of.
///
/// It is a filter of its own so that the first one keeps its say about what the
/// kernel is told to go on with: of two answers the stricter counts.
pub(in crate::platform) fn hearing(alone: bool, heard: &[Heard]) -> Vec<libc::sock_filter> {
    const HEARD: u32 = libc::SECCOMP_RET_USER_NOTIF;
    let mut program = Program::default();
    program.load(ARCHITECTURE);
    program.unless_equal(NATIVE, ALLOW);
    program.load(NUMBER);
    let decided = DECIDED.iter().filter(|_| alone).copied();
    let always = heard.iter().filter(|heard| heard.only.is_empty());
    let mut calls: Vec<(u32, u32)> = decided
        .chain(always.map(|heard| heard.call))
        .map(|call| (call as u32, HEARD))
        .collect();
    calls.sort_unstable();
    calls.dedup();
    program.search(&calls);
    for heard in heard.iter().filter(|heard| !heard.only.is_empty()) {
        program.call(heard.call, |block| {
            for (index, value) in heard.only {
                block.load(argument(*index));
                block.unless_equal(*value, ALLOW);
            }
            block.give(HEARD);
        });
    }
    program.give(ALLOW);
    program.0
}

/// Builds a filter that stops these calls for the tracer.
pub(in crate::platform) fn observing(calls: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let mut program = Program::default();
    program.load(ARCHITECTURE);
    program.unless_equal(NATIVE, ALLOW);
    program.load(NUMBER);
    for call in calls {
        program.if_equal(*call as u32, libc::SECCOMP_RET_TRACE);
    }
    program.give(ALLOW);
    program.0
}

/// TCP, UDP and, if chosen, unix sockets; nothing else.
fn socket(program: &mut Program, choices: Choices) {
    let families = [libc::AF_INET as u32, libc::AF_INET6 as u32];
    if choices.unix_sockets {
        program.call(libc::SYS_socket, |block| {
            block.load(argument(0));
            block.if_equal(libc::AF_UNIX as u32, ALLOW);
        });
    }
    program.call(libc::SYS_socket, |block| {
        block.load(argument(0));
        let [v4, v6] = families;
        // Falls through to the next check for either family.
        block.0.push(jump(libc::BPF_JEQ, v4, 2, 0));
        block.0.push(jump(libc::BPF_JEQ, v6, 1, 0));
        block.give(refuse(libc::EAFNOSUPPORT));
        block.load(argument(1));
        block.keep_bits(SOCKET_KIND);
        block
            .0
            .push(jump(libc::BPF_JEQ, libc::SOCK_STREAM as u32, 2, 0));
        block
            .0
            .push(jump(libc::BPF_JEQ, libc::SOCK_DGRAM as u32, 7, 0));
        block.give(refuse(libc::EAFNOSUPPORT));
        block.load(argument(2));
        block.if_equal(0, ALLOW);
        block.if_equal(libc::IPPROTO_TCP as u32, ALLOW);
        // The jump for datagrams leads past the four checks and this.
        block.give(refuse(libc::EPROTONOSUPPORT));
        block.load(argument(2));
        block.if_equal(0, ALLOW);
        block.if_equal(libc::IPPROTO_UDP as u32, ALLOW);
        block.give(refuse(libc::EPROTONOSUPPORT));
    });
}

#[derive(Default)]
struct Program(Vec<libc::sock_filter>);

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(test: u32, k: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_JMP | test | libc::BPF_K) as u16,
        jt: yes,
        jf: no,
        k,
    }
}

impl Program {
    fn load(&mut self, offset: u32) {
        self.0.push(statement(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            offset,
        ));
    }

    fn give(&mut self, action: u32) {
        self.0.push(statement(libc::BPF_RET | libc::BPF_K, action));
    }

    fn if_equal(&mut self, value: u32, action: u32) {
        self.0.push(jump(libc::BPF_JEQ, value, 0, 1));
        self.give(action);
    }

    fn unless_equal(&mut self, value: u32, action: u32) {
        self.0.push(jump(libc::BPF_JEQ, value, 1, 0));
        self.give(action);
    }

    #[cfg(target_arch = "x86_64")]
    fn if_at_least(&mut self, value: u32, action: u32) {
        self.0.push(jump(libc::BPF_JGE, value, 0, 1));
        self.give(action);
    }

    fn keep_bits(&mut self, bits: u32) {
        self.0
            .push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, bits));
    }

    fn if_any_bit(&mut self, bits: u32, action: u32) {
        self.0.push(jump(libc::BPF_JSET, bits, 0, 1));
        self.give(action);
    }

    /// Gives a number of a sorted list its action, halving the list at each
    /// step: every call of the command passes through here, and the kernel tries
    /// every number there is when it takes the filter.
    fn search(&mut self, actions: &[(u32, u32)]) {
        /// As few are asked for one after the other.
        const FEW: usize = 3;
        if actions.len() <= FEW {
            for (number, action) in actions {
                self.if_equal(*number, *action);
            }
            return;
        }
        let (low, high) = actions.split_at(actions.len() / 2);
        let (mut below, mut rest) = (Self::default(), Self::default());
        below.search(low);
        rest.search(high);
        // From the end of the lower half past the upper one.
        below
            .0
            .push(statement(libc::BPF_JMP | libc::BPF_JA, rest.0.len() as u32));
        let length = u8::try_from(below.0.len()).expect("half of the list is below 255 long");
        self.0.push(jump(libc::BPF_JGE, high[0].0, length, 0));
        self.0.append(&mut below.0);
        self.0.append(&mut rest.0);
    }

    /// A block for one call. What falls through it goes on with the number
    /// loaded again.
    fn call(&mut self, number: libc::c_long, build: impl FnOnce(&mut Self)) {
        let mut block = Self::default();
        build(&mut block);
        block.load(NUMBER);
        let length = u8::try_from(block.0.len()).expect("no block is near 255 instructions long");
        self.0.push(jump(libc::BPF_JEQ, number as u32, 0, length));
        self.0.append(&mut block.0);
    }
}

/// Installs the filter on this thread, for ever. Needs no_new_privs.
pub(in crate::platform) fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    install_with(filter, 0).map(drop)
}

/// The same, with a descriptor by which another process hears of calls. Who
/// makes one waits for the answer through every signal but those that kill, so
/// that nothing is begun twice.
pub(in crate::platform) fn install_heard(filter: &mut [libc::sock_filter]) -> io::Result<OwnedFd> {
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE_RECV;
    let listener = install_with(filter, flags)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as RawFd) })
}

fn install_with(
    filter: &mut [libc::sock_filter],
    flags: libc::c_ulong,
) -> io::Result<libc::c_long> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` and the instructions it points to outlive the call,
    // and the length is theirs.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}

#[cfg(test)]
mod tests;
