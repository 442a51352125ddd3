//! Ordered buckets under the state machine: what a backend must do, an overlay of writes that are not
//! committed yet, and the in-memory backend that serves as model and as fast simulation.

pub mod memory;
pub mod port;
pub mod view;

pub use crate::kernel::{Bucket, WriteBatch};
pub use memory::Memory;
pub use port::{Backend, ReadSnapshot, Visit};
pub use view::View;
