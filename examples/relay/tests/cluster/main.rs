//! Several relay processes on one real PostgreSQL, which are killed, stopped, cut
//! off and restarted.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(dead_code, reason = "the helpers are shared with other tests")]

#[path = "../service/agent.rs"]
mod agent;
mod calls;
#[path = "../../../../crates/katachi-auth/tests/shared/clock.rs"]
mod clock;
#[path = "../service/held.rs"]
mod held;
mod keys;
mod nodes;
#[path = "../signin/octo.rs"]
mod octo;
mod outages;
#[path = "../signin/person.rs"]
mod person;
#[path = "../../../../crates/katachi-store/tests/support/postgres.rs"]
mod postgres;
#[path = "../service/relay.rs"]
mod relay;
#[path = "../service/returning.rs"]
mod returning;
mod rolling;
mod rotation;
mod signin;
mod tunnels;

use nodes::database;
use returning::config;
