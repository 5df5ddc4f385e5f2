//! MCP servers for a program in the sandbox: they run in sandboxes of their own,
//! and the program is lent a socket to each.
//!
//! ```text
//! sandbox of the program            this process              sandbox of a server
//! program - mcp-bridge - socket --- desk --- Server::call --- the server, its secrets
//! ```
//!
//! The program is told to start this program's [bridge] as if that were the server.
//! For that its own sandbox opens, beside what its policy says: this program's file
//! with that one word, and those sockets. What the program says there is heard at a
//! [desk], and each call goes the way that a model's calls go.
//!
//! A sandbox cannot tell one unix socket from another where both can be seen. So
//! sockets that lie in what the program may see are hidden from it first, unless its
//! policy opened some itself. Where any of this cannot be had, the person is told why
//! and the program has no servers; it never has them in a weaker way.
//!
//! [bridge]: crate::mcp::bridge
//! [desk]: crate::mcp::desk

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use agent_client_protocol_schema::v1::{McpServer, McpServerStdio};
use anyhow::{Context as _, bail, ensure};
use katachi_protocol::mcp::AgentMcpConfig;
use katachi_protocol::record::Denial;
use katachi_protocol::run::RunEvent;
use katachi_sandbox::Policy;
use katachi_sandbox::policy::CommandRule;
use rmcp::model::Tool;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::place::Place;
use super::tools;
use crate::mcp::bridge::SUBCOMMAND;
use crate::mcp::desk::{Answer, Call, Desk, MAX_CALLS, Shared};
use crate::mcp::{self, Server, note};
use crate::policy::Rules;
use crate::runner::{self, Finished};
use crate::tunnel::Service;

/// Servers that one program is lent.
const MAX_SERVERS: usize = 16;
/// Files among which sockets are looked for.
const MAX_LOOKED_AT: usize = 500_000;
/// Sockets that are hidden.
const MAX_HIDDEN: usize = 64;

/// Servers that run, and the way to them. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    /// The policy of the program, with the way to them.
    rules: Rules,
    /// This program.
    program: PathBuf,
    servers: Vec<Lending>,
    /// The directory of their sockets, which goes with this.
    _place: Place,
}

#[derive(Debug)]
struct Lending {
    name: String,
    server: Server,
    tools: Vec<Tool>,
    socket: PathBuf,
    /// Until it is opened.
    listener: Mutex<Option<UnixListener>>,
}

impl Lent {
    /// Starts what paired devices signed, for a program under `rules`. Where there
    /// is nothing, or it cannot be lent, that is told, and the program goes without.
    pub(super) fn start(
        (service, rules): (&Service, &Rules),
        events: &Sender<RunEvent>,
        finished: &mut Finished,
    ) -> Option<Self> {
        let runtime = Handle::current();
        let configs = match runtime.block_on(mcp::startable(service)) {
            Ok(configs) => configs,
            Err(error) => {
                note(events, &format!("MCP servers are not known: {error:#}"));
                return None;
            }
        };
        if configs.is_empty() {
            return None;
        }
        // What listens belongs to a runtime.
        let _inside = runtime.enter();
        match Self::prepare((service, rules), configs, events, finished) {
            Ok(lent) => lent,
            Err(error) => {
                note(
                    events,
                    &format!("MCP servers of the account are not lent to this program: {error:#}"),
                );
                None
            }
        }
    }

    fn prepare(
        (service, rules): (&Service, &Rules),
        mut configs: Vec<AgentMcpConfig>,
        events: &Sender<RunEvent>,
        finished: &mut Finished,
    ) -> anyhow::Result<Option<Self>> {
        if configs.len() > MAX_SERVERS {
            note(
                events,
                &format!("of the MCP servers, the first {MAX_SERVERS} are lent to this program"),
            );
            configs.truncate(MAX_SERVERS);
        }
        let program = this_program()?;
        let place = Place::new()?;
        let way = |sockets: &[&Path]| opened(rules, &program, sockets, &service.config.workspace);
        let mut servers = Vec::new();
        let mut tried = false;
        for (number, config) in configs.iter().enumerate() {
            let socket = place.path().join(number.to_string());
            let listener = listen(&socket)?;
            if !tried {
                // Nothing is started, and nobody asked, for what cannot be used.
                way(&[socket.as_path()])?.plan(&service.config)?;
                tried = true;
            }
            let Some((server, tools)) = mcp::start(service, config, events, finished) else {
                continue;
            };
            servers.push(Lending {
                name: config.name.clone(),
                server,
                tools,
                socket,
                listener: Mutex::new(Some(listener)),
            });
        }
        if servers.is_empty() {
            return Ok(None);
        }
        let sockets: Vec<_> = servers.iter().map(|one| one.socket.as_path()).collect();
        Ok(Some(Self {
            rules: way(&sockets)?,
            program,
            servers,
            _place: place,
        }))
    }

