#![doc = include_str!("../README.md")]
// On Linux nothing needs it; elsewhere it lives in `sys`.
#![cfg_attr(not(any(target_os = "macos", windows)), forbid(unsafe_code))]
#![deny(unsafe_code)]

mod component;
mod device_id;
mod enrollment;
pub mod linux;
#[cfg(any(test, feature = "testing", target_os = "macos", windows))]
mod native;
mod observation;
pub mod parse;
mod probe;
mod recovery;
mod search;
mod shamir;
mod strength;
#[cfg(any(target_os = "macos", windows))]
#[allow(unsafe_code, reason = "the one place where the system is asked")]
mod sys;
#[cfg(feature = "testing")]
pub mod testing;
mod threshold;
mod tpm;
mod wire;

pub use component::{Class, Component, Sensitivity, Stability};
pub use device_id::{Anonymous, DeviceId, device_id};
pub use enrollment::{EnrollError, Enrollment};
pub use linux::{PublishError, Published, publish, publish_with_tpm};
pub use observation::{Observation, Reading};
pub use probe::{Probe, SystemProbe};
pub use recovery::{Change, Drift, MOST_VERIFICATIONS, Recovery, WrongMachine};
pub use strength::{FLOOR_BITS, Strength};
pub use tpm::{TpmError, endorsement_key};
pub use wire::{MOST_BYTES, ParseError};
