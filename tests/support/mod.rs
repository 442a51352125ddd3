//! Starts real members on loopback ports, steers their processes and talks to them.
//!
//! Invariants: every wait is bounded and a wait that fails shows the last log lines of the members;
//! every process ends with the value that owns it, also when a test panics; at most
//! [`permit::PERMITS`] permits are held at a time, so that few tests share two cores.

#![allow(
    dead_code,
    unused_imports,
    reason = "each part of the test suite uses another part of the harness"
)]

pub mod client;
pub mod cluster;
pub mod log;
pub mod permit;
pub mod ports;
pub mod random;
pub mod server;

pub use client::{Client, Watch};
pub use cluster::Cluster;
pub use random::Random;
pub use server::Server;

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value; gives up after `limit`.
pub fn wait_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(POLL);
    }
}
