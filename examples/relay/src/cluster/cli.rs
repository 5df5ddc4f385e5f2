//! `katachi-relay key`: the keys of a cluster and of its accounts, from the command
//! line.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::keyset::{NodeKey, NodeName, NodeSecret};
use super::rotate::Rotate;
use crate::cli::{Database, default_state_dir};
use crate::config::{DatabaseSource, KeychainUse, PostgresUrl};
use crate::machine;
use crate::records::{RecordsError, nodes};
use crate::service::{ServeError, create_state_dir};

/// Arguments of `key`.
#[derive(Args, Clone, Debug)]
pub struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Make a cluster of a database, with this machine as its first node
    ///
    /// What a relay that was alone kept there is taken over; that relay ends.
    Init {
        /// What to call this node: a to z, 0 to 9 and -
        #[arg(value_name = "NAME")]
        name: NodeName,
        #[command(flatten)]
        place: Place,
    },
    /// Print the public key of this machine, for `add-node` on another
    Show {
        #[command(flatten)]
        vault: OwnVault,
    },
    /// Take another machine into the cluster; run on a node of it
    AddNode {
        /// What to call it: a to z, 0 to 9 and -
        #[arg(value_name = "NAME")]
        name: NodeName,
        /// What `key show` printed there
        #[arg(value_name = "KEY")]
        key: NodeKey,
        #[command(flatten)]
        place: Place,
    },
    /// Take a node out of the cluster and change the key; run on another one
    RemoveNode {
        /// What it is called
        #[arg(value_name = "NAME")]
        name: NodeName,
        #[command(flatten)]
        place: Place,
    },
    /// Change the key that wraps the accounts' keys, or those, while relays serve
    Rotate(Rotate),
    /// Print the nodes; needs no key
    List {
        #[command(flatten)]
        database: Database,
    },
}

/// The vault of this machine.
#[derive(Args, Clone, Debug)]
pub(super) struct OwnVault {
    /// Directory of the vault
    #[arg(long, value_name = "DIR", env = "KATACHI_RELAY_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Do not ask the keychain of the operating system
    #[arg(long, env = "KATACHI_RELAY_NO_KEYCHAIN")]
    no_keychain: bool,
}

/// The vault of this machine, and the database of the cluster.
#[derive(Args, Clone, Debug)]
pub(super) struct Place {
    #[command(flatten)]
    pub(super) vault: OwnVault,
    #[command(flatten)]
    database: Database,
}

impl Key {
    /// Does it, and prints what there is to know on standard output.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`], which says what to change.
    pub async fn run(&self) -> Result<(), ServeError> {
        let command = self.command.clone();
        // It waits for the disk, the database, and perhaps for a keychain.
        let lines = tokio::task::spawn_blocking(move || command.run()).await??;
        for line in lines {
            crate::cli::print_line(&line);
        }
        Ok(())
    }
}

impl Command {
    fn run(self) -> Result<Vec<String>, ServeError> {
        let storage = |error: RecordsError| ServeError::Storage(error.to_string());
        match self {
            Self::Init { name, place } => {
                let id = nodes::init(&place.url()?, &place.vault.open()?, &name);
                Ok(vec![id.map_err(storage)?.to_string()])
            }
            Self::Show { vault } => {
                let key = NodeSecret::of(&vault.open()?).public();
                Ok(vec![key.to_string()])
            }
            Self::AddNode { name, key, place } => {
                let id = nodes::add(&place.url()?, &place.vault.open()?, &name, &key);
                Ok(vec![id.map_err(storage)?.to_string()])
            }
            Self::RemoveNode { name, place } => {
                let removed = nodes::remove(&place.url()?, &place.vault.open()?, &name);
                removed.map(|()| Vec::new()).map_err(storage)
            }
            Self::Rotate(rotate) => rotate.run(),
            Self::List { database } => {
                let (cluster, nodes) = nodes::list(&postgres(&database)?).map_err(storage)?;
                let mut lines = vec![format!("cluster {cluster}")];
                lines.extend(nodes.iter().map(|node| {
                    let state = if node.alive { "serving" } else { "away" };
                    format!(
                        "{}\t{state}\t{} tunnels\t{}\t{}",
                        node.name, node.tunnels, node.address, node.key
                    )
                }));
                Ok(lines)
            }
        }
    }
}

impl OwnVault {
    pub(super) fn state_dir(&self) -> Result<PathBuf, ServeError> {
        self.state_dir.clone().map_or_else(default_state_dir, Ok)
    }

    pub(super) fn open(&self) -> Result<katachi_store::Vault, ServeError> {
        let state_dir = self.state_dir()?;
        create_state_dir(&state_dir)?;
        let keychain = match self.no_keychain {
            true => KeychainUse::Never,
            false => KeychainUse::Allowed,
        };
        Ok(machine::open_vault(&state_dir, keychain)?)
    }
}

impl Place {
    pub(super) fn url(&self) -> Result<PostgresUrl, ServeError> {
        postgres(&self.database)
    }

    pub(super) fn source(&self) -> Result<DatabaseSource, ServeError> {
        self.database.to_source()
    }
}

fn postgres(database: &Database) -> Result<PostgresUrl, ServeError> {
    match database.to_source()? {
        DatabaseSource::Postgres(url) => Ok(*url),
        DatabaseSource::Embedded => Err(ServeError::Config(
            "a cluster shares a PostgreSQL: give --database".to_owned(),
        )),
    }
}
