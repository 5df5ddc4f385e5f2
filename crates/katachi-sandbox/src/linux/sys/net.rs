//! Sockets: handing descriptors over, loopback addresses, moving bytes without
//! reading them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::check;

/// Most descriptors the kernel takes in one message.
pub(in crate::platform) const MOST_DESCRIPTORS: usize = 253;

fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result.into())?;
    // SAFETY: callers pass what a call just returned that makes a descriptor,
    // so it is open and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Two connected unix sockets that keep messages apart.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors that are written to it.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    Ok((owned(fds[0])?, owned(fds[1])?))
}

/// Room for the ancillary data of the largest message, aligned as the kernel
/// wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 2048]);

/// Sends `bytes` with copies of `fds` as one message.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MOST_DESCRIPTORS {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let mut room = Ancillary([0; 2048]);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: `msghdr` is plain pointers and numbers, for which all zeroes is
    // a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let length = size_of_val(fds) as libc::c_uint;
        message.msg_control = room.0.as_mut_ptr().cast();
        // SAFETY: arithmetic on a number.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: `msg_control` points to `room`, which holds 253 descriptors
        // and a header with some to spare, so the first header lies in it.
        let header = unsafe { &mut *libc::CMSG_FIRSTHDR(&raw const message) };
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: arithmetic on a number.
        header.cmsg_len = unsafe { libc::CMSG_LEN(length) } as _;
        for (index, fd) in fds.iter().enumerate() {
            // SAFETY: `index` is below the count that `cmsg_len` says; the
            // data of a header need not be aligned for descriptors.
            unsafe {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                data.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: `message` points to `part` and `room`, which outlive the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    check(sent as libc::c_long)?;
    Ok(())
}

/// Receives one message: how many bytes went into `bytes`, zero at the end,
/// and the descriptors with it, which no program executed later inherits.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut room = Ancillary([0; 2048]);
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: as in `send`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = room.0.as_mut_ptr().cast();
    message.msg_controllen = room.0.len() as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to `part` and `room` with their true lengths.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let count = check(count as libc::c_long)?;
    let mut fds = Vec::new();
    // SAFETY: the kernel filled `room` up to `msg_controllen`.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: it is not null and lies in `room`, which the kernel filled.
        let header = unsafe { &*next };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: arithmetic on a number.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let length = (header.cmsg_len as usize).saturating_sub(empty);
            for index in 0..length / size_of::<RawFd>() {
                // SAFETY: the kernel wrote this many descriptors after the
                // header and gave them to us alone.
                fds.push(unsafe {
                    let data = libc::CMSG_DATA(header).cast::<RawFd>();
                    OwnedFd::from_raw_fd(data.add(index).read_unaligned())
                });
            }
        }
        // SAFETY: `next` came from the same `message`.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("descriptors were lost"));
    }
    Ok((count as usize, fds))
}

/// A socket for one connection, of the network namespace of this process for
/// ever, wherever it is handed to.
pub(crate) fn stream_socket(v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: three integers.
    owned(unsafe { libc::socket(family, kind, 0) })
}

/// Starts connecting a socket; one that does not block gives `EINPROGRESS`.
pub(crate) fn connect(socket: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
    let result = match to {
        SocketAddr::V4(to) => {
            let address = socket_address(*to.ip(), to.port());
            let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            // SAFETY: `address` outlives the call and its true size is passed.
            unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }
        }
        SocketAddr::V6(to) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: to.ip().octets(),
                },
                sin6_scope_id: 0,
            };
            let length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            // SAFETY: as above.
            unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }
        }
    };
    check(result.into())?;
    Ok(())
}

fn socket_address(address: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// Gives the loopback device the address, and with it the whole network of
/// the mask, as its alias number `index`.
pub(crate) fn add_loopback_address(
    index: usize,
    address: Ipv4Addr,
    mask: Ipv4Addr,
) -> io::Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: three integers.
    let socket = owned(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
    let name = format!("lo:{index}");
    for (call, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
        // SAFETY: `ifreq` is plain bytes, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero.
        for (slot, byte) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
            *slot = byte as libc::c_char;
        }
        // SAFETY: the member is a `sockaddr`, which is as large as a
        // `sockaddr_in` and need not be aligned for one here.
        unsafe {
            (&raw mut request.ifr_ifru.ifru_addr)
                .cast::<libc::sockaddr_in>()
                .write_unaligned(socket_address(value, 0));
        }
        // SAFETY: `request` outlives the call, and both calls read an `ifreq`.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), call, &raw const request) }.into())?;
    }
    Ok(())
}

/// Moves up to `most` bytes from one descriptor to another, of which one is a
/// pipe, without copying them. Never waits for the pipe.
pub(crate) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    let nowhere = std::ptr::null_mut::<libc::loff_t>();
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: descriptors, null offsets, which streams want, and numbers.
    let moved = unsafe {
        libc::splice(
            from.as_raw_fd(),
            nowhere,
            to.as_raw_fd(),
            nowhere,
            most,
            flags,
        )
    };
    check(moved as libc::c_long).map(|moved| moved as usize)
}

/// Asks for a pipe to hold `bytes`, and says what it holds.
pub(crate) fn pipe_size(pipe: BorrowedFd<'_>, bytes: i32) -> io::Result<usize> {
    // SAFETY: F_SETPIPE_SZ takes one integer and F_GETPIPE_SZ none. A refused
    // wish leaves the pipe as it is.
    let size = unsafe {
        libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes);
        libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ)
    };
    check(size.into()).map(|size| size as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    #[test]
    fn descriptors_cross_with_their_message() {
        let (one, other) = pair().unwrap();
        let pipes: Vec<_> = (0..3).map(|_| std::io::pipe().unwrap()).collect();
        let writers: Vec<_> = pipes.iter().map(|(_, writer)| writer.as_fd()).collect();
        send(one.as_fd(), b"three", &writers).unwrap();
        send(one.as_fd(), b"none", &[]).unwrap();
        let mut bytes = [0; 16];
        let (count, fds) = receive(other.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..count], fds.len()), (&b"three"[..], 3));
        for (fd, (reader, _)) in fds.into_iter().zip(&pipes) {
            std::fs::File::from(fd).write_all(b"x").unwrap();
            assert_eq!((&*reader).read(&mut [0; 4]).unwrap(), 1);
        }
        assert!(receive(other.as_fd(), &mut bytes).unwrap().1.is_empty());
        drop(one);
        assert_eq!(receive(other.as_fd(), &mut bytes).unwrap().0, 0);
    }
}
