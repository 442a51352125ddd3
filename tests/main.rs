//! Integration tests.

mod backend;
#[cfg(feature = "server")]
mod cli;
mod tidy;
mod wal;
