//! Length-prefixed bytes: how the plan crosses to the helper, and how it is
//! hashed. Every value is preceded by its length, so no two differ only in
//! where one ends.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Collects values.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn flag(&mut self, value: bool) -> &mut Self {
        self.0.push(u8::from(value));
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(&mut self, value: &OsStr) -> &mut Self {
        self.bytes(value.as_encoded_bytes())
    }

    pub(crate) fn path(&mut self, value: &Path) -> &mut Self {
        self.text(value.as_os_str())
    }

    pub(crate) fn list<T>(
        &mut self,
        values: impl ExactSizeIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.number(values.len() as u64);
        for value in values {
            each(self, value);
        }
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads values back in the same order. `None` when the bytes end early.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    #[cfg(unix)]
    pub(crate) fn text(&mut self) -> Option<OsString> {
        use std::os::unix::ffi::OsStrExt as _;
        Some(OsStr::from_bytes(self.bytes()?).to_owned())
    }

    #[cfg(not(unix))]
    pub(crate) fn text(&mut self) -> Option<OsString> {
        Some(std::str::from_utf8(self.bytes()?).ok()?.into())
    }

    pub(crate) fn path(&mut self) -> Option<PathBuf> {
        self.text().map(PathBuf::from)
    }

    pub(crate) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.number()?;
        (0..count).map(|_| each(self)).collect()
    }

    pub(crate) fn at_end(&self) -> bool {
        self.0.is_empty()
    }
}
