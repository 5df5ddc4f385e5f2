//! Notices an older copy of the database, as a whole or page by page.
//!
//! SQLCipher authenticates every page, but an old page authenticates as well
//! as the current one, and so does a whole old file. An [`Anchor`] keeps, in a
//! vault, how often the database came to rest:
//!
//! ```text
//!                      in the database   pages on record   in the vault
//!  at rest                    7                 7                7
//!  commit the next one        8                 7                7
//!  copy the log to the file   8                 7                7
//!  record the pages           8                 8                7
//!  record it in the vault     8                 8                8
//! ```
//!
//! A crash between any two lines leaves the database at the recorded
//! generation or the next: both open. An older one is
//! [`RolledBack`](DatabaseError::RolledBack) until it is accepted.
//!
//! The pages of the file change in the second step alone: SQLite's own
//! checkpoints are turned off. So at any moment each page of the file is the
//! one on record or one that is in the log, and [`Database::verify`] names a
//! page that is neither. Pages that are not in the log keep what the record
//! says of them, so a page put in by somebody else stays known as that.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connection::{FAST_PAGE, Guarded, Role, Settings};
use super::handle::Open;
use super::preflight;
use super::rekey::Anchorage;
use super::sentry::Sentry;
use super::verify::{Comparison, Report};
use super::{Database, DatabaseError, DatabaseKey, Options, Profile};
use crate::Vault;
use crate::durable::step;
use crate::file::{SealedFile, SealedFileError};
use crate::pages::{Layout, Log, Record, Tag, log};

/// Keeps the generation of one database in a vault.
///
/// ```
/// use std::sync::Arc;
/// use katachi_store::Vault;
/// use katachi_store::database::{Anchor, Database, DatabaseKey, Options};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let builder = Vault::builder(home.path().join("vault"))
/// #     .binding(katachi_store::binding::Unbound).file_slot(home.path().join("secret"));
/// let vault = Arc::new(builder.open_or_create()?);
/// let key = DatabaseKey::from_vault(&vault, "notes")?;
/// let anchor = Anchor::in_vault(&vault, "notes");
/// let db = Database::open_anchored(home.path().join("notes.db"), &key, &anchor, Options::new())?;
/// # drop(db);
/// # Ok(())
/// # }
/// ```
///
/// # Security
///
/// It holds against whoever can put an old copy of the database in place but
/// not, with it, an old copy of the vault: a synchronised or restored data
/// directory, a stolen backup put back, a disk that loses writes. Whoever sets
/// the vault back too, for instance with the whole home directory or a
/// snapshot of the disk, is noticed only if the vault has a
/// [`Witness`](crate::vault::Witness) that did not go back with it: in a
/// keychain, a TPM or on another machine. It does not hold against a program
/// of the same user while the database is open.
///
/// What is noticed is a state older than the last clean checkpoint, which is
/// made when the last handle is closed, by [`Database::checkpoint`], and on
/// the way whenever the log has grown by a thousand pages. After a crash,
/// somebody could still choose, for each page, among its states since then.
#[derive(Clone, Debug)]
pub struct Anchor {
    vault: Arc<Vault>,
    mark: String,
    accept_restore: bool,
}

impl Anchor {
    /// The anchor called `name` in `vault`; each database has its own.
    #[must_use]
    pub fn in_vault(vault: &Arc<Vault>, name: &str) -> Self {
        Self {
            vault: Arc::clone(vault),
            mark: format!("database/{name}"),
            accept_restore: false,
        }
    }

    /// Takes the database as it is now, whatever the vault says, for after a
    /// backup was restored on purpose.
    #[must_use]
    pub fn accept_restore(mut self) -> Self {
        self.accept_restore = true;
        self
    }

    fn recorded(&self) -> Result<u64, DatabaseError> {
        Ok(self.vault.mark(&self.mark)?.unwrap_or(0))
    }

