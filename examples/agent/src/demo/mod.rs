//! `demo`: the whole story, by itself, in a temporary home.
//!
//! The relay is a process of its own on loopback, the browser's side is played
//! over HTTPS, and everything that is claimed is tried. What was seen goes into
//! the [`Ledger`]; nothing else decides how a promise stands.

mod account;
mod browser;
mod calls;
mod confine;
mod crossing;
mod device;
mod mcp;
mod memory;
mod outside;
mod paired;
mod private;
mod provider;
mod relay;
mod sign_in;
mod vault;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::oneshot;

use crate::cli;
use crate::config::{Ai, Config, KeychainUse, RelayChoice};
use crate::home::Home;
use crate::output::{BAD, note, paint, print, print_json};
use crate::paths::{self, Paths};
use crate::progress::Progress;
use crate::promises::Ledger;
use crate::relay_client::Registration;
use crate::relay_process::RelayProcess;
use crate::tunnel::Service;
use browser::Browser;
use paired::Paired;
use provider::Provider;

/// Text that is typed, stored and searched, and must be found in no file.
const MARKER: &str = "plum-cake-7f3a91";

/// Everything that the chapters share. A chapter that could not finish leaves
/// its part empty, and later ones that need it are not tried.
struct Story {
    progress: Progress,
    ledger: Ledger,
    config: Config,
    /// Everything that the story keeps, of this machine and of the relay.
    home_dir: PathBuf,
    /// A directory beside the workspace that no command may touch.
    outside: PathBuf,
    relay: Option<RelayProcess>,
    /// Where the relay sends people who have an account elsewhere.
    provider: Option<Provider>,
    browser: Option<Arc<Browser>>,
    /// The browser again, once it is paired.
    device: Option<Paired>,
    registration: Option<Registration>,
    home: Option<Arc<Home>>,
    service: Option<Arc<Service>>,
    tunnel: Option<Tunnel>,
    asked: Asked,
}

/// What the browser asked of this machine.
#[derive(Default)]
struct Asked {
    commands: usize,
    messages: usize,
}

/// The running tunnel, and how to end it.
struct Tunnel {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// Tells the story and prints the promises.
///
/// The exit code is 0 if nothing that was tried failed.
///
/// # Errors
///
/// Returns an error if there is no room for a temporary home.
pub(crate) async fn demo(args: &cli::Demo, options: &cli::Options) -> anyhow::Result<ExitCode> {
    let dir = tempfile::Builder::new()
        .prefix("katachi-demo-")
        .tempdir()
        .context("cannot make a temporary home")?;
    let mut story = Story::begin(dir.path(), options.keychain.unwrap_or_default())?;
    note(format_args!("A temporary home: {}", dir.path().display()));

    story.progress.step("The relay, as a process of its own");
    let told = relay::start(&mut story).await;
    story.told(&[3, 16], told);

    story
        .progress
        .step("An account, and this machine approved for it");
    let told = account::approve(&mut story).await;
    story.told(&[9, 10], told);

    story
        .progress
        .step("The machine's fingerprint, a vault, an API key and a credential");
    let told = vault::seal(&mut story);
    story.told(&[5, 6], told);

    story.progress.step("The tunnel, and signed calls");
    let told = calls::sign(&mut story).await;
    story.told(&[2, 11], told);

    story.progress.step("A paired device, end to end");
    let told = private::talk(&mut story).await;
    story.told(&[2], told);

    story.progress.step("Commands in the sandbox");
    let told = confine::confine(&mut story).await;
    story.told(&[12, 13, 14], told);

    story.progress.step("History and memory");
    let told = memory::remember(&mut story).await;
    story.told(&[7], told);

    story.progress.step("An MCP configuration with a secret");
    let told = mcp::configure(&mut story).await;
    story.told(&[8], told);

    let told = crossing::count(&mut story);
    story.told(&[1], told);
    story.progress.step("The promises");
    story.not_built();
    story.end().await;
    let report = story.ledger.report(story.progress.seconds());
    match args.json {
        true => print_json(&report)?,
        false => print(&format!("\n{}", report.table(crate::output::columns())))?,
    }
    Ok(match story.ledger.any_failure() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

impl Story {
    fn begin(dir: &Path, keychain: KeychainUse) -> anyhow::Result<Self> {
        let home_dir = dir.join("home");
        let paths = Paths::resolve(Some(&home_dir))?;
        let workspace = dir.join("workspace");
        let outside = dir.join("outside");
        for dir in [&workspace, &outside] {
            paths::create_private_dir(dir)?;
        }
        paths.create()?;
        Ok(Self {
            progress: Progress::new(9),
            ledger: Ledger::new(),
            config: Config {
                file: paths.config_file(),
                relay: RelayChoice::Embedded(([127, 0, 0, 1], 0).into()),
                carrier: crate::config::Carrier::Embedded,
                limits: crate::config::Limits::default(),
                workspace: workspace.canonicalize()?,
                policy: None,
                accept_tier: crate::config::AcceptTier::default(),
                records: crate::config::RecordKind::default(),
                // Stands for any AI that reads a message and writes an answer.
                ai: Some(Ai {
                    mind: crate::config::Mind::Command(
                        ["sed", "s/^/You asked: /"].map(str::to_owned).to_vec(),
                    ),
                    policy: None,
                    keys: std::collections::BTreeMap::new(),
                    times: crate::config::AiTimes::default(),
                }),
                mcp: crate::config::Mcp::default(),
                keychain,
                paths,
            },
            home_dir,
            outside: outside.canonicalize()?,
            relay: None,
            provider: None,
            browser: None,
            device: None,
            registration: None,
            home: None,
            service: None,
            tunnel: None,
            asked: Asked::default(),
        })
    }

    /// Takes the end of a chapter; one that broke is a failure of its promises.
    fn told(&mut self, promises: &[usize], told: anyhow::Result<()>) {
        let Err(error) = told else { return };
        let text = format!("{error:#}");
        note(format_args!("            {} {text}", paint(BAD, "✗")));
        for &id in promises {
            self.ledger.failed(id, text.clone());
        }
    }

    /// Records a check and shows it.
    fn check(&mut self, id: usize, held: bool, what: impl Into<String>) {
        let what = what.into();
        match held {
            true => self.progress.good(&what),
            false => note(format_args!("            {} {what}", paint(BAD, "✗"))),
        }
        self.ledger.check(id, held, what);
    }

    /// What no chapter tries, because it is not there to be tried.
    fn not_built(&mut self) {
        self.ledger.unwitnessed(
            4,
            "the tunnel of our own carried everything; cloudflared is supervised and its tunnel \
             provisioned where asked for, which takes an account at Cloudflare to see",
        );
        self.ledger.unwitnessed(
            15,
            "an AppContainer and a job object confine on Windows, which nobody has seen hold; commands are refused there unless that is accepted",
        );
    }

    /// Ends what runs and forgets what lies outside the temporary home.
    async fn end(&mut self) {
        if let Some(tunnel) = self.tunnel.take() {
            let _ = tunnel.stop.send(());
            let _ = tunnel.task.await;
        }
        if let Some(relay) = self.relay.take() {
            relay.stop().await;
        }
        self.service = None;
        if let Some(Ok(home)) = self.home.take().map(Arc::try_unwrap)
            && let Err(error) = home.destroy_vault()
        {
            tracing::warn!("the demo's vault was not destroyed: {error}");
        }
    }
}
