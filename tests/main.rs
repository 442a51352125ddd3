//! Integration tests.

mod backend;
mod tidy;
