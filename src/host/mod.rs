//! The ports of the core, and the adapters that fill them.

pub mod failpoint;
pub mod lanes;
pub mod lmdb;
pub mod port;
#[cfg(feature = "server")]
pub mod tokio;
pub mod wire;
