//! Device authorization (RFC 8628), both ends.
//!
//! A program without a browser asks for two codes. It shows the short one to a
//! person, who approves it in a browser, and polls with the long one.
//!
//! ```text
//!                 approve             poll (once)
//!   pending  ──────────────▶ approved ──────────▶ consumed
//!      │  deny / too many polls  │
//!      ▼                         ▼ time
//!   denied      expired ◀────────┘
//! ```
//!
//! The [`Server`] keeps its state behind [`DeviceStore`] and stores only digests of
//! both codes. A grant is redeemed once, by the client that started it, and, if the
//! client registered a key, only with a fresh [`dpop`] proof of it. Guessing short
//! codes is stopped by [`Guesses`]. The client's side is [`Polling`], which decides
//! when to ask again and reads no clock.

mod client;
mod code;
pub mod dpop;
pub mod form;
mod guesses;
mod metadata;
mod server;
mod store;

pub use client::{Failure, Next, PollAnswer, Polling};
pub use code::{ParseUserCodeError, UserCode};
pub use guesses::{GuessLimits, Guesser, Guesses, TooManyGuesses};
pub use metadata::Metadata;
pub use server::{
    Approval, AuthorizationResponse, Config, DecideError, GRANT_TYPE, PollError, Server, Start,
    StartError, Waiting,
};
pub use store::{DeviceStore, Find, Grant, GrantState, Inserted, MemoryDeviceStore};
