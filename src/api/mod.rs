//! The client edge: gRPC and HTTP in front, calls and streams of the core behind.
//!
//! The edge keeps no state of the store. It decodes, makes the checks that need nothing but the
//! request, asks the core, and encodes the answer. Invariants: each call gets one answer or is
//! cancelled; a stream's items leave in order and their bytes are credited back as they leave.

pub mod authority;
pub mod check;
pub mod grpc;
pub mod handle;
pub mod http;
pub mod serve;
pub mod status;

pub use handle::{EdgeLimits, Handle};
