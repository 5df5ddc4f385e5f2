//! Pairing by a typed code, for a browser to which no link can be carried.
//!
//! Neither end knows the other's key, so the person compares: the browser shows
//! three numbers, they are typed at the terminal, and `up` compares them with
//! its own. The browser in turn asks whether the terminal accepted them. Whoever
//! sits in the middle has one try, which succeeds with probability 2^-39.
//!
//! `device pair --code` and `up` are two processes. Each writes one sealed file
//! and reads the other's: the terminal says that it waits and what was typed,
//! `up` says what became of it. The numbers of `up` are never written.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::channel::{Binding, Channel, CodeResponder, Frames, ShortCode, Uncompared};
use katachi_protocol::channel::{ChannelQuery, ChannelRequest};
use katachi_store::file::SealedFile;
use katachi_store::vault::Vault;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::converse::{Carrier, PATIENCE, binding, record, request};
use super::devices::id_of;
use super::pairing::LIFETIME;
use crate::paths::Paths;
use crate::tunnel::Service;

/// Names the files in the vault.
const ASKED: &str = "katachi-agent/pairing-asked";
const TOLD: &str = "katachi-agent/pairing-told";
/// How often either process looks at the other's file.
pub(crate) const LOOK: Duration = Duration::from_millis(200);
/// Time to type the numbers, and again to confirm them in the browser.
const COMPARE: Duration = Duration::from_secs(120);

/// What the terminal says.
#[derive(Debug, Deserialize, Serialize)]
struct Asked {
    attempt: String,
    expires: u64,
    typed: Option<String>,
}

/// What `up` says of an attempt.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// A browser has answered and shows its numbers.
    Answered,
    /// The numbers that were typed are the right ones.
    Right,
    /// They are not. The attempt is over.
    Wrong,
    /// The browser with this name is paired.
    Paired(String),
    /// The attempt is over for another reason.
    Ended(String),
}

#[derive(Debug, Deserialize, Serialize)]
struct Report {
    attempt: String,
    told: Told,
}

/// The one attempt that may be under way.
#[derive(Clone, Debug)]
pub(crate) struct CodePairing {
    asked: PathBuf,
    told: PathBuf,
    /// Held while a browser takes the attempt, so that one gets it.
    taking: Arc<Mutex<()>>,
}

impl CodePairing {
    /// That of the agent whose directories are `paths`.
    pub(crate) fn of(paths: &Paths) -> Self {
        Self {
            asked: paths.pairing_asked(),
            told: paths.pairing_told(),
            taking: Arc::default(),
        }
    }

    /// At the terminal: begins an attempt in place of any other and names it.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no randomness or the file cannot be written.
    pub(crate) fn begin(&self, vault: &Vault) -> anyhow::Result<String> {
        let attempt = URL_SAFE_NO_PAD.encode(katachi_crypto::random::bytes::<16>()?);
        let asked = Asked {
            attempt: attempt.clone(),
            expires: crate::audit::now() + LIFETIME,
            typed: None,
        };
        self.asked_file()?
            .write(vault, &serde_json::to_vec(&asked)?)?;
        Ok(attempt)
    }

    /// At the terminal: hands over what was typed.
    ///
    /// # Errors
    ///
    /// Returns an error if the attempt is over or the file cannot be written.
    pub(crate) fn enter(&self, vault: &Vault, attempt: &str, typed: &str) -> anyhow::Result<()> {
        let mut asked = self.open(vault)?.context("there is no time left")?;
        ensure!(asked.attempt == attempt, "another attempt was begun");
        asked.typed = Some(typed.chars().filter(char::is_ascii_digit).collect());
        Ok(self
            .asked_file()?
            .write(vault, &serde_json::to_vec(&asked)?)?)
    }

    /// At the terminal: what became of `attempt`; `None` as long as no browser has
    /// answered.
    ///
    /// # Errors
    ///
    /// Returns an error if a file was altered.
    pub(crate) fn told(&self, vault: &Vault, attempt: &str) -> anyhow::Result<Option<Told>> {
        let report: Option<Report> = read(&self.told_file()?, vault)?;
        let report = report.filter(|report| report.attempt == attempt);
        Ok(report.map(|report| report.told))
    }

    /// Ends whatever is under way.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is there and cannot be deleted.
    pub(crate) fn close(&self) -> anyhow::Result<()> {
        self.asked_file()?.remove()?;
        Ok(self.told_file()?.remove()?)
    }

    /// The attempt that waits, taken or not.
    fn open(&self, vault: &Vault) -> anyhow::Result<Option<Asked>> {
        let asked: Option<Asked> = read(&self.asked_file()?, vault)?;
        Ok(asked.filter(|asked| crate::audit::now() < asked.expires))
    }

    /// In `up`: gives `attempt` to one browser.
    fn take(&self, vault: &Vault, attempt: &str) -> anyhow::Result<()> {
        let _alone = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = self.told(vault, attempt)?.is_some();
        ensure!(!is_taken, "another browser has answered");
        self.tell(vault, attempt, Told::Answered)
    }

