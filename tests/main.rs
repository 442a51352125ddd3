//! Integration tests.

mod backend;
mod cli;
mod tidy;
mod wal;
