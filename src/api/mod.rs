//! The client edge: gRPC and HTTP in front, calls and streams of the core behind.
//!
//! The edge keeps no state of the store. It decodes, makes the checks that need nothing but the
//! request, asks the core, and encodes the answer. Invariants: each call gets one answer or is
//! cancelled; a stream's items leave in order and their bytes are credited back as they leave.
//!
//! `check` is pure and stands by itself: whoever calls the core without the edge uses it too.

pub mod check;

#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod handle;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod http2;
#[cfg(feature = "server")]
pub mod large;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
mod pace;
#[cfg(feature = "server")]
mod resumed;
#[cfg(feature = "server")]
pub mod serve;
#[cfg(feature = "server")]
pub mod slow;
#[cfg(feature = "server")]
pub mod status;
#[cfg(feature = "server")]
pub mod streams;
#[cfg(feature = "server")]
pub mod trace;

#[cfg(feature = "server")]
pub use handle::{EdgeLimits, Handle};
