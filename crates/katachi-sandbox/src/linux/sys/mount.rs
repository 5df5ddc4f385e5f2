//! Mounts by descriptor: cloned, given attributes, put in place.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::check;

const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

pub(in crate::platform) const RDONLY: u64 = 0x1;
pub(in crate::platform) const NOSUID: u64 = 0x2;
pub(in crate::platform) const NODEV: u64 = 0x4;
pub(in crate::platform) const NOEXEC: u64 = 0x8;
const IDMAP: u64 = 0x10_0000;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Takes over a descriptor the kernel returned.
fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: called with the fresh result of a successful call that creates
    // a descriptor, which nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// A detached copy of the mount tree at an opened place.
pub(in crate::platform) fn clone_tree(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC as libc::c_uint
        | AT_RECURSIVE
        | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: the empty path is a constant with a zero byte at its end.
    check(unsafe { libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags) })
        .map(owned)
}

/// Sets attributes on a mount and everything mounted below it. With a user
/// namespace, owners are shown as that namespace maps them.
///
/// The mount also leaves its peer group: a clone of a shared mount would hand
/// every mount that is put onto it to the host, where it would stay.
pub(in crate::platform) fn restrict(
    mount: BorrowedFd<'_>,
    attributes: u64,
    map: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: attributes | if map.is_some() { IDMAP } else { 0 },
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: map.map_or(0, |map| map.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` has the kernel's layout, outlives the call and its true
    // size is passed; the path is a constant with a zero byte at its end.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Mounts a detached tree over an opened place.
pub(in crate::platform) fn attach(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both paths are constants with a zero byte at their end.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            place.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// A new, detached file system.
pub(in crate::platform) fn file_system(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: `kind` ends with a zero byte.
    let context = owned(check(unsafe {
        libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC)
    })?);
    for (key, value) in options {
        // SAFETY: both strings end with a zero byte.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        })?;
    }
    let nothing = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            nothing,
            nothing,
            0,
        )
    })?;
    // SAFETY: three integers.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes,
        )
    })
    .map(owned)
}

/// Keeps mounts made from now on from spreading to other namespaces.
pub(in crate::platform) fn make_private() -> io::Result<()> {
    let nothing = std::ptr::null();
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: with MS_PRIVATE only the target and the flags are read.
    let made = unsafe { libc::mount(nothing, c"/".as_ptr(), nothing, flags, nothing.cast()) };
    check(made.into())?;
    Ok(())
}

/// Makes the opened directory the root and forgets the old one.
pub(in crate::platform) fn enter_root(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: one descriptor.
    check(unsafe { libc::fchdir(root.as_raw_fd()) }.into())?;
    // SAFETY: both paths are constants with a zero byte at their end. With
    // equal paths the old root is stacked below the new one (pivot_root(2)).
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: the path is a constant; `.` is now the old root.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())?;
    // SAFETY: the path is a constant.
    check(unsafe { libc::chdir(c"/".as_ptr()) }.into())?;
    Ok(())
}
