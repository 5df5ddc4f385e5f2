//! The edge to macOS and Windows: asks, and understands nothing.
//!
//! Every call that the compiler cannot check is here. What the answers mean is
//! decided in [`native`](crate::native), which runs everywhere.

#[cfg(target_os = "macos")]
mod mac;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "macos")]
pub(crate) use mac::ask;
#[cfg(windows)]
pub(crate) use windows::ask;
