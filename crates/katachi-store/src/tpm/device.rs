//! Sealing and opening with a TPM 2.0.
//!
//! ```text
//! derive the storage key --> agree on a session --> seal, or load and unseal --> forget all of it
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use katachi_crypto::Secret;
use zeroize::Zeroizing;

use super::line::{Line, Place};
use super::sealed::SealedSecret;
use super::session::{Opening, Session, Veil};
use super::wire::{self, Code, Name, Refusal, StorageKey, Writer, command, no_password};
use super::{Tpm, TpmError};
use crate::vault::Reader;

/// The storage hierarchy.
const RH_OWNER: u32 = 0x4000_0001;

/// A TPM 2.0: the machine's chip, a virtual machine's, or a software TPM.
///
/// The storage key is an elliptic-curve key (P-256) derived anew for each call,
/// so nothing is kept in the chip. The secret never crosses the bus in clear.
/// The storage hierarchy has to be without a password, as it is on nearly every
/// machine.
///
/// ```no_run
/// use katachi_store::{Vault, tpm::TpmDevice};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let vault = Vault::builder("vault").tpm(TpmDevice::system()).create()?;
/// let code = vault.add_recovery_code()?; // the chip dies with its board
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TpmDevice {
    place: Place,
    name: String,
    within: Duration,
}

impl TpmDevice {
    /// How long a call may take if nothing else is said, in seconds. The slowest
    /// chips need about one.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// The machine's chip, through the kernel's resource manager: `/dev/tpmrm0`.
    #[must_use]
    pub fn system() -> Self {
        Self::device("/dev/tpmrm0")
    }

    /// The chip behind a character device.
    #[must_use]
    pub fn device(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        Self::at(path.display().to_string(), Place::Device(path))
    }

    /// A software TPM behind a unix socket, such as `swtpm socket --server type=unixio`.
    ///
    /// Behind a socket there is no resource manager: a call that is given up
    /// can leave an object in the TPM until it is started again.
    #[must_use]
    pub fn unix_socket(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        Self::at(path.display().to_string(), Place::Unix(path))
    }

    /// A software TPM behind a TCP port, such as `swtpm socket --server type=tcp`.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self::at(address.to_string(), Place::Tcp(address))
    }

    /// The same with another time that a call may take; five seconds otherwise.
    #[must_use]
    pub fn with_deadline(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    fn at(name: String, place: Place) -> Self {
        Self {
            place,
            name,
            within: Self::PATIENCE,
        }
    }
}

impl Tpm for TpmDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn seal(&self, secret: &Secret<32>) -> Result<Vec<u8>, TpmError> {
        let mut talk = Talk::open(self)?;
        let key = talk.storage_key()?;
        let mut session = talk.session(&key)?;
        let made = talk.within(
            &mut session,
            Code::Create,
            &[(key.handle, key.public.name)],
            wire::sealing_parameters(secret),
            Veil::Command,
        )?;
        let sealed = SealedSecret::from_answer(key.public.name, &made.parameters);
        Ok(sealed.ok_or(Refusal::Garbled)?.to_bytes())
    }

    fn unseal(&self, sealed: &[u8]) -> Result<Secret<32>, TpmError> {
        let sealed = SealedSecret::parse(sealed)?;
        let mut talk = Talk::open(self)?;
        let key = talk.storage_key()?;
        // Before anything is said under this key: it could be anybody's.
        if key.public.name != sealed.parent {
            return Err(TpmError::Other);
        }
        let mut session = talk.session(&key)?;
        let parts = Writer::new()
            .sized(&sealed.private)
            .sized(&sealed.public)
            .finish();
        let loaded = talk.within(
            &mut session,
            Code::Load,
            &[(key.handle, key.public.name)],
            parts,
            Veil::None,
        )?;
        talk.open.push(loaded.handle);
        let opened = talk.within(
            &mut session,
            Code::Unseal,
            &[(loaded.handle, Name::of(&sealed.public))],
            Zeroizing::default(),
            Veil::Answer,
        )?;
        let secret = Reader(&opened.parameters).counted(2, 32);
        secret
            .and_then(|secret| Secret::from_slice(secret).ok())
            .ok_or(TpmError::Damaged)
    }

    fn status(&self) -> Result<(), TpmError> {
        Talk::open(self)?.storage_key().map(|_| ())
    }
}

/// One conversation, and what it made in the chip.
struct Talk {
    line: Line,
    open: Vec<u32>,
}

/// A storage key in the chip.
struct Loaded {
    handle: u32,
    public: StorageKey,
}

/// What a command in a session came to.
struct Done {
    handle: u32,
    parameters: Zeroizing<Vec<u8>>,
}

impl Talk {
    fn open(device: &TpmDevice) -> Result<Self, TpmError> {
        Ok(Self {
            line: Line::open(&device.place, device.within)?,
            open: Vec::new(),
        })
    }

    fn storage_key(&mut self) -> Result<Loaded, TpmError> {
        let area = no_password();
        let parameters = wire::storage_key_parameters();
        let command = command(Code::CreatePrimary, &[RH_OWNER], Some(&area), &parameters);
        let bytes = self.ask(&command)?;
        let answer = wire::answer(Code::CreatePrimary, &bytes)?;
        self.open.push(answer.handle);
        let public = wire::storage_key(answer.parameters).ok_or(Refusal::Garbled)?;
        Ok(Loaded {
            handle: answer.handle,
            public,
        })
    }

    fn session(&mut self, key: &Loaded) -> Result<Session, TpmError> {
        let opening = Opening::new(&key.public)?;
        let bytes = self.ask(&opening.command(key.handle))?;
        let answer = wire::answer(Code::StartAuthSession, &bytes)?;
        self.open.push(answer.handle);
        opening.finish(&answer)
    }

    fn within(
        &mut self,
        session: &mut Session,
        code: Code,
        handles: &[(u32, Name)],
        parameters: Zeroizing<Vec<u8>>,
        veil: Veil,
    ) -> Result<Done, TpmError> {
        let sent = session.command(code, handles, parameters, veil)?;
        let bytes = self.ask(&sent.bytes)?;
        let answer = wire::answer(code, &bytes)?;
        Ok(Done {
            handle: answer.handle,
            parameters: session.open(&sent, &answer)?,
        })
    }

    /// Asks, and asks again while the chip says that it is busy.
    fn ask(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        loop {
            let bytes = self.line.ask(command)?;
            match wire::answer(Code::FlushContext, &bytes) {
                Err(refusal) if refusal.is_for_now() => {
                    self.line.pause(Duration::from_millis(20))?;
                }
                _ => return Ok(bytes),
            }
        }
    }
}

impl Drop for Talk {
    /// A chip has room for three objects. The kernel's resource manager clears
    /// up by itself; nobody does behind a socket.
    fn drop(&mut self) {
        for handle in std::mem::take(&mut self.open) {
            let parameters = handle.to_be_bytes();
            if self
                .line
                .ask(&command(Code::FlushContext, &[], None, &parameters))
                .is_err()
            {
                return;
            }
        }
    }
}
