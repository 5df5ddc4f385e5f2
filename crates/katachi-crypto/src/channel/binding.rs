//! What a channel belongs to, agreed by both ends before the first byte.

/// Names the place of a channel. Both ends have to name the same one, or the
/// handshake fails: a relay cannot lead a device to another agent's channel,
/// nor join two streams.
///
/// It becomes the prologue of the handshake (Noise, section 6): six fields in
/// this order, each a 32-bit big-endian length and its bytes, so that no two
/// bindings encode alike. The first field is the text `katachi-channel/1`, the
/// others are UTF-8.
///
/// ```
/// use katachi_crypto::channel::Binding;
///
/// let binding = Binding {
///     relay: "https://relay.example",
///     account: "ada",
///     agent: "laptop",
///     device: "phone",
///     stream: "1",
/// };
/// assert!(binding.prologue().starts_with(b"\0\0\0\x11katachi-channel/1\0\0\0\x15https://"));
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Binding<'a> {
    /// Origin of the relay, as both ends were configured with it.
    pub relay: &'a str,
    /// The account on that relay.
    pub account: &'a str,
    /// The agent, who answers the handshake.
    pub agent: &'a str,
    /// The device that begins the handshake.
    pub device: &'a str,
    /// The stream between the two.
    pub stream: &'a str,
}

impl Binding<'_> {
    /// Version of the channel, the first field.
    const VERSION: &'static str = "katachi-channel/1";

    /// The encoded fields.
    ///
    /// # Panics
    ///
    /// Panics if a field has 4 GiB or more.
    #[must_use]
    pub fn prologue(&self) -> Vec<u8> {
        let fields = [
            Self::VERSION,
            self.relay,
            self.account,
            self.agent,
            self.device,
            self.stream,
        ];
        let mut prologue = Vec::with_capacity(fields.iter().map(|field| field.len() + 4).sum());
        for field in fields {
            let length = u32::try_from(field.len()).expect("a name is shorter than 4 GiB");
            prologue.extend_from_slice(&length.to_be_bytes());
            prologue.extend_from_slice(field.as_bytes());
        }
        prologue
    }
}

#[cfg(test)]
mod tests {
    use super::Binding;

    #[test]
    fn no_two_bindings_encode_alike() {
        let one = Binding {
            relay: "https://r",
            account: "ab",
            agent: "c",
            device: "",
            stream: "1",
        };
        let moved = Binding {
            account: "a",
            agent: "bc",
            ..one
        };
        let swapped = Binding {
            device: "1",
            stream: "",
            ..one
        };
        assert_ne!(one.prologue(), moved.prologue());
        assert_ne!(one.prologue(), swapped.prologue());
    }
}
