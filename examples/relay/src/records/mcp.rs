//! MCP configurations; each secret is a sealed cell of its own.

use katachi_store::database::{DatabaseError, ReadTx, Row, RowResult, Tx, params};

use super::{int, uint};

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
) -> Result<Option<u64>, DatabaseError> {
    tx.query_one(
        "SELECT version FROM mcp_configs WHERE user_id = ?1 AND name = ?2",
        [user_id, name],
        |row| uint(row, 0),
    )
}

pub(crate) fn count(tx: &ReadTx<'_>, user_id: &str) -> Result<u64, DatabaseError> {
    let count = tx.query_one(
        "SELECT count(*) FROM mcp_configs WHERE user_id = ?1",
        [user_id],
        |row| uint(row, 0),
    )?;
    Ok(count.unwrap_or_default())
}

/// Writes a configuration with exactly these secrets.
pub(crate) fn put(
    tx: &Tx<'_>,
    user_id: &str,
    config: &ConfigRow,
    secrets: &[SecretRow],
) -> Result<(), DatabaseError> {
    tx.execute(
        "INSERT INTO mcp_configs (user_id, name, command, env, released_to, version, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (user_id, name) DO UPDATE SET command = excluded.command, env = excluded.env,
             released_to = excluded.released_to, version = excluded.version, updated_at = excluded.updated_at",
        params![
            user_id,
            config.name,
            config.command,
            config.env,
            config.released_to,
            int(config.version),
            int(config.updated_at),
        ],
    )?;
    tx.execute(
        "DELETE FROM mcp_secrets WHERE user_id = ?1 AND config = ?2",
        [user_id, &config.name],
    )?;
    for secret in secrets {
        tx.execute(
            "INSERT INTO mcp_secrets (user_id, config, name, version, sealed) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![user_id, secret.config, secret.name, int(secret.version), secret.sealed],
        )?;
    }
    Ok(())
}

pub(crate) fn remove(tx: &Tx<'_>, user_id: &str, name: &str) -> Result<bool, DatabaseError> {
    tx.execute(
        "DELETE FROM mcp_secrets WHERE user_id = ?1 AND config = ?2",
        [user_id, name],
    )?;
    let removed = tx.execute(
        "DELETE FROM mcp_configs WHERE user_id = ?1 AND name = ?2",
        [user_id, name],
    )?;
    Ok(removed == 1)
}

pub(crate) fn configs(tx: &ReadTx<'_>, user_id: &str) -> Result<Vec<ConfigRow>, DatabaseError> {
    tx.query(
        "SELECT name, command, env, released_to, version, updated_at
         FROM mcp_configs WHERE user_id = ?1 ORDER BY name",
        [user_id],
        |row| {
            Ok(ConfigRow {
                name: row.get(0)?,
                command: row.get(1)?,
                env: row.get(2)?,
                released_to: row.get(3)?,
                version: uint(row, 4)?,
                updated_at: uint(row, 5)?,
            })
        },
    )
}

/// The secrets of all configurations of an account.
pub(crate) fn secrets(tx: &ReadTx<'_>, user_id: &str) -> Result<Vec<SecretRow>, DatabaseError> {
    tx.query(
        "SELECT config, name, version, sealed FROM mcp_secrets WHERE user_id = ?1 ORDER BY config, name",
        [user_id],
        read_secret,
    )
}

/// The secrets of one configuration.
pub(crate) fn secrets_of(
    tx: &ReadTx<'_>,
    user_id: &str,
    config: &str,
) -> Result<Vec<SecretRow>, DatabaseError> {
    tx.query(
        "SELECT config, name, version, sealed FROM mcp_secrets WHERE user_id = ?1 AND config = ?2 ORDER BY name",
        [user_id, config],
        read_secret,
    )
}

fn read_secret(row: &Row<'_>) -> RowResult<SecretRow> {
    Ok(SecretRow {
        config: row.get(0)?,
        name: row.get(1)?,
        version: uint(row, 2)?,
        sealed: row.get(3)?,
    })
}
