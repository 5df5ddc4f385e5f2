//! An answer in the history while it comes: on disk a moment after the person saw it,
//! also where the AI says nothing more for minutes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use katachi_store::history::Stream;

/// How long a piece waits for others to be written with it.
const GATHERED: Duration = Duration::from_millis(200);

/// An answer that is being kept.
pub(super) struct Kept {
    shared: Arc<Shared>,
    /// Ends with the answer.
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    held: Mutex<Held>,
    changed: Condvar,
}

struct Held {
    /// `None` once it could not be written.
    stream: Option<Stream>,
    /// Whether there is text that may not be on disk.
    is_fresh: bool,
    is_over: bool,
}

impl Kept {
    pub(super) fn new(stream: Stream) -> Self {
        let shared = Arc::new(Shared {
            held: Mutex::new(Held {
                stream: Some(stream),
                is_fresh: false,
                is_over: false,
            }),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let writer = std::thread::spawn(move || own.write());
        Self {
            shared,
            writer: Some(writer),
        }
    }

    /// Adds a piece. An answer that cannot be kept to its end still reaches the person.
    pub(super) fn push(&self, text: &str) {
        let mut held = self.shared.lock();
        let pushed = held.stream.as_mut().map(|stream| stream.push(text));
        held.settle(pushed);
        held.is_fresh = true;
        self.shared.changed.notify_one();
    }

    /// Ends it as whole. One that is dropped is kept as interrupted.
    pub(super) fn finish(mut self) {
        self.end_writer();
        let stream = self.shared.lock().stream.take();
        if let Some(Err(error)) = stream.map(Stream::finish) {
            tracing::error!("the answer is kept only in part: {error}");
        }
    }

    fn end_writer(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_one();
        if let Some(writer) = self.writer.take() {
            // It does nothing that panics, and if it did there is nothing to save.
            let _ = writer.join();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end_writer();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what came, a moment after it did, until the answer is over.
    fn write(&self) {
        let mut held = self.lock();
        while !held.is_over {
            if !held.is_fresh {
                held = self
                    .changed
                    .wait(held)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let gathered = self
                .changed
                .wait_timeout_while(held, GATHERED, |held| !held.is_over);
            held = gathered.unwrap_or_else(PoisonError::into_inner).0;
            let written = held.stream.as_mut().map(Stream::flush);
            held.settle(written);
            held.is_fresh = false;
        }
    }
}

impl Held {
    fn settle(&mut self, done: Option<Result<(), katachi_store::history::HistoryError>>) {
        if let Some(Err(error)) = done {
            tracing::error!("the answer is kept only in part: {error}");
            self.stream = None;
        }
    }
}
