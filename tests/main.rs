//! Integration tests.

mod raft;
