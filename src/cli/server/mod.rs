//! `fated`, the server: flags, configuration, start.

pub mod args;
pub mod boot;
pub mod bootstrap;
pub mod config;
pub mod discovery;
#[cfg(feature = "failpoints")]
mod failing;
mod file;
mod flags;
pub mod gates;
mod join;
mod joining;
mod joint;
mod listen;
pub mod logging;
pub mod settings;
mod srv;
pub mod start;
mod telling;
pub mod urls;
mod values;

pub use start::main;
