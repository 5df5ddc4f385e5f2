//! One file for each command.

pub(crate) mod audit;
pub(crate) mod doctor;
pub(crate) mod key;
pub(crate) mod run;
pub(crate) mod why;
