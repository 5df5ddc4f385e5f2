//! Making this process a worse place to steal secrets from.

/// What [`harden`] achieved on this system.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Hardening {
    /// Other processes of the same user cannot trace this one or read its memory.
    pub undumpable: bool,
    /// A crash leaves no core file.
    pub no_core: bool,
    /// The pages for keys are never swapped out.
    pub locked_pages: bool,
    /// The pages for keys are in no core file, and in no child made by `fork`.
    pub excluded_pages: bool,
}

/// Asks the operating system to keep other programs, core files and swap away
/// from this process and its keys, and reports what it granted.
///
/// Call it early in `main`. On Linux it
///
/// - makes the process undumpable, which also stops debuggers of the same user;
/// - sets the size limit of core files to zero;
/// - reserves 512 KiB of pages, locked in memory (64 KiB where the limit
///   `RLIMIT_MEMLOCK` allows no more, unlocked where it allows none) and left
///   out of core files and children. Every [`Secret`](crate::Secret) and every
///   prepared key that this crate makes *afterwards* lies there while there is
///   room; [`key_memory`] tells how much there is, and what went elsewhere.
///
/// Elsewhere nothing is granted. Root can undo and read everything.
///
/// [`SecretBytes`](crate::SecretBytes) and [`SecretString`](crate::SecretString)
/// are wiped but may be swapped out: they take over memory of the caller's.
/// Encrypt the swap, or use none, where that matters; hibernation writes locked
/// pages, too.
///
/// A child made by a bare `fork` that touches a key of its parent's is ended by
/// the system; it does not go on with another key. Programs that `fork` to
/// become a daemon call this afterwards. Starting another program is not
/// affected.
///
/// ```
/// let got = katachi_crypto::harden();
/// if cfg!(target_os = "linux") {
///     assert!(got.undumpable && got.no_core && got.excluded_pages);
/// }
/// if !got.locked_pages {
///     eprintln!("keys of this process may be swapped out");
/// }
/// ```
#[must_use]
pub fn harden() -> Hardening {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{
            DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
        };
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let pages = crate::wipe::pages::reserve();
        Hardening {
            undumpable: set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok(),
            no_core: setrlimit(Resource::Core, none).is_ok()
                || getrlimit(Resource::Core).current == Some(0),
            locked_pages: pages.locked,
            excluded_pages: pages.excluded,
        }
    }
    #[cfg(not(target_os = "linux"))]
    Hardening::default()
}

/// How the pages that [`harden`] reserved for keys are used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct KeyMemory {
    /// Size of the pages, in bytes; zero before `harden`, and where it got none.
    pub total: usize,
    /// Bytes of keys that lie in them.
    pub used: usize,
    /// Keys that since found no room there, and went to the ordinary heap.
    pub elsewhere: u64,
}

/// Tells how the pages for keys are used.
#[must_use]
pub fn key_memory() -> KeyMemory {
    #[cfg(target_os = "linux")]
    {
        let usage = crate::wipe::pages::usage();
        KeyMemory {
            total: usage.total,
            used: usage.used,
            elsewhere: usage.elsewhere,
        }
    }
    #[cfg(not(target_os = "linux"))]
    KeyMemory::default()
}
