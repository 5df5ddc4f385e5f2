//! `up`: connect and stay.

use std::fs::{File, TryLockError};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use katachi_protocol::agent::AgentState;
use tokio::sync::watch;

use crate::audit::AuditLog;
use crate::chat::Chat;
use crate::cli;
use crate::config::{self, Config, RelayChoice};
use crate::home::Home;
use crate::mistake::Mistake;
use crate::output::{BOLD, GOOD, QUIET, WEAK, note, one_line, paint, printable};
use crate::policy::Rules;
use crate::relay_client::login::{self, Invitation};
use crate::relay_client::{Endpoint, Registration, RegistrationFile, RelayClient};
use crate::relay_process::RelayProcess;
use crate::tunnel::{self, Interrupted, Link, Service};

/// Longest time for which another command holds the lock of `up`, to see whether one runs.
const LOOK: Duration = Duration::from_secs(2);

/// Runs until it is told to stop.
///
/// # Errors
///
/// Returns an error if the relay cannot be used or nobody approves.
pub(crate) async fn up(config: &Config, args: &cli::Up) -> anyhow::Result<ExitCode> {
    let listen = args
        .listen
        .map(|listen| config::on_loopback(listen, "--listen (or KATACHI_LISTEN)"))
        .transpose()?;
    let home = Arc::new(Home::open(config)?);
    let _only = only_one(config).await?;
    let mut relay = match &config.relay {
        RelayChoice::Embedded(configured) => {
            let listen = free_or_any(listen.unwrap_or(*configured));
            let state = config.paths.embedded_relay();
            Some(RelayProcess::start(listen, &state, config.keychain).await?)
        }
        RelayChoice::At { .. } => None,
    };
    let endpoint = match &relay {
        Some(relay) => relay.endpoint().clone(),
        None => chosen_endpoint(config)?,
    };
    if let Some(ca) = relay.as_ref().and_then(RelayProcess::ca_file) {
        note(format_args!(
            "{}",
            paint(
                QUIET,
                format_args!(
                    "The browser will ask once about the relay's own certificate; its authority is {}",
                    ca.display()
                )
            )
        ));
    }

    let result = connected(config, args, &home, &endpoint, relay.as_mut()).await;
    if let Some(relay) = relay {
        relay.stop().await;
    }
    result.map(|()| ExitCode::SUCCESS)
}

async fn connected(
    config: &Config,
    args: &cli::Up,
    home: &Arc<Home>,
    endpoint: &Endpoint,
    relay: Option<&mut RelayProcess>,
) -> anyhow::Result<()> {
    let embedded = relay.is_some();
    let stop = crate::signals::asked_to_stop();
    tokio::pin!(stop);
    let registered = tokio::select! {
        registered = registered(config, args, home, endpoint, embedded) => registered?,
        () = &mut stop => return Ok(()),
    };
    let registration = registered.registration();
    let audit = Arc::new(AuditLog::open(&config.paths.audit_log())?);
    let mut client = RelayClient::new(registration, Some(Arc::clone(&audit)))?;
    // One that starts here keeps its records beside the vault, and goes back with it.
    if !embedded {
        client = client.witnessing(Arc::clone(&home.vault));
        let beat = tokio::select! {
            beat = client.heartbeat(AgentState::Idle) => beat,
            () = &mut stop => return Ok(()),
        };
        match beat {
            Err(error) if error.is::<Mistake>() => return Err(error),
            // Whatever else it is, the tunnel says it and tries again.
            _ => {}
        }
    }
    #[cfg(unix)]
    crate::ai::remove_left();
    let chat = Chat::open(home, &config.workspace)?;
    // Nobody else runs in this home: what is still being written was cut off by a crash.
    let cut_off = chat.close_abandoned()?;
    match cut_off {
        0 => {}
        1 => note("An answer was cut off when the agent last ended; it is kept as far as it came."),
        count => note(format_args!(
            "{count} answers were cut off when the agent last ended; they are kept as far as they came."
        )),
    }
    let interrupted = tunnel::interrupted(&audit)?;
    tell_interrupted(&interrupted, usize::try_from(cut_off)?);
    let home = Arc::clone(home);
    let service = Service::new(config, home, chat, client, audit, &interrupted)?;
    let service = Arc::new(service);

    match &registered {
        Registered::Before(_) => note(format_args!(
            "Open {} as {}",
            paint(BOLD, format_args!("{}/", endpoint.url)),
            paint(BOLD, printable(&registration.account))
        )),
        // The person has the page open already.
        Registered::Now(_) => note(format_args!(
            "Approved by {}.",
            paint(BOLD, printable(&registration.account))
        )),
    }
    tell_confinement(config);
    let (link, watcher) = watch::channel(Link::Dialling);
    let telling = tokio::spawn(tell(watcher));
    let open = tunnel::keep_open(service, link, stop);
    let result = match relay {
        None => open.await,
        Some(relay) => tokio::select! {
            result = open => result,
            ended = relay.ended() => match ended {
                Ok(status) => Err(anyhow::anyhow!("the embedded relay ended by itself ({status})")),
                Err(error) => Err(error.into()),
            },
        },
    };
    telling.abort();
    note("Stopped.");
    result
}

/// How this machine belongs to the relay.
enum Registered {
    /// Since an earlier start.
    Before(Registration),
    /// A person approved it just now.
    Now(Registration),
}

impl Registered {
    fn registration(&self) -> &Registration {
        match self {
            Self::Before(registration) | Self::Now(registration) => registration,
        }
    }
}

