//! The program's second life.

use std::ffi::OsStr;
use std::fs::File;
use std::io;

use crate::helper::MARKER;
use crate::message::Step as _;
use crate::supervise::{Spec, supervise};

/// See [`crate::helper::run_if_requested`].
pub(crate) fn run_helper_if_requested() {
    let mut words = std::env::args_os().skip(1);
    if words.next().as_deref() != Some(OsStr::new(MARKER)) {
        return;
    }
    let numbers: Vec<u64> = words
        .filter_map(|word| word.to_str().and_then(|word| word.parse().ok()))
        .collect();
    let Some([mut control, mut status]) = take_over(&numbers) else {
        eprintln!("{MARKER}: started without its pipes; it is started by katachi-sandbox only");
        std::process::exit(125);
    };
    let ready = Spec::receive(&mut control)
        .and_then(|spec| Ok((spec, streams()?)))
        .step("read the plan");
    let ended = match ready {
        Ok((spec, streams)) => supervise(&spec, streams, control, &mut status),
        Err(failure) => failure.0.send(&mut status),
    };
    // If the caller is gone there is nobody left to tell.
    std::process::exit(if ended.is_ok() { 0 } else { 125 });
}

#[cfg(unix)]
fn take_over(numbers: &[u64]) -> Option<[File; 2]> {
    use crate::supervise::{attach, leave_session, privileged_by_file};

    // Whoever calls a set-user-id program chooses its words.
    if privileged_by_file() {
        return None;
    }
    // What a terminal sends to its programs is not for this one.
    leave_session();
    let [control, status] = numbers else {
        return None;
    };
    let attach = |number: u64| attach(i32::try_from(number).ok()?).map(File::from);
    Some([attach(*control)?, attach(*status)?])
}

#[cfg(windows)]
fn take_over(numbers: &[u64]) -> Option<[File; 2]> {
    use crate::supervise::windows::sys::handle::fetch;

    let [owner, control, status] = numbers else {
        return None;
    };
    let owner = u32::try_from(*owner).ok()?;
    let take = |number: u64| {
        let handle = fetch(owner, usize::try_from(number).ok()?).ok()?;
        Some(File::from(handle))
    };
    Some([take(*control)?, take(*status)?])
}

#[cfg(not(any(unix, windows)))]
fn take_over(_: &[u64]) -> Option<[File; 2]> {
    None
}

#[cfg(unix)]
fn streams() -> io::Result<[std::os::fd::OwnedFd; 3]> {
    use std::os::fd::AsFd as _;
    Ok([
        io::stdin().as_fd().try_clone_to_owned()?,
        io::stdout().as_fd().try_clone_to_owned()?,
        io::stderr().as_fd().try_clone_to_owned()?,
    ])
}

#[cfg(windows)]
fn streams() -> io::Result<[std::os::windows::io::OwnedHandle; 3]> {
    use std::os::windows::io::AsHandle as _;
    Ok([
        io::stdin().as_handle().try_clone_to_owned()?,
        io::stdout().as_handle().try_clone_to_owned()?,
        io::stderr().as_handle().try_clone_to_owned()?,
    ])
}
