//! Mail into a folder.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::random;

use super::{Address, Mail, MailError, Mailer};

/// Writes each mail into a folder as a file `….eml` that every mail program opens, for a
/// person who runs everything on one machine.
///
/// The files hold links that open accounts: on Unix they are readable by their owner
/// alone, and so is the folder.
#[derive(Clone, Debug)]
pub struct FileMailer {
    folder: PathBuf,
    from: Address,
}

impl FileMailer {
    /// Writes into `folder`, which is made if it is absent.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be made.
    pub fn new(folder: impl AsRef<Path>, from: Address) -> io::Result<Self> {
        let folder = folder.as_ref().to_owned();
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder)?;
        Ok(Self { folder, from })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let name: [u8; 12] = random::bytes().map_err(io::Error::other)?;
        let name = URL_SAFE_NO_PAD.encode(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let partial = self.folder.join(format!(".{name}.part"));
        let mut file = options.open(&partial)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        // Whoever watches the folder sees whole mails only.
        let placed = written
            .and_then(|()| std::fs::rename(&partial, self.folder.join(format!("{name}.eml"))));
        if placed.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        placed
    }
}

impl Mailer for FileMailer {
    fn send(&self, mail: &Mail) -> Result<(), MailError> {
        let message = mail.message(&self.from)?;
        self.write(&message.formatted())
            .map_err(|error| MailError::Write(error.to_string()))
    }
}
