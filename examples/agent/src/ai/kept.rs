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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use katachi_store::database::{Database, DatabaseKey};
    use katachi_store::history::{History, MessageId, Role, SessionId, State};
    use tempfile::TempDir;

    use super::Kept;

    struct Place {
        history: History,
        session: SessionId,
        _dir: TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let key = DatabaseKey::generate().unwrap();
            let options = crate::home::database_options();
            let database = Database::open(dir.path().join("db"), &key, options).unwrap();
            let history = History::open(&database).unwrap();
            let workspace = history.workspace("/orchard").unwrap();
            let session = history.start_session(workspace, "plums").unwrap();
            Self {
                history,
                session,
                _dir: dir,
            }
        }

        fn begin(&self) -> (Kept, MessageId) {
            let stream = self.history.begin(self.session, Role::Assistant).unwrap();
            let id = stream.id();
            (Kept::new(stream), id)
        }

        /// State and text as another reader of the database sees them.
        fn seen(&self, id: MessageId) -> (State, String) {
            let message = self.history.message(id).unwrap();
            (message.state, message.text)
        }

        fn comes_to_hold(&self, id: MessageId, text: &str) {
            let deadline = Instant::now() + Duration::from_secs(30);
            while self.seen(id) != (State::Streaming, text.to_owned()) {
                assert!(Instant::now() < deadline, "{:?}", self.seen(id));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn a_piece_is_on_disk_though_nothing_comes_after_it() {
        let place = Place::new();
        let (kept, id) = place.begin();
        kept.push("plums ");
        place.comes_to_hold(id, "plums ");
        // The writer waits for the next as it did for the first.
        kept.push("are ripe");
        place.comes_to_hold(id, "plums are ripe");
        drop(kept);
    }

    #[test]
    fn an_answer_is_whole_when_it_is_finished_and_else_interrupted() {
        let place = Place::new();
        let (whole, part) = (place.begin(), place.begin());
        for (kept, _) in [&whole, &part] {
            kept.push("plums ");
            kept.push("are ripe");
        }
        whole.0.finish();
        drop(part.0);
        let text = "plums are ripe".to_owned();
        assert_eq!(place.seen(whole.1), (State::Complete, text.clone()));
        assert_eq!(place.seen(part.1), (State::Interrupted, text));
    }

    #[test]
    fn who_writes_goes_on_where_nothing_can_be_kept_any_more() {
        let place = Place::new();
        let (kept, id) = place.begin();
        place.history.delete_session(place.session).unwrap();
        for _ in 0..3 {
            kept.push("plums ");
            std::thread::sleep(super::GATHERED);
        }
        kept.finish();
        assert!(place.history.message(id).is_err());
    }
}