    fn tell(&self, vault: &Vault, attempt: &str, told: Told) -> anyhow::Result<()> {
        let report = Report {
            attempt: attempt.to_owned(),
            told,
        };
        Ok(self
            .told_file()?
            .write(vault, &serde_json::to_vec(&report)?)?)
    }

    /// Waits until something was typed for `attempt`.
    async fn typed(&self, vault: &Vault, attempt: &str) -> anyhow::Result<String> {
        loop {
            let asked = self.open(vault)?.filter(|asked| asked.attempt == attempt);
            let asked = asked.context("the terminal waits no longer")?;
            match asked.typed {
                Some(typed) => return Ok(typed),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn asked_file(&self) -> anyhow::Result<SealedFile> {
        Ok(SealedFile::at(&self.asked)?.named(ASKED)?)
    }

    fn told_file(&self) -> anyhow::Result<SealedFile> {
        Ok(SealedFile::at(&self.told)?.named(TOLD)?)
    }
}

fn read<T: DeserializeOwned>(file: &SealedFile, vault: &Vault) -> anyhow::Result<Option<T>> {
    if !file.exists()? {
        return Ok(None);
    }
    let bytes = file.read(vault).context("the file of a pairing by code")?;
    let read = serde_json::from_slice(bytes.expose_secret());
    read.context("the file of a pairing by code is damaged")
        .map(Some)
}

/// In `up`: pairs the browser at the other end of `carrier`.
pub(super) async fn pair(
    service: &Service,
    query: &ChannelQuery,
    carrier: &mut Carrier,
) -> anyhow::Result<(Channel, ChannelRequest)> {
    let (vault, codes) = (&service.home.vault, &service.codes);
    let open = codes.open(vault)?.context("nobody waits for a code")?;
    let attempt = open.attempt.as_str();
    let place = binding(service, query);
    let shaken = handshake(service, &place, carrier);
    let shaken = tokio::time::timeout(PATIENCE, shaken).await;
    let (uncompared, reveal) = shaken.context("nothing came in time")??;
    record(service, query)?;
    // A handshake that ends before this has learnt nothing and costs nothing.
    codes.take(vault, attempt)?;
    let paired = async {
        carrier.send(reveal).await?;
        compared(service, attempt, query, uncompared, carrier).await
    };
    let paired = paired.await;
    let told = match &paired {
        Ok((_, _, name)) => Told::Paired(name.clone()),
        Err(error) if error.is::<Differs>() => Told::Wrong,
        Err(error) => Told::Ended(format!("{error:#}")),
    };
    codes.tell(vault, attempt, told)?;
    let (channel, request, _) = paired?;
    Ok((channel, request))
}

/// Up to the numbers. The frame reveals this end's and is not sent yet.
async fn handshake(
    service: &Service,
    place: &Binding<'_>,
    carrier: &mut Carrier,
) -> anyhow::Result<(Uncompared, Vec<u8>)> {
    let key = super::own_key(&service.home.vault);
    let mut frames = Frames::of_handshake();
    let first = carrier.frame(&mut frames).await?;
    let (committed, sent) = CodeResponder::wait(&key, place)?.answer(&first)?;
    carrier.send(sent).await?;
    let last = carrier.frame(&mut frames).await?;
    Ok(committed.finish(&last, carrier.now())?)
}

/// The numbers that were typed are not the browser's.
#[derive(Debug, thiserror::Error)]
#[error("the numbers differ")]
struct Differs;

async fn compared(
    service: &Service,
    attempt: &str,
    query: &ChannelQuery,
    uncompared: Uncompared,
    carrier: &mut Carrier,
) -> anyhow::Result<(Channel, ChannelRequest, String)> {
    let (vault, codes) = (&service.home.vault, &service.codes);
    let typed = tokio::select! {
        typed = tokio::time::timeout(COMPARE, codes.typed(vault, attempt)) => {
            typed.context("no numbers were typed in time")??
        }
        () = carrier.ends() => bail!("the browser left"),
    };
    if typed != digits(uncompared.code()) {
        return Err(Differs.into());
    }
    let mut channel = uncompared.codes_are_equal();
    let peer = channel.peer();
    ensure!(
        id_of(&peer) == query.device,
        "the browser is not who the relay says"
    );
    codes.tell(vault, attempt, Told::Right)?;
    let request = tokio::time::timeout(COMPARE, request(&mut channel, carrier)).await;
    let request = request.context("the browser did not confirm in time")??;
    let request = request.map_err(|refused| anyhow::anyhow!("{}", refused.why()))?;
    let name = request.name.as_deref().unwrap_or_default();
    let signing_key = request.signing_key.clone();
    service.devices.enrol(vault, &peer, name, signing_key)?;
    let name = super::devices::shown(name);
    Ok((channel, request, name))
}

fn digits(code: ShortCode) -> String {
    code.numbers().map(|number| number.to_string()).concat()
}
