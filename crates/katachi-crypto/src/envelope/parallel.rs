//! Large values on several threads: chunks do not depend on each other.
//!
//! Content of any length is in [`stream`](crate::stream).

use std::num::NonZeroUsize;

use super::chunked::{plain_len, sealed_len};
use super::seal::{PREFIX, check_length, opening, sealing, write_prefix};
use super::{Context, DataKey, Kind};
use crate::backend::Default as Backend;
use crate::{Error, SecretBytes, random};

/// A data key that seals and opens on several threads; see [`DataKey::parallel`].
#[derive(Clone, Copy, Debug)]
pub struct Parallel<'a> {
    pub(crate) key: &'a DataKey,
    pub(crate) threads: NonZeroUsize,
}

impl DataKey {
    /// Lets up to `threads` threads share the work on one value.
    ///
    /// They live as long as the call. Starting one takes as long as sealing some
    /// 100 KiB, so values below a MiB are quicker without; the bytes are the same.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use katachi_crypto::SecretBytes;
    /// use katachi_crypto::envelope::{Context, DataKey, Kind};
    ///
    /// let (key, context) = (DataKey::generate()?, Context::new("image"));
    /// let image = vec![7; 3_000_000];
    /// let threads = NonZeroUsize::new(2).ok_or("two is not zero")?;
    /// let (mut envelope, mut opened) = (Vec::new(), SecretBytes::default());
    /// let parallel = key.parallel(threads);
    /// parallel.seal_into(Kind::Record, &context, &image, &mut envelope)?;
    /// parallel.open_into(&context, &envelope, &mut opened)?;
    /// assert_eq!(opened.expose_secret(), image);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn parallel(&self, threads: NonZeroUsize) -> Parallel<'_> {
        Parallel { key: self, threads }
    }
}

impl Parallel<'_> {
    /// As [`DataKey::seal_into`].
    ///
    /// # Errors
    ///
    /// As [`DataKey::seal`]; `out` is unchanged then.
    ///
    /// # Panics
    ///
    /// Panics if the system starts no more threads.
    pub fn seal_into(
        &self,
        kind: Kind,
        context: &Context,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        check_length(plaintext.len())?;
        let salt = random::bytes()?;
        let (header, message) = sealing::<Backend>(self.key, kind, context, &salt);
        make_room(out, plaintext.len());
        write_prefix(out, header, &salt, &message);
        message.seal_on(self.threads, plaintext, &mut out[PREFIX..]);
        Ok(())
    }

    /// As [`DataKey::open_into`].
    ///
    /// # Errors
    ///
    /// As [`DataKey::open_into`]; `out` is wiped and empty then.
    ///
    /// # Panics
    ///
    /// Panics if the system starts no more threads.
    pub fn open_into(
        &self,
        context: &Context,
        envelope: &[u8],
        out: &mut SecretBytes,
    ) -> Result<(), Error> {
        let opened =
            opening::<Backend>(self.key, context, envelope).and_then(|(message, chunks)| {
                out.resize_for_overwrite(plain_len(chunks.len())?);
                message.open_on(self.threads, chunks, out.as_mut_slice())
            });
        if opened.is_err() {
            out.clear();
        }
        opened
    }
}

/// Makes `out` as long as the envelope of `plaintext` bytes.
fn make_room(out: &mut Vec<u8>, plaintext: usize) {
    let total = PREFIX + sealed_len(plaintext);
    if out.capacity() < total {
        // Not grown: what it held need not be copied.
        *out = vec![0; total];
    } else {
        out.resize(total, 0);
    }
}
