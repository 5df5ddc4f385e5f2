//! The relay between a person's browser and the agents on their machines.
//!
//! An agent dials out and keeps one connection open; the browser signs in and
//! asks; the relay hands the question through the agent's own connection and
//! the answer back as it comes. No machine of the user has to listen.
//!
//! ```no_run
//! use katachi_relay::{Config, Relay};
//!
//! # async fn run() -> Result<(), katachi_relay::ServeError> {
//! let relay = Relay::bind(Config::local("/var/lib/my-relay")).await?;
//! println!("open {}", relay.public_url());
//! relay.serve(std::future::pending()).await
//! # }
//! ```
//!
//! # What it is not
//!
//! Not a reverse proxy: only the routes of `katachi-protocol` cross it. Not a
//! party to what is said: a browser and an agent speak through an encrypted
//! channel of their own, of which it sees when, how much and between whom. The
//! records hold accounts, agents, sealed secrets and an audit log of closed words.
//!
//! # Map
//!
//! | module | answers |
//! |---|---|
//! | [`Config`] | what a relay has to be told |
//! | [`Relay`] | how it starts, where it listens, how it stops |
//! | [`cli`] | the same from a command line |
//! | [`carrier`] | how an agent is reached through somebody else's tunnel |
//! | `cloudflare` | tunnels at Cloudflare: made, reached, removed |
//! | `connection` | which deadlines and bounds a connection has |
//! | `edge` | which hosts are ours, which headers every answer has |
//! | `http` | the routes |
//! | `metrics` | what is counted, for Prometheus |
//! | `sign_in` | providers and mail: how they are configured, and what is asked of them |
//! | `tunnel` | how a question reaches an agent |
//! | `cluster` | how several relays serve as one |
//! | `backup` | what a copy of a relay has, and how it comes back |
//! | `records` | what is remembered, where, and under which keys |
#![forbid(unsafe_code)]

#[cfg(feature = "acme")]
mod acme;
mod backup;
pub mod carrier;
pub mod cli;
mod cloudflare;
mod cluster;
mod config;
mod connection;
mod edge;
mod failure;
mod http;
mod limits;
mod machine;
mod metrics;
mod pace;
mod records;
mod replay;
mod service;
mod sign_in;
mod throttle;
mod tls;
mod tunnel;

#[cfg(feature = "acme")]
pub use acme::{Acme, AcmeOptions};
pub use cloudflare::{CLOUDFLARE_API, CloudflareConfig};
pub use cluster::keyset::{ClusterId, NodeKey, NodeName, ParseNameError};
pub use config::{
    ClusterConfig, Config, DEFAULT_SECURITY_CONTACT, DatabaseSource, KeychainUse, LOCAL_HOST,
    ParsePostgresUrlError, ParsePublicUrlError, PostgresUrl, PublicUrl, SignUpPolicy, TlsSource,
};
pub use limits::{LimitOptions, Limits};
pub use service::{Ready, Relay, ServeError, serve};
pub use sign_in::{MailConfig, MailRoute, ParseProviderError, ProviderConfig};
pub use tls::TlsError;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