    fn record_file(&self, path: &Path) -> Result<SealedFile, SealedFileError> {
        SealedFile::at(preflight::side_file(path, "-anchor"))?.named(&self.mark)
    }

    fn write_record(&self, path: &Path, record: &Record) -> Result<(), DatabaseError> {
        Ok(self
            .record_file(path)?
            .write(&self.vault, &record.to_bytes())?)
    }

    /// The record that belongs to the vault's generation or the next one.
    fn read_record(
        &self,
        path: &Path,
        recorded: u64,
        layout: Layout,
    ) -> Result<Known, DatabaseError> {
        let bytes = match self.record_file(path)?.read(&self.vault) {
            Ok(bytes) => bytes,
            Err(SealedFileError::File(error)) if error.is_not_found() => {
                // The first time, there is none yet.
                let pages = None;
                let lost = recorded > 0;
                return Ok(Known { pages, lost });
            }
            Err(SealedFileError::Damaged | SealedFileError::Key(_)) => return Ok(Known::LOST),
            Err(other) => return Err(other.into()),
        };
        Ok(match Record::from_bytes(bytes.expose_secret()) {
            Some(record)
                if (recorded..=recorded.saturating_add(1)).contains(&record.generation)
                    && record.page_size == layout.page_size =>
            {
                Known {
                    pages: record.pages,
                    lost: record.lost,
                }
            }
            _ => Known::LOST,
        })
    }
}

/// What is known of the pages of the file.
struct Known {
    /// `None` where the file was, or is being, replaced as a whole.
    pages: Option<Vec<Tag>>,
    /// The record is missing, damaged or old, or was so before.
    lost: bool,
}

impl Known {
    const LOST: Self = Self {
        pages: None,
        lost: true,
    };
}

