//! Integration tests.

mod backend;
#[cfg(feature = "server")]
mod cli;
#[cfg(feature = "server")]
mod cluster;
#[cfg(feature = "server")]
mod support;
mod wal;
