//! Integration tests.

mod backend;
#[cfg(feature = "server")]
mod cli;
mod raft;
mod tidy;
mod wal;
