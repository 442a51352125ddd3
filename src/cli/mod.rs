//! The command line.

pub mod server;
