//! The handle that threads share: one writer, several readers.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use super::anchor::{self, Anchor, Anchored};
use super::connection::{Guarded, Role, Settings};
use super::preflight::{self, Found};
use super::sentry::Sentry;
use super::{DatabaseError, DatabaseKey, Options, ReadTx, Tx};

/// An open, encrypted database. Clones are handles to the same one.
#[derive(Clone)]
pub struct Database(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) anchored: Option<Anchored>,
    writer: Mutex<Guarded>,
    /// The thread inside `write`, to tell a nested call from a waiting one.
    writing: Mutex<Option<ThreadId>>,
    readers: Mutex<Readers>,
    reader_freed: Condvar,
    /// Dropped after all connections, as fields are in their order.
    pub(super) sentry: Sentry,
}

struct Readers {
    idle: Vec<Guarded>,
    open: usize,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.0.settings.path)
            .field("profile", &self.0.settings.options.profile)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Opens or creates the database at `path`.
    ///
    /// The file is created readable by its owner alone, and one that others
    /// could read is made private. The directory must exist.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::WrongKey`], [`DatabaseError::NotEncrypted`] or
    /// [`DatabaseError::WrongProfile`] before anything is touched;
    /// [`DatabaseError::Corrupt`] for a damaged file;
    /// [`DatabaseError::Anchored`] for one that
    /// [`open_anchored`](Database::open_anchored) made;
    /// [`DatabaseError::SchemaNewer`] and [`DatabaseError::Migration`] from the
    /// migrations; [`DatabaseError::Busy`], [`DatabaseError::ReadOnly`],
    /// [`DatabaseError::DiskFull`] and [`DatabaseError::Io`] from the machine.
    pub fn open(
        path: impl AsRef<Path>,
        key: &DatabaseKey,
        options: Options,
    ) -> Result<Self, DatabaseError> {
        Self::open_with(path.as_ref(), key, options, None)
    }

    pub(super) fn open_with(
        path: &Path,
        key: &DatabaseKey,
        options: Options,
        anchor: Option<Anchor>,
    ) -> Result<Self, DatabaseError> {
        let path = preflight::resolve(path)?;
        let (found, sentry) = preflight::inspect(&path, key, options.profile, options.create)?;
        sentry.make_private(&path)?;
        let settings = Settings {
            spec: key.spec(options.profile),
            path,
            options,
            anchored: anchor.is_some(),
        };
        if found == Found::Database && !key.salt_proves_key() {
            settings.probe()?;
        }
        let writer = settings.connect(Role::Writer)?;
        match &anchor {
            Some(anchor) => anchor::check(anchor, &settings, &writer)?,
            None if options.ignore_anchor => {}
            None => anchor::refuse_anchored(&settings, &writer)?,
        }
        let database = Self(Arc::new(Inner {
            settings,
            anchored: anchor.map(Anchored::new),
            writer: Mutex::new(writer),
            writing: Mutex::new(None),
            readers: Mutex::new(Readers {
                idle: Vec::new(),
                open: 0,
            }),
            reader_freed: Condvar::new(),
            sentry,
        }));
        if !options.migrations.is_empty() {
            database.migrate_file(options.migrations)?;
        }
        Ok(database)
    }

    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.settings.path
    }

    /// Runs `work` in a transaction that may write, and commits it if `work`
    /// returns `Ok`. An error or a panic rolls it back.
    ///
    /// Writers wait for each other, across threads without limit and across
    /// processes for the time given in the options.
    ///
    /// # Errors
    ///
    /// Returns what `work` returns, [`DatabaseError::Busy`] if another process
    /// keeps writing, and [`DatabaseError::Nested`] inside another `write` of
    /// the same thread.
    pub fn write<T, E: From<DatabaseError>>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let writer = self.writer()?;
        let open = Open::begin(&writer, "BEGIN IMMEDIATE")?;
        let tx = Tx::new(&writer);
        let outcome = work(&tx)?;
        tx.check_open()?;
        open.commit()?;
        if let Some(anchored) = &self.0.anchored {
            anchored.settle_if_due(&self.0.settings, &self.0.sentry, &writer);
        }
        Ok(outcome)
    }

    /// Runs `work` in a transaction that only reads. It sees one state of the
    /// database from its first query to its last, whatever is written
    /// meanwhile, and never waits for a writer.
    ///
    /// # Errors
    ///
    /// Returns what `work` returns, [`DatabaseError::WriteInRead`] for a
    /// statement that writes, and [`DatabaseError::Busy`] if all readers stay
    /// taken.
    pub fn read<T, E: From<DatabaseError>>(
        &self,
        work: impl FnOnce(&ReadTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let reader = self.reader()?;
        let open = Open::begin(&reader, "BEGIN")?;
        let outcome = work(&ReadTx::new(&reader, Role::Reader))?;
        open.commit()?;
        Ok(outcome)
    }

    pub(super) fn writer(&self) -> Result<Writing<'_>, DatabaseError> {
        let me = std::thread::current().id();
        if *lock(&self.0.writing) == Some(me) {
            return Err(DatabaseError::Nested);
        }
        let guarded = lock(&self.0.writer);
        *lock(&self.0.writing) = Some(me);
        Ok(Writing {
            guarded,
            writing: &self.0.writing,
        })
    }

    fn reader(&self) -> Result<Reading<'_>, DatabaseError> {
        let inner = &*self.0;
        let deadline = Instant::now() + inner.settings.options.busy_timeout;
        let mut readers = lock(&inner.readers);
        loop {
            if let Some(guarded) = readers.idle.pop() {
                return Ok(Reading {
                    inner,
                    guarded: Some(guarded),
                });
            }
            if readers.open < inner.settings.options.readers {
                readers.open += 1;
                drop(readers);
                // Counted first; `Reading` gives the place back if this fails.
                let mut reading = Reading {
                    inner,
                    guarded: None,
                };
                reading.guarded = Some(inner.settings.connect(Role::Reader)?);
                return Ok(reading);
            }
            let Some(patience) = deadline.checked_duration_since(Instant::now()) else {
                return Err(DatabaseError::Busy);
            };
            readers = inner
                .reader_freed
                .wait_timeout(readers, patience)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let writer = self
            .writer
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(anchored) = &self.anchored {
            anchored.settle_at_close(&self.settings, &self.sentry, writer);
        }
    }
}

