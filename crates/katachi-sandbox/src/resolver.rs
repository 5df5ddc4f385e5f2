//! How names of allowed hosts become addresses.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

/// Finds the addresses of a host.
///
/// It is asked outside the sandbox, after the policy allowed the host and
/// never before, with a name in lower case without its last dot. It may block;
/// after ten seconds nobody waits for it any more.
///
/// # Security
///
/// What it answers is checked: addresses that are not public (loopback,
/// private, link-local, translations to IPv4 and so on) are refused unless the
/// policy names the address itself. A wrong answer can therefore lead to the
/// wrong public server, which TLS notices, and not into the caller's network.
///
/// ```
/// use std::net::IpAddr;
/// use katachi_sandbox::{PlanOptions, Policy, Resolve};
///
/// struct Fixed;
///
/// impl Resolve for Fixed {
///     fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
///         match host {
///             "api.example.com" => Ok(vec![IpAddr::from([93, 184, 215, 14])]),
///             _ => Ok(Vec::new()),
///         }
///     }
/// }
///
/// let options = PlanOptions::new("/tmp").resolver(Fixed);
/// let policy = Policy::default().allow_host("api.example.com:443");
/// # #[cfg(target_os = "linux")]
/// let plan = policy.plan(&options)?;
/// # Ok::<(), katachi_sandbox::PlanError>(())
/// ```
pub trait Resolve: Send + Sync {
    /// The addresses of `host`; none if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns the system's error if it cannot be found out.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of a plan; the system's unless the caller gave one.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<dyn Resolve>);

struct System;

impl Resolve for System {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // The port is only there because the standard library wants one.
        Ok((host, 0)
            .to_socket_addrs()?
            .map(|found| found.ip())
            .collect())
    }
}

impl Resolver {
    pub(crate) fn new(resolver: impl Resolve + 'static) -> Self {
        Self(Arc::new(resolver))
    }

    #[cfg(unix)]
    pub(crate) fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.0.resolve(host)
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(System)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}
