//! Attempts to use much: processor time and disk, by many small steps.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::raw;

/// Uses the processor for so many milliseconds.
pub(crate) fn spin(milliseconds: u64) -> io::Result<()> {
    let used = || {
        let mut time = [0_i64; 2];
        let clock = libc::CLOCK_PROCESS_CPUTIME_ID as u64;
        raw::call(
            libc::SYS_clock_gettime,
            &[clock, raw::address_mut(&mut time)],
        )?;
        io::Result::Ok(time[0] * 1000 + time[1] / 1_000_000)
    };
    while used()? < i64::try_from(milliseconds).map_err(io::Error::other)? {}
    Ok(())
}

/// Uses it in one child after the other, and waits for them or has their ends
/// ignored.
pub(crate) fn spin_children(count: u64, milliseconds: u64, wait: bool) -> io::Result<()> {
    if !wait {
        raw::ignore_signals();
    }
    for _ in 0..count {
        if raw::fork() {
            let _ = spin(milliseconds);
            std::process::exit(0);
        }
        // Without children that can be waited for it returns when all ended.
        let _ = raw::call(libc::SYS_wait4, &[u64::MAX, 0, 0, 0]);
    }
    Ok(())
}

/// Makes so many files of so many bytes below a directory.
pub(crate) fn small_files(directory: &Path, count: u64, bytes: u64) -> io::Result<()> {
    let content = vec![1; usize::try_from(bytes).map_err(io::Error::other)?];
    for number in 0..count {
        let below = directory.join((number / 1000).to_string());
        if number.is_multiple_of(1000) {
            fs::create_dir_all(&below)?;
        }
        File::create(below.join(number.to_string()))?.write_all(&content)?;
    }
    Ok(())
}

/// Fills so many files of a mebibyte that have no name, and holds them for so
/// many seconds.
pub(crate) fn nameless_files(directory: &Path, count: u64, seconds: u64) -> io::Result<()> {
    let mut held = Vec::new();
    for number in 0..count {
        let path = directory.join(number.to_string());
        let mut file = File::create(&path)?;
        fs::remove_file(&path)?;
        file.write_all(&vec![1; 1 << 20])?;
        held.push(file);
    }
    std::thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

/// Goes down so far that nothing there has a name that fits into a call, and
/// fills files there.
pub(crate) fn deep_files(directory: &Path, count: u64) -> io::Result<()> {
    std::env::set_current_dir(directory)?;
    let name = "d".repeat(200);
    for _ in 0..30 {
        fs::create_dir(&name)?;
        std::env::set_current_dir(&name)?;
    }
    for number in 0..count {
        fs::write(number.to_string(), vec![1; 1 << 20])?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Writes files of a mebibyte and removes each before the next, as compilers
/// do.
pub(crate) fn passing_files(directory: &Path, count: u64) -> io::Result<()> {
    for number in 0..count {
        let path = directory.join(number.to_string());
        fs::write(&path, vec![1; 1 << 20])?;
        std::thread::sleep(Duration::from_millis(10));
        fs::remove_file(&path)?;
    }
    Ok(())
}
