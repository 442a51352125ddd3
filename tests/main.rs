//! Integration tests.

mod backend;
mod tidy;
mod wal;
