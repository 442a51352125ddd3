#![doc = include_str!("ARCHITECTURE.md")]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod api;
pub mod apply;
pub mod backend;
pub mod host;
pub mod kernel;
pub mod lease;
pub mod membership;
pub mod mvcc;
pub mod node;
pub mod pb;
pub mod raft;
pub mod reactor;
pub mod wal;
pub mod watch;

#[cfg(feature = "server")]
pub mod cli;
