//! Which hosts a command reaches, and how it asks for them.
//!
//! Everything in here is pure: it reads bytes, knows the policy and decides.
//! What accepts connections and opens others lies with the platform.

pub(crate) mod address;
pub(crate) mod body;
pub(crate) mod dns;
pub(crate) mod hello;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod names;
pub(crate) mod rule;
pub(crate) mod socks;
