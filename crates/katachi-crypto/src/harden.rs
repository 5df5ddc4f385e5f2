//! Making this process a worse place to steal secrets from.

/// What [`harden`] achieved on this system.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Hardening {
    /// Other processes of the same user cannot trace this one or read its memory.
    pub undumpable: bool,
    /// A crash leaves no core file.
    pub no_core: bool,
}

/// Asks the operating system to keep other programs and core files away from
/// this process, and reports what it granted.
///
/// Call it early in `main`. On Linux it makes the process undumpable, which also
/// stops debuggers of the same user, and sets the size limit of core files to
/// zero. Elsewhere nothing is granted. Root can undo and read everything.
///
/// ```
/// let got = katachi_crypto::harden();
/// if cfg!(target_os = "linux") {
///     assert!(got.undumpable && got.no_core);
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
        Hardening {
            undumpable: set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok(),
            no_core: setrlimit(Resource::Core, none).is_ok()
                || getrlimit(Resource::Core).current == Some(0),
        }
    }
    #[cfg(not(target_os = "linux"))]
    Hardening::default()
}
