//! Integration tests.

#[cfg(feature = "server")]
mod cli;
