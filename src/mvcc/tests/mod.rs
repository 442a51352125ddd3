//! The store against a naive model that keeps every state it ever had.

mod hash;
mod model;
mod random;
mod records;
mod scripted;
mod walk;
