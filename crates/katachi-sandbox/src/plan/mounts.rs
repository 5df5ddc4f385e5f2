//! What is mounted inside directories that a rule opens.
//!
//! A directory is opened with everything mounted below it. Where that belongs
//! to the kernel, as `/proc` and `/dev` in a directory prepared for `chroot`,
//! it would be the host's own and not the sandbox's, so it is hidden.

use std::ffi::OsString;
use std::path::PathBuf;

use super::build::Draft;
use super::entry::{Access, Kind, covering};
use super::files::sorted;

/// Kinds of file system through which the kernel is asked and told things.
const OF_THE_KERNEL: &[&str] = &[
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// Hides what belongs to the kernel inside what is open.
pub(super) fn hide_kernel(draft: &mut Draft<'_>) {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let entries = sorted(&draft.entries);
    for place in kernel_mounts(&table) {
        let opened = covering(&entries, &place)
            .is_some_and(|above| matches!(above.kind, Kind::Host(_)) && above.target != place);
        let Some(metadata) = opened.then(|| place.symlink_metadata().ok()).flatten() else {
            continue;
        };
        let kind = if metadata.is_dir() {
            Kind::HiddenDirectory
        } else {
            Kind::HiddenFile
        };
        draft.protect(
            place,
            kind,
            Access::READ,
            "always, because it belongs to the kernel",
        );
    }
}

/// Mount points of the kernel's file systems in the text of `mountinfo`.
fn kernel_mounts(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let place = fields.nth(4)?;
            // Optional fields come before a single dash, the kind after it.
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            OF_THE_KERNEL
                .iter()
                .any(|known| known.as_bytes() == kind)
                .then(|| unescape(place))
        })
        .collect()
}

/// Space, tab, line break and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    path(bytes)
}

#[cfg(unix)]
fn path(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    OsString::from_vec(bytes).into()
}

#[cfg(not(unix))]
fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from(String::from_utf8_lossy(&bytes).into_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn finds_the_kernel_among_mounts() {
        let table = b"36 35 98:0 / / rw shared:1 - ext4 /dev/root rw\n\
            37 36 0:5 / /w/a\\040b/proc rw,nosuid shared:2 master:1 - proc proc rw\n\
            38 36 0:6 / /w/data rw - tmpfs proc rw\n\
            39 36 0:7 / /w/back\\134slash rw - sysfs sysfs rw\n\
            broken\n";
        let found = kernel_mounts(table);
        assert_eq!(
            found,
            [Path::new("/w/a b/proc"), Path::new("/w/back\\slash")]
        );
    }
}
