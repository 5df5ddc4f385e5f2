//! Who may use a proxy that every process of the machine can connect to.
//!
//! A command finds them in the addresses of its variables, and says them as
//! HTTP's `Basic` (RFC 7617) or as the password of SOCKS 5 (RFC 1929). They are
//! made anew for each command.

use std::fmt;

use subtle::ConstantTimeEq as _;

use crate::network::socks::Password;

const USER: &str = "katachi";

/// The password, which no other process can guess.
pub(super) struct Credentials {
    password: String,
    /// User and password as HTTP has them.
    basic: String,
}

impl Credentials {
    /// New ones.
    #[cfg(any(test, not(target_os = "linux")))]
    pub(super) fn new() -> std::io::Result<Self> {
        use std::io::Read as _;

        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;

        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let basic = STANDARD.encode(format!("{USER}:{password}"));
        Ok(Self { password, basic })
    }

    /// Where programs find the proxy at this port.
    #[cfg(any(test, not(target_os = "linux")))]
    pub(super) fn proxies(&self, port: u16) -> crate::environment::Proxies {
        let place = format!("{USER}:{}@127.0.0.1:{port}", self.password);
        crate::environment::Proxies {
            http: format!("http://{place}"),
            all: format!("socks5h://{place}"),
        }
    }

    /// Whether this is the value of a `Proxy-Authorization` that has them, in
    /// the time that every value of its length takes.
    pub(super) fn fit_basic(&self, value: Option<&[u8]>) -> bool {
        const SCHEME: &[u8] = b"basic ";
        let Some((scheme, token)) = value.and_then(|value| value.split_at_checked(SCHEME.len()))
        else {
            return false;
        };
        scheme.eq_ignore_ascii_case(SCHEME) && self.basic.as_bytes().ct_eq(token).into()
    }

    /// Whether a client of SOCKS said them, likewise.
    pub(super) fn fit(&self, said: &Password<'_>) -> bool {
        let user = USER.as_bytes().ct_eq(said.user);
        (user & self.password.as_bytes().ct_eq(said.password)).into()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials { .. }")
    }
}
