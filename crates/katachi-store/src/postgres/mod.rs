//! Sealed [columns](crate::column) in PostgreSQL: keys in a table, rotation while
//! others write.
//!
//! # How it fits together
//!
//! [`KeyTable`] keeps the wrapped keys of every tenant in `katachi_tenant_keys`.
//! A [`SealedColumn`] describes where sealed values are and adds to their table a
//! generated column with the key that each value names, and a foreign key from it to
//! `katachi_tenant_keys`. So PostgreSQL itself refuses a value under a key that is no
//! longer there, and refuses to let go of a key that a value still needs: whatever
//! writers do, no value is ever left without its key.
//!
//! [`Rotation`] seals what former keys sealed again, in small batches. It holds no
//! lock while it computes: each batch is one `UPDATE` that changes only rows whose
//! ciphertext is still the one that was read, so a concurrent write always wins. Its
//! whole state is the key that each value names; killed at any moment, it goes on
//! where it was.
//!
//! ```no_run
//! # use katachi_store::{Vault, column::{Cell, TenantKeys}, postgres::*};
//! # async fn example(vault: &Vault, roots: rustls::RootCertStore) -> Result<(), Box<dyn std::error::Error>> {
//! let server = Connector::tls("postgres://app:secret@db.example.com/app".parse()?, roots)?;
//! let client = server.connect().await?;
//! let keys = KeyTable::new(TenantKeys::from_vault(vault, "accounts")?);
//! keys.install(&client).await?;
//!
//! let email = SealedColumn::new("users", "email").blind_index("email_tag", 64);
//! email.install(&client).await?; // users (tenant text, id bigint, email bytea, email_tag bytea)
//!
//! let cipher = keys.create(&client, "acme").await?;
//! let row = 42_i64.to_be_bytes();
//! let sealed = cipher.seal(&email.cell(&row), b"ann@example.com")?;
//! let tag = email.tag(&cipher, b"ann@example.com")?;
//! client
//!     .execute("INSERT INTO users VALUES ($1, $2, $3, $4)", &[&"acme", &42_i64, &sealed, &tag])
//!     .await?;
//!
//! // Later: a new key, everything sealed again, the old key gone.
//! keys.rotate(&client, "acme").await?;
//! Rotation::new(&server, &keys)
//!     .column(email)
//!     .run("acme", |progress| eprintln!("{} of {}", progress.resealed, progress.found))
//!     .await?;
//! keys.retire(&client, "acme").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a writer and a reader do
//!
//! They cache a cipher as long as they like. A write that fails with
//! [`is_retired_key`] and a read that fails with
//! [`UnknownKey`](crate::column::ColumnError::UnknownKey) mean that the tenant's keys
//! have moved on: load the cipher again and repeat.
//!
//! # Security
//!
//! Connections to another machine use TLS with a verified name, or are not made.
//! Whoever can write the database can delete values, or put back an older value of the
//! same cell; they cannot read any, make one, or move one elsewhere. Old row versions,
//! the write-ahead log and backups keep what was deleted, wrapped keys too: to be sure
//! that a destroyed tenant stays unreadable, rotate the master key as well and
//! [`rewrap`](KeyTable::rewrap) the other tenants.

mod connect;
mod error;
mod keys;
mod rotation;
mod table;

pub use connect::Connector;
pub use error::{PostgresError, is_retired_key};
pub use keys::{KeyTable, TenantKeyInfo};
pub use rotation::{Progress, Rotation};
pub use table::{RowKey, SealedColumn};
