//! Decides which statements may run.
//!
//! SQLite asks this authorizer once for every action of every statement, also
//! for those that its own extensions (full-text search) prepare. Whatever could
//! write plaintext somewhere or change the protection is refused: attaching a
//! second file, exporting, loading code, and every pragma but a short list that
//! reads the schema. Transactions are begun and ended by the owner of the
//! connection alone.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;

use super::DatabaseError;

/// Pragmas that only read, and `optimize`, which only runs `ANALYZE`.
const READING_PRAGMAS: &[&str] = &[
    "analysis_limit",
    "collation_list",
    "compile_options",
    "data_version",
    "foreign_key_check",
    "foreign_key_list",
    "freelist_count",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "module_list",
    "optimize",
    "page_count",
    "pragma_list",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Pragmas that may be asked for their value, and not given one.
const ASKABLE_PRAGMAS: &[&str] = &[
    "application_id",
    "encoding",
    "foreign_keys",
    "journal_mode",
    "page_size",
    "query_only",
    "secure_delete",
    "synchronous",
    "temp_store",
    "user_version",
];

/// Virtual tables that keep their content inside this database.
const MODULES: &[&str] = &["fts5", "fts5vocab", "rtree"];

/// Functions that write files, load code or hand out pointers.
const FORBIDDEN_FUNCTIONS: &[&str] = &[
    "edit",
    "fts3_tokenizer",
    "load_extension",
    "readfile",
    "sqlcipher_export",
    "writefile",
];

const USER: u8 = 0;
const OWNER: u8 = 1;

/// The door that the owner of a connection holds open while it works.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    state: Arc<AtomicU8>,
    /// The last thing refused, for the error that follows.
    refused: Arc<Mutex<String>>,
}

impl Guard {
    /// Closes `connection` to everything on the list above.
    pub(super) fn install(connection: &mut Connection) -> Result<Self, DatabaseError> {
        let guard = Self::default();
        let state = guard.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| state.decide(&context)))?;
        // A second wall: without a free slot, ATTACH fails even when authorised.
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        Ok(guard)
    }

    /// Runs `work` with the rights of the owner of the connection.
    pub(super) fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        let _close = Close(&self.state);
        self.state.store(OWNER, Ordering::Relaxed);
        work()
    }

    fn decide(&self, context: &AuthContext<'_>) -> Authorization {
        if self.state.load(Ordering::Relaxed) == OWNER || allowed(context) {
            return Authorization::Allow;
        }
        *self.lock() = name(&context.action);
        Authorization::Deny
    }

    /// Names what was refused last.
    pub(super) fn refused(&self) -> String {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the door again, also when `work` panics.
struct Close<'g>(&'g AtomicU8);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.store(USER, Ordering::Relaxed);
    }
}

/// A word for an action, without any value.
fn name(action: &AuthAction<'_>) -> String {
    match action {
        AuthAction::Attach { .. } => "ATTACH".into(),
        AuthAction::Detach { .. } => "DETACH".into(),
        AuthAction::Transaction { .. } => "beginning or ending a transaction".into(),
        AuthAction::Pragma { pragma_name, .. } => format!("PRAGMA {pragma_name}"),
        AuthAction::CreateVtable { module_name, .. } => format!("the module {module_name}"),
        AuthAction::Function { function_name } => format!("the function {function_name}"),
        _ => "this statement".into(),
    }
}

fn allowed(context: &AuthContext<'_>) -> bool {
    let listed =
        |list: &[&str], name: &str| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    match context.action {
        AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Transaction { .. }
        | AuthAction::Unknown { .. } => false,
        AuthAction::Pragma {
            pragma_name,
            pragma_value,
        } => {
            listed(READING_PRAGMAS, pragma_name)
                || (pragma_value.is_none() && listed(ASKABLE_PRAGMAS, pragma_name))
                // Holds for one transaction and only delays a check to its end.
                || pragma_name.eq_ignore_ascii_case("defer_foreign_keys")
        }
        AuthAction::CreateVtable { module_name, .. } => listed(MODULES, module_name),
        AuthAction::Function { function_name } => !listed(FORBIDDEN_FUNCTIONS, function_name),
        AuthAction::CreateIndex { .. }
        | AuthAction::CreateTable { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateTrigger { .. }
        | AuthAction::CreateView { .. }
        | AuthAction::Delete { .. }
        | AuthAction::DropIndex { .. }
        | AuthAction::DropTable { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropTempTrigger { .. }
        | AuthAction::DropTempView { .. }
        | AuthAction::DropTrigger { .. }
        | AuthAction::DropView { .. }
        | AuthAction::DropVtable { .. }
        | AuthAction::Insert { .. }
        | AuthAction::Read { .. }
        | AuthAction::Select
        | AuthAction::Update { .. }
        | AuthAction::AlterTable { .. }
        | AuthAction::Reindex { .. }
        | AuthAction::Analyze { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Recursive => true,
        _ => false,
    }
}
