//! Text that must not be printed.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A password, key or token on its way through a request body.
///
/// It serialises as the plain string, since sending it is its purpose, and is
/// wiped when dropped. `Debug` prints the type only. To read it, write
/// [`expose_secret`](Self::expose_secret).
///
/// # Security
///
/// Buffers that a JSON parser filled on the way here are not wiped. Move the
/// value into a secret type of `katachi-crypto` where it is kept for longer
/// than one request.
#[derive(Clone, Eq, PartialEq)]
pub struct Sensitive(Zeroizing<String>);

impl Sensitive {
    /// Takes ownership of secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret text.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl Serialize for Sensitive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sensitive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive { .. }")
    }
}

#[cfg(test)]
mod tests {
    use super::Sensitive;

    #[test]
    fn debug_never_shows_the_text() {
        let shown = format!("{:?}", Sensitive::new("hunter2"));
        assert_eq!(shown, "Sensitive { .. }");
    }

    #[test]
    fn travels_as_a_plain_string() {
        let json = serde_json::to_string(&Sensitive::new("hunter2")).unwrap();
        assert_eq!(json, "\"hunter2\"");
        let back: Sensitive = serde_json::from_str(&json).unwrap();
        assert_eq!(back.expose_secret(), "hunter2");
    }
}
