//! The embedded database, for the suite that runs on both.

use std::path::Path;

use katachi_crypto::Secret;
use katachi_relay::DatabaseSource;
use katachi_store::Vault;
use katachi_store::binding::{
    BindingError, Enrolled, FingerprintBinding, MachineBinding, Recovered, Unbound,
};
use katachi_store::database::{Database, DatabaseError, DatabaseKey, Options, Profile};
use serde_json::Value;

/// Where a relay with its state here keeps its records.
pub(crate) fn database(_state: &Path) -> DatabaseSource {
    DatabaseSource::Embedded
}

/// The same, for the program.
pub(crate) fn arguments(_state: &Path) -> Vec<String> {
    Vec::new()
}

/// Every table, each with its rows as JSON. The relay may be running.
pub(crate) fn tables(state: &Path) -> Vec<(String, Vec<Value>)> {
    let vault = Vault::builder(state.join("vault"))
        .binding(AsItWasMade(FingerprintBinding::system_with_volume_of(
            state,
        )))
        .file_slot(state.join("secrets"))
        .open()
        .unwrap();
    let key = DatabaseKey::from_vault(&vault, "relay").unwrap();
    let options = Options::new().profile(Profile::Fast).must_exist();
    let database = Database::open(state.join("relay.db"), &key, options).unwrap();
    let tables = database.read(|tx| {
        let names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
        let columns = "SELECT name FROM pragma_table_info(?1)";
        let texts = |sql: &str, of: &[&str]| -> Result<Vec<String>, DatabaseError> {
            let mut all = Vec::new();
            tx.for_each(sql, katachi_store::database::params_from_iter(of), |row| {
                all.push(row.get(0)?);
                Ok::<_, DatabaseError>(())
            })?;
            Ok(all)
        };
        let mut tables = Vec::new();
        for table in texts(names, &[])? {
            let columns = texts(columns, &[&table])?;
            let columns = columns
                .iter()
                .map(|name| format!("'{name}', quote({name})"));
            let columns: Vec<String> = columns.collect();
            let rows = format!("SELECT json_object({}) FROM {table}", columns.join(", "));
            let mut rows = texts(&rows, &[])?;
            rows.sort();
            let rows = rows.iter().map(|row| serde_json::from_str(row).unwrap());
            tables.push((table, rows.collect()));
        }
        Ok::<_, DatabaseError>(tables)
    });
    tables.unwrap()
}

/// Opens a vault whether or not this machine can be recognised, as the relay does.
struct AsItWasMade<B>(B);

impl<B: MachineBinding> MachineBinding for AsItWasMade<B> {
    fn enroll(&self) -> Result<Enrolled, BindingError> {
        self.0.enroll()
    }

    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError> {
        match Unbound.recover(state, verify) {
            Ok(recovered) => Ok(recovered),
            Err(_) => self.0.recover(state, verify),
        }
    }
}
