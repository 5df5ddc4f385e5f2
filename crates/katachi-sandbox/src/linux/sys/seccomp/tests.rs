//! Verdicts of the filter, by an interpreter of its instructions.

use super::*;

/// The kernel's interpreter for the instructions used here.
fn run(filter: &[libc::sock_filter], architecture: u32, number: i64, arguments: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        NUMBER => number as u32,
        ARCHITECTURE => architecture,
        other => arguments[((other - 16) / 8) as usize] as u32,
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let instruction = filter[at];
        at += 1;
        let code = u32::from(instruction.code);
        let k = instruction.k;
        if code == libc::BPF_RET | libc::BPF_K {
            return k;
        } else if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
            accumulator = load(k);
        } else if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K {
            accumulator &= k;
        } else if code == libc::BPF_JMP | libc::BPF_JA {
            at += k as usize;
        } else {
            let yes = match code & 0xf0 {
                libc::BPF_JEQ => accumulator == k,
                libc::BPF_JGE => accumulator >= k,
                libc::BPF_JSET => accumulator & k != 0,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if yes { instruction.jt } else { instruction.jf });
        }
    }
}

fn verdict(choices: Choices, number: i64, arguments: [u64; 6]) -> u32 {
    run(&filter(choices), NATIVE, number, arguments)
}

fn with(unix_sockets: bool) -> Choices {
    Choices {
        unix_sockets,
        ..Choices::default()
    }
}

#[test]
fn a_foreign_architecture_is_fatal() {
    assert_eq!(
        run(&filter(Choices::default()), 0x4000_0003, 1, [0; 6]),
        KILL
    );
}

#[test]
#[cfg(target_arch = "x86_64")]
fn x32_calls_do_not_exist() {
    let number = i64::from(X32) | libc::SYS_read;
    assert_eq!(
        verdict(Choices::default(), number, [0; 6]),
        refuse(libc::ENOSYS)
    );
}

#[test]
fn sockets_are_tcp_and_udp() {
    let socket = |domain: i32, kind: i32, protocol: i32, unix_sockets| {
        let arguments = [domain as u64, kind as u64, protocol as u64, 0, 0, 0];
        verdict(with(unix_sockets), libc::SYS_socket, arguments)
    };
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in [
            (libc::SOCK_STREAM, 0),
            (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, 0),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        ] {
            assert_eq!(socket(family, kind | flags, protocol, false), ALLOW);
        }
        for (kind, protocol) in [
            (libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
            (libc::SOCK_STREAM, libc::IPPROTO_SCTP),
            (libc::SOCK_DGRAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        ] {
            assert_eq!(
                socket(family, kind, protocol, true),
                refuse(libc::EPROTONOSUPPORT)
            );
        }
        assert_eq!(
            socket(family, libc::SOCK_RAW, 0, true),
            refuse(libc::EAFNOSUPPORT)
        );
    }
    for family in [
        libc::AF_NETLINK,
        libc::AF_PACKET,
        libc::AF_VSOCK,
        libc::AF_ALG,
        libc::AF_BLUETOOTH,
        libc::AF_XDP,
    ] {
        assert_eq!(
            socket(family, libc::SOCK_DGRAM, 0, true),
            refuse(libc::EAFNOSUPPORT)
        );
    }
    assert_eq!(
        socket(libc::AF_UNIX, libc::SOCK_STREAM, 0, false),
        refuse(libc::EAFNOSUPPORT)
    );
    assert_eq!(socket(libc::AF_UNIX, libc::SOCK_STREAM, 0, true), ALLOW);
}

#[test]
fn pairs_of_sockets_lead_to_each_other_alone() {
    let pair = |domain: i32, kind: i32, unix_sockets| {
        let arguments = [domain as u64, kind as u64, 0, 0, 0, 0];
        verdict(with(unix_sockets), libc::SYS_socketpair, arguments)
    };
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
        assert_eq!(pair(libc::AF_UNIX, kind | flags, false), ALLOW);
    }
    for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
        assert_eq!(
            pair(libc::AF_UNIX, kind | flags, false),
            refuse(libc::EPROTONOSUPPORT)
        );
        assert_eq!(pair(libc::AF_UNIX, kind | flags, true), ALLOW);
    }
    assert_eq!(
        pair(libc::AF_INET, libc::SOCK_STREAM, true),
        refuse(libc::EAFNOSUPPORT)
    );
}

#[test]
fn limits_of_other_processes_stay_as_they_are() {
    let limit = |pid: u64| {
        let arguments = [pid, 7, 1, 0, 0, 0];
        verdict(Choices::default(), libc::SYS_prlimit64, arguments)
    };
    assert_eq!(limit(0), ALLOW);
    assert_eq!(limit(1), refuse(libc::EPERM));
}

#[test]
fn what_could_stop_the_first_process_is_refused() {
    for (call, index) in SIGNALS {
        for (signal, signals_leave, wanted) in [
            (libc::SIGSTOP, true, refuse(libc::EPERM)),
            (libc::SIGTERM, true, ALLOW),
            (libc::SIGSTOP, false, ALLOW),
        ] {
            let mut arguments = [0; 6];
            arguments[*index as usize] = signal as u64;
            let choices = Choices {
                signals_leave,
                ..Choices::default()
            };
            assert_eq!(verdict(choices, *call, arguments), wanted, "{call}");
        }
    }
}

