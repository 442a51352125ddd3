//! Integration tests.

mod backend;
#[cfg(feature = "server")]
mod cli;
#[cfg(feature = "server")]
mod cluster;
mod raft;
#[cfg(feature = "server")]
mod support;
mod tidy;
mod wal;
#[cfg(feature = "server")]
mod wire;
