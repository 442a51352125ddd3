//! Integration tests.

mod wal;
