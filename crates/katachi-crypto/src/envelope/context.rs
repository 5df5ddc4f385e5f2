//! What a sealed value belongs to, encoded so that no two contexts are alike.

/// Binds an envelope to its place: it opens only where it was sealed for.
///
/// Each field is encoded as a tag byte, a 32-bit big-endian length and its
/// bytes, in the order in which fields were added. The context is not secret
/// and not stored: whoever opens has to know it.
///
/// ```
/// use katachi_crypto::envelope::Context;
///
/// let cell = Context::new("column").tenant("acme").table("mcp").column("secret").row(b"17");
/// assert_ne!(cell, Context::new("column").tenant("acme").table("mcp").column("secret").row(b"18"));
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Context(Vec<u8>);

impl Context {
    /// Starts a context with the name of a purpose (tag 1).
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        Self(Vec::with_capacity(96)).field(1, purpose.as_bytes())
    }

    /// The tenant whose data it is (tag 2).
    #[must_use]
    pub fn tenant(self, name: &str) -> Self {
        self.field(2, name.as_bytes())
    }

    /// The table (tag 3).
    #[must_use]
    pub fn table(self, name: &str) -> Self {
        self.field(3, name.as_bytes())
    }

    /// The column (tag 4).
    #[must_use]
    pub fn column(self, name: &str) -> Self {
        self.field(4, name.as_bytes())
    }

    /// The primary key of the row, as bytes (tag 5).
    #[must_use]
    pub fn row(self, key: &[u8]) -> Self {
        self.field(5, key)
    }

    /// A version of the value, as 64-bit big-endian (tag 6).
    #[must_use]
    pub fn version(self, number: u64) -> Self {
        self.field(6, &number.to_be_bytes())
    }

    /// A path or name of a file (tag 7).
    #[must_use]
    pub fn path(self, path: &str) -> Self {
        self.field(7, path.as_bytes())
    }

    /// A field of the caller's own: tag 8, whose content starts with `tag`.
    #[must_use]
    pub fn bytes(self, tag: u8, bytes: &[u8]) -> Self {
        let mut content = Vec::with_capacity(bytes.len() + 1);
        content.push(tag);
        content.extend_from_slice(bytes);
        self.field(8, &content)
    }

    /// The encoded fields.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn field(mut self, tag: u8, bytes: &[u8]) -> Self {
        let length =
            u32::try_from(bytes.len()).expect("a field of a context is shorter than 4 GiB");
        self.0.push(tag);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }
}
