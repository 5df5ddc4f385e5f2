//! Keeps a chat in an encrypted database, streams an answer into it, searches
//! it and shows what another program would see of the file.
//!
//!     cargo run -p katachi-store --features history --example history

use katachi_store::database::{Database, DatabaseError, DatabaseKey, Options, Profile};
use katachi_store::history::{History, NewMessage, Role};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("history.db");
    // A program keeps this in its vault: `DatabaseKey::from_vault(&vault, "history")`.
    let key = DatabaseKey::generate()?;
    let db = Database::open(&path, &key, Options::new().profile(Profile::Fast))?;
    let history = History::open(&db)?;

    let workspace = history.workspace("/home/mia/orchard")?;
    let session = history.start_session(workspace, "Pruning")?;
    history.append(
        session,
        &NewMessage::new(Role::User, "When do I prune plum trees?"),
    )?;
    let mut answer = history.begin(session, Role::Assistant)?;
    for piece in [
        "In summer, ",
        "right after the harvest: ",
        "plum wood heals slowly.",
    ] {
        answer.push(piece)?;
    }
    answer.finish()?;

    for hit in history.search("plum heal*", 10)? {
        println!("{} in \"{}\": {}", hit.role, hit.title, hit.snippet);
    }

    let refused = db.write(|tx| tx.execute("ATTACH 'copy.db' AS copy KEY ''", []));
    if let Err(error @ DatabaseError::Forbidden { .. }) = refused {
        println!("attaching a plain file: {error}");
    }

    db.backup(dir.path().join("backup.db"))?;
    drop((history, db));
    let begin = &std::fs::read(&path)?[..16];
    println!("the file begins with {begin:02x?}");
    match Database::open(
        &path,
        &DatabaseKey::generate()?,
        Options::new().profile(Profile::Fast),
    ) {
        Err(error) => println!("with another key: {error}"),
        Ok(_) => unreachable!("a random key opens nothing"),
    }
    Ok(())
}
