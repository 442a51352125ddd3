//! Integration tests.

mod backend;
mod wal;
#[cfg(feature = "server")]
mod wire;
