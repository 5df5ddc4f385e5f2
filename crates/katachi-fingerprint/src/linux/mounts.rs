//! The mount table, `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

/// The file system that holds a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// Major and minor number of the device; the major number is zero for file
    /// systems without a device of their own, btrfs among them.
    pub device: (u32, u32),
    /// The kind of file system.
    pub kind: String,
    /// What was mounted, for instance `/dev/sda1`.
    pub source: String,
}

/// Finds the mount that holds the absolute path `path`.
///
/// It is the one whose mount point is the longest prefix, and the later one of
/// two on the same point, since it lies on top. Lines that are not understood
/// are passed over.
#[must_use]
pub fn mount_holding(mountinfo: &str, path: &str) -> Option<Mount> {
    let mut found: Option<(usize, Mount)> = None;
    for line in mountinfo.lines() {
        let Some((point, mount)) = entry(line) else {
            continue;
        };
        let depth = point.trim_end_matches('/').len();
        let deeper = found.as_ref().is_none_or(|(before, _)| depth >= *before);
        if deeper && contains(&point, path) {
            found = Some((depth, mount));
        }
    }
    found.map(|(_, mount)| mount)
}

/// One line: `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`.
fn entry(line: &str) -> Option<(String, Mount)> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(2);
    let (major, minor) = head.next()?.split_once(':')?;
    let point = unescape(head.nth(1)?)?;
    let mut tail = tail.split(' ');
    let mount = Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        kind: unescape(tail.next()?)?,
        source: unescape(tail.next()?)?,
    };
    Some((point, mount))
}

/// Says whether `path` is `point` or lies below it, by whole names.
fn contains(point: &str, path: &str) -> bool {
    let point = point.trim_end_matches('/');
    path.strip_prefix(point)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Replaces the octal escapes for blank, tab, newline and backslash.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if let [
            b'\\',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            tail @ ..,
        ] = rest
        {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 8:17 / /home rw shared:1 - xfs /dev/sdb1 rw
31 30 8:18 / /home/a\\040b rw shared:1 master:2 - xfs /dev/sdb2 rw
32 27 0:40 /@ /srv rw - btrfs /dev/sdc1 rw,subvol=/@
33 30 8:33 / /home rw - ext4 /dev/sdd1 rw
nonsense
";

    fn device(path: &str) -> Option<(u32, u32)> {
        mount_holding(TABLE, path).map(|mount| mount.device)
    }

    #[test]
    fn the_deepest_and_topmost_mount_holds_a_path() {
        assert_eq!(device("/"), Some((254, 0)));
        assert_eq!(device("/etc"), Some((254, 0)));
        assert_eq!(device("/homework"), Some((254, 0)));
        assert_eq!(device("/home"), Some((8, 33)));
        assert_eq!(device("/home/me"), Some((8, 33)));
        assert_eq!(device("/home/a b/c"), Some((8, 18)));
        assert_eq!(device("/srv/x"), Some((0, 40)));
        assert_eq!(mount_holding(TABLE, "/srv").unwrap().source, "/dev/sdc1");
    }

    #[test]
    fn an_empty_or_foreign_table_holds_nothing() {
        assert_eq!(mount_holding("", "/"), None);
        assert_eq!(mount_holding("a b c\n - \n1 2 3 4 5 - ", "/"), None);
    }
}
