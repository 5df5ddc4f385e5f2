//! Threads that work on the pieces of one stream, in order.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::Lane;

/// Chunks of a piece that a thread works on: 256 KiB, long beside the handing
/// over and short beside a core's cache.
pub(super) const PIECE: usize = 16;

/// Pieces that each thread has, at most: one being worked on, and the next.
/// With the one that the caller holds, 2 n + 1 pieces are at most 769 KiB for
/// each of n threads.
const EACH: usize = 2;

/// Threads that take pieces in turn, so that they come back in order.
pub(super) struct Crew<T> {
    workers: Vec<Worker<T>>,
    /// Pieces given out so far, and pieces taken back.
    given: usize,
    taken: usize,
}

struct Worker<T> {
    /// `None` once there is no more work.
    work: Option<SyncSender<T>>,
    done: Receiver<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Crew<T> {
    /// Starts the threads, which do `work` with the keys of `message`.
    pub(super) fn start(
        threads: NonZeroUsize,
        message: &Arc<Lane>,
        work: fn(&mut T, &Lane),
    ) -> io::Result<Self> {
        let mut crew = Self {
            workers: Vec::new(),
            given: 0,
            taken: 0,
        };
        for _ in 0..threads.get() {
            // Neither side ever waits to send: there are never more pieces.
            let (give, pieces) = sync_channel::<T>(EACH);
            let (finished, done) = sync_channel(EACH);
            let message = Arc::clone(message);
            let thread = thread::Builder::new()
                .name("katachi-stream".to_owned())
                .spawn(move || {
                    for mut piece in pieces {
                        work(&mut piece, &message);
                        if finished.send(piece).is_err() {
                            break;
                        }
                    }
                })?;
            crew.workers.push(Worker {
                work: Some(give),
                done,
                thread: Some(thread),
            });
        }
        Ok(crew)
    }

    pub(super) fn has_room(&self) -> bool {
        self.given - self.taken < EACH * self.workers.len()
    }

    pub(super) fn give(&mut self, piece: T) -> io::Result<()> {
        let worker = &self.workers[self.given % self.workers.len()];
        self.given += 1;
        match worker.work.as_ref().map(|work| work.send(piece)) {
            Some(Ok(())) => Ok(()),
            _ => Err(ended()),
        }
    }

    /// Waits for the piece that was given first; `None` if there is none.
    pub(super) fn take(&mut self) -> io::Result<Option<T>> {
        if self.taken == self.given {
            return Ok(None);
        }
        let worker = &self.workers[self.taken % self.workers.len()];
        self.taken += 1;
        worker.done.recv().map(Some).map_err(|_| ended())
    }
}

fn ended() -> io::Error {
    io::Error::other("a thread of the stream ended early")
}

impl<T> Drop for Crew<T> {
    /// Waits for the threads: they hold the keys, which are wiped when this ends.
    fn drop(&mut self) {
        self.workers
            .iter_mut()
            .for_each(|worker| worker.work = None);
        for worker in &mut self.workers {
            // One that panicked has wiped what it held, too.
            let _ = worker.thread.take().map(JoinHandle::join);
        }
    }
}
