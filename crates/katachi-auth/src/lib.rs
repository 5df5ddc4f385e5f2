#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod clock;
pub mod device;
pub mod origin;
#[cfg(feature = "password")]
pub mod password;
pub mod replay;
pub mod session;
pub mod signature;
