//! The rows: which figures are compared, and the bar of each.

/// Which way the ratio of a row must lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bar {
    /// Our time over the peer's, at most this.
    TimeAtMost(f64),
    /// Our bytes over the peer's, at most this.
    BytesAtMost(f64),
    /// The peer's time over ours, that is our speed over theirs, at least this.
    SpeedAtLeast(f64),
}

impl Bar {
    /// What the figures of the row count.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::TimeAtMost(_) | Self::SpeedAtLeast(_) => "ns",
            Self::BytesAtMost(_) => "bytes",
        }
    }
}

/// Where the figures of a row come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Estimates that criterion leaves behind, from this group.
    Criterion(&'static str),
    /// Lines of JSON that the bench prints, where whole processes are measured.
    Printed,
}

/// One comparison: two figures of one bench.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    pub(super) id: &'static str,
    pub(super) bench: &'static str,
    pub(super) source: Source,
    pub(super) ours: &'static str,
    pub(super) peer: &'static str,
    pub(super) bar: Bar,
}

/// Every comparison there is.
pub(super) const COMPARISONS: &[Comparison] = &[
    speed(
        "seal-bulk/ring",
        "crypto",
        "seal-bulk",
        "ours",
        "ring",
        0.85,
    ),
    speed(
        "seal-bulk/cobblestone",
        "crypto",
        "seal-bulk",
        "ours-fresh",
        "cobblestone",
        2.5,
    ),
    // The same through streams between buffers that are kept: without the
    // allocator's giving memory back to the system after each value.
    speed(
        "seal-bulk/cobblestone-stream",
        "crypto",
        "seal-bulk",
        "ours-stream",
        "cobblestone-stream",
        2.5,
    ),
    // Whole processes on one file.
    speed("seal-bulk/age", "files", "seal-file", "ours", "age", 1.0),
    speed(
        "seal-bulk/openssl",
        "files",
        "seal-file",
        "ours",
        "openssl",
        1.0,
    ),
    speed(
        "seal-parallel/value",
        "crypto",
        "seal-parallel",
        "ours",
        "one",
        1.7,
    ),
    speed(
        "seal-parallel/stream",
        "crypto",
        "seal-parallel",
        "stream",
        "stream-one",
        1.7,
    ),
    time("seal-small", "crypto", "seal-small", "ours", "parts", 1.4),
    time("verify/bare", "auth", "verify", "ours", "bare", 3.0),
    speed("verify/httpsig", "auth", "verify", "ours", "httpsig", 3.0),
    // For information: it only has to be no slower.
    speed(
        "verify/aws-sigv4",
        "auth",
        "verify",
        "ours",
        "aws-sigv4",
        1.0,
    ),
    speed("replay/counter", "auth", "replay", "ours", "moka", 10.0),
    speed(
        "replay/random",
        "auth",
        "replay",
        "ours-random",
        "moka",
        10.0,
    ),
    time(
        "fingerprint",
        "fingerprint",
        "fingerprint",
        "ours",
        "read",
        3.0,
    ),
    time("open/vault", "store", "open", "vault", "bare", 4.0),
    time("open/database", "store", "open", "database", "bare", 4.0),
    speed(
        "database/insert",
        "store",
        "database-insert",
        "ours",
        "plain",
        0.6,
    ),
    speed(
        "database/cold-read",
        "store",
        "database-cold-read",
        "ours",
        "plain",
        0.45,
    ),
    speed(
        "database/warm-read",
        "store",
        "database-warm-read",
        "ours",
        "plain",
        0.95,
    ),
    time("search", "store", "search", "ours", "plain", 1.3),
    time(
        "column/pgcrypto",
        "column",
        "column",
        "ours",
        "pgcrypto",
        1.0,
    ),
    time(
        "sandbox-start/cold",
        "sandbox",
        "sandbox-start",
        "ours",
        "bubblewrap",
        1.0,
    ),
    time(
        "sandbox-start/pool",
        "sandbox",
        "sandbox-start",
        "pool",
        "bubblewrap",
        0.4,
    ),
    time(
        "sandbox-start/firejail",
        "sandbox",
        "sandbox-start",
        "ours",
        "firejail",
        1.0,
    ),
    time(
        "sandbox-start/srt",
        "sandbox",
        "sandbox-start",
        "ours",
        "srt",
        1.0,
    ),
    time(
        "sandbox-start/codex",
        "sandbox",
        "sandbox-start",
        "ours",
        "codex",
        1.0,
    ),
    Comparison {
        id: "sandbox-work/compile",
        bench: "work",
        source: Source::Printed,
        ours: "compile-inside",
        peer: "compile-outside",
        bar: Bar::TimeAtMost(1.05),
    },
    Comparison {
        id: "sandbox-work/git-status",
        bench: "work",
        source: Source::Printed,
        ours: "git-status-inside",
        peer: "git-status-outside",
        bar: Bar::TimeAtMost(1.05),
    },
    // The same under rules about arguments, for which every start is traced.
    Comparison {
        id: "sandbox-work/compile-arguments",
        bench: "work",
        source: Source::Printed,
        ours: "compile-arguments-inside",
        peer: "compile-arguments-outside",
        bar: Bar::TimeAtMost(1.15),
    },
    Comparison {
        id: "sandbox-work/git-status-arguments",
        bench: "work",
        source: Source::Printed,
        ours: "git-status-arguments-inside",
        peer: "git-status-arguments-outside",
        bar: Bar::TimeAtMost(1.15),
    },
    // Calls for each second of processor time.
    Comparison {
        id: "relay-calls/axum",
        bench: "relay",
        source: Source::Printed,
        ours: "relay",
        peer: "plain",
        bar: Bar::SpeedAtLeast(0.6),
    },
    // The route behind nginx, which ends TLS: both processes are counted.
    Comparison {
        id: "relay-calls/nginx",
        bench: "relay",
        source: Source::Printed,
        ours: "relay",
        peer: "nginx",
        bar: Bar::SpeedAtLeast(0.6),
    },
    // Memory for each tunnel, over the 32 KiB that one may take.
    Comparison {
        id: "relay-idle",
        bench: "idle",
        source: Source::Printed,
        ours: "relay",
        peer: "allowed",
        bar: Bar::BytesAtMost(1.0),
    },
    Comparison {
        id: "channel/to-agent",
        bench: "channel",
        source: Source::Printed,
        ours: "relay-to-agent",
        peer: "nginx-to-agent",
        bar: Bar::TimeAtMost(1.5),
    },
    Comparison {
        id: "channel/to-browser",
        bench: "channel",
        source: Source::Printed,
        ours: "relay-to-browser",
        peer: "nginx-to-browser",
        bar: Bar::TimeAtMost(1.5),
    },
    // Both ends without their carriers: records sealed and opened.
    Comparison {
        id: "channel/ends",
        bench: "channel",
        source: Source::Printed,
        ours: "ends",
        peer: "aes-256-gcm",
        bar: Bar::TimeAtMost(1.5),
    },
    Comparison {
        id: "sandbox-proxy",
        bench: "proxy",
        source: Source::Printed,
        ours: "ours",
        peer: "nginx",
        bar: Bar::TimeAtMost(1.0),
    },
];

/// A row in which our time is at most `bar` times the peer's.
const fn time(
    id: &'static str,
    bench: &'static str,
    group: &'static str,
    ours: &'static str,
    peer: &'static str,
    bar: f64,
) -> Comparison {
    Comparison {
        id,
        bench,
        source: Source::Criterion(group),
        ours,
        peer,
        bar: Bar::TimeAtMost(bar),
    }
}

/// A row in which our speed is at least `bar` times the peer's.
const fn speed(
    id: &'static str,
    bench: &'static str,
    group: &'static str,
    ours: &'static str,
    peer: &'static str,
    bar: f64,
) -> Comparison {
    Comparison {
        id,
        bench,
        source: Source::Criterion(group),
        ours,
        peer,
        bar: Bar::SpeedAtLeast(bar),
    }
}
