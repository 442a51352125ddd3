//! Integration tests.

mod backend;
mod cli;
mod tidy;
mod wal;
#[cfg(feature = "server")]
mod wire;
