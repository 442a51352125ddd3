//! Production adapters: what the core's effects become on a real machine.

pub mod lanes;
pub mod lmdb;
