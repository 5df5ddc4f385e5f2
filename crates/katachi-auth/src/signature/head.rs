//! A request whose head was checked before any of its body was read.

use std::fmt;

use ::http::Request;
use ::http::request::Parts;

use super::verify::Genuine;
use super::{Authentic, Context, Keys, Profile, Reason, Refusal, RequestParts, Verifier};
use crate::clock::Timestamp;

/// The head of a request by the holder of a key, made in time and for the epoch that
/// holds. Its body may be read now: a stranger's never is.
#[must_use = "the body of the request is still to be compared"]
pub struct AuthenticHead {
    head: Parts,
    genuine: Genuine,
    profile: Profile,
}

impl Verifier {
    /// Checks everything about a request that its head can say, for servers that read a
    /// body only of somebody they know. [`Self::check`] is the same for a request that
    /// is there whole.
    ///
    /// # Errors
    ///
    /// Returns the [`Refusal`] of the first rule that is broken.
    pub fn check_head(
        &self,
        head: Parts,
        keys: &dyn Keys,
        context: &Context<'_>,
    ) -> Result<AuthenticHead, Refusal> {
        let shown = shown(&head);
        let genuine = self
            .authenticate(&shown, keys, context.now, context.channel)?
            .for_epoch(&shown, context.epoch)?;
        Ok(AuthenticHead {
            head,
            genuine,
            profile: *self.profile(),
        })
    }
}

impl AuthenticHead {
    /// What was checked.
    pub const fn head(&self) -> &Parts {
        &self.head
    }

    /// Makes sure that `body` is the one that was signed, and that it came in time.
    ///
    /// # Errors
    ///
    /// Returns a [`Refusal`] if it is another one, or came too late.
    pub fn with_body<B: AsRef<[u8]>>(
        self,
        body: B,
        now: Timestamp,
    ) -> Result<Authentic<Request<B>>, Refusal> {
        let request = Request::from_parts(self.head, body);
        self.genuine.with_body(request, &self.profile, now)
    }

    /// Refuses the request for what became of its body, such as [`Reason::TooLarge`].
    #[must_use]
    pub fn refuse(self, reason: Reason) -> Refusal {
        self.genuine.refuse(&shown(&self.head), reason)
    }
}

fn shown(head: &Parts) -> RequestParts<'_> {
    RequestParts { head, body: &[] }
}

impl fmt::Debug for AuthenticHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticHead").finish_non_exhaustive()
    }
}
