//! One file for each command.

pub(crate) mod audit;
pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod history;
pub(crate) mod key;
mod learn;
pub(crate) mod login;
pub(crate) mod memory;
mod place;
pub(crate) mod relay;
pub(crate) mod run;
pub(crate) mod service;
pub(crate) mod up;
pub(crate) mod vault;
pub(crate) mod why;
