//! `fated`, the server: flags, configuration, start.

pub mod args;
pub mod boot;
pub mod config;
mod flags;
mod join;
mod joint;
pub mod start;
mod upkeep;
pub mod urls;

pub use start::main;