/// Where pages, and the authentication codes in them, are: SQLCipher ends each
/// page with an IV of 16 bytes and the code.
fn layout(profile: Profile) -> Layout {
    let (page_size, code) = match profile {
        Profile::Compat => (4096, 64),
        Profile::Fast => (FAST_PAGE, 32),
    };
    Layout {
        page_size,
        tag_at: page_size - code,
    }
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS katachi_anchor
    (generation INTEGER NOT NULL, cycle INTEGER NOT NULL) STRICT";

/// Whether the schema of a database has an anchor's table.
const IS_ANCHORED: &str =
    "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'katachi_anchor')";

impl Database {
    /// Opens or creates the database at `path` as [`Database::open`] does, and
    /// refuses a copy that is older than the one that `anchor` knows.
    ///
    /// A database that had no anchor gets one. From then on it opens without
    /// only for [`Options::ignore_anchor`].
    ///
    /// # Errors
    ///
    /// As for [`Database::open`]; [`DatabaseError::RolledBack`] and
    /// [`DatabaseError::VaultRolledBack`] for a database that is not the
    /// recorded one, which is left as it is; [`DatabaseError::Vault`] if the
    /// vault cannot be asked.
    pub fn open_anchored(
        path: impl AsRef<Path>,
        key: &DatabaseKey,
        anchor: &Anchor,
        options: Options,
    ) -> Result<Self, DatabaseError> {
        let path = preflight::resolve(path.as_ref())?;
        let recorded = anchor.recorded()?;
        let is_empty = std::fs::metadata(&path).is_ok_and(|data| data.len() == 0);
        if recorded > 0 && !anchor.accept_restore && (is_empty || !path.exists()) {
            return Err(DatabaseError::RolledBack { found: 0, recorded });
        }
        Self::open_with(&path, key, options, Some(anchor.clone()))
    }

    /// Changes the key of an anchored database; see [`Database::rekey`].
    ///
    /// # Errors
    ///
    /// As for [`Database::rekey`] and [`Database::open_anchored`].
    pub fn rekey_anchored(
        path: impl AsRef<Path>,
        from: &DatabaseKey,
        to: &DatabaseKey,
        anchor: &Anchor,
        options: Options,
    ) -> Result<(), DatabaseError> {
        let path = path.as_ref();
        let database = Self::open_anchored(path, from, anchor, options.must_exist())?;
        database.checkpoint()?;
        let path = database.path().to_owned();
        drop(database);
        // Every page changes without passing through the log.
        let layout = layout(options.profile);
        let recorded = anchor.recorded()?;
        let lost = anchor.read_record(&path, recorded, layout)?.lost;
        let replaced = Record {
            generation: recorded,
            lost,
            page_size: layout.page_size,
            pages: None,
        };
        anchor.write_record(&path, &replaced)?;
        step("anchor: file to be replaced")
            .map_err(|error| DatabaseError::io("replace", &path, error))?;
        Self::rekey_file(&path, from, to, options, Anchorage::Kept)?;
        step("anchor: file replaced")
            .map_err(|error| DatabaseError::io("replace", &path, error))?;
        Self::open_anchored(&path, to, anchor, options.must_exist())?.checkpoint()
    }
}

/// The anchor of an open database.
#[derive(Debug)]
pub(super) struct Anchored {
    pub(super) anchor: Anchor,
    /// What the writer had changed when the database last came to rest.
    changes: AtomicU64,
    /// Bytes in the log at which it is next brought to rest.
    due: AtomicU64,
}

impl Anchored {
    /// As many pages as SQLite lets the log grow to.
    const PAGES: u64 = 1000;

    pub(super) fn new(anchor: Anchor) -> Self {
        Self {
            anchor,
            changes: AtomicU64::new(0),
            due: AtomicU64::new(0),
        }
    }

    /// Brings the database to rest.
    pub(super) fn settle(
        &self,
        settings: &Settings,
        sentry: &Sentry,
        writer: &Guarded,
    ) -> Result<(), DatabaseError> {
        let outcome = settle(&self.anchor, settings, sentry, writer);
        let step = Self::PAGES * u64::from(layout(settings.options.profile).page_size);
        // After a failure, not again before the log has grown as much again.
        let due = log_length(settings) + step;
        self.due.store(due, Ordering::Relaxed);
        if outcome.is_ok() {
            let changes = writer.connection.total_changes();
            self.changes.store(changes, Ordering::Relaxed);
        }
        outcome
    }

    /// Keeps the log from growing without end. What cannot be done now, such
    /// as while a reader needs the log, is done later.
    pub(super) fn settle_if_due(&self, settings: &Settings, sentry: &Sentry, writer: &Guarded) {
        let step = Self::PAGES * u64::from(layout(settings.options.profile).page_size);
        if log_length(settings) > self.due.load(Ordering::Relaxed).max(step) {
            let _ = self.settle(settings, sentry, writer);
        }
    }

    /// Brings the database to rest if it was written to. If that fails, the
    /// next one to close it does.
    pub(super) fn settle_at_close(&self, settings: &Settings, sentry: &Sentry, writer: &Guarded) {
        let changed = writer.connection.total_changes() != self.changes.load(Ordering::Relaxed);
        if changed || !is_at_rest(settings) {
            let _ = writer.connection.busy_timeout(PATIENCE_AT_CLOSE);
            let _ = self.settle(settings, sentry, writer);
        }
    }
}

/// How long closing waits for another process that writes.
const PATIENCE_AT_CLOSE: Duration = Duration::from_millis(500);

/// Refuses a database that has an anchor.
pub(super) fn refuse_anchored(settings: &Settings, writer: &Guarded) -> Result<(), DatabaseError> {
    match generation(writer)? {
        0 => Ok(()),
        _ => Err(DatabaseError::Anchored {
            path: settings.path.clone(),
        }),
    }
}

/// Lets an opened database in, or refuses it.
pub(super) fn check(
    anchor: &Anchor,
    settings: &Settings,
    writer: &Guarded,
) -> Result<(), DatabaseError> {
    make_private(&preflight::side_file(&settings.path, "-anchor"))?;
    let recorded = anchor.recorded()?;
    let found = generation(writer)?;
    let fits = |found: u64, recorded| found == recorded || found == recorded + 1;
    if fits(found, recorded) && found > 0 {
        return Ok(());
    }
    // Another process may come to rest between the two looks, but not while
    // this one may write.
    let open = Open::begin(writer, "BEGIN IMMEDIATE")?;
    let recorded = anchor.recorded()?;
    let found = generation(writer)?;
    if fits(found, recorded) && found > 0 {
        return open.commit();
    }
    if fits(found, recorded) {
        set_generation(writer, recorded.max(1))?;
        return open.commit();
    }
    if !anchor.accept_restore {
        return Err(mismatch(found, recorded));
    }
    let layout = layout(settings.options.profile);
    let accepted = Record {
        generation: found.max(recorded),
        lost: false,
        page_size: layout.page_size,
        pages: None,
    };
    anchor.write_record(&settings.path, &accepted)?;
    crash_point(settings, "anchor: restored file accepted")?;
    if found > recorded {
        anchor.vault.set_mark(&anchor.mark, found)?;
    } else {
        set_generation(writer, recorded)?;
    }
    crash_point(settings, "anchor: generation of a restored file set")?;
    open.commit()
}

/// Takes others their rights to the record, which a copy may have given them.
#[cfg(unix)]
fn make_private(record: &Path) -> Result<(), DatabaseError> {
    use std::os::unix::fs::PermissionsExt;
    let change = |error| DatabaseError::io("make private", record, error);
    match std::fs::symlink_metadata(record) {
        Ok(data) if data.is_file() && data.permissions().mode() & 0o077 != 0 => {
            let private = std::fs::Permissions::from_mode(data.permissions().mode() & 0o700);
            std::fs::set_permissions(record, private).map_err(change)
        }
        // What is wrong otherwise is said by those who read it.
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn make_private(_: &Path) -> Result<(), DatabaseError> {
    Ok(())
}

fn mismatch(found: u64, recorded: u64) -> DatabaseError {
    if found < recorded {
        DatabaseError::RolledBack { found, recorded }
    } else {
        DatabaseError::VaultRolledBack { found, recorded }
    }
}

fn crash_point(settings: &Settings, name: &'static str) -> Result<(), DatabaseError> {
    step(name).map_err(|error| DatabaseError::io("anchor", &settings.path, error))
}

/// The generation in the database; zero if it has none.
fn generation(guarded: &Guarded) -> Result<u64, DatabaseError> {
    guarded.guard.as_owner(|| {
        let number = |sql| {
            guarded
                .connection
                .query_row(sql, [], |row| row.get::<_, i64>(0))
        };
        if number(IS_ANCHORED)? == 0 {
            return Ok(0);
        }
        Ok(number("SELECT coalesce(max(generation), 0) FROM katachi_anchor")?.unsigned_abs())
    })
}

/// Inside a transaction.
fn set_generation(guarded: &Guarded, generation: u64) -> Result<(), DatabaseError> {
    guarded.run_as_owner(&format!(
        "{TABLE};
         INSERT INTO katachi_anchor SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM katachi_anchor);
         UPDATE katachi_anchor SET generation = {generation}, cycle = cycle + 1;"
    ))
}

/// Brings the database to rest: everything into the file, its pages on
/// record, the generation in the vault.
fn settle(
    anchor: &Anchor,
    settings: &Settings,
    sentry: &Sentry,
    writer: &Guarded,
) -> Result<(), DatabaseError> {
    // A generation that was committed and not recorded is in copies that were
    // made since; the next one is in none.
    let open = Open::begin(writer, "BEGIN IMMEDIATE")?;
    let mut recorded = anchor.recorded()?;
    let found = generation(writer)?;
    if found == recorded + 1 {
        catch_up(anchor, settings, recorded)?;
        recorded = found;
    } else if found != recorded {
        return Err(mismatch(found, recorded));
    }
    let next = recorded + 1;
    set_generation(writer, next)?;
    open.commit()?;
    crash_point(settings, "anchor: next generation committed")?;

    // Its locks keep every other process from writing, and by that from
    // copying pages to the file.
    let open = Open::begin(writer, "BEGIN IMMEDIATE")?;
    let recorded = anchor.recorded()?;
    let found = generation(writer)?;
    if found == recorded + 1 {
        settle_next(anchor, settings, sentry, recorded)?;
    } else if found != recorded || found < next {
        return Err(mismatch(found, recorded));
    }
    drop(open);

    // Its first page overwrites the log from the beginning, and the rest of
    // the log is cut off, unless somebody else wrote to it already.
    let open = Open::begin(writer, "BEGIN IMMEDIATE")?;
    writer.run_as_owner("UPDATE katachi_anchor SET cycle = cycle + 1")?;
    open.commit()
}

/// Records the generation that was committed already.
fn catch_up(anchor: &Anchor, settings: &Settings, recorded: u64) -> Result<(), DatabaseError> {
    let layout = layout(settings.options.profile);
    let known = anchor.read_record(&settings.path, recorded, layout)?;
    let record = Record {
        generation: recorded + 1,
        lost: known.lost,
        page_size: layout.page_size,
        pages: known.pages,
    };
    anchor.write_record(&settings.path, &record)?;
    crash_point(settings, "anchor: generation of before on record")?;
    anchor.vault.set_mark(&anchor.mark, recorded + 1)?;
    crash_point(settings, "anchor: generation of before recorded")
}

/// The second step and those after it. The caller may write and does not.
fn settle_next(
    anchor: &Anchor,
    settings: &Settings,
    sentry: &Sentry,
    recorded: u64,
) -> Result<(), DatabaseError> {
    let layout = layout(settings.options.profile);
    let known = anchor.read_record(&settings.path, recorded, layout)?;
    let copier = settings.connect(Role::Writer)?;
    let (frames, copied): (i64, i64) = copier.guard.as_owner(|| {
        let pragma = "PRAGMA wal_checkpoint(PASSIVE)";
        copier
            .connection
            .query_row(pragma, [], |row| Ok((row.get(1)?, row.get(2)?)))
    })?;
    if frames != copied {
        // A reader still needs the file as it was.
        return Err(DatabaseError::Busy);
    }
    crash_point(settings, "anchor: log copied")?;
    let log = read_log(&settings.path, layout, frames.unsigned_abs())?;
    let count = sentry.length(&settings.path)? / u64::from(layout.page_size);
    let mut tags = Tags {
        sentry,
        settings,
        layout,
    };
    let pages = match known.pages {
        _ if count > Record::MAX_PAGES as u64 => None,
        None => Some(tags.all(count)?),
        Some(old) => {
            let mut pages = Vec::with_capacity(old.len());
            for page in 1..=u32::try_from(count).unwrap_or(u32::MAX) {
                let former = || old.get(page as usize - 1).copied();
                pages.push(match log.newest(page).or_else(former) {
                    Some(tag) => tag,
                    None => tags.of(page)?,
                });
            }
            Some(pages)
        }
    };
    let record = Record {
        generation: recorded + 1,
        lost: known.lost,
        page_size: layout.page_size,
        pages,
    };
    anchor.write_record(&settings.path, &record)?;
    crash_point(settings, "anchor: pages recorded")?;
    anchor.vault.set_mark(&anchor.mark, recorded + 1)?;
    crash_point(settings, "anchor: generation recorded")
}

/// Finds pages that are not the ones on record. The caller may write, so that
/// nobody brings the database to rest meanwhile.
pub(super) fn compare(
    anchor: &Anchor,
    settings: &Settings,
    sentry: &Sentry,
    report: &mut Report,
) -> Result<(), DatabaseError> {
    let layout = layout(settings.options.profile);
    let known = anchor.read_record(&settings.path, anchor.recorded()?, layout)?;
    if known.lost {
        report.add(
            "the record of pages is missing, damaged or an older one: an old page may have been put in place".into(),
        );
    }
    let Some(old) = known.pages else {
        report.comparison = Comparison::NotPossible;
        return Ok(());
    };
    let log = read_log(&settings.path, layout, u64::MAX)?;
    let count = sentry.length(&settings.path)? / u64::from(layout.page_size);
    let mut tags = Tags {
        sentry,
        settings,
        layout,
    };
    for page in 1..=u32::try_from(count).unwrap_or(u32::MAX) {
        let tag = tags.of(page)?;
        if old.get(page as usize - 1) != Some(&tag) && !log.had(page, tag) {
            report.add(format!(
                "page {page} is not the one that was written last: an older one was put in its place"
            ));
        }
    }
    for page in count + 1..=old.len() as u64 {
        let number = u32::try_from(page).unwrap_or(u32::MAX);
        // Either a shorter file is on its way, or the page is.
        let expected =
            log.size.is_some_and(|size| u64::from(size) < page) || log.newest(number).is_some();
        if !expected {
            report.add(format!("page {page} is missing from the end of the file"));
        }
    }
    report.comparison = Comparison::Compared { pages: count };
    Ok(())
}

/// Tells which pages are in the log.
pub(super) fn pages_in_log(settings: &Settings) -> Result<impl Fn(u64) -> bool, DatabaseError> {
    let log = read_log(&settings.path, layout(settings.options.profile), u64::MAX)?;
    Ok(move |page| u32::try_from(page).is_ok_and(|page| log.newest(page).is_some()))
}

/// Whether there is anything in the log to bring to rest, beyond the page with
/// the generation itself.
fn is_at_rest(settings: &Settings) -> bool {
    log_length(settings) <= 32 + 24 + u64::from(layout(settings.options.profile).page_size)
}

/// Bytes in the log.
fn log_length(settings: &Settings) -> u64 {
    std::fs::metadata(preflight::side_file(&settings.path, "-wal")).map_or(0, |data| data.len())
}

fn read_log(path: &Path, layout: Layout, frames: u64) -> Result<Log, DatabaseError> {
    let path = preflight::side_file(path, "-wal");
    let failed = |error| DatabaseError::io("read", &path, error);
    // SQLite has no locks on this file that closing it could drop.
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Log::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut read_at = |at, part: &mut [u8]| {
        file.seek(SeekFrom::Start(at))?;
        match file.read_exact(part) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            other => other.map(|()| true),
        }
    };
    Log::read(&mut read_at, layout, frames).map_err(failed)
}

/// Whether a log lies beside the database that SQLite would not read.
pub(super) fn is_foreign_log(path: &Path) -> bool {
    let mut head = [0; 8];
    File::open(preflight::side_file(path, "-wal"))
        .and_then(|mut file| file.read_exact(&mut head))
        .is_ok_and(|()| log::is_foreign(&head))
}

/// Reads the codes of pages in the file.
struct Tags<'s> {
    sentry: &'s Sentry,
    settings: &'s Settings,
    layout: Layout,
}

impl Tags<'_> {
    fn of(&mut self, page: u32) -> Result<Tag, DatabaseError> {
        let at =
            u64::from(page - 1) * u64::from(self.layout.page_size) + u64::from(self.layout.tag_at);
        let mut tag = Tag::default();
        self.sentry.read_at(&self.settings.path, at, &mut tag)?;
        Ok(tag)
    }

    fn all(&mut self, count: u64) -> Result<Vec<Tag>, DatabaseError> {
        (1..=u32::try_from(count).unwrap_or(u32::MAX))
            .map(|page| self.of(page))
            .collect()
    }
}