#[test]
fn without_namespaces_what_they_keep_apart_is_refused() {
    let alone = Choices {
        alone: true,
        ..Choices::default()
    };
    for (call, errno) in APART {
        assert_eq!(verdict(alone, *call, [0; 6]), refuse(*errno), "{call}");
    }
    for (call, index) in OTHERS {
        let mut arguments = [0; 6];
        assert_eq!(verdict(alone, *call, arguments), ALLOW, "{call}");
        arguments[*index as usize] = 1;
        assert_eq!(
            verdict(alone, *call, arguments),
            refuse(libc::EPERM),
            "{call}"
        );
    }
    let socket = [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0];
    assert_eq!(
        verdict(alone, libc::SYS_socket, socket),
        refuse(libc::EACCES)
    );
}

#[test]
fn upper_halves_of_arguments_change_nothing() {
    let upper = 0xdead_beef_0000_0000;
    let number = libc::SYS_ioctl;
    let verdict_for = |value: u64| verdict(Choices::default(), number, [0, value, 0, 0, 0, 0]);
    assert_eq!(verdict_for(upper | libc::TIOCSTI), refuse(libc::EPERM));
    assert_eq!(verdict_for(libc::TIOCLINUX), refuse(libc::EPERM));
    assert_eq!(verdict_for(upper | libc::TIOCGWINSZ), ALLOW);
}

#[test]
fn threads_can_be_made_and_namespaces_cannot() {
    let clone = |flags: i32| {
        verdict(
            Choices::default(),
            libc::SYS_clone,
            [flags as u64, 0, 0, 0, 0, 0],
        )
    };
    assert_eq!(
        clone(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND),
        ALLOW
    );
    assert_eq!(clone(libc::SIGCHLD), ALLOW);
    assert_eq!(
        clone(libc::CLONE_NEWUSER | libc::SIGCHLD),
        refuse(libc::EPERM)
    );
    assert_eq!(clone(libc::CLONE_NEWNS), refuse(libc::EPERM));
}

#[test]
fn only_memory_files_that_can_never_be_executed_are_made() {
    let memfd = |flags: u64| {
        verdict(
            Choices::default(),
            libc::SYS_memfd_create,
            [0, flags, 0, 0, 0, 0],
        )
    };
    assert_eq!(memfd(1), refuse(libc::ENOSYS));
    assert_eq!(memfd(0x10), refuse(libc::ENOSYS));
    assert_eq!(memfd(1 | 8), ALLOW);
}

#[test]
fn no_file_gets_a_set_user_id_bit() {
    for (call, index, flags) in MODES {
        let mut arguments = [0; 6];
        if let Some(flags) = flags {
            arguments[*flags as usize] = libc::O_CREAT as u64;
        }
        arguments[*index as usize] = 0o4755;
        assert_eq!(
            verdict(Choices::default(), *call, arguments),
            refuse(libc::EPERM)
        );
        arguments[*index as usize] = 0o755;
        assert_eq!(verdict(Choices::default(), *call, arguments), ALLOW);
    }
}

#[test]
fn ordinary_calls_pass() {
    for number in [
        libc::SYS_read,
        libc::SYS_execve,
        libc::SYS_futex,
        libc::SYS_connect,
        libc::SYS_getrandom,
    ] {
        assert_eq!(verdict(Choices::default(), number, [0; 6]), ALLOW);
    }
}

#[test]
fn calls_are_heard_of_and_refused_as_ever() {
    const HEARD: u32 = libc::SECCOMP_RET_USER_NOTIF;
    let looks = &[(0, libc::AT_FDCWD as u32), (3, 0)];
    let heard = [
        (libc::SYS_execve, &[][..]),
        (libc::SYS_newfstatat, looks),
        (libc::SYS_fchmod, &[]),
    ]
    .map(|(call, only)| Heard { call, only });
    let here = libc::AT_FDCWD as u64;
    for alone in [false, true] {
        let filter = hearing(alone, &heard);
        let verdict = |call, arguments| run(&filter, NATIVE, call, arguments);
        assert_eq!(verdict(libc::SYS_execve, [7; 6]), HEARD);
        assert_eq!(verdict(libc::SYS_newfstatat, [here, 1, 2, 0, 9, 9]), HEARD);
        // The upper half means nothing to the kernel.
        let upper = here | 7 << 32;
        assert_eq!(verdict(libc::SYS_newfstatat, [upper, 1, 2, 0, 0, 0]), HEARD);
        for other in [[here, 1, 2, 1, 0, 0], [3, 1, 2, 0, 0, 0]] {
            assert_eq!(verdict(libc::SYS_newfstatat, other), ALLOW);
        }
        assert_eq!(verdict(libc::SYS_read, [0; 6]), ALLOW);
        for call in DECIDED.iter().filter(|call| **call != libc::SYS_fchmod) {
            let wanted = if alone { HEARD } else { ALLOW };
            assert_eq!(verdict(*call, [0; 6]), wanted, "{call}");
        }
        // The first filter is asked too, and its answer is the stricter one.
        let choices = Choices {
            alone,
            ..Choices::default()
        };
        for (call, errno) in REFUSED {
            let refused = super::tests::verdict(choices, *call, [0; 6]);
            assert_eq!(refused, refuse(*errno), "{call}");
            assert!((refused & libc::SECCOMP_RET_ACTION_FULL) < HEARD);
        }
    }
}
