//! Integration tests.

mod backend;
