//! A relay that the agent reaches through a router, and people directly.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::served::Served;

/// Where it listens. The agent takes `katachi.localhost` to be the router.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The relay, inside of the agent's own program, and the router.
pub(crate) struct Far {
    pub(crate) relay: Served,
    pub(crate) url: String,
    /// File of the authority that the agent is to trust.
    pub(crate) authority: String,
    /// File of that of the relay itself.
    pub(crate) own_authority: String,
    router: Option<Router>,
    _state: TempDir,
}

impl Far {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::start(listener, port);
        let mut far = Self::at(port);
        far.router = Some(router);
        far
    }

    /// The same on `port`, with nothing between it and the agent yet.
    pub(crate) fn at(port: u16) -> Self {
        let state = tempfile::tempdir().unwrap();
        let relay = Served::start(state.path(), |relay| {
            relay
                .args(["--listen", &format!("{ADDRESS}:{port}")])
                // It is not to notice anything by itself.
                .env("KATACHI_RELAY_KEEP_ALIVE", "600")
                .env("KATACHI_RELAY_HEARTBEAT", "5")
                .env("KATACHI_RELAY_TUNNEL_WEBSOCKET", "true")
        });
        Self {
            url: relay.url.clone(),
            authority: relay.authority.clone(),
            own_authority: relay.authority.clone(),
            relay,
            router: None,
            _state: state,
        }
    }

    /// The router forgets the connections that are open: what is sent on them is
    /// swallowed, without a word to either end.
    pub(crate) fn forget(&self) {
        let mut forgotten = self.router().forgotten.lock().unwrap();
        std::mem::take(&mut *forgotten).store(true, Ordering::SeqCst);
    }

    /// Whether the router turns new connections away; those that are open go on.
    pub(crate) fn turn_away(&self, away: bool) {
        self.router().away.store(away, Ordering::SeqCst);
    }

    /// From now on the router leads to `address` instead of the relay.
    pub(crate) fn leads_to(&self, address: Ipv4Addr) {
        *self.router().to.lock().unwrap() = address;
    }

    fn router(&self) -> &Router {
        self.router.as_ref().expect("there is a router")
    }
}

struct Router {
    /// Whether the connections of now were forgotten.
    forgotten: Arc<Mutex<Arc<AtomicBool>>>,
    /// Whether new ones are turned away.
    away: Arc<AtomicBool>,
    /// Where new ones lead.
    to: Arc<Mutex<Ipv4Addr>>,
}

impl Router {
    fn start(listener: TcpListener, port: u16) -> Self {
        let forgotten: Arc<Mutex<Arc<AtomicBool>>> = Arc::default();
        let away: Arc<AtomicBool> = Arc::default();
        let to = Arc::new(Mutex::new(ADDRESS));
        let (now, closed, leads) = (Arc::clone(&forgotten), Arc::clone(&away), Arc::clone(&to));
        std::thread::spawn(move || {
            for here in listener.incoming().map_while(Result::ok) {
                if closed.load(Ordering::SeqCst) {
                    continue;
                }
                let to = *leads.lock().unwrap();
                let Ok(there) = TcpStream::connect((to, port)) else {
                    continue;
                };
                let forgotten = Arc::clone(&now.lock().unwrap());
                let (back, forth) = (here.try_clone().unwrap(), there.try_clone().unwrap());
                let flag = Arc::clone(&forgotten);
                std::thread::spawn(move || pass(here, forth, &flag));
                std::thread::spawn(move || pass(there, back, &forgotten));
            }
        });
        Self {
            forgotten,
            away,
            to,
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, forgotten: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        match (forgotten.load(Ordering::SeqCst), read) {
            // The other end is not told.
            (true, 0) => return,
            (true, _) => {}
            (false, 0) => break,
            (false, _) if to.write_all(&buffer[..read]).is_err() => break,
            (false, _) => {}
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}
