//! A clock that a test moves, for a program that it starts.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

/// A clock for one server, by a library that is loaded before all others.
pub(crate) struct Clock(tempfile::TempDir);

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long ahead(void) {
    const char *path = getenv("KATACHI_CLOCK");
    char text[32] = {0};
    int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) : -1;
    if (file < 0) return 0;
    if (syscall(SYS_read, file, text, sizeof text - 1) < 0) text[0] = 0;
    syscall(SYS_close, file);
    return atol(text);
}
int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = (int)syscall(SYS_clock_gettime, clock, at);
    if (!failed && clock == CLOCK_REALTIME) at->tv_sec += ahead();
    return failed;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

impl Clock {
    pub(crate) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let clock = Self(tempfile::tempdir().unwrap());
        let home = clock.0.path();
        std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(home.join("clock.c"), SHIM).unwrap();
        let compiled = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c"])
            .current_dir(home)
            .status();
        assert!(compiled.unwrap().success(), "cc links Rust programs too");
        clock.step(0);
        clock
    }

    /// So many seconds ahead of the machine's.
    pub(crate) fn step(&self, seconds: i64) {
        // In one step, since the server reads it all the time.
        let (new, path) = (self.0.path().join("new"), self.0.path().join("ahead"));
        std::fs::write(&new, seconds.to_string()).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        [("LD_PRELOAD", "clock.so"), ("KATACHI_CLOCK", "ahead")]
            .map(|(name, file)| {
                (
                    name.to_owned(),
                    self.0.path().join(file).display().to_string(),
                )
            })
            .to_vec()
    }
}
