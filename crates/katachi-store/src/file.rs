//! Files that only the vault's keys open.
//!
//! A [`SealedFile`] holds one value, such as tunnel credentials. Its content
//! is sealed with a data key of its vault and bound to a name of its own, so one
//! sealed file cannot be passed off as another, wherever it is moved. A write
//! replaces the whole file in one step that survives a crash.
//!
//! It is meant for what fits into memory, up to [`SealedFile::MAX_LEN`]. It does not hide how long
//! the content is, and does not notice if the whole file is replaced by an
//! older version of itself.

use std::path::{Path, PathBuf};

use katachi_crypto::SecretBytes;
use katachi_crypto::envelope::{Context, Kind, Sealed};

use crate::durable::{Directory, Privacy};
use crate::vault::{Vault, VaultError};

pub use crate::durable::FileError;

#[cfg(feature = "cloudflare")]
pub mod cloudflare;

/// The data keys of sealed files.
const PURPOSE: &str = "katachi.files";
const OVERHEAD: usize = 1 << 16;

/// A file that only a vault opens.
#[derive(Clone, Debug)]
pub struct SealedFile {
    path: PathBuf,
    name: String,
}

/// Why a sealed file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealedFileError {
    /// The content is longer than [`SealedFile::MAX_LEN`].
    #[error("a sealed file holds at most {} bytes", SealedFile::MAX_LEN)]
    TooLong,
    /// The path has no file name, or the name is empty.
    #[error("a sealed file needs a file name")]
    NoName,
    /// The vault keeps something of its own under this name.
    #[error("{name} in the vault's directory is the vault's own; choose another name")]
    Reserved {
        /// The name.
        name: String,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The vault has no key for it: it was sealed by another vault, or the key was destroyed.
    #[error("the file was not sealed by this vault: {0}; open it with the one that sealed it")]
    Key(#[from] VaultError),
    /// It is not a sealed file, was tampered with, or belongs under another name.
    #[error("the file is damaged, or was sealed under another name; restore it from a backup")]
    Damaged,
    /// The system has no randomness.
    #[error("cryptography failed: {0}")]
    Crypto(katachi_crypto::Error),
}

impl SealedFile {
    /// Longest content, in bytes.
    pub const MAX_LEN: usize = 16 << 20;

    /// The sealed file at `path`, whose name in the vault is its file name.
    ///
    /// # Errors
    ///
    /// Returns [`SealedFileError::NoName`] if `path` has no file name in UTF-8.
    pub fn at(path: impl AsRef<Path>) -> Result<Self, SealedFileError> {
        let path = path.as_ref().to_owned();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or(SealedFileError::NoName)?
            .to_owned();
        Ok(Self { path, name })
    }

    /// The same file with another name in the vault.
    ///
    /// # Errors
    ///
    /// Returns [`SealedFileError::NoName`] if `name` is empty.
    pub fn named(mut self, name: &str) -> Result<Self, SealedFileError> {
        if name.is_empty() {
            return Err(SealedFileError::NoName);
        }
        self.name = name.to_owned();
        Ok(self)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file.
    ///
    /// # Errors
    ///
    /// Returns [`SealedFileError::File`] if that cannot be found out.
    pub fn exists(&self) -> Result<bool, SealedFileError> {
        match self.directory() {
            Ok(directory) => Ok(directory.contains(self.file_name()?)?),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Seals `content` and puts it in place of what was there.
    ///
    /// # Errors
    ///
    /// Returns [`SealedFileError`]. The old content is then still there.
    pub fn write(&self, vault: &Vault, content: &[u8]) -> Result<(), SealedFileError> {
        if content.len() > Self::MAX_LEN {
            return Err(SealedFileError::TooLong);
        }
        self.check_free(vault)?;
        let key = vault.data_key(PURPOSE)?;
        let sealed = key
            .seal(Kind::Record, &self.context(), content)
            .map_err(SealedFileError::Crypto)?;
        let name = self.file_name()?;
        let directory = Directory::create(self.parent(), Privacy::Shared)?;
        let lock = directory.lock(name)?;
        directory.clean_leftovers(&lock, name)?;
        Ok(directory.replace(name, sealed.as_bytes())?)
    }

    /// Reads and opens the content.
    ///
    /// # Errors
    ///
    /// Returns [`SealedFileError::Key`] if another vault sealed it and
    /// [`SealedFileError::Damaged`] if it is not as it was written.
    pub fn read(&self, vault: &Vault) -> Result<SecretBytes, SealedFileError> {
        let bytes = self
            .directory()?
            .read(self.file_name()?, Self::MAX_LEN + OVERHEAD)?;
        let sealed = Sealed::parse(&bytes).map_err(|_| SealedFileError::Damaged)?;
        let key = vault.data_key_by_id(PURPOSE, sealed.key_id())?;
        key.open(&self.context(), &sealed)
            .map_err(|_| SealedFileError::Damaged)
    }

    /// Removes the file. One that is not there is no error.
    ///
    /// # Errors
    ///
    /// Returns [`SealedFileError::File`] if the system refuses.
    pub fn remove(&self) -> Result<(), SealedFileError> {
        match self.directory() {
            Ok(directory) => Ok(directory.remove(self.file_name()?)?),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses to take the place of the vault itself.
    fn check_free(&self, vault: &Vault) -> Result<(), SealedFileError> {
        let name = self.file_name()?;
        let real = |path: &Path| path.canonicalize().ok();
        let parent = if self.parent().as_os_str().is_empty() {
            Path::new(".")
        } else {
            self.parent()
        };
        let is_beside = real(parent).is_some_and(|parent| real(vault.path()) == Some(parent));
        // Without regard to case, as some file systems compare.
        if is_beside
            && crate::vault::OWN_FILES
                .iter()
                .any(|own| own.eq_ignore_ascii_case(name))
        {
            return Err(SealedFileError::Reserved {
                name: name.to_owned(),
            });
        }
        Ok(())
    }

    fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn directory(&self) -> Result<Directory, FileError> {
        Directory::open(self.parent(), Privacy::Shared)
    }

    fn file_name(&self) -> Result<&str, SealedFileError> {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or(SealedFileError::NoName)
    }

    fn context(&self) -> Context {
        Context::new("katachi/v1/file").path(&self.name)
    }
}
