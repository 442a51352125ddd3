//! Ordered buckets under the state machine: what a backend must do, an overlay of writes that are
//! not committed yet, the in-memory backend that serves as model and as fast simulation, and the
//! stream in which an image travels.

pub mod memory;
pub mod port;
pub mod stream;
mod table;
pub mod view;

pub use crate::kernel::{Bucket, WriteBatch};
pub use memory::{Image, Memory};
pub use port::{Backend, Extent, ReadSnapshot, Visit};
pub use view::View;
