//! Reaching anything but the sandbox itself.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::Case;
use super::proxy::own_address;
use crate::bed::{Bed, Verdict, must, text};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "the host's loopback is not reached",
        run: tcp,
        needs: &[],
    },
    Case {
        name: "no datagram leaves",
        run: udp,
        needs: &[],
    },
    Case {
        name: "fast open and multipath are refused",
        run: variants,
        needs: &[],
    },
    Case {
        name: "no name is resolved",
        run: resolve,
        needs: &[],
    },
    Case {
        name: "unix sockets of the host are not reached",
        run: unix,
        needs: &[],
    },
    Case {
        name: "a unix socket in the workspace is not reached",
        run: unix_in_workspace,
        needs: &[],
    },
    Case {
        name: "a named unix socket is reached",
        run: named_socket,
        needs: &[],
    },
    Case {
        name: "abstract sockets are not reached",
        run: abstract_socket,
        needs: &[],
    },
    Case {
        name: "other socket families do not exist",
        run: families,
        needs: &[],
    },
    Case {
        name: "servers inside can be reached from inside",
        run: loopback,
        needs: &[],
    },
];

fn tcp(bed: &Bed) -> Verdict {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    bed.only_outside(&["tcp", &address])?;
    if let Ok(listener) = TcpListener::bind("[::1]:0") {
        bed.only_outside(&["tcp", &listener.local_addr().unwrap().to_string()])?;
    }
    for address in ["169.254.169.254:80", "192.0.2.1:80", "10.0.0.1:22"] {
        bed.denied(&["tcp", address])?;
    }
    // What the host calls its own on its network.
    if let Some(own) = own_address() {
        let listener = TcpListener::bind((own, 0)).unwrap();
        bed.only_outside(&["tcp", &listener.local_addr().unwrap().to_string()])?;
    }
    Ok(())
}

fn udp(bed: &Bed) -> Verdict {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    bed.control(&["udp", &address])?;
    must(
        socket.recv(&mut [0; 8]).is_ok(),
        "the control's datagram did not arrive",
    )?;
    // A loopback of its own takes the datagram; nobody outside gets it.
    bed.run(&bed.plan(&bed.policy())?, &["udp", &address])?;
    must(
        socket.recv(&mut [0; 8]).is_err(),
        "a datagram left the sandbox",
    )?;
    // A resolver, a server that speaks QUIC, whoever answers on the local network.
    for address in [
        "192.0.2.1:53",
        "192.0.2.1:443",
        "224.0.0.251:5353",
        "255.255.255.255:9",
    ] {
        bed.denied(&["udp", address])?;
    }
    Ok(())
}

fn variants(bed: &Bed) -> Verdict {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    bed.only_outside(&["tcp-fast-open", &address])?;
    bed.only_outside(&["tcp-fast-open-connect", &address])?;
    // Not every kernel has it.
    bed.possible_outside(&["mptcp"]);
    bed.denied(&["mptcp"])
}

fn resolve(bed: &Bed) -> Verdict {
    // Which servers this machine asks is beside the point: the question is put to
    // one of ours, as a resolver puts it, and it must not arrive.
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let heard = |name: &str| -> Result<bool, String> {
        let mut question = [0; 512];
        let label = name.split('.').next().unwrap_or_default();
        loop {
            match server.recv(&mut question) {
                Ok(length) if has(&question[..length], label) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    server.set_nonblocking(true).unwrap();
    bed.control(&["ask-name", &address, "control.katachi.invalid"])?;
    must(
        heard("control.katachi.invalid")?,
        "the control's question did not arrive",
    )?;
    let name = "secret.katachi.invalid";
    let mut policies = vec![bed.policy()];
    if bed.has_namespaces() {
        // With a proxy there is a server inside, which answers for allowed names.
        policies.push(bed.policy().allow_host("katachi.example:443"));
    }
    for policy in policies {
        let plan = bed.plan(&policy)?;
        bed.run(&plan, &["ask-name", &address, name])?;
        must(!heard(name)?, "the question left the sandbox")?;
        // By whatever the system's library asks.
        bed.denied_by(&plan, &["resolve", name])?;
    }
    // And no other way leads to a server that everybody could ask.
    bed.denied(&["ask-name", "192.0.2.53:53", name])
}

fn has(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|part| part == word.as_bytes())
}

fn unix(bed: &Bed) -> Verdict {
    let place = bed.outside.join("socket");
    let _listener = UnixListener::bind(&place).unwrap();
    bed.only_outside(&["unix-connect", &text(&place)])?;
    std::os::unix::fs::symlink(&place, bed.workspace.join("link")).unwrap();
    bed.only_outside(&["unix-connect", &bed.inside("link")])
}

fn unix_in_workspace(bed: &Bed) -> Verdict {
    let _listener = UnixListener::bind(bed.workspace.join("socket")).unwrap();
    bed.only_outside(&["unix-connect", &bed.inside("socket")])?;
    bed.only_outside(&["unix-listen", &bed.inside("other")])
}

fn named_socket(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let place = bed.outside.join("socket");
    let other = bed.outside.join("other");
    let _listener = UnixListener::bind(&place).unwrap();
    let _other = UnixListener::bind(&other).unwrap();
    let mut policy = bed.policy();
    policy.network.unix.push(text(&place));
    let plan = bed.plan(&policy)?;
    bed.allowed_by(&plan, &["unix-connect", &text(&place)])?;
    bed.denied_by(&plan, &["unix-connect", &text(&other)])
}

fn abstract_socket(bed: &Bed) -> Verdict {
    let name = format!("katachi-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    bed.only_outside(&["abstract-connect", &name])?;
    // Where unix sockets are allowed, it is another namespace that keeps them.
    let place = bed.outside.join("socket");
    let _other = UnixListener::bind(&place).unwrap();
    let mut policy = bed.policy();
    policy.network.unix.push(text(&place));
    bed.denied_by(&bed.plan(&policy)?, &["abstract-connect", &name])
}

/// Shared memory communications, which libc does not name.
const AF_SMC: i32 = 43;

fn families(bed: &Bed) -> Verdict {
    let mut possible = 0;
    for (family, kind, protocol) in [
        (libc::AF_NETLINK, libc::SOCK_RAW, 0),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
        (libc::AF_NETLINK, libc::SOCK_RAW, 15),
        (libc::AF_PACKET, libc::SOCK_RAW, 0),
        (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        (libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        (libc::AF_BLUETOOTH, libc::SOCK_RAW, 1),
        (libc::AF_XDP, libc::SOCK_RAW, 0),
        (libc::AF_TIPC, libc::SOCK_STREAM, 0),
        (libc::AF_RDS, libc::SOCK_SEQPACKET, 0),
        (AF_SMC, libc::SOCK_STREAM, 0),
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
        (libc::AF_UNIX, libc::SOCK_STREAM, 0),
    ] {
        let words = [family, kind, protocol].map(|number| number.to_string());
        let attempt = ["socket", &words[0], &words[1], &words[2]];
        possible += u32::from(bed.possible_outside(&attempt));
        bed.denied(&attempt)?;
    }
    // Three that every kernel has.
    must(possible >= 3, "the control shows nothing")
}

fn loopback(bed: &Bed) -> Verdict {
    bed.allowed_by(&bed.plan(&bed.policy())?, &["loopback"])
}