/// Says what else was under way when the agent was killed; of `cut_off` answers the
/// person knows.
fn tell_interrupted(interrupted: &Interrupted, cut_off: usize) {
    let ended = "was interrupted when the agent last ended, and is not started again";
    for command in &interrupted.commands {
        note(format_args!("A command {ended}: {}", one_line(command)));
    }
    for server in &interrupted.servers {
        note(format_args!(
            "A call of an MCP server {ended}: {}",
            one_line(server)
        ));
    }
    if interrupted.messages > cut_off {
        note("A message was interrupted before it was answered; send it again.");
    }
}

/// Says where commands work, and if they cannot be confined, why.
fn tell_confinement(config: &Config) {
    let planned = Rules::load(config.policy.as_deref())
        .map_err(anyhow::Error::from)
        .and_then(|rules| rules.plan(config));
    match planned {
        Ok(_) => note(format_args!(
            "Commands work in {}, confined.",
            config.workspace.display()
        )),
        Err(error) => note(format_args!(
            "{} commands will be refused: {error:#}",
            paint(WEAK, "note:")
        )),
    }
}

/// The stored registration with this relay, or a new one that a person approves.
async fn registered(
    config: &Config,
    args: &cli::Up,
    home: &Home,
    endpoint: &Endpoint,
    embedded: bool,
) -> anyhow::Result<Registered> {
    let file = RegistrationFile::of(&config.paths);
    if let Some(found) = file.read(&home.vault)? {
        let found = for_relay(found, endpoint, embedded)?;
        if let Some(expected) = &args.expect_account
            && !expected.eq_ignore_ascii_case(&found.account)
        {
            bail!(
                "this machine belongs to {}, not to {expected}; run `katachi-agent unregister` first",
                printable(&found.account)
            );
        }
        return Ok(Registered::Before(found));
    }
    let made = login::with_person(
        endpoint,
        embedded,
        &Invitation {
            expected: args.expect_account.as_deref(),
            pairing: &super::device::fragment(config, home)?,
            no_qr: args.no_qr,
        },
    )
    .await?;
    file.write(&home.vault, &made)?;
    Ok(Registered::Now(made))
}

/// Checks that a stored registration belongs to the relay in use.
fn for_relay(
    found: Registration,
    endpoint: &Endpoint,
    embedded: bool,
) -> anyhow::Result<Registration> {
    if found.embedded != embedded || (!embedded && found.url != endpoint.url) {
        let place = match found.embedded {
            true => "the relay on this machine".to_owned(),
            false => found.url.clone(),
        };
        return Err(Mistake::new(
            "relay.url",
            format!(
                "this machine is registered with {place}, not with {}",
                endpoint.url
            ),
            "run `katachi-agent unregister` first, or use that relay",
        )
        .into());
    }
    Ok(found.moved_to(endpoint))
}

/// The relay that the configuration names.
///
/// # Errors
///
/// Returns an error if none is named or its authority's file cannot be read.
pub(crate) fn chosen_endpoint(config: &Config) -> anyhow::Result<Endpoint> {
    let RelayChoice::At { url, ca_file } = &config.relay else {
        return Err(Mistake::new(
            "relay.url",
            "no relay is configured",
            "give --relay-url, or run `katachi-agent up`, which starts one of its own",
        )
        .into());
    };
    let ca_pem = match ca_file {
        None => None,
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
            Mistake::new(
                "--relay-ca (or relay.ca_file)",
                format!("{}: {error}", path.display()),
                "give the PEM file of the relay's certificate authority",
            )
        })?),
    };
    let endpoint = Endpoint {
        url: url.clone(),
        ca_pem,
    };
    endpoint.tls()?;
    Ok(endpoint)
}

/// Holds the lock that keeps a second `up` out of this home.
async fn only_one(config: &Config) -> anyhow::Result<File> {
    let deadline = Instant::now() + LOOK;
    loop {
        match alone(config)? {
            Some(lock) => return Ok(lock),
            None if Instant::now() < deadline => tokio::time::sleep(LOOK / 20).await,
            None => {
                bail!("`katachi-agent up` runs already; stop it first, or use another --home")
            }
        }
    }
}

/// The lock of `up`, if none runs in this home. Whoever holds it keeps others from
/// starting and lets go within [`LOOK`].
///
/// # Errors
///
/// Returns an error if there can be no lock.
pub(super) fn alone(config: &Config) -> anyhow::Result<Option<File>> {
    let path = config.paths.up_lock();
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// The address itself if it is free, else any port of it.
fn free_or_any(listen: SocketAddr) -> SocketAddr {
    match TcpListener::bind(listen) {
        Ok(_) => listen,
        Err(_) => {
            note(format_args!(
                "{} {listen} is in use; the relay takes another port",
                paint(WEAK, "note:")
            ));
            SocketAddr::new(listen.ip(), 0)
        }
    }
}

async fn tell(mut link: watch::Receiver<Link>) {
    let mut last = String::new();
    while link.changed().await.is_ok() {
        let text = match &*link.borrow_and_update() {
            Link::Dialling => continue,
            Link::Open => paint(GOOD, "Connected."),
            Link::Waiting { why, wait } => {
                format!(
                    "{} {}; trying again in {:.1} s",
                    paint(WEAK, "Not connected:"),
                    // Often in the relay's words.
                    one_line(why),
                    wait.as_secs_f64()
                )
            }
        };
        // The same trouble is told once.
        let topic = text.split("; trying").next().unwrap_or_default().to_owned();
        if topic != last {
            note(text);
            last = topic;
        }
    }
}
