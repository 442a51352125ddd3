//! The judges of the simulator: histories, the sequential model and the checkers. Pure code, so
//! that a history from a real cluster is judged by the same lines as one from a seed.

pub mod check;
pub mod history;
pub mod model;