/// The writer, held by this thread.
pub(super) struct Writing<'d> {
    guarded: MutexGuard<'d, Guarded>,
    writing: &'d Mutex<Option<ThreadId>>,
}

impl Deref for Writing<'_> {
    type Target = Guarded;

    fn deref(&self) -> &Guarded {
        &self.guarded
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *lock(self.writing) = None;
    }
}

/// A reader that goes back to the others when dropped.
struct Reading<'d> {
    inner: &'d Inner,
    guarded: Option<Guarded>,
}

impl Deref for Reading<'_> {
    type Target = Guarded;

    fn deref(&self) -> &Guarded {
        self.guarded
            .as_ref()
            .expect("filled before it is handed out, emptied only by drop")
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut readers = lock(&self.inner.readers);
        match self.guarded.take() {
            Some(guarded) => readers.idle.push(guarded),
            None => readers.open -= 1,
        }
        self.inner.reader_freed.notify_one();
    }
}

/// A transaction that is rolled back unless committed.
pub(super) struct Open<'c> {
    guarded: &'c Guarded,
    committed: bool,
}

impl<'c> Open<'c> {
    pub(super) fn begin(guarded: &'c Guarded, sql: &str) -> Result<Self, DatabaseError> {
        guarded.run_as_owner(sql)?;
        Ok(Self {
            guarded,
            committed: false,
        })
    }

    pub(super) fn commit(mut self) -> Result<(), DatabaseError> {
        self.guarded.run_as_owner("COMMIT")?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.committed && !self.guarded.connection.is_autocommit() {
            // If even this fails, SQLite has already rolled back by itself or
            // the connection is unusable and says so at its next use.
            let _ = self.guarded.run_as_owner("ROLLBACK");
        }
    }
}

/// Locks without fear of poison: whatever a panic left behind is a transaction,
/// and that was rolled back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
