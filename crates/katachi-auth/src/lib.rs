#![doc = include_str!("../README.md")]
//!
//! ## Map
//!
//! | module | question it answers |
//! |---|---|
//! | [`signature`] | who made this request, and is it unaltered? |
//! | [`replay`] | was it accepted before? |
//! | [`device`] | how does a program without a browser get its key? |
//! | `oauth` | who does GitHub, Google or another provider say that it is? |
//! | `mail` | does somebody read this address's mail? |
//! | [`session`] | which person is this browser? |
//! | [`refresh`] | may this client have a new token, and was its old one stolen? |
//! | [`origin`] | did a page of ours make this request? |
//! | `password` | is this the person's password? |
//! | [`clock`] | what time is it? |

#![forbid(unsafe_code)]

pub mod clock;
pub mod device;
mod json;
#[cfg(feature = "mail")]
pub mod mail;
#[cfg(feature = "oauth")]
pub mod oauth;
pub mod origin;
#[cfg(feature = "password")]
pub mod password;
pub mod refresh;
pub mod replay;
pub mod session;
pub mod signature;
