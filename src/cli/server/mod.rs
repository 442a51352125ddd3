//! `fated`, the server: flags, configuration, start.

pub mod args;
pub mod boot;
pub mod config;
mod flags;
mod join;
mod joining;
mod joint;
pub mod start;
pub mod urls;

pub use start::main;
