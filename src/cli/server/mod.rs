//! `fated`, the server: flags, configuration, start.

pub mod args;
pub mod boot;
pub mod config;
mod file;
mod flags;
pub mod gates;
mod join;
mod joining;
mod joint;
pub mod settings;
pub mod start;
pub mod urls;
mod values;

pub use start::main;
