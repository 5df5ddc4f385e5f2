//! Looks for keys in the memory of another process, from outside.
//!
//! A child (this program again) makes a key, uses it, reports, drops it and
//! reports again; each time this side reads all of the child's writable memory.
//! While the key is in use the scan has to find it, which shows that it looks
//! well; afterwards it must find nothing: not the key, its encodings, the HMAC
//! pads made of it, the key of the message or its AES key schedule.

#[cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    any(feature = "ring", feature = "rustcrypto")
))]
#[path = "wiping/scan.rs"]
mod scan;

#[cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    any(feature = "ring", feature = "rustcrypto")
))]
#[path = "wiping/child.rs"]
mod child;

#[cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    any(feature = "ring", feature = "rustcrypto")
))]
fn main() -> std::process::ExitCode {
    if let Some(work) = std::env::args().find_map(|argument| {
        argument
            .strip_prefix(child::ARGUMENT)
            .map(ToOwned::to_owned)
    }) {
        child::run(&work);
        return std::process::ExitCode::SUCCESS;
    }
    let mut arguments = libtest_mimic::Arguments::from_args();
    // One child at a time, so that a slow machine shows the same.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, scan::tests()).exit_code()
}

#[cfg(not(all(
    target_os = "linux",
    target_arch = "x86_64",
    any(feature = "ring", feature = "rustcrypto")
)))]
fn main() {}
