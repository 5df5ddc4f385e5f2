//! One PostgreSQL for this test program, with a database for each state
//! directory, stopped and removed once the program has ended.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use katachi_relay::{DatabaseSource, PostgresUrl};
use serde_json::Value;

use crate::postgres::{Postgres, binaries};

struct Server {
    postgres: Postgres,
    made: Mutex<HashSet<String>>,
    /// Ends the server when its standard input does: nothing drops a `static`.
    _guard: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();

fn server() -> &'static Server {
    SERVER.get_or_init(|| {
        let postgres = Postgres::start(&[]);
        std::fs::write(authority(&postgres), &postgres.authority).unwrap();
        let guard = Command::new("sh")
            .arg("-c")
            .arg("cat; kill -INT $0; for i in $(seq 100); do kill -0 $0 || break; sleep 0.1; done; rm -rf \"$1\"")
            .arg(postgres.process().to_string())
            .arg(postgres.socket_directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Server {
            postgres,
            made: Mutex::default(),
            _guard: guard,
        }
    })
}

fn authority(postgres: &Postgres) -> std::path::PathBuf {
    postgres.socket_directory().join("authority.pem")
}

/// Where a relay with its state here keeps its records.
pub(crate) fn database(state: &Path) -> DatabaseSource {
    let url = PostgresUrl::parse(&url(state)).unwrap();
    DatabaseSource::Postgres(Box::new(url.trusting(authority(&server().postgres))))
}

/// The same, for the program.
pub(crate) fn arguments(state: &Path) -> Vec<String> {
    let authority = authority(&server().postgres).display().to_string();
    let options = ["--database", &url(state), "--database-ca", &authority];
    options.map(str::to_owned).to_vec()
}

/// A database of its own for this state directory.
fn url(state: &Path) -> String {
    let name = name(state);
    let server = server();
    let mut made = server.made.lock().unwrap();
    if made.insert(name.clone()) {
        run(&server.postgres, "createdb", &[&name]);
    }
    format!(
        "postgres://postgres:of%20the%20test@localhost:{}/{name}?hostaddr=127.0.0.1",
        server.postgres.port()
    )
}

/// Every table, each with its rows as JSON.
pub(crate) fn tables(state: &Path) -> Vec<(String, Vec<Value>)> {
    let tables = "SELECT table_name FROM information_schema.tables
        WHERE table_schema = 'katachi_relay' AND table_type = 'BASE TABLE' ORDER BY 1";
    let rows = |table: &str| {
        let rows = format!("SELECT to_json(t) FROM katachi_relay.{table} t ORDER BY t::text");
        let rows = sql(state, &rows);
        let rows = rows.lines().map(|row| serde_json::from_str(row).unwrap());
        (table.to_owned(), rows.collect())
    };
    sql(state, tables).lines().map(rows).collect()
}

/// What `pg_dump` says of the database of this state directory.
pub(crate) fn dump(state: &Path) -> Vec<u8> {
    run(&server().postgres, "pg_dump", &["-d", &name(state)])
}

/// Runs SQL as the owner of the database.
pub(crate) fn sql(state: &Path, sql: &str) -> String {
    let arguments = ["-d", &name(state), "-Atc", sql];
    String::from_utf8(run(&server().postgres, "psql", &arguments)).unwrap()
}

/// Begins SQL as the owner of the database, and leaves it running.
pub(crate) fn psql(state: &Path, sql: &str) -> Child {
    let arguments = ["-d", &name(state), "-Atc", sql];
    let mut command = command(&server().postgres, "psql", &arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn name(state: &Path) -> String {
    let random = state.file_name().unwrap().to_str().unwrap();
    let hex: String = random.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("relay_{hex}")
}

fn command(postgres: &Postgres, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binaries().unwrap().join(program));
    command
        .arg("-h")
        .arg(postgres.socket_directory())
        .args(["-p", &postgres.port().to_string(), "-U", "postgres"])
        .args(arguments);
    command
}

fn run(postgres: &Postgres, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = command(postgres, program, arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}");
    output.stdout
}

/// A URL for the Unix socket of a server, and its own first database.
pub(crate) fn local_url(postgres: &Postgres) -> String {
    let socket = postgres.socket_directory().to_str().unwrap();
    format!(
        "postgres://postgres@{}:{}/postgres",
        socket.replace('/', "%2F"),
        postgres.port()
    )
}
