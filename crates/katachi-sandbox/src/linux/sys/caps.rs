//! Capabilities: all given up, and checked to be gone.

use std::io;

use super::check;

const VERSION_3: u32 = 0x2008_0522;
/// Root is nobody special, set-user-id changes nothing, for ever.
const SECURE_BITS: libc::c_ulong = 0b1110_1111;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What the first process of a sandbox does: mounts, the loopback device,
/// other users' files and processes, the change to the command's user.
const FOR_THE_FIRST: &[u32] = &[
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    2,  // CAP_DAC_READ_SEARCH
    3,  // CAP_FOWNER
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    8,  // CAP_SETPCAP
    10, // CAP_NET_BIND_SERVICE
    12, // CAP_NET_ADMIN
    19, // CAP_SYS_PTRACE
    21, // CAP_SYS_ADMIN
];

/// Gives up what the first process of a sandbox needs not, such as modules,
/// devices and the clock.
pub(in crate::platform) fn keep_for_the_first() -> io::Result<()> {
    let mut kept = [Data::default(); 2];
    for (kept, held) in kept.iter_mut().zip(current()?) {
        kept.effective = held.effective;
        kept.permitted = held.permitted;
    }
    let wanted = FOR_THE_FIRST.iter().fold(0, |set, bit| set | 1 << bit);
    kept[0].effective &= wanted;
    kept[0].permitted &= wanted;
    kept[1] = Data::default();
    set(&kept)
}

/// Empties the bounding set, asserts that it is empty, and locks the
/// securebits. Needs CAP_SETPCAP.
pub(in crate::platform) fn forbid_regaining() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: integers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match check(result.into()) {
            Ok(_) => {}
            // The first number the kernel does not know.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && capability > 30 => break,
            Err(error) => return Err(error),
        }
        // SAFETY: integers.
        let left = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        if left != 0 {
            return Err(io::Error::other("the bounding set is not empty"));
        }
    }
    // SAFETY: integers.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0, 0, 0) }.into())?;
    Ok(())
}

/// Gives up every capability and asserts that none is left.
pub(in crate::platform) fn give_up() -> io::Result<()> {
    let (ambient, clear) = (libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL);
    // SAFETY: integers.
    let cleared = unsafe { libc::prctl(ambient, clear, 0, 0, 0) };
    check(cleared.into())?;
    set(&[Data::default(); 2])?;
    let held = current()?;
    if held == [Data::default(); 2] {
        Ok(())
    } else {
        Err(io::Error::other(
            "capabilities are left after dropping all of them",
        ))
    }
}

/// Whether the process holds these capabilities effectively.
pub(in crate::platform) fn holds(capabilities: &[u32]) -> bool {
    current().is_ok_and(|held| {
        capabilities
            .iter()
            .all(|bit| held[(bit / 32) as usize].effective & (1 << (bit % 32)) != 0)
    })
}

fn set(wanted: &[Data; 2]) -> io::Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    // SAFETY: version 3 reads a header and two data blocks, all of which
    // outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, wanted.as_ptr()) })?;
    Ok(())
}

fn current() -> io::Result<[Data; 2]> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut held = [Data::default(); 2];
    // SAFETY: version 3 reads a header and writes two data blocks, all of
    // which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, held.as_mut_ptr()) })?;
    Ok(held)
}

/// Whether the process holds any capability at all, or cannot tell.
pub(in crate::platform) fn holds_any() -> bool {
    current().map_or(true, |held| held != [Data::default(); 2])
}
