//! MCP configurations; each secret is a sealed cell of its own.

use katachi_store::column::Cell;

use super::rotation::{Kept, Names, Sealed};
use super::store::{ReadTx, Row, Tx, Value, int, values};
use super::{MCP_SECRETS, RecordsError, SEALED as SECRET, users};

/// A configuration without its secrets. `command`, `env` and `released_to`
/// are JSON.
#[derive(Clone, Debug)]
pub(crate) struct ConfigRow {
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) env: String,
    pub(crate) released_to: String,
    pub(crate) version: u64,
    pub(crate) updated_at: u64,
}

/// A secret as it is stored. A device's signature is kept as one, under
/// [`signature_of`] an agent: whoever reads a signature can try out guesses of
/// the secrets that it covers.
#[derive(Clone, Debug)]
pub(crate) struct SecretRow {
    pub(crate) config: String,
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) sealed: Vec<u8>,
}

pub(super) const SEALED: Sealed = Sealed {
    table: MCP_CONFIGS,
    account: "user_id",
    columns: &["command", "env", "released_to"],
    names: Names::Text(&["name"]),
    version: Some("version"),
    kept: Kept::InPostgres,
};

pub(super) const SEALED_SECRETS: Sealed = Sealed {
    table: MCP_SECRETS,
    account: "user_id",
    columns: &[SECRET],
    names: Names::Text(&["config", "name"]),
    version: Some("version"),
    kept: Kept::Everywhere,
};

const MCP_CONFIGS: &str = "mcp_configs";

/// What no environment variable is called.
const SIGNATURE: &str = "signature/";

/// The name under which the signature for `agent` is kept.
pub(crate) fn signature_of(agent: &str) -> String {
    format!("{SIGNATURE}{agent}")
}

impl SecretRow {
    /// The agent whose signature this is; `None` for a variable.
    pub(crate) fn signed_for(&self) -> Option<&str> {
        self.name.strip_prefix(SIGNATURE)
    }
}

/// Most configurations of one account.
pub(crate) const MOST_CONFIGS: u64 = 64;

pub(crate) fn version(
    tx: &ReadTx<'_>,
    user_id: &str,
    name: &str,
) -> Result<Option<u64>, RecordsError> {
    tx.query_one(
        "SELECT version FROM mcp_configs WHERE user_id = ?1 AND name = ?2",
        values![user_id, name],
        |row| row.uint(0),
    )
}

pub(crate) fn count(tx: &ReadTx<'_>, user_id: &str) -> Result<u64, RecordsError> {
    let count = tx.query_one(
        "SELECT count(*) FROM mcp_configs WHERE user_id = ?1",
        values![user_id],
        |row| row.uint(0),
    )?;
    Ok(count.unwrap_or_default())
}

/// Writes a configuration with exactly these secrets.
pub(crate) fn put(
    tx: &Tx<'_>,
    user_id: &str,
    config: &ConfigRow,
    secrets: &[SecretRow],
) -> Result<(), RecordsError> {
    let cover = tx.cover(user_id, &users::tenant_key(tx, user_id)?)?;
    let covered = |column, text: &str| -> Result<Value, RecordsError> {
        cover.seal(&cell(column, &config.name, config.version), text)
    };
    tx.execute(
        "INSERT INTO mcp_configs (user_id, name, command, env, released_to, version, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (user_id, name) DO UPDATE SET command = excluded.command, env = excluded.env,
             released_to = excluded.released_to, version = excluded.version, updated_at = excluded.updated_at",
        values![
            user_id,
            &config.name,
            covered("command", &config.command)?,
            covered("env", &config.env)?,
            covered("released_to", &config.released_to)?,
            int(config.version),
            int(config.updated_at),
        ],
    )?;
    tx.execute(
        "DELETE FROM mcp_secrets WHERE user_id = ?1 AND config = ?2",
        values![user_id, &config.name],
    )?;
    for secret in secrets {
        tx.execute(
            "INSERT INTO mcp_secrets (user_id, config, name, version, sealed) VALUES (?1, ?2, ?3, ?4, ?5)",
            values![user_id, &secret.config, &secret.name, int(secret.version), &secret.sealed],
        )?;
    }
    Ok(())
}

pub(crate) fn remove(tx: &Tx<'_>, user_id: &str, name: &str) -> Result<bool, RecordsError> {
    tx.execute(
        "DELETE FROM mcp_secrets WHERE user_id = ?1 AND config = ?2",
        values![user_id, name],
    )?;
    let removed = tx.execute(
        "DELETE FROM mcp_configs WHERE user_id = ?1 AND name = ?2",
        values![user_id, name],
    )?;
    Ok(removed == 1)
}

pub(crate) fn configs(tx: &ReadTx<'_>, user_id: &str) -> Result<Vec<ConfigRow>, RecordsError> {
    let cover = tx.cover(user_id, &users::tenant_key(tx, user_id)?)?;
    tx.query(
        "SELECT name, command, env, released_to, version, updated_at
         FROM mcp_configs WHERE user_id = ?1 ORDER BY name",
        values![user_id],
        |row| {
            let (name, version): (String, u64) = (row.get(0)?, row.uint(4)?);
            let covered = |column, at| cover.open(&cell(column, &name, version), row, at);
            Ok(ConfigRow {
                command: covered("command", 1)?,
                env: covered("env", 2)?,
                released_to: covered("released_to", 3)?,
                name,
                version,
                updated_at: row.uint(5)?,
            })
        },
    )
}

/// The secrets of all configurations of an account.
pub(crate) fn secrets(tx: &ReadTx<'_>, user_id: &str) -> Result<Vec<SecretRow>, RecordsError> {
    tx.query(
        "SELECT config, name, version, sealed FROM mcp_secrets WHERE user_id = ?1 ORDER BY config, name",
        values![user_id],
        read_secret,
    )
}

/// The secrets of one configuration.
pub(crate) fn secrets_of(
    tx: &ReadTx<'_>,
    user_id: &str,
    config: &str,
) -> Result<Vec<SecretRow>, RecordsError> {
    tx.query(
        "SELECT config, name, version, sealed FROM mcp_secrets WHERE user_id = ?1 AND config = ?2 ORDER BY name",
        values![user_id, config],
        read_secret,
    )
}

fn read_secret(row: &Row<'_>) -> Result<SecretRow, RecordsError> {
    Ok(SecretRow {
        config: row.get(0)?,
        name: row.get(1)?,
        version: row.uint(2)?,
        sealed: row.get(3)?,
    })
}

/// A covered cell; the account comes from the cover.
fn cell<'a>(column: &'a str, name: &'a str, version: u64) -> Cell<'a> {
    Cell {
        table: MCP_CONFIGS,
        column,
        row: name.as_bytes(),
        version,
    }
}