    /// What confines the program that they are lent to.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How the program is told to reach them.
    pub(super) fn entries(&self) -> Vec<McpServer> {
        let entry = |one: &Lending| {
            let words = vec![SUBCOMMAND.to_owned(), one.socket.display().to_string()];
            McpServer::Stdio(McpServerStdio::new(one.name.clone(), &self.program).args(words))
        };
        self.servers.iter().map(entry).collect()
    }

    /// Serves whoever connects, until what this returns is dropped. Calls are made
    /// on threads of `scope`.
    pub(super) fn open<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        service: &'env Service,
        events: &'env Sender<RunEvent>,
        denials: &'env Mutex<Vec<Denial>>,
    ) -> Open {
        let (calls, waiting) = channel(MAX_CALLS);
        let waiting = Arc::new(Mutex::new(waiting));
        let runtime = Handle::current();
        for _ in 0..MAX_CALLS {
            let (runtime, waiting) = (runtime.clone(), Arc::clone(&waiting));
            scope.spawn(move || {
                let _inside = runtime.enter();
                while let Some(call) = next(&waiting) {
                    self.make(call, service, events, denials);
                }
            });
        }
        let shared = Shared {
            calls,
            flights: Arc::new(Semaphore::new(MAX_CALLS)),
            events: events.clone(),
        };
        let desks = self.servers.iter().enumerate().filter_map(|(number, one)| {
            let listener = lock(&one.listener).take()?;
            let desk = Desk::new((number, &one.name), &one.tools, shared.clone());
            if desk.tools() < one.tools.len() {
                let text = format!(
                    "of the MCP server {}, the first {} tools are shown to this program",
                    one.name,
                    desk.tools()
                );
                note(events, &text);
            }
            Some(runtime.spawn(desk.open(listener)))
        });
        Open(desks.collect())
    }

    fn make(
        &self,
        call: Call,
        service: &Service,
        events: &Sender<RunEvent>,
        denials: &Mutex<Vec<Denial>>,
    ) {
        let Some(one) = self.servers.get(call.server) else {
            return; // Desks have the numbers that they were given.
        };
        let named = format!("{}__{}", one.name, call.tool);
        let arguments = serde_json::to_string(&call.arguments).unwrap_or_default();
        runner::tell(events, super::tool(&named, &arguments));
        let mut finished = Finished::failed(String::new());
        let heard = (&call.events, &mut finished);
        let called = one.server.call(service, &call.tool, call.arguments, heard);
        let mut answer = match called {
            Ok(called) => Answer {
                text: called.text,
                is_error: called.is_error,
            },
            Err(error) => Answer {
                text: format!("(failed) {error:#}"),
                is_error: true,
            },
        };
        for denial in &finished.denials {
            let refusal = tools::refusal(&denial.reason, denial.allow_with.as_deref());
            answer.text.push_str(&refusal);
        }
        lock(denials).append(&mut finished.denials);
        // Nobody waits for it where it was cancelled.
        let _ = call.answer.send(answer);
    }

    /// Ends them and tells what their sandboxes refused.
    pub(super) fn end(self, events: &Sender<RunEvent>, finished: &mut Finished) {
        for one in self.servers {
            one.server.end(events, finished);
        }
    }
}

/// Desks that are open; they close when this is dropped, and their calls are given
/// up.
#[derive(Debug)]
pub(super) struct Open(Vec<JoinHandle<()>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next call, or `None` once all desks are closed.
fn next(waiting: &Mutex<Receiver<Call>>) -> Option<Call> {
    lock(waiting).blocking_recv()
}

/// Listens at `socket`, in a directory that nobody else can enter.
fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    // The program may run as another user; who cannot enter the directory needs to
    // be shown the socket, as its sandbox does.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// The file of this program, by the path at which it still lies.
fn this_program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("this program does not know its own file")?;
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt as _;

        let number = |path: &Path| {
            let metadata = path.metadata().ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        // After an upgrade another program lies there, or none, and the path that the
        // kernel tells has a mark behind it.
        if number(&path).is_none() || number(&path) != number(Path::new("/proc/self/exe")) {
            bail!(
                "the file of this program was replaced or moved since it was started; start \
                 `katachi-agent up` again"
            );
        }
    }
    Ok(path)
}

/// `rules`, and the way to `sockets`.
fn opened(
    rules: &Rules,
    program: &Path,
    sockets: &[&Path],
    workspace: &Path,
) -> anyhow::Result<Rules> {
    let mut rules = rules.clone();
    let policy = &mut rules.policy;
    if policy.network.unix.is_empty() {
        let strays = strays(policy, workspace)?;
        policy.filesystem.deny.extend(strays);
    }
    let words = vec![text(program)?, SUBCOMMAND.to_owned()];
    policy.commands.allow.push(CommandRule::Argv(words));
    for socket in sockets {
        policy.network.unix.push(text(socket)?);
    }
    Ok(rules)
}

