//! Memory for keys that is never written to a disk: locked, left out of core
//! files, and not passed on to children.
//!
//! One block of pages, made by [`reserve`] and kept until the process ends.
//! Pieces have sizes that are powers of two; a page is cut into pieces of one
//! size when one is first asked for, and pieces are used again. What does not
//! fit goes to the ordinary heap, and is counted.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};

/// Sizes of the block that are tried, in bytes: the largest that the system
/// lets this process lock. Each is a multiple of every size of page in use.
const BLOCKS: [usize; 2] = [512 * 1024, 64 * 1024];
/// Bytes that are cut up together. Not larger than a page of the system.
const PAGE: usize = 4096;
/// The smallest and the largest piece, in bytes.
const SMALLEST: usize = 64;
const SIZES: usize = 7;

/// What the block got, and how it is used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) locked: bool,
    pub(crate) excluded: bool,
    pub(crate) total: usize,
    pub(crate) used: usize,
    pub(crate) elsewhere: u64,
}

struct Pages {
    start: NonNull<u8>,
    /// How much of the block was cut up.
    cut: usize,
    /// Offsets of the free pieces of each size.
    free: [Vec<usize>; SIZES],
    usage: Usage,
}

// SAFETY: the pointer is to memory that belongs to the process and not to a
// thread, and every use of it is behind the lock of `PAGES`.
unsafe impl Send for Pages {}

static PAGES: Mutex<Option<Pages>> = Mutex::new(None);
/// Whether there is a block: asked without the lock by who never hardens.
static RESERVED: AtomicBool = AtomicBool::new(false);

fn pages() -> MutexGuard<'static, Option<Pages>> {
    PAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reserves the block unless there is one, and says what the system granted.
pub(crate) fn reserve() -> Usage {
    let mut pages = pages();
    if pages.is_none() {
        *pages = BLOCKS
            .into_iter()
            .find_map(|length| map(length, true))
            // Without leave to lock, pages that are only left out.
            .or_else(|| map(BLOCKS[0], false));
        RESERVED.store(pages.is_some(), Ordering::Release);
    }
    pages.as_ref().map(|pages| pages.usage).unwrap_or_default()
}

pub(crate) fn usage() -> Usage {
    pages()
        .as_ref()
        .map(|pages| pages.usage)
        .unwrap_or_default()
}

/// Maps a block of `length` bytes and asks for everything; `None` if the system
/// has no memory, or the lock is a `must` and not granted.
fn map(length: usize, must: bool) -> Option<Pages> {
    let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: without an address of ours the system places the mapping where
    // nothing else is.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), length, access, kind) }.ok()?;
    // SAFETY: the range is exactly the mapping made above.
    let locked = unsafe { mlock(start, length) }.is_ok();
    if must && !locked {
        // SAFETY: it is that mapping, and nothing was put there yet.
        let _ = unsafe { munmap(start, length) };
        return None;
    }
    // SAFETY: it is that mapping, and the advice does not change what is read.
    let undumped = unsafe { madvise(start, length, Advice::LinuxDontDump) }.is_ok();
    // Not wiped in the child instead: it would go on to seal with a key of zeros.
    // SAFETY: as above.
    let unforked = unsafe { madvise(start, length, Advice::LinuxDontFork) }.is_ok();
    Some(Pages {
        start: NonNull::new(start.cast())?,
        cut: 0,
        free: Default::default(),
        usage: Usage {
            locked,
            excluded: undumped && unforked,
            total: length,
            ..Usage::default()
        },
    })
}

/// The number of the size that holds `layout`, if there is one.
fn size_of(layout: Layout) -> Option<usize> {
    let piece = layout.size().max(layout.align()).max(SMALLEST);
    let number = piece.next_power_of_two().trailing_zeros() - SMALLEST.trailing_zeros();
    usize::try_from(number)
        .ok()
        .filter(|number| *number < SIZES && layout.size() > 0)
}

/// Takes memory for `layout`; nobody else has it until it is given back.
pub(super) fn take(layout: Layout) -> Option<NonNull<u8>> {
    if !RESERVED.load(Ordering::Acquire) {
        return None;
    }
    let mut pages = pages();
    let pages = pages.as_mut()?;
    let offset = size_of(layout).and_then(|size| pages.piece(size));
    let Some(offset) = offset else {
        pages.usage.elsewhere += 1;
        return None;
    };
    pages.usage.used += layout.size();
    // SAFETY: offsets lie within the block, whose memory stays until the end of
    // the process.
    Some(unsafe { pages.start.add(offset) })
}

impl Pages {
    /// A free piece. It is as aligned as it is large: the block starts at a page.
    fn piece(&mut self, size: usize) -> Option<usize> {
        if self.free[size].is_empty() && self.cut < self.usage.total {
            let page = self.cut;
            self.cut += PAGE;
            self.free[size].extend((page..page + PAGE).step_by(SMALLEST << size));
        }
        self.free[size].pop()
    }
}

/// Gives back what [`take`] gave for the same layout, already wiped.
pub(super) fn give_back(memory: NonNull<u8>, layout: Layout) {
    let mut pages = pages();
    let Some((pages, size)) = pages.as_mut().zip(size_of(layout)) else {
        return;
    };
    pages.usage.used -= layout.size();
    let offset = memory.as_ptr().addr() - pages.start.as_ptr().addr();
    pages.free[size].push(offset);
}
