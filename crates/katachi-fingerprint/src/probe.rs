//! Looking at the machine.

use std::path::{Path, PathBuf};

use crate::observation::Observation;

/// Something that can look at a machine.
///
/// # Security
///
/// A probe decides what counts as this machine. Reporting a value that many
/// machines share, or that changes by itself, costs the binding its strength
/// or the owner their data; leaving a part out only costs tolerance.
pub trait Probe {
    /// Looks once. What cannot be read is left out.
    fn observe(&self) -> Observation;
}

/// An observation is a probe that has already looked: handy for tests and for
/// using one look several times.
impl Probe for Observation {
    fn observe(&self) -> Observation {
        self.clone()
    }
}

/// Looks at the machine this program runs on.
///
/// On Linux it reads files under `/proc`, `/sys`, `/etc`, `/dev` and `/run`
/// that are readable by everybody, so root and a user see the same. On macOS it
/// asks the I/O registry, on Windows the registry, the firmware's tables and
/// the drivers, for what they tell everybody. It starts no program.
#[derive(Clone, Debug, Default)]
pub struct SystemProbe {
    root: Option<PathBuf>,
    data: Option<PathBuf>,
    application: Option<String>,
}

impl SystemProbe {
    /// A probe of this machine, with the volume that holds `/`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a Linux file system tree under `root` instead of the machine's
    /// own. Works on every platform; made for fake machines and for looking at
    /// a mounted image.
    #[must_use]
    pub fn with_root(root: impl Into<PathBuf>) -> Self {
        Self {
            root: Some(root.into()),
            ..Self::default()
        }
    }

    /// Takes volume and drive from the file system that holds `path`, which
    /// should be where the protected data lies.
    ///
    /// The path need not exist; with [`with_root`](Self::with_root) it is a
    /// path inside that root.
    #[must_use]
    pub fn volume_of(mut self, path: impl Into<PathBuf>) -> Self {
        self.data = Some(path.into());
        self
    }

    /// Also reads the digests that [`publish`](crate::publish) left for
    /// `application`.
    ///
    /// Board serial and product UUID are readable by root alone. A one-shot
    /// service run by root at boot can publish digests of them; without it
    /// they are absent, for root as well.
    #[must_use]
    pub fn published_for(mut self, application: impl Into<String>) -> Self {
        self.application = Some(application.into());
        self
    }
}

impl Probe for SystemProbe {
    fn observe(&self) -> Observation {
        let data = self.data.as_deref().unwrap_or(Path::new("/"));
        if let Some(root) = &self.root {
            return crate::linux::observe(root, data, self.application.as_deref());
        }
        // A relative path or one through a symlink has its mount elsewhere.
        let data = nearest(data);
        #[cfg(target_os = "macos")]
        {
            crate::native::mac::observation(&crate::sys::ask(&data))
        }
        #[cfg(windows)]
        {
            crate::native::windows::observation(&crate::sys::ask(&data))
        }
        #[cfg(not(any(target_os = "macos", windows)))]
        {
            crate::linux::observe(Path::new("/"), &data, self.application.as_deref())
        }
    }
}

/// The real path of the deepest part of `path` that exists.
fn nearest(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors()
        .find_map(|path| path.canonicalize().ok())
        .unwrap_or_else(|| PathBuf::from("/"))
}
