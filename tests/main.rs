//! Integration tests.

mod backend;
mod wal;
