//! Streams of any size stay under 1 MiB of memory a core.
//!
//! Every allocation of this program is counted, and where Linux tells it, the
//! memory that the process has, with the stacks of its threads.

#![cfg(any(feature = "ring", feature = "rustcrypto"))]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use katachi_crypto::envelope::{Context, DataKey};

const MIB: usize = 1024 * 1024;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise about `memory` and `layout` is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A pipe that holds one piece, so that what crosses it is not in memory.
fn pipe() -> (impl Write + Send, impl Read) {
    struct In(std::sync::mpsc::SyncSender<Vec<u8>>);
    struct Out(std::sync::mpsc::Receiver<Vec<u8>>, io::Cursor<Vec<u8>>);
    impl Write for In {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let piece = &bytes[..bytes.len().min(32 * 1024)];
            let sent = self.0.send(piece.to_vec());
            sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(piece.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Read for Out {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.1.read(out)? {
                0 => match self.0.recv() {
                    Ok(piece) => {
                        self.1 = io::Cursor::new(piece);
                        self.1.read(out)
                    }
                    Err(_) => Ok(0),
                },
                count => Ok(count),
            }
        }
    }
    let (give, take) = sync_channel(1);
    (In(give), Out(take, io::Cursor::default()))
}

/// Memory of this process that is in use, in bytes: now, or at most since asked.
fn resident(line: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|found| found.strip_prefix(line))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Seals and opens `length` bytes at the same time, each on `threads` threads;
/// gives the most memory that was in use for it, as allocated and as resident.
fn use_of(threads: usize, length: u64) -> (usize, usize) {
    let key = DataKey::generate().unwrap();
    let context = Context::new("memory");
    let parallel = key.parallel(NonZeroUsize::new(threads).unwrap());
    let (sink, source) = pipe();
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    // Resets the most that was resident to what is.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let resident_before = resident("VmRSS:").unwrap_or(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = parallel.seal_writer(sink, &context).unwrap();
            let copied = io::copy(&mut io::repeat(0x5a).take(length), &mut writer);
            assert_eq!(copied.unwrap(), length);
            writer.finish().unwrap();
        });
        let mut reader = parallel.open_reader(source, &context).unwrap();
        assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), length);
    });
    let resident = resident("VmHWM:").unwrap_or(0);
    let allocated = PEAK.load(Ordering::Relaxed) - before;
    (allocated, resident.saturating_sub(resident_before))
}

#[test]
fn a_stream_takes_less_than_a_mib_a_core_whatever_its_length() {
    let long = match std::env::var_os("KATACHI_LONG") {
        Some(_) => 20 * 1024 * MIB as u64,
        None => 64 * MIB as u64,
    };
    use_of(4, MIB as u64);
    for threads in [1, 2, 4] {
        let (short, _) = use_of(threads, 8 * MIB as u64);
        let (allocated, resident) = use_of(threads, long);
        println!("{threads} threads: {short}, {allocated}, resident {resident}");
        // One writer and one reader, each with its threads.
        let allowed = 2 * threads * MIB;
        assert!(allocated < allowed, "{threads} threads: {allocated} bytes");
        assert!(resident < allowed, "{threads} threads: {resident} resident");
        assert!(allocated < short + 128 * 1024, "it grows with the length");
    }
}
