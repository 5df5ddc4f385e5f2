//! Runs a program that may only do what a policy allows.
//!
//! # What it is
//!
//! A [`Policy`] says which programs, files, hosts, variables and resources a
//! command may use, and starts from nothing. [`Policy::plan`] resolves it
//! against this machine, pins every directory and refuses what cannot be
//! enforced. The [`Plan`] starts commands, answers [`Plan::explain`] from the
//! very data that is enforced, and prints itself. A [`Child`] reports what
//! was enforced and leaves no process behind when it is dropped.
//!
//! On Linux the command gets namespaces of its own, a root directory that
//! holds only what the policy names, no capabilities, Landlock and seccomp;
//! no other program is needed, and root and ordinary users get the same. Hosts
//! that the policy allows are reached through a proxy in the caller's process,
//! which works with threads of its own and needs no async runtime.
//!
//! # What it is not
//!
//! Not a virtual machine: a hole in the kernel is a hole in the sandbox. Not
//! a judge of what an allowed program does with what it may touch. What confines
//! on macOS (Seatbelt) and Windows (AppContainer and job object) has not been
//! seen to hold on a real one, so nothing is started there unless the caller
//! accepts [`report::Tier::Unwitnessed`].
//!
//! # The smallest program that works
//!
//! ```no_run
//! use katachi_sandbox::{PlanOptions, Policy};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     katachi_sandbox::helper::run_if_requested();
//!
//!     let plan = Policy::default()
//!         .read("@system")
//!         .write(".")
//!         .allow("ls")
//!         .plan(&PlanOptions::new("/tmp/work"))?;
//!     let output = plan.command(["ls", "-a"]).output()?;
//!     assert!(output.outcome.success());
//!     Ok(())
//! }
//! ```
//!
//! # Map
//!
//! - [`policy`]: what may be done, as data and TOML
//! - [`bundle`]: the named sets of programs and paths a policy can use
//! - [`plan`]: the policy on this machine, and why it answers as it does
//! - [`Command`], [`Child`]: one start
//! - `nonblocking`: the same for programs that run on tokio (feature `tokio`)
//! - [`report`]: what was enforced, what was refused
//! - [`doctor`]: what this machine can enforce, found out by trying
//! - [`helper`]: the one line that belongs into `main`

#![deny(unsafe_code)]
// Much of a plan is for what Linux alone can do.
#![cfg_attr(not(target_os = "linux"), allow(dead_code))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod admit;
mod approval;
pub mod bundle;
pub mod child;
mod codec;
pub mod command;
mod digest;
pub mod doctor;
mod environment;
pub mod error;
mod feed;
pub mod glob;
mod guard;
pub mod helper;
mod hold;
mod killer;
pub mod learn;
mod message;
mod network;
#[cfg(feature = "tokio")]
pub mod nonblocking;
pub mod plan;
pub mod policy;
mod pool;
#[cfg(unix)]
mod proxy;
mod recover;
pub mod report;
mod resolver;
mod scratch;
mod suggest;
mod terminal;

#[cfg(any(test, not(target_os = "linux")))]
mod supervise;

#[cfg(not(target_os = "linux"))]
#[path = "elsewhere/mod.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;

pub use approval::Question;
pub use child::{Child, Ending, Outcome, Output, Signal};
pub use command::Command;
pub use error::{PlanError, SpawnError};
pub use feed::ViolationStream;
pub use plan::{Answer, Plan, PlanOptions, Query};
pub use policy::{Policy, PolicyError};
pub use pool::Pool;
pub use recover::recover;
pub use report::{Enforcement, Violation};
pub use resolver::Resolve;
pub use terminal::{Terminal, TerminalSize};