/// The sockets in what `policy` opens by path. Bundles open what the system
/// installed, where none are.
fn strays(policy: &Policy, workspace: &Path) -> anyhow::Result<Vec<String>> {
    let files = &policy.filesystem;
    let named = files.read.iter().chain(&files.write);
    let mut roots: Vec<PathBuf> = named
        .filter(|name| !name.starts_with('@'))
        .filter_map(|name| {
            let place = match (name.strip_prefix("~/"), std::env::var_os("HOME")) {
                (Some(below), Some(home)) => Path::new(&home).join(below),
                _ => workspace.join(name),
            };
            place.canonicalize().ok()
        })
        .collect();
    roots.sort();
    // One that lies in another follows it.
    roots.dedup_by(|later, earlier| later.starts_with(earlier));
    let mut found = Vec::new();
    let mut looked_at = 0;
    let mut waiting = roots;
    while let Some(place) = waiting.pop() {
        let Ok(kind) = place
            .symlink_metadata()
            .map(|metadata| metadata.file_type())
        else {
            continue;
        };
        if kind.is_socket() {
            found.push(text(&place)?);
            ensure!(
                found.len() <= MAX_HIDDEN,
                "more than {MAX_HIDDEN} unix sockets lie in what it may read, and it could reach \
                 them; open less to it"
            );
        }
        if !kind.is_dir() {
            continue;
        }
        // Neither can the program look into what we cannot.
        for entry in place.read_dir().into_iter().flatten().flatten() {
            looked_at += 1;
            ensure!(
                looked_at <= MAX_LOOKED_AT,
                "more than {MAX_LOOKED_AT} files lie in what it may read, too many to look for \
                 unix sockets that it could reach; open less to it"
            );
            let is_of_interest = |kind: std::fs::FileType| kind.is_dir() || kind.is_socket();
            if entry.file_type().is_ok_and(is_of_interest) {
                waiting.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// A path as a policy can name it.
fn text(path: &Path) -> anyhow::Result<String> {
    match path.to_str().filter(|text| !text.contains(['*', '?', '['])) {
        Some(text) => Ok(text.to_owned()),
        None => bail!(
            "{} cannot be named in a policy; give it a name without `*`, `?` and `[`",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn where_sockets_cannot_be_told_apart_the_way_is_refused() {
        use katachi_sandbox::PlanOptions;
        use katachi_sandbox::report::Tier;

        let place = tempfile::tempdir().unwrap();
        let workspace = place.path().join("workspace");
        std::fs::create_dir(&workspace).unwrap();
        let socket = place.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let rules = Rules {
            policy: Policy::default().read("@system").allow("@system"),
            file: None,
        };
        let options = PlanOptions::new(&workspace).only(Tier::Landlock);
        // Without them the policy is one for that tier.
        rules.policy.plan(&options).unwrap();
        let program = std::env::current_exe().unwrap();
        let lent = opened(&rules, &program, &[&socket], &workspace).unwrap();
        let refused = lent.policy.plan(&options).unwrap_err().to_string();
        assert!(refused.contains("network.unix"), "{refused}");
    }

    #[test]
    fn nothing_but_the_way_is_added() {
        let place = tempfile::tempdir().unwrap();
        let rules = Rules {
            policy: Policy::default().read("@system").write(".").allow("ls"),
            file: None,
        };
        let lent = opened(&rules, Path::new("/p"), &[Path::new("/s")], place.path());
        let mut policy = lent.unwrap().policy;
        assert_eq!(policy.network.unix.pop().as_deref(), Some("/s"));
        let words = ["/p", SUBCOMMAND].map(str::to_owned).to_vec();
        assert_eq!(policy.commands.allow.pop(), Some(CommandRule::Argv(words)));
        assert_eq!(policy, rules.policy);
    }

    #[test]
    fn sockets_in_what_is_opened_are_found_once() {
        let place = tempfile::tempdir().unwrap();
        let workspace = place.path().canonicalize().unwrap();
        std::fs::create_dir_all(workspace.join("a/b")).unwrap();
        std::fs::create_dir(workspace.join("beside")).unwrap();
        let _inside = UnixListener::bind(workspace.join("a/b/s")).unwrap();
        let _beside = UnixListener::bind(workspace.join("beside/s")).unwrap();
        std::fs::write(workspace.join("a/file"), "").unwrap();
        std::os::unix::fs::symlink("../beside", workspace.join("a/link")).unwrap();
        let seen = |policy: Policy| strays(&policy, &workspace).unwrap();
        let inside = [workspace.join("a/b/s").to_str().unwrap().to_owned()];
        assert_eq!(seen(Policy::default().read("@system").write("a")), inside);
        assert_eq!(
            seen(Policy::default().read("a/b").write("a").read("none")),
            inside
        );
        assert_eq!(seen(Policy::default().read("a/b/s")), inside);
        assert_eq!(seen(Policy::default().write(".")).len(), 2);
        assert!(seen(Policy::default().read("@system")).is_empty());
    }
}
